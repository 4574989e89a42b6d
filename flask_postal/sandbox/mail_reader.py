"""Reads emails as Postal does, with the rules of Ruby's "mail" library.

There are two readers on purpose. :func:`read_mail` uses the package's own parser, which
apps get as ``event.message`` and which copes with broken mail. :class:`PostalMail`
follows Ruby's library, from which Postal fills the fields of the Hash formats and of
messages/message: it picks other headers, attachments and line ends. Using one reader
for both would make the sandbox post fields that no real Postal would post, and an app
that works here could fail in production.
"""

from __future__ import annotations

import base64
import random
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from email.utils import format_datetime, parsedate_to_datetime
from functools import cached_property
from secrets import token_hex
from typing import TypeVar

from ..address import Address
from ..values import as_subject
from ..webhooks.mail.addresses import read_addresses
from ..webhooks.mail.base64_mail import Base64Mail
from ..webhooks.mail.charsets import decode
from ..webhooks.mail.encoded_words import decode_words
from ..webhooks.mail.headers import read_headers
from ..webhooks.mail.message import InboundMessage
from ..webhooks.mail.parameters import Parameters, read_parameters
from ..webhooks.mail.raw import RawMail
from ..webhooks.mail.structure import Part, cut

__all__ = ["PostalFile", "PostalMail", "base64_lines", "in_brackets", "read_mail"]

T = TypeVar("T")

_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~-]+")
_TOKEN = re.compile(r"[A-Za-z0-9!#$%&'*+.^_`{|}~-]+")
_MESSAGE_ID = re.compile(r"<[^<>\s]+>")


def read_mail(raw: bytes) -> InboundMessage:
    """Read an email with the package's own parser, which never raises."""
    return InboundMessage(RawMail(Base64Mail(raw=raw)))


def base64_lines(data: bytes) -> str:
    """Encode base64 as Ruby does, with a newline after every 60 characters."""
    text = base64.b64encode(data).decode("ascii")
    return "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60))


def in_brackets(text: str) -> str:
    """Return the content of the last angle brackets of each line."""
    return "\n".join(
        line.rpartition("<")[2].partition(">")[0] for line in text.split("\n")
    )


@dataclass(frozen=True, slots=True)
class PostalFile:
    """Part of an email that Postal treats as an attachment.

    :param content_type: The Content-Type with its parameters, as posted in forms;
        ``None`` if the part has no such header.
    :param media_type: The Content-Type without parameters, as posted in JSON.
    :param content: The decoded content.
    """

    filename: str
    content_type: str | None
    media_type: str | None
    content: bytes = field(repr=False)


