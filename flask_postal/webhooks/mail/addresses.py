"""Reads headers of addresses, as hostile or as careless as their authors.

The rules are the same on every version of Python, whose ``getaddresses`` differ:

- Entries end at ``,`` and ``;`` outside of quotes, comments and angle brackets.
- The address of an entry is what stands in its last angle brackets; whatever stands
  before them is a name, also if it looks like an address. Without brackets the entry
  itself must be an address.
- An entry without an address belongs to the name of the next one with brackets
  (``Lima, Ana <ana@example.com>``), and is left out otherwise.
- Encoded words are decoded after all this, so that they can't add an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ...address import Address, is_sendable
from ...values import as_line
from .encoded_words import decode_words

__all__ = ["author_of", "read_addresses"]

#: Characters of a header that are looked at, and addresses in it.
MAX_LENGTH, MAX_ADDRESSES = 50_000, 2_000
#: Addresses with international domains in a header.
MAX_INTERNATIONAL = 30

# "Ana Lima <ana@example.com>", "Lima, Ana" <ana@example.com>, ana@example.com
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}+(?<!-)"
_SPEC = rf"{_ATOM}(?>(?:\.{_ATOM})*)@{_LABEL}(?>(?:\.{_LABEL})*)"
_USUAL = re.compile(
    rf'(?:(?:"([^"\\\r\n]++)"|({_ATOM}(?>(?: {_ATOM})*))) <({_SPEC})>|({_SPEC}))'
    r"(?:, ?|\Z)"
)
# What divides entries, and what hides such characters.
_MARK = re.compile(r'"(?>(?:[^"\\]|\\.)*)"|\\.|[(),;<>]', re.DOTALL)
_QUOTED = re.compile(r'"((?>(?:[^"\\]|\\.)*))"', re.DOTALL)
_GROUP = re.compile(
    r"\s*(?>(?:\"(?>(?:[^\"\\]|\\.)*)\"|[^\"<>@,;:\[\]()])*):(?!\S*+//)"
)
_AROUND_AT = re.compile(r"[ \t]{1,20}@[ \t]{0,20}|@[ \t]{1,20}")
_ROUTE = re.compile(r"\s*@[^:]*:")
_RELAYS = re.compile(r"\s*@[\w.-]{1,200}(?:\s*,\s*@[\w.-]{1,200}){0,20}\s*:")
_LITERAL = re.compile(rf"{_ATOM}(?>(?:\.{_ATOM})*)@\[[0-9A-Za-z:.]{{1,60}}\]", re.ASCII)


class _Entry(NamedTuple):
    """What stands between two commas; ``address`` is ``None`` for brackets with no
    address in them."""

    address: Address | None
    bracketed: bool


def read_addresses(value: str, *, encoded: bool) -> list[Address]:
    """Read a header of addresses, leaving out what a mail can't be sent to.

    :param encoded: Whether names are still in encoded words.
    """
    entries = _entries(value, encoded=encoded)
    return [entry.address for entry in entries if entry.address is not None]


def author_of(value: str, *, encoded: bool) -> Address | None:
    """Return the one address that a From header shows as its author's.

    That is the first; but a bare address before one in angle brackets may as well be
    a name with a comma in it (``service@bank.example, Support <evil@x.example>``), and
    must not lend its identity, whatever stands in the brackets. ``None`` where it
    can't be told: if the header is too long to be read, and for several addresses in
    a header whose names are decoded, where a name may have brackets in it.
    """
    if len(value) > MAX_LENGTH:
        return None
    entries = _entries(value, encoded=encoded)
    bracketed = [entry for entry in entries if entry.bracketed]
    chosen = bracketed or entries
    if not chosen or len(entries) >= MAX_ADDRESSES:
        return None
    if not encoded and len(bracketed) > 1:
        return None
    return chosen[0].address


def _entries(value: str, *, encoded: bool) -> list[_Entry]:
    value = value[:MAX_LENGTH]
    entries: list[_Entry] = []
    at = 0
    while usual := _USUAL.match(value, at):
        quoted, name, in_brackets, bare = usual.groups()
        spec = in_brackets or bare
        if len(spec) > 255 or len(entries) == MAX_ADDRESSES:
            break
        entries.append(
            _Entry(_address(spec, quoted or name, encoded=encoded), bare is None)
        )
        at = usual.end()
        if at == len(value):
            return entries
    # Not as usual: from the beginning, for a name may reach back over commas.
    return list(_slowly(value, encoded=encoded))


def _slowly(value: str, *, encoded: bool) -> Iterator[_Entry]:
    valid = _Validity()
    name = ""  # of entries without an address
    for count, (start, end, opened, closed) in enumerate(_divide(value)):
        if count == MAX_ADDRESSES:
            yield _Entry(None, bracketed=True)  # whoever the author may be
            return
        if opened < 0:
            entry = value[start:end]
            spec, comment = _bare(entry)
            if valid(spec):
                yield _Entry(_address(spec, comment, encoded=encoded), bracketed=False)
                name = ""
            elif len(name) < 1000:
                name += f"{entry.strip()}{value[end : end + 1]} "
            continue
        spec = _inside(value[opened + 1 : closed])
        address = None
        if valid(spec):
            before = name + _without(_GROUP, value[start:opened])
            address = _address(spec, before, encoded=encoded)
        yield _Entry(address, bracketed=True)
        name = ""


def _divide(value: str) -> Iterator[tuple[int, int, int, int]]:
    """Find entries: begin, end, and the last brackets in them or -1."""
    marks = list(_MARK.finditer(value))
    comments = _comments(marks)
    start, opened, closed = 0, -1, -1
    inside = False  # of angle brackets
    skip_to = 0
    for mark in marks:
        at, what = mark.start(), mark[0]
        if at < skip_to:
            continue
        if what == "(" and at in comments:
            skip_to = comments[at]
        elif what == "<":
            opened, closed, inside = at, len(value), True
        elif what == ">" and inside:
            closed, inside = at, False
        elif what == ";" or (what == "," and not (inside and _is_route(value, opened))):
            if inside:
                closed, inside = at, False
            yield start, at, opened, closed
            start, opened, closed = at + 1, -1, -1
    yield start, len(value), opened, closed


def _is_route(value: str, opened: int) -> bool:
    """Tell whether brackets begin like ``<@relay,@relay:ana@example.com>``."""
    return value.startswith("@", opened + 1) and bool(_RELAYS.match(value, opened + 1))


def _comments(marks: list[re.Match[str]]) -> dict[int, int]:
    """Find comments: where they begin -> where they end. Brackets that nobody closes
    are characters like others."""
    stack: list[int] = []
    found: dict[int, int] = {}
    for mark in marks:
        if mark[0] == "(":
            stack.append(mark.start())
        elif mark[0] == ")" and stack:
            found[stack.pop()] = mark.end()
    return found


def _without(prefix: re.Pattern[str], text: str) -> str:
    found = prefix.match(text)
    return text[found.end() :] if found else text


def _bare(entry: str) -> tuple[str, str]:
    """Divide ``ana@example.com (Ana Lima)``, and take a group's name away."""
    entry = _without(_GROUP, entry).strip()
    if entry.endswith(")") and "(" in entry:
        spec, _, comment = entry.partition("(")
        return spec.strip(), comment[:-1].strip()
    return entry, ""


