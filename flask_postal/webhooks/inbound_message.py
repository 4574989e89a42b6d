"""A mail that came in: raw bytes, parsed when something asks."""

from __future__ import annotations

import email
import email.policy
from email.message import EmailMessage
from functools import cached_property

__all__ = ["InboundMessage"]


class InboundMessage:
    """A mail that came in through Postal.

    :param raw: The mail as Postal got it, with the headers it put on top.
    :param envelope_sender: MAIL FROM; ``None`` for the null sender.
    :param envelope_recipient: RCPT TO, with its ``+tag`` and case.
    """

    def __init__(
        self,
        raw: bytes,
        *,
        envelope_sender: str | None = None,
        envelope_recipient: str | None = None,
    ) -> None:
        self.raw = raw
        self.envelope_sender = envelope_sender
        self.envelope_recipient = envelope_recipient

    @cached_property
    def _parsed(self) -> EmailMessage:
        return email.message_from_bytes(self.raw, policy=email.policy.default)

    @property
    def subject(self) -> str | None:
        """The subject, decoded."""
        subject = self._parsed["subject"]
        return None if subject is None else str(subject)

    @property
    def text(self) -> str | None:
        """The plain text."""
        return self._body("plain")

    @property
    def html(self) -> str | None:
        """The HTML."""
        return self._body("html")

    def _body(self, kind: str) -> str | None:
        part = self._parsed.get_body((kind,))
        if part is None:
            return None
        return str(part.get_content()).replace("\r\n", "\n")
