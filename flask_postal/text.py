"""Validate text that becomes part of a message.

Lazy strings, such as Flask-Babel's, are accepted everywhere and evaluated here.
"""

from __future__ import annotations

import re
from typing import Any

from .errors import MessageError

__all__ = ["header_text", "is_text", "list_name", "plain_text"]

_LINE_BREAKING = re.compile("[\r\n\0]")
_NAMES = {"\r": "a carriage return", "\n": "a line feed", "\0": "a NUL"}


def is_text(value: Any) -> bool:
    """Return whether a value is a string or a lazy string.

    Lazy strings, such as Flask-Babel's, don't inherit from ``str``; they are recognized
    by a method that only strings have.
    """
    return isinstance(value, str) or (
        hasattr(value, "casefold") and not isinstance(value, type)
    )


def plain_text(value: Any, field: str, what: str = "it") -> str:
    """Evaluate a lazy string, and check that the text can be encoded as UTF-8.

    :param field: The message's field that the value came from, for the error message.
    :param what: What the value is, if the field has several.
    :raises MessageError: if it is not text, or contains a lone surrogate.
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
            f"{field}: {what} contains a lone surrogate, which UTF-8 can't encode",
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
    """Check that text can't end the header line that it is written into.

    Takes the parameters of :func:`plain_text`.

    :raises MessageError: as :func:`plain_text`, and if the text contains CR, LF or NUL.
        With one of these, user input could add headers of its own.
    """
    # Fast path: line breaks and surrogates are not printable.
    if type(value) is str and value.isprintable():
        return value
    text = plain_text(value, field, what)
    if found := _LINE_BREAKING.search(text):
        raise MessageError(
            f"{field}: {what} must not contain {_NAMES[found[0]]}, which would allow"
            " header injection",
            field=field,
        )
    return text


def list_name(value: Any, field: str) -> str:
    """Check the name of a list that people can leave.

    :raises MessageError: if it is not a string of 1 to 100 printable characters, or has
        spaces around it, which databases don't keep apart.
    """
    name = plain_text(value, field, "the name of a list")
    if not 0 < len(name) <= 100 or not name.isprintable() or name != name.strip():
        raise MessageError(
            f"{field}: the name of a list has 1 to 100 printable characters, without"
            f" spaces around it; not {name!r}",
            field=field,
        )
    return name
