"""Parses headers of addresses, which may be malformed or malicious.

This is used instead of ``email.utils.getaddresses``, whose results differ between
versions of Python. The rules are:

- Entries end at ``,`` and ``;`` outside of quotes, comments and angle brackets.
- The address of an entry is in its last angle brackets. Everything before them is the
  display name, even if it looks like an address. Without brackets the entry itself must
  be an address.
- An entry without an address is part of the name of the next entry with brackets
  (``Lima, Ana <ana@example.com>``). If there is none, it is left out.
- Encoded words are decoded last, so that a decoded name can't add an address.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from ...address import Address, is_sendable
from ...values import as_line
from .encoded_words import decode_words

__all__ = ["are_cut", "author_of", "read_addresses"]

#: Characters of a header that are parsed, and number of addresses in it.
MAX_LENGTH, MAX_ADDRESSES = 50_000, 2_000
#: Addresses with non-ASCII characters in a header: checking an international domain is
#: slow.
MAX_INTERNATIONAL = 30

# The usual forms of an entry, which need no tokenizer:
# Ana Lima <ana@example.com>, "Lima, Ana" <ana@example.com>, ana@example.com
_ATOM = r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~-]++"
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}+(?<!-)"
_SPEC = rf"{_ATOM}(?>(?:\.{_ATOM})*)@{_LABEL}(?>(?:\.{_LABEL})*)"
_USUAL = re.compile(
    rf'(?:(?:"([^"\\\r\n]++)"|({_ATOM}(?>(?: {_ATOM})*))) <({_SPEC})>|({_SPEC}))'
    r"(?:, ?|\Z)"
)
# The characters that divide entries, and quotes, in which they don't.
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
    """One entry of a header.

    :param address: The address; ``None`` if there is no valid one in the brackets.
    :param bracketed: Whether the entry has angle brackets.
    """

    address: Address | None
    bracketed: bool


def read_addresses(value: str, *, encoded: bool) -> list[Address]:
    """Parse a header of addresses, leaving out those that can't be sent to.

    :param value: The unfolded value of the header.
    :param encoded: Whether names may contain encoded words, which are then decoded.
    """
    entries = _entries(value, encoded=encoded)
    return [entry.address for entry in entries if entry.address is not None]


def are_cut(value: str) -> bool:
    """Return whether a header has more addresses, or is longer, than what is read."""
    if len(value) > MAX_LENGTH:
        return True
    separators = value.count(",") + value.count(";")
    return (
        separators >= MAX_ADDRESSES
        and len(_entries(value, encoded=False)) > MAX_ADDRESSES
    )


def author_of(value: str, *, encoded: bool) -> Address | None:
    """Return the address that mail programs show as the author of a From header.

    This is the first address in angle brackets or, if there are no brackets, the first
    one. In ``service@bank.example, Support <evil@x.example>`` the part before the
    comma may be meant as a name, so it must not be taken for the author, even if there
    is no valid address in the brackets.

    :param value: The unfolded value of the header.
    :param encoded: Whether names may contain encoded words, which are then decoded.
    :returns: ``None`` if there is no address, or the author is uncertain: if the header
        is too long, or if it has several addresses and its names are already decoded,
        because a decoded name may contain brackets.
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
    # An entry has an unusual form. Start again, because its name may begin in an entry
    # before it.
    return list(_slowly(value, encoded=encoded))


def _slowly(value: str, *, encoded: bool) -> Iterator[_Entry]:
    valid = _Validity()
    name = ""  # collected from entries without an address
    for count, (start, end, opened, closed) in enumerate(_divide(value)):
        if count == MAX_ADDRESSES:
            yield _Entry(None, bracketed=True)  # there are more: no certain author
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
    """Find the entries of a header.

    :returns: Offsets of the entry's begin and end, and of the last angle brackets in
        it, or -1.
    """
    marks = list(_MARK.finditer(value))
    comments = _comments(marks)
    start, opened, closed = 0, -1, -1
    inside = False  # in angle brackets
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
    """Return whether brackets begin with a route, as in ``<@relay:ana@example.com>``.

    The obsolete syntax of RFC 5322 has commas in it, which don't end the entry.
    """
    return value.startswith("@", opened + 1) and bool(_RELAYS.match(value, opened + 1))


def _comments(marks: list[re.Match[str]]) -> dict[int, int]:
    """Find comments in parentheses, which may be nested.

    :returns: The ends of the comments by their beginnings. Parentheses without a
        partner are ordinary characters.
    """
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
    """Split ``ana@example.com (Ana Lima)`` into address and comment.

    The name of a group before the address is removed.
    """
    entry = _without(_GROUP, entry).strip()
    if entry.endswith(")") and "(" in entry:
        spec, _, comment = entry.partition("(")
        return spec.strip(), comment[:-1].strip()
    return entry, ""


def _inside(text: str) -> str:
    """Return the address from the text in angle brackets.

    A route, a comment, whitespace around the ``@`` and ``mailto:`` are removed.
    """
    text = _without(_ROUTE, text).strip()
    if text.endswith(")") and "(" in text:
        text = text.partition("(")[0].strip()
    if "@" in text:
        text = _AROUND_AT.sub("@", text)
    return text[7:] if text[:7].lower() == "mailto:" else text


class _Validity:
    """Checks that an address can be sent to, or is an address literal.

    Each header needs a new instance, which counts the slow checks of international
    domains and refuses further ones.
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
