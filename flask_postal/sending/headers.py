"""Checks the extra headers of a message."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any

from werkzeug.datastructures import Headers

from ..errors import MessageError
from ..text import header_text, is_text

__all__ = ["check_headers", "missing"]

_NAME = re.compile(r"[!-9;-~]{1,76}", re.ASCII)

#: What Postal does with these in ``headers``, and the parameter that does it right.
_OURS = {
    "from": "Postal overwrites it; use sender=",
    "to": "Postal overwrites it; use recipients=",
    "cc": "Postal overwrites it; use cc=",
    "bcc": "it would show the hidden recipients to all; use bcc=",
    "subject": "Postal overwrites it; use subject=",
    "reply-to": "Postal drops it; use reply_to=",
    "message-id": "Postal drops it; use message_id=",
    "mime-version": "it belongs to the structure of the mail; leave it out",
    "x-postal-tag": "Postal reads the tag from it; use tags=",
}
_CONTENT = "it corrupts the mail; use body=, html=, alts= or attach()"
_POSTALS = (
    "Postal's own headers steer Postal (X-Postal-MsgID switches off DKIM and bounce"
    " matching); leave it out"
)


def check_headers(headers: Mapping[str, Any]) -> tuple[Headers, Any]:
    """Check headers and gather the values of each name, whatever its case.

    :returns: The headers, and the value of ``Sender``, which Postal takes as a
        field of its own.
    :raises MessageError: for a header that Postal would drop, corrupt or obey, and for
        one that would not stay in its line.
    """
    field = "extra_headers"
    checked = Headers()
    sender = None
    for raw_name, value in headers.items():
        name = header_text(raw_name, field, "a header name")
        if not _NAME.fullmatch(name):
            raise MessageError(
                f"{field}: {name!r} is no header name: ASCII without blanks and"
                " colons, at most 76 characters",
                field=field,
            )
        low = name.lower()
        if low == "sender":
            sender = value
            continue
        problem = _OURS.get(low)
        if problem is None and low.startswith("content-"):
            problem = _CONTENT
        elif problem is None and low.startswith("x-postal-"):
            problem = _POSTALS
        if problem is not None:
            raise MessageError(f"{field}: {name}: {problem}", field=field)
        values = [value] if is_text(value) else value
        if not isinstance(values, (list, tuple)):
            raise MessageError(
                f"{field}: the value of {name} must be a string or a list of strings,"
                f" not {type(value).__name__}",
                field=field,
            )
        for item in values:
            checked.add(name, header_text(item, field, f"the value of {name}"))
    return checked, sender


def missing(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return those of the default headers that are not given, in any case."""
    names = {str(name).lower() for name in given}
    return {name: v for name, v in defaults.items() if str(name).lower() not in names}
