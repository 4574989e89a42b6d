"""A mail that came in, read when something asks, whatever state it is in.

:class:`InboundMessage` is what all four of Postal's formats look like. It is read from
the raw mail (:class:`.RawMail`, the format RawMessage) or from Postal's own reading of
it (:class:`.FieldsMail`, the format Hash).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import UTC, datetime
from functools import cached_property
from itertools import islice
from typing import Protocol, TypeVar

from ...address import Address, is_sendable
from ...values import as_line
from . import classify
from .attachment import InboundAttachment
from .replies import strip_reply

__all__ = ["InboundAttachment", "InboundMessage", "MailSource"]

T = TypeVar("T")

# RFC 5322 has no blanks in it; what has, or has no @, answers nothing.
_MESSAGE_ID = re.compile(r"<([^\s<>@]{1,250}@[^\s<>@]{1,250})>")
#: Message-IDs of a thread that are read.
MAX_REFERENCES = 1000


class MailSource(Protocol):
    """What a format knows. Any of these may raise; :class:`InboundMessage` does not."""

    defects: list[str]
    null_sender: bool
    marked_bounce: bool

    @property
    def raw(self) -> bytes | None: ...
    def header_items(self) -> list[tuple[str, str]]: ...
    def addresses(self, name: str) -> list[Address]: ...
    def author(self) -> Address | None: ...
    def header(self, name: str) -> str | None: ...
    def date(self) -> datetime | None: ...
    def text(self) -> str | None: ...
    def html(self) -> str | None: ...
    def stripped_text(self) -> str | None: ...
    def attachments(self) -> list[InboundAttachment]: ...
    def inlines(self) -> dict[str, InboundAttachment]: ...
    def spam_detected(self) -> bool | None: ...
    def spam_score(self) -> float | None: ...
    def part_types(self) -> list[str]: ...
    def delivery_status(self) -> str: ...


class InboundMessage:
    """A mail that came in through Postal.

    Nothing is read before it is asked for, and no attribute ever raises: what can't be
    read is ``None`` or empty, and :attr:`defects` tells why.

    :param envelope_sender: MAIL FROM; ``None`` for the null sender of bounces.
    :param envelope_recipient: RCPT TO, with its ``+tag`` and case.
    """

    def __init__(
        self,
        source: MailSource,
        *,
        envelope_sender: str | None = None,
        envelope_recipient: str | None = None,
    ) -> None:
        self._source = source
        self._lines: dict[str, str | None] = {}
        self.envelope_sender: str | None = as_line(envelope_sender)
        self.envelope_recipient: str | None = as_line(envelope_recipient)

    @property
    def raw(self) -> bytes | None:
        """The mail as Postal got it, under the headers it put on top; ``None`` in the
        Hash formats."""
        return self._read("raw", lambda s: s.raw, None)

    @property
    def defects(self) -> list[str]:
        """What could not be read so far, and why."""
        return self._source.defects

    @cached_property
    def from_email(self) -> Address | None:
        """The address of the author, as From shows it.

        A name that looks like an address is a name. ``None`` if there is no address
        that a mail could be sent to, as in one of ten bounces (``MAILER-DAEMON``); an
        address literal (``ana@[192.0.2.1]``) is one, though Postal can't send there.
        """
        return self._read("from", lambda s: s.author(), None)

    @cached_property
    def to(self) -> list[Address]:
        """The addresses of To."""
        return self._read("to", lambda s: s.addresses("to"), [])

    @cached_property
    def cc(self) -> list[Address]:
        """The addresses of Cc."""
        return self._read("cc", lambda s: s.addresses("cc"), [])

    @cached_property
    def reply_to(self) -> list[Address]:
        """The addresses of Reply-To."""
        return self._read("reply-to", lambda s: s.addresses("reply-to"), [])

    @cached_property
    def subject(self) -> str | None:
        """The subject, decoded, in one line; cut at 200 characters in the Hash
        formats."""
        return self.header("subject")

    @cached_property
    def date(self) -> datetime | None:
        """The Date header, aware, in UTC."""
        return self._read("date", lambda s: _utc(s.date()), None)

    @cached_property
    def message_id(self) -> str | None:
        """The Message-ID, without angle brackets."""
        return self._identifier("message-id")

    @cached_property
    def in_reply_to(self) -> str | None:
        """The Message-ID this mail answers, without angle brackets."""
        return self._identifier("in-reply-to")

    @cached_property
    def references(self) -> list[str]:
        """The Message-IDs of the thread, oldest first, without angle brackets."""
        value = self.header("references") or ""
        found = _MESSAGE_ID.finditer(value)
        return [match[1] for match in islice(found, MAX_REFERENCES)]

    @cached_property
    def text(self) -> str | None:
        """The plain text, lines ended by ``\\n``."""
        return self._body("text", lambda s: s.text())

    @cached_property
    def html(self) -> str | None:
        """The HTML, as hostile as its author: sanitise it before you show it."""
        return self._body("html", lambda s: s.html())

    @cached_property
    def stripped_text(self) -> str | None:
        """What the author of an answer wrote: the text without quoted mails and
        signature.

        Where the HTTP endpoint in Postal strips replies it is Postal's; otherwise it is
        ours. ``None`` if there is no text, and ``""`` if nothing else is in it.
        """
        stripped = self._body("stripped text", lambda s: s.stripped_text())
        if stripped is not None or self.text is None:
            return stripped
        text = self.text
        return self._read("stripped text", lambda s: strip_reply(text), None)

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """All headers in order, decoded, each in one line, names as they came."""
        items: list[tuple[str, str]] = self._read(
            "headers", lambda s: s.header_items(), []
        )
        return [(name, as_line(value) or "") for name, value in items]

    @cached_property
    def attachments(self) -> list[InboundAttachment]:
        """The files, also those whose author did not call them attachments. Images
        that belong to the HTML are in :attr:`inlines`."""
        return self._read("attachments", lambda s: s.attachments(), [])

    @cached_property
    def inlines(self) -> dict[str, InboundAttachment]:
        """Content id -> part, for ``cid:`` links of the HTML."""
        return self._read("inlines", lambda s: s.inlines(), {})

    @cached_property
    def spam_detected(self) -> bool | None:
        """Postal's verdict; ``None`` if it did not look. What the author claims in
        headers of the same name does not count."""
        return self._read("spam verdict", lambda s: s.spam_detected(), None)

    @cached_property
    def spam_score(self) -> float | None:
        """Postal's score; ``None`` in the Hash formats."""
        return self._read("spam score", lambda s: s.spam_score(), None)

    @cached_property
    def is_auto_reply(self) -> bool:
        """Whether a machine wrote it as an answer (RFC 3834): a vacation note, a
        bounce, a complaint, a receipt."""
        return self.is_bounce or self._read(
            "auto reply",
            lambda s: classify.is_auto_reply(
                self.header, null_sender=s.null_sender, types=s.part_types
            ),
            default=False,
        )

    @cached_property
    def is_bounce(self) -> bool:
        """Whether the mail reports that another one was not, or not yet, delivered."""
        return self._read(
            "bounce",
            lambda s: classify.is_bounce(
                self.header,
                sender=self.from_email,
                from_header=self.header("from") or "",
                null_sender=s.null_sender,
                marked=s.marked_bounce,
                types=s.part_types,
                status=s.delivery_status,
            ),
            default=False,
        )

    @cached_property
    def may_be_answered(self) -> bool:
        """Whether an automatic answer may go back, to the first of :attr:`reply_to` or
        to :attr:`from_email`, without the risk of a loop or of a nuisance.

        False without an envelope sender, and for auto-replies, bounces, lists, bulk
        mail, authors who ask for no automatic answers (``X-Auto-Response-Suppress``),
        mail from the address it came to, and mail without an address to answer.
        """
        if self._source.null_sender or self.is_auto_reply or self.from_email is None:
            return False
        return all(
            is_sendable(address.addr_spec)  # not an address literal
            and classify.may_be_answered(
                self.header, sender=address, recipient=self.envelope_recipient
            )
            for address in (self.from_email, *self.reply_to[:1])
        )

    def header(self, name: str) -> str | None:
        """Return the first value of a header, decoded, in one line, or ``None``."""
        name = name.lower()
        if name not in self._lines:
            self._lines[name] = self._line(name, lambda s: s.header(name))
        return self._lines[name]

    def _identifier(self, name: str) -> str | None:
        value = (self.header(name) or "").strip()
        if found := _MESSAGE_ID.search(value):
            return found[1]
        return value.strip("<> ")[:500] or None

    def _body(self, what: str, read: Callable[[MailSource], str | None]) -> str | None:
        text = self._read(what, read, None)
        if text is None:
            return None
        # No source gives surrogates; looking for them takes as long as decoding.
        text = text.replace("\r\n", "\n") if "\r" in text else text
        return text.replace("\0", "\ufffd") if "\0" in text else text

    def _line(self, what: str, read: Callable[[MailSource], str | None]) -> str | None:
        return as_line(self._read(what, read, None))

    def _read(self, what: str, read: Callable[[MailSource], T], default: T) -> T:
        try:
            return read(self._source)
        except Exception as error:  # noqa: BLE001
            # The standard library's parser answers hostile mail with IndexError,
            # LookupError, RecursionError and more. A mail that can't be read to its
            # end has still been delivered.
            self._source.defects.append(f"{what}: {type(error).__name__}")
            return default

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} from {self.envelope_sender!r}"
            f" to {self.envelope_recipient!r}>"
        )


def _utc(date: datetime | None) -> datetime | None:
    return None if date is None else date.astimezone(UTC)
