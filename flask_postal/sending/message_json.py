"""Convert the fields of a message to JSON and back, for task queues and databases."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from datetime import datetime
from typing import Any

from ..address import Address
from ..errors import MessageError
from ..text import is_text, plain_text
from .attachment import Attachment

__all__ = ["evaluated", "from_json", "json_dict", "to_json"]

_ADDRESSES = frozenset({"recipients", "cc", "bcc", "reply_to", "sender"})
_DICTS = frozenset({"alts", "extra_headers", "metadata", "context", "esp_extra"})
_TIMES = frozenset({"date", "send_at"})


def evaluated(value: Any) -> Any:
    """Evaluate lazy strings, including those in lists, tuples and dicts."""
    if value is None or type(value) in (str, bytes, bool, int, float):
        return value
    if is_text(value):
        return plain_text(value, "message")
    if isinstance(value, tuple):
        return tuple(evaluated(item) for item in value)
    if isinstance(value, list):
        return [evaluated(item) for item in value]
    if isinstance(value, Mapping):
        return {evaluated(key): evaluated(item) for key, item in value.items()}
    return value


def to_json(name: str, value: Any) -> Any:
    """Convert the value of a field to something that JSON can represent.

    :param name: The name of the field.
    :param value: Its value, with lazy strings evaluated.
    :raises MessageError: if JSON can't represent it.
    """
    if name == "attachments":
        return [_attachment_to_json(attachment) for attachment in value]
    if name in _ADDRESSES:
        return _address_to_json(value)
    if name in _TIMES and isinstance(value, datetime):
        return value.isoformat()
    if name in _DICTS:
        return json_dict(value, name)
    return json_dict({name: value}, name)[name]


def from_json(name: str, value: Any) -> Any:
    """Convert a value back that :func:`to_json` has returned."""
    if name == "attachments":
        return [
            Attachment(**{**item, "data": base64.b64decode(item["data"])})
            for item in value
        ]
    if name == "sender":
        return _address_from_json(value)
    if name in _ADDRESSES:
        return [_address_from_json(item) for item in value]
    if name in _TIMES and isinstance(value, str):
        return datetime.fromisoformat(value)
    return value


def json_dict(value: dict[str, Any], field: str) -> dict[str, Any]:
    """Return a dict with lazy strings evaluated, if JSON can represent it exactly.

    :param value: The dict.
    :param field: The field that it belongs to, for the error message.
    :raises MessageError: if JSON can't represent it.
    """
    cure = (
        "render the message first, with postal.render(message)"
        if field == "context"
        else "use strings, numbers, lists and dicts"
    )
    try:
        content = _json_value(value)
        json.dumps(content, allow_nan=False)
    except (TypeError, ValueError, RecursionError) as error:
        problem = f"{field} can't be written as JSON ({error}); {cure}"
    else:
        return dict(content)
    raise MessageError(problem, field=field)


def _json_value(value: Any) -> Any:
    """Evaluate lazy strings; refuse values that JSON would silently change."""
    if hasattr(value, "__html__"):
        # JSON would turn Markup into a plain string, which templates escape.
        raise TypeError(f"{type(value).__name__} is markup")
    if is_text(value):
        return plain_text(value, "context")
    if isinstance(value, Mapping):
        if not all(is_text(key) for key in value):
            raise TypeError("a key is not a string")
        return {str(key): _json_value(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_json_value(item) for item in value]
    return value


def _address_to_json(value: Any) -> Any:
    if isinstance(value, Address):
        return {"addr_spec": value.addr_spec, "display_name": value.display_name}
    if isinstance(value, (list, tuple)):
        return [_address_to_json(item) for item in value]
    return value


def _address_from_json(value: Any) -> Any:
    if isinstance(value, Mapping):
        return Address(**value)
    return tuple(value) if isinstance(value, list) else value


def _attachment_to_json(attachment: Attachment) -> dict[str, Any]:
    content = {
        "filename": attachment.filename,
        "content_type": attachment.content_type,
        "data": base64.b64encode(attachment.data).decode("ascii"),
        "disposition": attachment.disposition,
        "content_id": attachment.content_id,
        "headers": [list(pair) for pair in attachment.headers] or None,
    }
    return {name: value for name, value in content.items() if value is not None}
