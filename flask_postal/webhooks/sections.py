"""Cuts a mail of the usual shape into its parts, without reading it line by line.

The standard library's parser looks at each line of a file of 10 MB. Here the lines
that matter are found, and what stands between them is left as it is until it is asked
for. The result is what that parser makes of the same mail; where there is any doubt
about it, there is none, and the parser is asked.
"""

from __future__ import annotations

import binascii
import quopri
import re
from collections.abc import Iterator
from email.message import Message
from email.policy import compat32
from typing import Any

__all__ = ["Part", "Section", "cut", "read_head"]

#: Characters of a part's header that are looked at.
MAX_HEADER = 16_000
#: How deep multiparts stand in each other in mails of the usual shape.
MAX_DEPTH = 10

# Header lines, each ended by CRLF; nothing that a parser could take in another way.
_HEAD = re.compile(
    rb"(?:[!-9;-~]++:[^\r\n]*+\r\n(?:[ \t][^\r\n]*+\r\n)*+)*+", re.DOTALL
)
_NEXT_HEADER = re.compile(r"\r\n(?![ \t])")
_PLAIN_ENCODINGS = frozenset({"", "7bit", "8bit", "binary"})


class Part(Message):
    """A part whose headers are not longer than what the standard library can take.

    It reads parameters in a time that grows with the square of their number.
    """

    def set_raw(self, name: str, value: Any) -> None:
        super().set_raw(name, value[:MAX_HEADER])


class _UnusualError(Exception):
    """The parser has to look at it."""


class Section:
    """A part that is no multipart: its headers, and where its content stands.

    :ivar part: The headers; the content is not in it.
    :ivar parent: The subtype of the multipart around it, ``""`` for none.
    """

    __slots__ = ("_end", "_raw", "_start", "parent", "part")

    def __init__(
        self, part: Part, parent: str, raw: bytes, start: int, end: int
    ) -> None:
        self.part = part
        self.parent = parent
        self._raw = raw
        self._start = start
        self._end = end

    def content(self) -> bytes:
        """Decode the content, as ``get_payload(decode=True)`` does."""
        encoding = str(self.part.get("content-transfer-encoding", "")).lower()
        if encoding == "base64" and (data := self._base64()) is not None:
            return data
        encoded = self._raw[self._start : self._end]
        if encoding in _PLAIN_ENCODINGS:
            return encoded
        if encoding == "quoted-printable":
            return quopri.decodestring(encoded)
        part = Part(compat32)
        part.set_raw("content-transfer-encoding", encoding)
        part.set_payload(encoded.decode("ascii", "surrogateescape"))
        decoded = part.get_payload(decode=True)
        return decoded if isinstance(decoded, bytes) else encoded

    def _base64(self) -> bytes | None:
        """Decode base64 in one go; ``None`` if it is not clean."""
        raw, start, end = self._raw, self._start, self._end
        breaks = raw.count(b"\r", start, end) + raw.count(b"\n", start, end)
        length = end - start - breaks
        if length % 4:
            return None
        try:
            data = binascii.a2b_base64(memoryview(raw)[start:end])
        except binascii.Error:
            return None
        # The decoder skips foreign characters and stops at padding: then it is short.
        padding = raw.count(b"=", max(start, end - 6), end)
        return data if len(data) == length // 4 * 3 - padding else None


def read_head(head: bytes) -> list[tuple[str, str]] | None:
    """Read lines of headers, as the standard library's ``raw_items()``.

    :param head: The lines, each ended by CRLF, without the blank one.
    :returns: Names and values; ``None`` for any doubt.
    """
    if not _HEAD.fullmatch(head):
        return None
    if not head:
        return []
    lines = _NEXT_HEADER.split(head[:-2].decode("ascii", "surrogateescape"))
    read = compat32.header_source_parse
    return [read([line]) for line in lines]


def cut(raw: bytes, max_parts: int) -> list[Section] | None:
    """Cut a mail into the parts that hold something.

    :returns: The parts in order; ``None`` if the mail is not of the usual shape.
    """
    sections: list[Section] = []
    try:
        for section in _cut(raw, 0, len(raw), "", MAX_DEPTH):
            sections.append(section)
            if len(sections) > max_parts:
                return None
    except _UnusualError:
        return None
    return sections


def _cut(
    raw: bytes, start: int, end: int, parent: str, depth: int
) -> Iterator[Section]:
    part, start = _head(raw, start, end)
    main, _, subtype = part.get_content_type().partition("/")
    if main == "message":
        raise _UnusualError
    if main != "multipart":
        yield Section(part, parent, raw, start, end)
        return
    boundary = part.get_boundary()
    # The parts of a digest are mails.
    if (
        not boundary
        or not (boundary.isascii() and boundary.isprintable())
        or subtype == "digest"
        or not depth
    ):
        raise _UnusualError
    for start_, end_ in _between(raw, start, end, f"--{boundary}".encode("ascii")):
        yield from _cut(raw, start_, end_, subtype, depth - 1)


def _head(raw: bytes, start: int, end: int) -> tuple[Part, int]:
    """Read the headers of a part; return them and where its content begins."""
    part = Part(compat32)
    if raw.startswith(b"\r\n", start, end):
        return part, start + 2
    blank = raw.find(b"\r\n\r\n", start, end)
    headers = None if blank < 0 else read_head(raw[start : blank + 2])
    if headers is None:
        raise _UnusualError
    for name, value in headers:
        part.set_raw(name, value)
    return part, blank + 4


def _between(
    raw: bytes, start: int, end: int, mark: bytes
) -> Iterator[tuple[int, int]]:
    """Find what stands between the lines with a boundary."""
    begun, closed = -1, False
    at = raw.find(mark, start, end)
    while at >= 0:
        after = at + len(mark)
        begins_line = at == start or raw.startswith(b"\r\n", at - 2, end)
        if not begins_line or closed or after == begun:
            raise _UnusualError
        if begun >= 0:
            if at - 2 < begun:
                raise _UnusualError
            yield begun, at - 2
        elif raw.startswith(b"--", after, end):
            raise _UnusualError
        if raw.startswith(b"--", after, end):
            closed = True
            after += 2
            if after != end and not raw.startswith(b"\r\n", after, end):
                raise _UnusualError
        elif not raw.startswith(b"\r\n", after, end):
            raise _UnusualError
        begun = after + 2
        at = raw.find(mark, after, end)
    if not closed:
        raise _UnusualError
