"""Read values from JSON that was received.

Except for :func:`read_json_object`, no function here raises: each returns a value of
the expected type, or else ``None`` or an empty dict. Postal's payloads may contain
anything. A value of the wrong type must not raise a ``TypeError`` in code far from the
place where it was received, and text must not contain characters that a database
refuses.
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
# Every line break that str.splitlines knows, and tabs. A run of them becomes one space.
_BREAKS = re.compile("[\t\n\v\f\r\x1c-\x1e\x85\u2028\u2029]+")
_SEPARATORS = re.compile("([\u2028\u2029])")
_CONTROL = dict.fromkeys([*range(0x20), *range(0x7F, 0xA0)], "\ufffd")
_2_63 = 2**63
_NOTHING: Mapping[str, Any] = {}


def as_str(value: Any) -> str | None:
    """Return a string that can be stored, or ``None`` if it is not a string.

    JSON can contain a lone surrogate, which can't be encoded as UTF-8, and NUL, which
    PostgreSQL refuses. Both are replaced by U+FFFD.
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
    """Return a string on a single line, or ``None`` if it is not a string.

    Line breaks and tabs become a space, other control characters U+FFFD, so that an app
    can safely copy a received subject into a header, or a name into a log line.
    """
    if not isinstance(value, str):
        return None
    if value.isprintable():
        return value
    line = _BREAKS.sub(" ", value).translate(_CONTROL)
    return _SURROGATE.sub("\ufffd", line) if _SURROGATE.search(line) else line


def as_subject(value: Any) -> str | None:
    """Return a string without control characters, or ``None`` if it is not a string.

    Like :func:`as_line`, but U+2028 and U+2029 are kept, so that an app can compare the
    subject that Postal reports with the one that it sent.
    """
    if not isinstance(value, str):
        return None
    if value.isprintable():
        return value
    pieces = _SEPARATORS.split(value)
    pieces[::2] = [as_line(piece) or "" for piece in pieces[::2]]
    return "".join(pieces)


def as_int(value: Any) -> int | None:
    """Return an int that a database can store, or ``None`` for anything else.

    A bool is none, and neither is a number of more than 64 bits.
    """
    return value if type(value) is int and -_2_63 <= value < _2_63 else None


def as_bool(value: Any) -> bool | None:
    """Return a bool, or ``None`` for anything else."""
    return value if isinstance(value, bool) else None


def as_dict(value: Any) -> Mapping[str, Any]:
    """Return a dict, or an empty one for anything else."""
    return value if isinstance(value, dict) else _NOTHING


def utc_time(seconds: Any) -> datetime | None:
    """Convert Postal's timestamp to an aware datetime in UTC.

    :param seconds: Seconds since 1970, as an int or a float.
    :returns: ``None`` for anything else, or if ``datetime`` can't represent it.
    """
    if isinstance(seconds, bool) or not isinstance(seconds, (int, float)):
        return None
    try:
        return datetime.fromtimestamp(seconds, UTC)
    except (OverflowError, OSError, ValueError):
        return None


def read_json_object(body: bytes) -> Mapping[str, Any]:
    """Parse a request body that must be a JSON object in UTF-8.

    :raises PayloadError: if it is not.
    """
    # Given bytes, json.loads would also accept UTF-16 and UTF-32, which Postal never
    # sends.
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        problem = f"the body is not JSON: {type(error).__name__}"
    else:
        if isinstance(content, dict):
            return content
        problem = "the body is JSON but not an object"
    raise PayloadError(problem)
