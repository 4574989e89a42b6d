"""Flask-Mail's message and attachment, and how they become Flask-Postal's."""

from __future__ import annotations

import mimetypes
import re
from collections.abc import Iterable, Mapping
from email.utils import getaddresses, make_msgid
from typing import TYPE_CHECKING, Any, cast

from flask import current_app

from ...errors import MessageError
from ...sending.attachment import Attachment as PostalAttachment
from ..blank_message import BlankMessage
from .mime import address_alone, ascii_filename, write_mail

if TYPE_CHECKING:
    from ...sending.result import SendResult

__all__ = ["Attachment", "BadHeaderError", "Message", "MissingError", "state_of"]

#: A domain that a Message-ID can have.
_DOMAIN = re.compile(r"[A-Za-z0-9.-]{1,150}", re.ASCII)
#: The fold of a header: a line break before whitespace.
_FOLD = re.compile(r"\r\n(?=[ \t])")


class BadHeaderError(MessageError):
    """A header contains a line break that is no fold."""


class MissingError(MessageError, AssertionError):
    """A message has no recipient, or no sender; Flask-Mail raises AssertionError."""


def state_of(app: Any) -> Any:
    """Return what ``Mail.init_app`` has put into the app.

    :raises RuntimeError: if it was not called.
    """
    try:
        return app.extensions["mail"]
    except KeyError:
        raise RuntimeError(
            "The current application was not configured with Flask-Mail"
        ) from None


