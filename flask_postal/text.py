"""Checks for text that goes into a header."""

from __future__ import annotations

import re
from typing import Any

from .errors import MessageError

__all__ = ["header_text", "is_text", "plain_text"]

_LINE_BREAKING = re.compile("[\r\n\0]")
_NAMES = {"\r": "a carriage return", "\n": "a line feed", "\0": "a NUL"}


def is_text(value: Any) -> bool:
    """Tell whether a value is a string or, like Flask-Babel's lazy strings, acts as
    one."""
    return isinstance(value, str) or (
        hasattr(value, "casefold") and not isinstance(value, type)
    )


def plain_text(value: Any, field: str, what: str = "it") -> str:
    """Return a ``str`` that can be encoded, lazy strings evaluated.

    :raises MessageError: if it is no text, or holds half a surrogate pair.
    """
    if type(value) is str and value.isascii():
        return value
    if type(value) is not str:
        if not is_text(value):
            raise MessageError(
                f"{field}: {what} must be a string, not {type(value).__name__}",
                field=field,
            )
        value = str.__str__(value) if isinstance(value, str) else str(value)
    if not value.isascii() and not _can_be_encoded(value):
        raise MessageError(
            f"{field}: {what} holds half a surrogate pair, which UTF-8 can't encode",
            field=field,
        )
    return str(value)


def _can_be_encoded(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def header_text(value: Any, field: str, what: str = "it") -> str:
    """Return a ``str`` that stays inside its header line.

    :raises MessageError: as :func:`plain_text`, and for CR, LF or NUL.
    """
    # Nothing printable breaks a line; surrogates are not printable either.
    if type(value) is str and value.isprintable():
        return value
    text = plain_text(value, field, what)
    if found := _LINE_BREAKING.search(text):
        raise MessageError(
            f"{field}: {what} must not hold {_NAMES[found[0]]}: whoever can put one"
            " there can add headers of their own",
            field=field,
        )
    return text
