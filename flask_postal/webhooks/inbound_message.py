"""A mail that came in, read when something asks, whatever state it is in.

:class:`InboundMessage` is what all four of Postal's formats look like. It is read from
the raw mail (:class:`.RawMail`, the format RawMessage) or from Postal's own reading of
it (:class:`.HashMail`, the format Hash).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from typing import TYPE_CHECKING, Protocol, TypeVar

from ..address import Address

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

__all__ = ["InboundAttachment", "InboundMessage", "MailSource"]

T = TypeVar("T")

_SURROGATE = re.compile("[\ud800-\udfff]")
_UNSAFE_NAME = re.compile(r"[^\w.() -]+")


@dataclass(frozen=True, slots=True)
class InboundAttachment:
    """A file of a mail that came in.

    :param filename: The name its author gave it; ``None`` if it has none. Never use it
        as the name of a file of your own; there is :attr:`safe_filename` for that.
    :param content_type: The media type its author claims, in lower case.
    :param content: Its bytes.
    :param content_id: What ``cid:`` in the HTML refers to, without angle brackets.
    """

    filename: str | None
    content_type: str
    content: bytes = field(repr=False)
    content_id: str | None = None

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    @property
    def safe_filename(self) -> str:
        """A name without path, control characters and leading dots, never empty."""
        name = (self.filename or "").replace("\\", "/").rpartition("/")[2]
        return _UNSAFE_NAME.sub("_", name).strip(" ._")[:150] or "attachment"

    def as_file(self) -> FileStorage:
        """Return it as Werkzeug's uploaded file, for code that stores those."""
        from io import BytesIO

        from werkzeug.datastructures import FileStorage

        return FileStorage(
            BytesIO(self.content), self.safe_filename, content_type=self.content_type
        )


class MailSource(Protocol):
    """What a format knows. Any of these may raise; :class:`InboundMessage` does not."""

    defects: list[str]

    @property
    def raw(self) -> bytes | None: ...
    def header_items(self) -> list[tuple[str, str]]: ...
    def addresses(self, name: str) -> list[Address]: ...
    def header(self, name: str) -> str | None: ...
    def date(self) -> datetime | None: ...
    def text(self) -> str | None: ...
    def html(self) -> str | None: ...
    def stripped_text(self) -> str | None: ...
    def attachments(self) -> list[InboundAttachment]: ...
    def inlines(self) -> dict[str, InboundAttachment]: ...
    def spam_detected(self) -> bool | None: ...
    def spam_score(self) -> float | None: ...
    def is_bounce(self) -> bool: ...


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
        self.envelope_sender = envelope_sender
        self.envelope_recipient = envelope_recipient

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
        """The first address of From."""
        addresses: list[Address] = self._read("from", lambda s: s.addresses("from"), [])
        return addresses[0] if addresses else None

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
        """The subject, decoded; cut at 200 characters in the Hash formats."""
        return self._text("subject", lambda s: s.header("subject"))

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
        value = self._text("references", lambda s: s.header("references")) or ""
        return [part.strip("<>") for part in value.split()][:1000]

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
        """The text without quoted replies; only where the HTTP endpoint in Postal
        strips them."""
        return self._body("stripped text", lambda s: s.stripped_text())

    @cached_property
    def headers(self) -> list[tuple[str, str]]:
        """All headers in order, decoded, names as they came."""
        items: list[tuple[str, str]] = self._read(
            "headers", lambda s: s.header_items(), []
        )
        return [(_clean(name), _clean(value)) for name, value in items]

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
        """Whether a machine answered (RFC 3834): never answer such a mail."""
        auto = (self.header("auto-submitted") or "").strip().lower()
        if auto and auto.split(";")[0].strip() != "no":
            return True
        if (self.header("precedence") or "").strip().lower() in ("auto_reply", "junk"):
            return True
        return any(self.header(name) for name in ("x-autoreply", "x-autorespond"))

    @cached_property
    def is_bounce(self) -> bool:
        """Whether the mail reports that another one was not delivered."""
        return self._read("bounce", lambda s: s.is_bounce(), default=False)

    def header(self, name: str) -> str | None:
        """Return the first value of a header, decoded, or ``None``."""
        return self._text(name, lambda s: s.header(name.lower()))

    def _identifier(self, name: str) -> str | None:
        value = (self._text(name, lambda s: s.header(name)) or "").strip()
        return value.strip("<>") or None

    def _body(self, what: str, read: Callable[[MailSource], str | None]) -> str | None:
        text = self._text(what, read)
        return None if text is None else text.replace("\r\n", "\n")

    def _text(self, what: str, read: Callable[[MailSource], str | None]) -> str | None:
        text = self._read(what, read, None)
        return None if text is None else _clean(text)

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


def _clean(text: str) -> str:
    """Replace what UTF-8 can't encode."""
    return text if text.isascii() else _SURROGATE.sub("\ufffd", text)
