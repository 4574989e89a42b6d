"""Reads a mail, and writes base64, as Postal does."""

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
    """Read a mail; nothing it holds raises."""
    return InboundMessage(RawMail(Base64Mail(raw=raw)))


def base64_lines(data: bytes) -> str:
    """Write base64 as Ruby does: a line break after every 60 characters."""
    text = base64.b64encode(data).decode("ascii")
    return "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60))


def in_brackets(text: str) -> str:
    """Return what stands in the last angle brackets of each line."""
    return "\n".join(
        line.rpartition("<")[2].partition(">")[0] for line in text.split("\n")
    )


@dataclass(frozen=True, slots=True)
class PostalFile:
    """A part that Postal takes for an attachment.

    :param content_type: With its parameters, as a form shows it; ``None`` if the part
        has none.
    :param media_type: Without them, as JSON shows it.
    """

    filename: str
    content_type: str | None
    media_type: str | None
    content: bytes = field(repr=False)


class PostalMail:
    """A mail as Postal's library reads it, which differs from :func:`read_mail`.

    Of repeated headers the last counts. Any part with a name is an attachment, and no
    other is. Line ends depend on the transfer encoding. Nothing in a mail raises.
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
        """Return the last of some headers, decoded, in one line."""
        value = self._last(name)
        return None if value is None else _decoded(value)

    def all_headers(self) -> dict[str, list[str]]:
        """Return all headers, decoded: lower-case name -> values."""
        return {name: list(map(_decoded, v)) for name, v in self._headers.items()}

    def all_addresses(self, name: str) -> list[str]:
        """Return the bare addresses of all headers of a name."""
        text = ", ".join(self._headers.get(name, []))
        return [address.addr_spec for address in _addresses(text)]

    def addresses(self, name: str) -> str | None:
        """Return the last header of addresses as the library writes it anew."""
        return next(iter(self.address_lists(name)[-1:]), None)

    def address_lists(self, name: str) -> list[str]:
        """Return all headers of a name, each as the library writes it anew."""
        return [_written_anew(value) for value in self._headers.get(name, [])]

    @cached_property
    def message_id(self) -> str | None:
        """The Message-ID without brackets; Postal makes one up for an empty header."""
        value = self.header("message-id")
        if value is None:
            return None
        return in_brackets(value).strip() or f"{token_hex(12)}@sandbox.localhost.mail"

    def message_ids(self, name: str) -> str | None:
        """Return a header of Message-IDs, with blanks between them."""
        value = self.header(name)
        return " ".join(_MESSAGE_ID.findall(value or "")) or value

    @property
    def date(self) -> str | None:
        """The Date header in its usual form; as it came if it is none."""
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
        """The plain text; ``None`` if there is none."""
        return self._body("text/plain")

    @property
    def html_body(self) -> str | None:
        """The HTML; ``None`` if there is none."""
        return self._body("text/html")

    def _body(self, kind: str) -> str | None:
        for part in self._parts:
            # A mail that is no multipart is its own text, whatever its name.
            is_text = not part.parent or _filename(part) is None
            if part.kind == kind and is_text:
                return _safely(lambda: decode(_content(part), part.charset)[0], "")  # noqa: B023
        return None

    @cached_property
    def attachments(self) -> list[PostalFile]:
        """The parts of a multipart that have a name, and the mails in it."""
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
    """Return the name of a part; mails get one, as their authors seldom name them."""
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
    """Return what is in a part.

    The library ends lines by LF in 7-bit and quoted-printable ASCII, and leaves them
    alone in everything else.
    """
    content = part.content()
    encoding = (_header(part, "content-transfer-encoding") or "").strip().lower()
    if encoding == "7bit" or (
        encoding in ("", "quoted-printable") and content.isascii()
    ):
        return content.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return content


def _shown(addresses: Iterable[Address]) -> str:
    """Write addresses as Ruby does once it has decoded them."""
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
