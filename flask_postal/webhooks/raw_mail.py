"""Reads a raw mail with the standard library's parser, and its surprises."""

from __future__ import annotations

import email
import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from email.errors import HeaderParseError
from email.header import decode_header
from email.message import Message
from email.parser import BytesHeaderParser
from email.policy import compat32
from email.utils import getaddresses, parsedate_to_datetime
from functools import cached_property
from typing import Any

from ..address import Address
from .encoded import EncodedMail
from .inbound_message import InboundAttachment
from .sections import Part, Section, cut, read_head

__all__ = ["RawMail", "decode_words", "read_addresses"]

#: Parts that are looked at; a mail with more is a weapon.
MAX_PARTS = 1000
#: How deep multiparts may stand in each other.
MAX_DEPTH = 100
#: Characters of a header with addresses that are looked at.
MAX_ADDRESSES = 100_000


#: Lines times multiparts that the parser looks at: two seconds' worth if all stand in
#: each other, and more than any mail of Postal's 14 MB has that somebody wrote.
MAX_WORK = 8_000_000
#: Characters of a header in which encoded words are decoded.
MAX_DECODED = 50_000

_DAMAGED = "message: its base64 is damaged"
_MULTIPART = re.compile(rb"(?mi)^content-type:[ \t]*multipart/")
_WORD = r"=\?[^?\s]+\?[bBqQ]\?[^?]*\?="
_WORDS = re.compile(rf"{_WORD}(?:\s+{_WORD})*")
# "Ana Lima <ana@example.com>", "Lima, Ana" <ana@example.com>, ana@example.com
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
_SPEC = rf"{_ATOM}(?:\.{_ATOM})*+@[A-Za-z0-9_-]++(?:\.[A-Za-z0-9_-]++)*+"
_USUAL = re.compile(
    rf'(?:(?:"([^"\\\r\n]++)"|({_ATOM}(?: {_ATOM})*+)) <({_SPEC})>|({_SPEC}))'
)
_USUAL_LIST = re.compile(rf"{_USUAL.pattern}(?:, ?{_USUAL.pattern})*+", re.ASCII)
_HEAD_END = re.compile(rb"\r?\n\r?\n")