class Attachment:
    """A file of a message.

    :param filename: The name that the recipient sees.
    :param content_type: The media type; guessed from the file name if not given.
    :param data: Bytes or text.
    :param disposition: ``attachment`` if not given.
    :param headers: Further headers; a ``Content-ID`` makes it an inline image.
    :raises ValueError: without data.
    """

    def __init__(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Any = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        if data is None:
            raise ValueError("The 'data' argument is required.")
        if content_type is None and filename is not None:
            content_type = mimetypes.guess_type(filename)[0]
        if content_type is None:
            text = isinstance(data, str)
            content_type = "text/plain" if text else "application/octet-stream"
        self.filename: str | None = filename
        self.content_type: str = content_type
        self.data: Any = data
        self.disposition: str = disposition or "attachment"
        self.headers: Any = headers or {}

    def header_pairs(self) -> list[tuple[str, str]]:
        """Return the headers as pairs; they may be given as a dict or as pairs."""
        pairs: Any = self.headers or ()
        if isinstance(pairs, Mapping):
            pairs = pairs.items()
        return [(str(name), str(value)) for name, value in pairs]

    def to_postal(self, *, ascii_only: bool) -> PostalAttachment:
        """Return it as Flask-Postal's.

        :param ascii_only: Whether its name is reduced to ASCII.
        """
        name = self.filename
        if ascii_only and name is not None:
            name = ascii_filename(name)
        headers = self.header_pairs()
        cid = [value for header, value in headers if header.lower() == "content-id"]
        return PostalAttachment(
            name,
            self.content_type,
            self.data,
            self.disposition,
            content_id=cid[0].strip().strip("<>") if cid else None,
            headers=[pair for pair in headers if pair[0].lower() != "content-id"],
        )


class Message:
    """An email, with the parameters and attributes of Flask-Mail's.

    :param sender: ``MAIL_DEFAULT_SENDER`` if not given. It is looked up now, so that an
        app context is needed.
    :ivar msgId: The Message-ID, with angle brackets.
    :ivar date: When it was sent, in seconds since 1970; filled in by sending.
    :ivar postal_result: What Postal said: its ids and tokens; ``None`` before it was
        sent.
    """

    def __init__(
        self,
        subject: Any = "",
        recipients: list[Any] | None = None,
        body: Any = None,
        html: Any = None,
        alts: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        sender: Any = None,
        cc: list[Any] | None = None,
        bcc: list[Any] | None = None,
        attachments: list[Attachment] | None = None,
        reply_to: Any = None,
        date: float | None = None,
        charset: str | None = None,
        extra_headers: dict[str, str] | None = None,
        mail_options: list[str] | None = None,
        rcpt_options: list[str] | None = None,
    ) -> None:
        sender = sender or state_of(current_app).default_sender
        if isinstance(sender, list):  # a setting that was written as JSON
            sender = tuple(sender)
        self._pair = sender if isinstance(sender, tuple) else None
        if isinstance(sender, tuple):
            sender = f"{sender[0]} <{sender[1]}>"
        self.sender: Any = sender
        self._sender_of_pair = sender
        self.subject: Any = subject
        self.recipients: list[Any] = recipients or []
        self.cc: list[Any] = cc or []
        self.bcc: list[Any] = bcc or []
        self.reply_to: Any = reply_to
        self.body: Any = body
        self.alts: dict[str, Any] = dict(alts or {})
        self.html = html
        self.date: float | None = date
        domain = address_alone(self._pair or sender or "").rpartition("@")[2]
        known = _DOMAIN.fullmatch(domain) is not None
        self.msgId: str = make_msgid(domain=domain if known else "localhost")
        self.charset: str | None = charset
        self.extra_headers: dict[str, str] | None = extra_headers
        self.mail_options: list[str] = mail_options or []
        self.rcpt_options: list[str] = rcpt_options or []
        self.attachments: list[Attachment] = attachments or []
        self.postal_result: SendResult | None = None

    @property
    def html(self) -> Any:
        """The HTML, which is ``alts["html"]``."""
        return self.alts.get("html")

    @html.setter
    def html(self, value: Any) -> None:
        if value is None:
            self.alts.pop("html", None)
        else:
            self.alts["html"] = value

    @property
    def send_to(self) -> set[Any]:
        """All recipients, in To, Cc and Bcc."""
        return {*self.recipients, *(self.bcc or ()), *(self.cc or ())}

    def add_recipient(self, recipient: Any) -> None:
        """Add a recipient."""
        self.recipients.append(recipient)

    def attach(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Any = None,
        disposition: str | None = None,
        headers: Mapping[str, str] | Iterable[tuple[str, str]] | None = None,
    ) -> None:
        """Attach a file; the parameters are those of :class:`Attachment`."""
        self.attachments.append(
            Attachment(filename, content_type, data, disposition, headers)
        )

    def send(self, connection: Any) -> None:
        """Send it with a :class:`.Connection`."""
        connection.send(self)

    def has_bad_headers(self) -> bool:
        """Tell whether the sender, a recipient or the subject has a line break.

        In the subject, a line break before more text is a fold (RFC 5322), and allowed.
        """
        addresses = [self.sender, *self.recipients]
        if self.reply_to:
            addresses.append(self.reply_to)
        for address in addresses:
            parts = address if isinstance(address, tuple) else (address,)
            if any(_breaks(part) for part in parts):
                return True
        subject = str(self.subject or "")
        if not _breaks(subject):
            return False
        first, *folded = subject.split("\r\n")
        return (
            not first.strip()
            or any(not line.strip() or line[0] not in " \t" for line in folded)
            or any(_breaks(line) for line in (first, *folded))
        )

    is_bad_headers = has_bad_headers

    def as_string(self) -> str:
        """Return the mail as Flask-Mail writes it."""
        return str(self._mail().as_string())

    def as_bytes(self) -> bytes:
        """Return the mail as Flask-Mail writes it."""
        return bytes(self._mail().as_bytes())

    def __str__(self) -> str:
        return self.as_string()

    def __bytes__(self) -> bytes:
        return self.as_bytes()

    def _mail(self) -> Any:
        ascii_only = bool(state_of(current_app).ascii_attachments)
        return write_mail(self, ascii_attachments=ascii_only)

    def to_postal(self, *, ascii_attachments: bool = False) -> BlankMessage:
        """Return it as Flask-Postal's message.

        ``charset`` is left out: Postal gets UTF-8.
        """
        headers = dict(self.extra_headers or {})
        own = [name for name in headers if name.lower() == "reply-to"]
        replies = [headers.pop(name) for name in own]
        # A name with a comma can be told from two addresses in a pair only.
        unchanged = self._pair is not None and self.sender == self._sender_of_pair
        return BlankMessage(
            _FOLD.sub("", str(self.subject or "")),
            _addresses(self.recipients),
            _text(self.body),
            alts={kind: _text(text) for kind, text in self.alts.items()},
            sender=self._pair if unchanged else self.sender,
            cc=_addresses(self.cc),
            bcc=_addresses(self.bcc),
            attachments=[
                _file(attachment, ascii_only=ascii_attachments)
                for attachment in self.attachments or ()
            ],
            reply_to=_several([self.reply_to] if self.reply_to else replies),
            date=self.date,
            extra_headers=headers,
            mail_options=self.mail_options,
            rcpt_options=self.rcpt_options,
            message_id=self.msgId,
        )


def _addresses(values: Iterable[Any] | None) -> list[Any]:
    """Return addresses as a list: a tuple of two is no name with an address here."""
    return [value for value in values or () if value]


def _several(values: list[Any]) -> list[Any]:
    """Return the addresses of headers that may have more than one."""
    found: list[Any] = []
    for value in values:
        several = isinstance(value, str) and "," in value
        found += getaddresses([value]) if several else [value]
    return found


def _text(value: Any) -> Any:
    return value.decode() if isinstance(value, bytes) else value


def _file(attachment: Any, *, ascii_only: bool) -> PostalAttachment:
    """Return an attachment as Flask-Postal's, which it may be already."""
    if isinstance(attachment, PostalAttachment):
        return attachment
    if isinstance(attachment, tuple):
        attachment = Attachment(*attachment)
    return cast("Attachment", attachment).to_postal(ascii_only=ascii_only)


def _breaks(text: Any) -> bool:
    return "\n" in str(text) or "\r" in str(text)
