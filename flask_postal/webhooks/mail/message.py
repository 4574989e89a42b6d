"""The inbound mail that receivers get, the same for all four of Postal's formats.

:class:`InboundMessage` reads either the raw mail (:class:`.RawMail`, the RawMessage
formats) or the fields that Postal has parsed (:class:`.FieldsMail`, the Hash formats).
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
from .authentication import (
    UNKNOWN,
    UNREADABLE,
    Authentication,
    Resolver,
    authenticate,
)
from .feedback import FeedbackReport, read_feedback
from .headers import HeaderBlock
from .replies import strip_reply

__all__ = ["InboundAttachment", "InboundMessage", "MailSource"]

T = TypeVar("T")

# RFC 5322 allows no whitespace in a Message-ID, and requires the @.
_MESSAGE_ID = re.compile(r"<([^\s<>@]{1,250}@[^\s<>@]{1,250})>")
#: Message-IDs in References that are read.
MAX_REFERENCES = 1000


class MailSource(Protocol):
    """How :class:`InboundMessage` reads a mail in one of the formats.

    Any of these may raise. :class:`InboundMessage` catches it and adds a defect.
    """

    defects: list[str]
    null_sender: bool
    marked_bounce: bool

    @property
    def raw(self) -> bytes | None: ...
    @property
    def head(self) -> HeaderBlock | None: ...
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
    def part_of(self, types: frozenset[str], limit: int = ...) -> bytes: ...


class InboundMessage:
    """An email that Postal received for the app.

    An attribute is parsed when it is used for the first time, and none ever raises:
    what can't be parsed is ``None`` or empty, and :attr:`defects` says why.

    :param source: Reads the mail in its format.
    :param envelope_sender: MAIL FROM; ``None`` for the null sender of bounces.
    :param envelope_recipient: RCPT TO, with ``+tag`` and upper and lower case as it was
        given.
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
        """The mail as Postal received it, after the headers that Postal has added.

        ``None`` in the Hash formats.
        """
        return self._read("raw", lambda s: s.raw, None)

    @property
    def defects(self) -> list[str]:
        """What could not be read, and why, as far as attributes have been used."""
        return self._source.defects

    @cached_property
    def from_email(self) -> Address | None:
        """The author's address, as mail programs show it for the From header.

        A display name that looks like an address is treated as a name. ``None`` if
        there is no address that a message could be sent to, as in one of ten bounces
        (``MAILER-DAEMON``). An address literal (``ana@[192.0.2.1]``) is returned,
        although Postal can't send to it. The From header proves nothing.
        """
        return self._read("from", lambda s: s.author(), None)

    @cached_property
    def to(self) -> list[Address]:
        """The addresses in To."""
        return self._read("to", lambda s: s.addresses("to"), [])

    @cached_property
    def cc(self) -> list[Address]:
        """The addresses in Cc."""
        return self._read("cc", lambda s: s.addresses("cc"), [])

    @cached_property
    def reply_to(self) -> list[Address]:
        """The addresses in Reply-To."""
        return self._read("reply-to", lambda s: s.addresses("reply-to"), [])

    @cached_property
    def subject(self) -> str | None:
        """The decoded subject, in one line.

        In the Hash formats Postal cuts it at 200 characters.
        """
        return self.header("subject")

    @cached_property
    def date(self) -> datetime | None:
        """The Date header as an aware datetime in UTC."""
        return self._read("date", lambda s: _utc(s.date()), None)

    @cached_property
    def message_id(self) -> str | None:
        """The Message-ID, without angle brackets."""
        return self._identifier("message-id")

    @cached_property
    def in_reply_to(self) -> str | None:
        """The Message-ID that this mail replies to, without angle brackets."""
        return self._identifier("in-reply-to")

    @cached_property
    def references(self) -> list[str]:
        """The Message-IDs of the thread, oldest first, without angle brackets."""
        value = self.header("references") or ""
        found = _MESSAGE_ID.finditer(value)
        return [match[1] for match in islice(found, MAX_REFERENCES)]

    @cached_property
    def text(self) -> str | None:
        """The plain text, with ``\\n`` as line ending."""
        return self._body("text", lambda s: s.text())

    @cached_property
    def html(self) -> str | None:
        """The HTML, which may be malicious: sanitise it before you show it."""
        return self._body("html", lambda s: s.html())

    @cached_property
    def stripped_text(self) -> str | None:
        """The text of a reply without quoted mail and signature.

        If the HTTP endpoint in Postal strips replies, this is what Postal has left of
        the text, otherwise the result of :func:`.strip_reply`. ``None`` if there is no
        text, and ``""`` if all of it was stripped.
        """
        stripped = self._body("stripped text", lambda s: s.stripped_text())
        if stripped is not None or self.text is None:
            return stripped
        text = self.text
        return self._read("stripped text", lambda s: strip_reply(text), None)

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """All headers in order, as pairs of name and value.

        Names are spelled as in the mail; values are decoded, each in one line.
        """
        items: list[tuple[str, str]] = self._read(
            "headers", lambda s: s.header_items(), []
        )
        return [(name, as_line(value) or "") for name, value in items]

    @cached_property
    def attachments(self) -> list[InboundAttachment]:
        """All files, whether or not the mail declares them as attachments.

        Images that belong to the HTML are in :attr:`inlines` instead.
        """
        return self._read("attachments", lambda s: s.attachments(), [])

    @cached_property
    def inlines(self) -> dict[str, InboundAttachment]:
        """The parts that ``cid:`` links in the HTML refer to, by Content-ID.

        Always empty in the Hash formats.
        """
        return self._read("inlines", lambda s: s.inlines(), {})

    @cached_property
    def spam_detected(self) -> bool | None:
        """Whether Postal classified the mail as spam; ``None`` if it didn't check.

        Headers of the same name that the author has written don't count.
        """
        return self._read("spam verdict", lambda s: s.spam_detected(), None)

    @cached_property
    def spam_score(self) -> float | None:
        """Postal's spam score; ``None`` in the Hash formats."""
        return self._read("spam score", lambda s: s.spam_score(), None)

    @cached_property
    def is_auto_reply(self) -> bool:
        """Whether the mail is an automatic reply (RFC 3834).

        That is a vacation note, a bounce, a complaint or a receipt.
        """
        return self.is_bounce or self._read(
            "auto reply",
            lambda s: classify.is_auto_reply(
                self.header, null_sender=s.null_sender, types=s.part_types
            ),
            default=False,
        )

    @cached_property
    def is_bounce(self) -> bool:
        """Whether the mail reports a failed or delayed delivery of another one."""
        return self._read(
            "bounce",
            lambda s: classify.is_bounce(
                self.header,
                sender=self.from_email,
                from_header=self.header("from") or "",
                null_sender=s.null_sender,
                marked=s.marked_bounce,
                types=s.part_types,
                status=lambda: s.part_of(classify.STATUS_TYPES).decode("latin-1"),
            ),
            default=False,
        )

    @cached_property
    def feedback_report(self) -> FeedbackReport | None:
        """What a complaint about one of the app's messages says (RFC 5965).

        ``None`` if the mail is no complaint, and in the Hash formats.
        """
        return self._read("feedback report", read_feedback, None)

    @cached_property
    def may_be_answered(self) -> bool:
        """Whether an automatic reply may be sent without risking a mail loop.

        The reply would go to the first address of :attr:`reply_to`, or to
        :attr:`from_email`. ``False`` if the envelope has no sender; for auto-replies,
        bounces, mailing lists and bulk mail; if the author asks for no automatic
        replies (``X-Auto-Response-Suppress``); if the mail comes from the address that
        it was sent to; and if there is no address to reply to. Limit the number of
        replies to one mailbox nevertheless.
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

    @cached_property
    def authentication(self) -> Authentication:
        """Who answers for the mail: whether its From header can be trusted.

        It needs ``Flask-Postal[authentication]``, and asks DNS when it is used for the
        first time, for 2 s at most. In the Hash formats, or if DNS does not answer, the
        verdict is ``unknown``. Headers in the mail that claim a result don't count.
        """
        return self.authenticate()

    def authenticate(
        self, resolver: Resolver | None = None, *, timeout: float = 2.0
    ) -> Authentication:
        """Find out who answers for the mail; see :attr:`authentication`.

        :param resolver: Asks DNS in place of the system's name servers, as
            ``resolver(name, record, timeout)``. It returns the records as text, such
            as ``["10 mx.example.com"]`` for ``MX``, and raises :exc:`OSError` if they
            can't be looked up now.
        :param timeout: Seconds that all look-ups may take together.
        """

        def read(source: MailSource) -> Authentication:
            raw, head = source.raw, source.head
            if raw is None or head is None:
                return UNKNOWN
            return authenticate(
                raw,
                head,
                self.from_email,
                source.addresses("from"),
                self.envelope_sender,
                resolver=resolver,
                timeout=timeout,
            )

        return self._read("authentication", read, UNREADABLE)

    def header(self, name: str) -> str | None:
        """Return the first value of a header, or ``None``.

        The value is decoded and in one line.

        :param name: The name of the header, in upper or lower case.
        """
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
        # Sources return no surrogates, so they aren't searched for: that would take as
        # long as decoding.
        text = text.replace("\r\n", "\n") if "\r" in text else text
        return text.replace("\0", "\ufffd") if "\0" in text else text

    def _line(self, what: str, read: Callable[[MailSource], str | None]) -> str | None:
        return as_line(self._read(what, read, None))

    def _read(self, what: str, read: Callable[[MailSource], T], default: T) -> T:
        try:
            return read(self._source)
        except Exception as error:  # noqa: BLE001
            # Parsers of hostile input may raise anything; the standard library's raises
            # IndexError, LookupError, RecursionError and more. A mail that can't be
            # read completely has still been delivered.
            self._source.defects.append(f"{what}: {type(error).__name__}")
            return default

    def __repr__(self) -> str:
        return (
            f"<{type(self).__name__} from {self.envelope_sender!r}"
            f" to {self.envelope_recipient!r}>"
        )


def _utc(date: datetime | None) -> datetime | None:
    return None if date is None else date.astimezone(UTC)