class RawMail:
    """A :class:`.MailSource` over the bytes of a mail."""

    def __init__(self, mail: EncodedMail, *, null_sender: bool = False) -> None:
        self.defects: list[str] = []
        self._mail = mail
        self._null_sender = null_sender

    @property
    def raw(self) -> bytes | None:
        return self._all()

    def _all(self) -> bytes:
        data = self._mail.all()
        if self._mail.damaged and _DAMAGED not in self.defects:
            self.defects.append(_DAMAGED)
        return data

    # ---- headers

    @cached_property
    def _head(self) -> list[tuple[str, str]]:
        """All headers as they came, unfolded, in 8-bit mails decoded."""
        for beginning in self._mail.beginnings():
            if end := _HEAD_END.search(beginning):
                break
        else:
            beginning = self._all()
            end = _HEAD_END.search(beginning)
        head = beginning[: end.end()] if end else beginning
        items = read_head(head[:-2]) if head.endswith(b"\r\n\r\n") else None
        if items is None:
            parsed = BytesHeaderParser(policy=compat32).parsebytes(head)
            # Not through the headers' own interface: it can't decode 8-bit ones.
            items = [(name, str(value)) for name, value in parsed.raw_items()]
        return [(name, _unfold(_from_bytes(value))) for name, value in items]

    def _raw_header(self, name: str) -> str | None:
        return next((value for n, value in self._head if n.lower() == name), None)

    def header_items(self) -> list[tuple[str, str]]:
        return [(name, decode_words(value)) for name, value in self._head]

    def header(self, name: str) -> str | None:
        value = self._raw_header(name)
        return None if value is None else decode_words(value)

    def addresses(self, name: str) -> list[Address]:
        values = [value for n, value in self._head if n.lower() == name]
        return read_addresses(", ".join(values), encoded=True)

    def date(self) -> datetime | None:
        value = self._raw_header("date")
        if not value:
            return None
        date = parsedate_to_datetime(value)
        return date if date.tzinfo else date.replace(tzinfo=UTC)

    def _verdict(self, name: str) -> str | None:
        """A header that Postal put above the first Received header.

        The same headers further down come from the author and prove nothing; without a
        Received header nobody can tell.
        """
        found = None
        for header, value in self._head:
            if header.lower() == "received":
                return found
            if header.lower() == name and found is None:
                found = value.strip()
        return None

    def spam_detected(self) -> bool | None:
        return {"yes": True, "no": False}.get(self._verdict("x-postal-spam") or "")

    def spam_score(self) -> float | None:
        score = self._verdict("x-postal-spam-score")
        return None if score is None else float(score)

    # ---- parts

    @cached_property
    def _root(self) -> Message:
        made: list[Part] = []  # the first by the parser, to see whether it can

        def make(policy: Any = compat32) -> Part:
            if len(made) > MAX_PARTS:
                raise _TooManyError
            made.append(Part(policy))
            return made[-1]

        raw = self._all()
        parts = len(_MULTIPART.findall(raw))
        lines = raw.count(b"\n")
        if parts > MAX_DEPTH // 10 and parts * lines > MAX_WORK:
            self.defects.append("parts: nested too deeply; the rest is not read")
            raw = raw[: len(raw) * (MAX_WORK // parts) // lines]
        try:
            return email.message_from_bytes(
                raw,
                _class=make,
                policy=compat32,
            )
        except _TooManyError:
            self.defects.append(f"parts: more than {MAX_PARTS}; the rest is not read")
        except RecursionError:
            self.defects.append("parts: nested too deeply; the innermost are not read")
        return made[1]

    @cached_property
    def _leaves(self) -> list[Section | _Parsed]:
        """The parts that hold something."""
        if (sections := cut(self._all(), MAX_PARTS // 2)) is not None:
            return [*sections]
        leaves: list[Section | _Parsed] = []
        todo: list[tuple[Any, str, int]] = [(self._root, "", 0)]
        while todo:
            part, parent, depth = todo.pop()
            if not isinstance(part, Message):
                continue
            if part.get_content_maintype() != "multipart":
                leaves.append(_Parsed(part, parent))
            elif depth >= MAX_DEPTH:
                self.defects.append("parts: nested too deeply; the rest is not read")
            elif isinstance(children := part.get_payload(), list):
                subtype = part.get_content_subtype()
                todo += [(child, subtype, depth + 1) for child in reversed(children)]
            elif isinstance(children, str) and not leaves:
                leaves.append(_Parsed(part, parent))  # multipart in name only
        return leaves

    @cached_property
    def _sorted(self) -> dict[str, Any]:
        """Which part is what: the first text, the first HTML, files, images."""
        found: dict[str, Any] = {
            "plain": None,
            "html": None,
            "files": [],
            "inlines": {},
        }
        for leaf in self._leaves:
            part = leaf.part
            kind = part.get_content_type()
            disposition = (part.get_content_disposition() or "").lower()
            if kind.startswith("multipart/"):
                kind = "text/plain"
            subtype = kind.partition("/")[2]
            if (
                kind in ("text/plain", "text/html")
                and disposition != "attachment"
                and found[subtype] is None
                and _filename(part) is None
            ):
                found[subtype] = leaf
                continue
            content_id = _content_id(part)
            if content_id and disposition != "attachment":
                found["inlines"].setdefault(content_id, leaf)
                if leaf.parent == "related":
                    continue
            found["files"].append(leaf)
        return found

    def text(self) -> str | None:
        return self._text_of(self._sorted["plain"])

    def html(self) -> str | None:
        return self._text_of(self._sorted["html"])

    def stripped_text(self) -> str | None:
        return None

    def attachments(self) -> list[InboundAttachment]:
        return [self._attachment(leaf) for leaf in self._sorted["files"]]

    def inlines(self) -> dict[str, InboundAttachment]:
        leaves = self._sorted["inlines"]
        return {name: self._attachment(leaf) for name, leaf in leaves.items()}

    def is_bounce(self) -> bool:
        content_type = (self._raw_header("content-type") or "").lower()
        if content_type.startswith("multipart/report"):
            return "delivery-status" in content_type
        sender = self.addresses("from")
        name = sender[0].username.lower() if sender else ""
        return self._null_sender and name in ("mailer-daemon", "postmaster")

    def _text_of(self, leaf: Section | _Parsed | None) -> str | None:
        if leaf is None:
            return None
        data = leaf.content()
        try:
            charset = str(leaf.part.get_content_charset() or "utf-8")
        except (LookupError, ValueError):
            charset = "utf-8"
        for candidate in (charset, "utf-8"):
            try:
                return data.decode(candidate)
            except (LookupError, ValueError):
                continue
        self.defects.append(f"text: not {charset!a}; read as windows-1252")
        return data.decode("windows-1252", "replace")

    def _attachment(self, leaf: Section | _Parsed) -> InboundAttachment:
        part = leaf.part
        try:
            content = leaf.content()
        except Exception as error:  # noqa: BLE001
            # As InboundMessage._read, for this file alone: the others can be read.
            self.defects.append(f"attachment: {type(error).__name__}")
            content = b""
        return InboundAttachment(
            _filename(part), part.get_content_type(), content, _content_id(part)
        )


class _TooManyError(Exception):
    """Ends the parser."""


@dataclass(frozen=True, slots=True)
class _Parsed:
    """A part as the standard library's parser made it; see :class:`.Section`."""

    part: Message
    parent: str

    def content(self) -> bytes:
        return _content(self.part)


def _content(part: Message) -> bytes:
    if part.get_content_maintype() == "message":
        payload = part.get_payload()
        if isinstance(payload, list):
            return b"\r\n".join(
                _flat(child) for child in payload if isinstance(child, Message)
            )
    data = part.get_payload(decode=True)
    if isinstance(data, bytes):
        return data
    text = part.get_payload()
    return text.encode("utf-8", "surrogateescape") if isinstance(text, str) else b""


def _flat(part: Message) -> bytes:
    return part.as_bytes(policy=compat32.clone(linesep="\r\n", max_line_length=0))


def _filename(part: Message) -> str | None:
    try:
        name = part.get_filename()
    except (LookupError, ValueError, TypeError):
        return None
    if not name:
        return None
    return re.sub("[\ud800-\udfff]", "\ufffd", decode_words(_from_bytes(str(name))))


def _content_id(part: Message) -> str | None:
    values = (v for n, v in part.raw_items() if n.lower() == "content-id")
    value = next(values, None)
    return None if value is None else _from_bytes(str(value)).strip(" <>\r\n\t") or None


def _unfold(value: str) -> str:
    if "\n" in value:
        value = re.sub(r"\r?\n(?=[ \t])", "", value)
    return value.strip(" \t\r\n")


def _from_bytes(value: str) -> str:
    """Decode what the parser could not: 8-bit bytes hide in it as surrogates."""
    if value.isascii():
        return value
    data = value.encode("utf-8", "surrogateescape")
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError:
        return data.decode("windows-1252", "replace")


def decode_words(value: str) -> str:
    """Decode RFC 2047 encoded words; what is none, or broken, stays as it is."""
    if "=?" not in value:
        return value
    # The standard library takes a time that grows with the square of their number.
    return _WORDS.sub(_decode_run, value[:MAX_DECODED]) + value[MAX_DECODED:]


def _decode_run(run: re.Match[str]) -> str:
    """Decode encoded words that follow each other; the blanks between are no text."""
    try:
        pieces = decode_header(run[0])
    except (HeaderParseError, ValueError, LookupError):
        return run[0]
    text = ""
    for data, charset in pieces:
        if isinstance(data, str):
            text += data
            continue
        try:
            text += data.decode(charset or "utf-8")
        except (LookupError, ValueError):
            text += data.decode("utf-8", "replace")
    return text


def read_addresses(value: str, *, encoded: bool) -> list[Address]:
    """Read a header of addresses, leaving out what is none.

    :param encoded: Whether names are still in encoded words.
    """
    return list(_addresses(value[:MAX_ADDRESSES], encoded=encoded))


def _pairs(value: str) -> list[tuple[str, str]]:
    """Do what ``getaddresses`` does, at once where addresses are written as usual."""
    if _USUAL_LIST.fullmatch(value):
        return [
            (quoted or name, bare or spec)
            for quoted, name, spec, bare in _USUAL.findall(value)
        ]
    return getaddresses([value])


def _addresses(value: str, *, encoded: bool) -> Iterator[Address]:
    for name, addr_spec in _pairs(value):
        if addr_spec and "@" in addr_spec:
            name = decode_words(name) if encoded else name
            yield Address(
                *(re.sub("[\ud800-\udfff]", "\ufffd", t) for t in (addr_spec, name))
            )
