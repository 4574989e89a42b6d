"""Reads single values of Postal's JSON: the type that was expected, or ``None``.

What comes over the wire may be anything; nothing of it may raise a ``TypeError`` far
from where it came in.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import UTC, datetime
from typing import Any

__all__ = ["as_bool", "as_dict", "as_int", "as_str", "utc_time"]

_SURROGATE = re.compile("[\ud800-\udfff]")
_NOTHING: Mapping[str, Any] = {}


def as_str(value: Any) -> str | None:
    """Return a string that UTF-8 can encode, or ``None``.

    JSON can carry half a surrogate pair; it becomes U+FFFD.
    """
    if not isinstance(value, str):
        return None
    return value if value.isascii() else _SURROGATE.sub("\ufffd", value)


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