class PostalMail:
    """Email as Ruby's "mail" library reads it, which differs from :func:`read_mail`.

    The last of several headers with the same name counts. A part is an attachment if
    and only if it has a name. The line ends of the content depend on its transfer
    encoding. No attribute raises, whatever the mail contains.

    :param raw: The whole email in MIME.
    """

    def __init__(self, raw: bytes) -> None:
        self._raw = raw

    @cached_property
    def _headers(self) -> dict[str, list[str]]:
        headers: dict[str, list[str]] = {}
        for name, value in read_headers(self._raw).items:
            headers.setdefault(name.lower(), []).append(value.strip())
        return headers

    def _last(self, name: str) -> str | None:
        return self._headers.get(name, [None])[-1]

    def header(self, name: str) -> str | None:
        """Return the last header with a name, decoded and unfolded."""
        value = self._last(name)
        return None if value is None else _decoded(value)

    def all_headers(self) -> dict[str, list[str]]:
        """Return all headers: lower-case name -> decoded values."""
        return {name: list(map(_decoded, v)) for name, v in self._headers.items()}

    def all_addresses(self, name: str) -> list[str]:
        """Return the bare addresses in all headers with a name."""
        text = ", ".join(self._headers.get(name, []))
        return [address.addr_spec for address in _addresses(text)]

    def addresses(self, name: str) -> str | None:
        """Return the last address header with a name, as the library formats it."""
        return next(iter(self.address_lists(name)[-1:]), None)

    def address_lists(self, name: str) -> list[str]:
        """Return all address headers with a name, each as the library formats it."""
        return [_written_anew(value) for value in self._headers.get(name, [])]

    @cached_property
    def message_id(self) -> str | None:
        """The Message-ID without brackets. Postal generates one for an empty header."""
        value = self.header("message-id")
        if value is None:
            return None
        return in_brackets(value).strip() or f"{token_hex(12)}@sandbox.localhost.mail"

    def message_ids(self, name: str) -> str | None:
        """Return the Message-IDs of a header, separated by spaces."""
        value = self.header(name)
        return " ".join(_MESSAGE_ID.findall(value or "")) or value

    @property
    def date(self) -> str | None:
        """The Date header in RFC 5322 format; unchanged if it is not a date."""
        value = self.header("date")
        with suppress(TypeError, ValueError, IndexError, OverflowError):
            return format_datetime(parsedate_to_datetime((value or "")[:200]))
        return value

    # ---- parts

    @cached_property
    def _parts(self) -> list[Part]:
        return _safely(lambda: cut(self._raw).parts, [])

    @property
    def plain_body(self) -> str | None:
        """The first plain text part; ``None`` if there is none."""
        return self._body("text/plain")

    @property
    def html_body(self) -> str | None:
        """The first HTML part; ``None`` if there is none."""
        return self._body("text/html")

    def _body(self, kind: str) -> str | None:
        for part in self._parts:
            # A mail that is not a multipart is a text even if it has a file name.
            is_text = not part.parent or _filename(part) is None
            if part.kind == kind and is_text:
                return _safely(lambda: decode(_content(part), part.charset)[0], "")  # noqa: B023
        return None

    @cached_property
    def attachments(self) -> list[PostalFile]:
        """The parts of a multipart that have a name, and emails attached to it."""
        files = []
        for part in self._parts:
            name = _filename(part) if part.parent else None
            if name is not None:
                kind = _type(part)
                files.append(
                    PostalFile(
                        name,
                        None if kind is None else _written(kind),
                        None if kind is None else kind.value,
                        _safely(lambda: _content(part), b""),  # noqa: B023
                    )
                )
        return files


def _safely(read: Callable[[], T], default: T) -> T:
    try:
        return read()
    except (ArithmeticError, LookupError, RecursionError, TypeError, ValueError):
        return default


def _decoded(value: str) -> str:
    return as_subject(_safely(lambda: decode_words(value), value)) or ""


def _addresses(value: str) -> list[Address]:
    none: list[Address] = []
    return _safely(lambda: read_addresses(value, encoded=True), none)


def _written_anew(value: str) -> str:
    found = _addresses(value)
    return _shown(found) if found else _decoded(value)


def _header(part: Part, name: str) -> str | None:
    for key, value in part.items:
        if key.lower() == name:
            return value
    return None


def _type(part: Part) -> Parameters | None:
    text = _header(part, "content-type")
    return None if text is None else read_parameters(text, media_type=True)


def _filename(part: Part) -> str | None:
    """Return the file name of a part, or ``None``.

    The library generates a name for an attached email without one.
    """
    name = part.parameter("filename") or part.parameter("name")
    name = _decoded(name) if name else part.filename
    name = name or _header(part, "content-location")
    if not name and part.kind == "message/rfc822":
        return f"{random.randrange(100_000_000)}.eml"  # noqa: S311
    return name or None


def _written(kind: Parameters) -> str:
    written = [kind.value]
    for name, value in kind.parameters.items():
        shown = value if _TOKEN.fullmatch(value) else _in_quotes(value)
        written.append(f"{name}={shown}")
    return "; ".join(written)


def _content(part: Part) -> bytes:
    """Return the decoded content of a part.

    The library converts line ends to LF in 7-bit content and quoted-printable ASCII,
    and leaves them unchanged in everything else.
    """
    content = part.content()
    encoding = (_header(part, "content-transfer-encoding") or "").strip().lower()
    if encoding == "7bit" or (
        encoding in ("", "quoted-printable") and content.isascii()
    ):
        return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def _shown(addresses: Iterable[Address]) -> str:
    """Format addresses as the library does after it has decoded them."""
    shown = []
    for address in addresses:
        name = address.display_name
        if name and not _PLAIN_NAME.fullmatch(name):
            name = _in_quotes(name)
        shown.append(f"{name} <{address.addr_spec}>" if name else address.addr_spec)
    return ", ".join(shown)


def _in_quotes(text: str) -> str:
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'
