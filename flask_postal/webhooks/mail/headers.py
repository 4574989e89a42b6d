"""Splits a block of headers into names and values.

For mail that follows RFC 5322 the result is that of the standard library's parser.
Otherwise as much as possible is kept: the obsolete ``From : x`` is a header (RFC 5322,
4.5), and an invalid line doesn't hide the headers after it.
"""

from __future__ import annotations

import re
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import NamedTuple

from .charsets import guess

__all__ = ["HeaderBlock", "end_of_headers", "read_date", "read_headers"]

#: Bytes of headers that are read, and number of headers. Usual mail has a few dozen kB
#: at most, while 10 MB of short headers would become two million pairs of strings.
MAX_BYTES, MAX_FIELDS = 1024 * 1024, 10_000
#: Bytes of one header that are read.
MAX_VALUE = 100_000
#: Bytes of invalid lines in a row that are skipped to find the next header. Longer ones
#: are taken for the text, whose blank line is missing.
MAX_JUNK = 1000

# A name, and a value with its continuation lines. The group is repeated possessively,
# which Python before 3.11.5 gets wrong (gh-106052) except where, as here, the group can
# fail only at its first, plain characters.
_FIELD = re.compile(rb"([!-9;-~]++)[ \t]*+:([^\n]*+(?:\n[ \t][^\n]*+)*+)\n?")
_BLANK = re.compile(rb"\r*\n")
_END = re.compile(rb"\n\r*\n")
# The beginning of a line that is certainly a header, and not text with a URL.
_HEADER_BEGINS = re.compile(rb"\n(?=[A-Za-z][A-Za-z0-9-]{0,75}+[ \t]*+:(?!//))")
_FOLD = re.compile(r"\r*\n(?=[ \t])")


class HeaderBlock(NamedTuple):
    """The headers of a mail or a part.

    :param items: Pairs of name and value. Names are spelled as in the mail; values are
        unfolded, but their encoded words are not decoded yet.
    :param end: The offset at which the content begins.
    :param problem: What was left unread; ``None`` if nothing was.
    """

    items: list[tuple[str, str]]
    end: int
    problem: str | None


def read_headers(
    raw: bytes, start: int = 0, end: int | None = None, budget: int = MAX_BYTES
) -> HeaderBlock:
    """Read the headers at the beginning of a mail or a part.

    :param raw: The whole mail.
    :param start: The offset at which the mail or the part begins.
    :param end: The offset at which it ends; by default the end of ``raw``.
    :param budget: How many bytes of headers may be read.
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
            # The text begins here, without a blank line before it.
            return HeaderBlock(items, at, problem)
        problem = "headers: an invalid line was left out"
        at = more.end()
    if at < block_end:
        problem = f"headers: over {MAX_FIELDS} or too long; the rest is not read"
    return HeaderBlock(items, content, problem)


def end_of_headers(raw: bytes, count: int) -> int:
    """Return the offset at which the first headers of a mail end.

    :param count: How many, of which each must be a valid one.
    """
    at = 0
    for _ in range(count):
        found = _FIELD.match(raw, at)
        if found is None:
            break
        at = found.end()
    return at


def _text(value: bytes) -> str:
    """Unfold and decode a value: UTF-8 (RFC 6532), or windows-1252 if it isn't."""
    text = value.decode("ascii") if value.isascii() else guess(value)
    if "\n" in text:
        text = _FOLD.sub("", text)
    return text.strip(" \t\r\n")


def read_date(value: str | None) -> datetime | None:
    """Parse a Date header.

    A date without a time zone is taken as UTC.

    :param value: The header; ``None`` if there is none.
    :raises ValueError: if it isn't a date. The standard library's parser may raise
        other exceptions too.
    """
    if not value:
        return None
    date = parsedate_to_datetime(value[:200])
    return date if date.tzinfo else date.replace(tzinfo=UTC)
