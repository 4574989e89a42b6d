"""Parses Content-Type and Content-Disposition into a value and its parameters.

RFC 2231 is supported: parameters in pieces (``filename*0=``) and with their own charset
(``filename*=utf-8''...``), which take precedence over plain ones.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from urllib.parse import unquote_to_bytes

from .charsets import decode

__all__ = ["Parameters", "read_parameters"]

#: Characters of a header that are parsed, and number of its parameters.
MAX_LENGTH, MAX_PARAMETERS = 16_000, 100

_CHARACTER = r"[^\s;=\"(),<>@:\\/?\[\]]"
_TYPE = re.compile(rf"\s*({_CHARACTER}+)\s*/\s*({_CHARACTER}+)", re.ASCII)
_WORD = re.compile(rf"\s*({_CHARACTER}*)", re.ASCII)
# A name, and a value that is quoted or ends at the next semicolon. Some programs leave
# out the semicolon between parameters, or the quotes around a value with whitespace: an
# unquoted value goes on over whitespace unless one of the known parameters follows.
_KNOWN = "charset|boundary|name|filename|format|delsp|type|report-type|size|method"
_PARAMETER = re.compile(
    rf"""(?:(?<=[;\s])|^)([^\s;="]{{1,100}}+)\s*+=\s*+
    ("(?>(?:[^"\\]|\\.)*)"
    |"[^;]*+
    |[^;\s]*+(?>(?:\s++(?!(?:{_KNOWN})[*0-9]*+\s*+=)[^;\s]++)*))""",
    re.DOTALL | re.VERBOSE | re.IGNORECASE,
)
_PIECE = re.compile(r"([^*]+)\*(?:(\d{1,3})(\*)?)?")
_MEDIA = re.compile(r"[a-z0-9!#$&^_.+-]{1,127}/[a-z0-9!#$&^_.+-]{1,127}", re.ASCII)


@dataclass(slots=True)
class Parameters:
    """The value of a header, and its parameters.

    :param value: The media type or disposition in lower case; ``""`` if it is invalid.
    :param parameters: The values of the parameters, by their names in lower case.
    """

    value: str = ""
    parameters: dict[str, str] = field(default_factory=dict)

    def get(self, name: str) -> str | None:
        """Return the value of a parameter, or ``None``."""
        return self.parameters.get(name)


def read_parameters(text: str, *, media_type: bool = False) -> Parameters:
    """Parse a header with parameters.

    :param text: The unfolded value of the header.
    :param media_type: Whether the header begins with a media type; otherwise it begins
        with a single word, such as a disposition.
    """
    text = text[:MAX_LENGTH]
    found = (_TYPE if media_type else _WORD).match(text)
    if found is None:
        value, rest = "", text.partition(";")[2]
    else:
        value = "/".join(found.groups()).lower()
        rest = text[found.end() :]
        if media_type and not _MEDIA.fullmatch(value):
            value = ""
    return Parameters(value, _read(rest) if "=" in rest else {})


def _read(text: str) -> dict[str, str]:
    plain: dict[str, str] = {}
    pieces: dict[str, dict[int, tuple[str, bool]]] = {}
    found = _PARAMETER.finditer(text)
    for _ in range(MAX_PARAMETERS):
        if (match := next(found, None)) is None:
            break
        name, value = match[1].lower(), _unquote(match[2])
        extended = _PIECE.fullmatch(name) if "*" in name else None
        if extended is None:
            plain.setdefault(name, value)
        elif extended[2] is None:  # filename*=utf-8''...
            pieces.setdefault(extended[1], {}).setdefault(-1, (value, True))
        else:
            numbered = pieces.setdefault(extended[1], {})
            numbered.setdefault(int(extended[2]), (value, extended[3] is not None))
    joined = {name: _join(numbered) for name, numbered in pieces.items()}
    return plain | {name: value for name, value in joined.items() if value}


def _unquote(value: str) -> str:
    if not value.startswith('"'):
        return value
    if len(value) > 1 and value.endswith('"'):
        value = value[1:-1]
        return (
            # Only escaped quotes and backslashes: some programs write paths such as
            # C:\\Users\\ana without escaping them.
            re.sub(r'\\(["\\])', r"\1", value) if "\\" in value else value
        )
    return value[1:].strip()


def _join(numbered: dict[int, tuple[str, bool]]) -> str:
    """Join the pieces of a parameter; the first one declares the charset of all."""
    if -1 in numbered:
        numbered = {0: numbered[-1]}
    charset, data = "", b""
    for index, (value, encoded) in sorted(numbered.items()):
        if encoded and index == min(numbered) and value.count("'") >= 2:
            charset, _, value = value.split("'", 2)
        data += unquote_to_bytes(value) if encoded else value.encode("utf-8", "replace")
    return decode(data, charset or None)[0]
