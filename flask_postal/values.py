"""Reads single values from outside: the type that was expected, or ``None``; text that
a database takes, or U+FFFD for what it would not.

What comes over the wire may be anything; nothing of it may raise a ``TypeError`` far
from where it came in.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

from .errors import PayloadError

__all__ = [
    "as_bool",
    "as_dict",
    "as_int",
    "as_line",
    "as_str",
    "as_subject",
    "read_json_object",
    "utc_time",
]

_SURROGATE = re.compile("[\ud800-\udfff]")
# What ends a line for somebody (str.splitlines), and tabs: one blank.
_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_SEPARATORS = re.compile("([\u2028\u2029])")
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd")
_NOTHING: Mapping[str, Any] = {}


def as_str(value: Any) -> str | None:
    """Return a string that can be stored, or ``None``.

    JSON can carry half a surrogate pair, which can't be encoded, and NUL, which
    PostgreSQL does not take; either becomes U+FFFD.
    """
    if not isinstance(value, str):
        return None
    text: str = value
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    if text.isascii() or not _SURROGATE.search(text):
        return text
    return _SURROGATE.sub("\ufffd", text)


def as_line(value: Any) -> str | None:
    """Return a string that stays in one line, or ``None``.

    Line breaks and tabs become a blank, other control characters U+FFFD: an app that
    puts a subject into a header of its own, or a name into a log, must be able to.
    """
    if not isinstance(value, str):
        return None
    if value.isprintable():
        return value
    line = _BREAKS.sub(" ", value).translate(_CONTROL)
    return _SURROGATE.sub("\ufffd", line) if _SURROGATE.search(line) else line


def as_subject(value: Any) -> str | None:
    """Return a string without control characters, or ``None``.

    As :func:`as_line`, but Unicode's own line separators stay: subjects that Postal
    reports are compared with those that were sent.
    """
    if not isinstance(value, str):
        return None
    if value.isprintable():
        return value
    pieces = _SEPARATORS.split(value)
    pieces[::2] = [as_line(piece) or "" for piece in pieces[::2]]
    return "".join(pieces)


def as_int(value: Any) -> int | None:
    """Return an int that is no bool, or ``None``."""
    return value if type(value) is int else None


def as_bool(value: Any) -> bool | None:
    """Return a bool, or ``None``."""
    return value if isinstance(value, bool) else None


def as_dict(value: Any) -> Mapping[str, Any]:
    """Return a dict, an empty one for anything else."""
    return value if isinstance(value, dict) else _NOTHING


def utc_time(seconds: Any) -> datetime | None:
    """Turn Postal's float of seconds into an aware datetime; ``None`` if it is none."""
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def read_json_object(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object in UTF-8.

    :raises PayloadError: for anything else.
    """
    # json.loads would guess UTF-16 and -32, which Postal never writes.
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        problem = f"the body is not JSON: {type(error).__name__}"
    else:
        if isinstance(content, dict):
            return content
        problem = "the body is JSON, and no object"
    raise PayloadError(problem)