def _inside(text: str) -> str:
    """Return the address in angle brackets, without a route before it."""
    text = _without(_ROUTE, text).strip()
    if text.endswith(")") and "(" in text:
        text = text.partition("(")[0].strip()
    if "@" in text:
        text = _AROUND_AT.sub("@", text)
    return text[7:] if text[:7].lower() == "mailto:" else text


class _Validity:
    """Tells whether a message could be sent to an address, or to an address literal.

    For one header: looking at international domains takes long.
    """

    def __init__(self) -> None:
        self._left = MAX_INTERNATIONAL

    def __call__(self, spec: str) -> bool:
        if "@" not in spec or len(spec) > 255:
            return False
        if not spec.isascii():
            self._left -= 1
            if self._left < 0:
                return False
        return is_sendable(spec) or bool(_LITERAL.fullmatch(spec))


def _address(spec: str, name: str, *, encoded: bool) -> Address:
    if not name:
        return Address(spec)
    if '"' in name:
        name = _QUOTED.sub(_unquoted, name)
    name = " ".join(name.split()) if "  " in name or not name.isprintable() else name
    if encoded:
        name = decode_words(name)
    return Address(spec, (as_line(name) or "").strip())


def _unquoted(match: re.Match[str]) -> str:
    return re.sub(r"\\(.)", r"\1", match[1], flags=re.DOTALL)
