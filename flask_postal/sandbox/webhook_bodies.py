"""Builds the bodies of Postal's tracking webhooks, byte for byte as Postal writes them.

The sandbox posts them; the tests of this package and of its users do too.
"""

from __future__ import annotations

import json
import re
import secrets
import uuid
from collections.abc import Mapping
from typing import Any

from ..sending.result import new_token
from ..vocabulary import PostalEvent

__all__ = [
    "foreign_payload",
    "message_payload",
    "parse_change",
    "serialize",
    "server_payload",
    "set_path",
    "webhook",
    "webhook_body",
]

# What Rails escapes in otherwise raw UTF-8, so that JSON can stand in HTML.
_RAILS_ESCAPES = re.compile("[<>&\u2028\u2029]")


def serialize(content: Any) -> bytes:
    """Write JSON as Postal does: no blanks, raw UTF-8, and Rails' escapes."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return _RAILS_ESCAPES.sub(lambda m: f"\\u{ord(m[0]):04x}", text).encode()


#: The mail server that the sandbox plays, as events name it.
_SERVER = {
    "uuid": "5a9d0b0c-0000-4000-8000-0000000000aa",
    "name": "Sandbox",
    "permalink": "sandbox",
    "organization": "sandbox",
}


def message_payload(
    *,
    id: int,
    token: str,
    message_id: str | None,
    to: str,
    sender: str | None,
    subject: str | None,
    timestamp: float,
    tag: str | None = None,
    direction: str = "outgoing",
    spam_status: str = "NotChecked",
) -> dict[str, Any]:
    """Build the dict by which a webhook names a message, its keys in Postal's order."""
    return {
        "id": id,
        "token": token,
        "direction": direction,
        "message_id": message_id,
        "to": to,
        "from": sender,
        "subject": subject,
        "timestamp": timestamp,
        "spam_status": spam_status,
        "tag": tag,
    }


def webhook(
    event: str,
    payload: Mapping[str, Any],
    timestamp: float,
    event_id: str | None = None,
) -> bytes:
    """Write the body of a webhook request; see :func:`webhook_body`."""
    return serialize(webhook_body(event, payload, timestamp, event_id))


def webhook_body(
    event: str,
    payload: Mapping[str, Any],
    timestamp: float,
    event_id: str | None = None,
) -> dict[str, Any]:
    """Build what a webhook request holds.

    :param event: Postal's name of the event, such as ``"MessageSent"``.
    :param timestamp: When it was written, in seconds since 1970.
    :param event_id: Its UUID; a new one if not given.
    """
    return {
        "event": event,
        "timestamp": timestamp,
        "payload": payload,
        "uuid": event_id or str(uuid.uuid4()),
    }


def server_payload(event: PostalEvent, timestamp: float) -> dict[str, Any]:
    """Build the payload of an event about the mail server."""
    payload = {"server": _SERVER, **event.payload}
    if "dns_checked_at" in payload:
        payload["dns_checked_at"] = timestamp
    return payload


def foreign_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Turn a payload into what the mail server of another tenant would report."""
    changed = dict(payload)
    for name in ("message", "original_message"):
        if name in changed:
            changed[name] = {
                **changed[name],
                "id": 1 + secrets.randbelow(1000),
                "token": new_token(),
                "message_id": f"{uuid.uuid4()}@rp.tenant.localhost",
                "from": "billing@tenant.localhost",
            }
    if "server" in changed:
        changed["server"] = {**_SERVER, "name": "Tenant", "permalink": "tenant"}
    return changed


def set_path(body: dict[str, Any], path: str, value: Any) -> None:
    """Change a value deep inside: ``payload.message.tag``.

    :raises ValueError: if there is no way there.
    """
    *parents, last = path.split(".")
    place: Any = body
    for name in parents:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ValueError(
            f"there is nothing at {path!r}; it begins with one of"
            f" {', '.join(body)}, and goes on as payload.message.tag does"
        )
    place[last] = value


def parse_change(text: str) -> tuple[str, Any]:
    """Read ``path=value``; the value is JSON, or else a string.

    :raises ValueError: if there is no ``=``.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is not path=value")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value
