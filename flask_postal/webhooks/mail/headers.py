"""Cuts a block of headers into names and values.

The result is that of the standard library's parser where a mail keeps to RFC 5322.
Where one does not, as much as possible is kept: the obsolete ``From : x`` is a header
(RFC 5322, 4.5), and a line that is none does not hide the headers after it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from .charsets import guess

__all__ = ["HeaderBlock", "read_date", "read_headers"]

#: Bytes of a mail's or a part's headers that are read, and how many headers.
MAX_BYTES, MAX_FIELDS = 1024 * 1024, 10_000
#: Bytes of one header that are read.
MAX_VALUE = 100_000
#: Bytes of junk, in a row, behind which headers are looked for.
MAX_JUNK = 1000

# A name, and a value with the lines that continue it. Repeating a group possessively is
# right before Python 3.11.5 only where, as here, the group fails at a plain character.
_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?")
_BLANK = re.compile(rb"\r*\n")
_END = re.compile(rb"\n\r*\n")
# Where a line begins that is surely a header, and no URL in a text.
_HEADER_BEGINS = re.compile(rb"\n(?=[A-Za-z][A-Za-z0-9-]{0,75}+[ \t]*+:(?!//))")
_FOLD = re.compile(r"\r*\n(?=[ \t])")


class HeaderBlock(NamedTuple):
    """The headers of a mail or a part.

    :param items: Names as they came, and values, unfolded and decoded from bytes, with
        their encoded words.
    :param end: Where the content begins.
    :param problem: What was left unread, if anything was.
    """

    items: list[tuple[str, str]]
    end: int
    problem: str | None


def read_headers(
    raw: bytes, start: int = 0, end: int | None = None, budget: int = MAX_BYTES
) -> HeaderBlock:
    """Read the headers at the beginning of a mail or a part.

    :param raw: The mail.
    :param start: Where the mail or the part begins.
    :param end: Where it ends.
    :param budget: Bytes that may be read.
    """
    end = len(raw) if end is None else end
    if blank := _BLANK.match(raw, start, end):
        return HeaderBlock([], blank.end(), None)
    found = _END.search(raw, start, end)
    block_end, content = (found.start() + 1, found.end()) if found else (end, end)
    limit = min(block_end, start + min(budget, MAX_BYTES))
    problem = None
    items: list[tuple[str, str]] = []
    at = start
    for _ in range(MAX_FIELDS):
        if at >= limit:
            break
        field = _FIELD.match(raw, at, limit)
        if field is not None:
            name, value = field.group(1, 2)
            if len(value) > MAX_VALUE:
                value = value[:MAX_VALUE]
                problem = f"headers: the end of a long {name[:50].decode()} is not read"
            items.append((name.decode("ascii"), _text(value)))
            at = field.end()
            continue
        more = _HEADER_BEGINS.search(raw, at, min(limit, at + MAX_JUNK))
        if more is None:
            # Text that no blank line divides from the headers.
            return HeaderBlock(items, at, problem)
        problem = "headers: a line that is none was left out"
        at = more.end()
    if at < block_end:
        problem = f"headers: over {MAX_FIELDS} or too long; the rest is not read"
    return HeaderBlock(items, content, problem)


def _text(value: bytes) -> str:
    """Unfold a value and decode it: UTF-8 (RFC 6532), else windows-1252."""
    text = value.decode("ascii") if value.isascii() else guess(value)
    if "\n" in text:
        text = _FOLD.sub("", text)
    return text.strip(" \t\r\n")


def read_date(value: str | None) -> datetime | None:
    """Read a Date header; ``None`` if there is none.

    :raises ValueError: if it is no date, and whatever else the parser raises.
    """
    if not value:
        return None
    date = parsedate_to_datetime(value[:200])
    return date if date.tzinfo else date.replace(tzinfo=UTC)
