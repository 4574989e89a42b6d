"""Builds the bodies of tracking webhooks, with the same bytes that Postal would write.

The bytes matter because signatures are computed over them.
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

# Characters that Rails escapes in otherwise raw UTF-8, to make JSON safe in HTML.
_RAILS_ESCAPES = re.compile("[<>&\u2028\u2029]")


def serialize(content: Any) -> bytes:
    """Serialize JSON as Postal does: compact, in UTF-8, with the escapes of Rails."""
    text = json.dumps(content, ensure_ascii=False, separators=(",", ":"))
    return _RAILS_ESCAPES.sub(lambda m: f"\\u{ord(m[0]):04x}", text).encode()


#: The simulated mail server, as events describe it.
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
    """Build the dict that describes a message in a payload, keys in Postal's order.

    :param id: The id, unique per mail server.
    :param token: The token, unique per installation.
    :param message_id: The Message-ID, without angle brackets.
    :param to: The envelope recipient.
    :param sender: The envelope sender; ``None`` for ``<>``.
    :param timestamp: When the message was accepted, in seconds since 1970.
    """
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
    """Return the body of a webhook request as bytes; see :func:`webhook_body`."""
    return serialize(webhook_body(event, payload, timestamp, event_id))


def webhook_body(
    event: str,
    payload: Mapping[str, Any],
    timestamp: float,
    event_id: str | None = None,
) -> dict[str, Any]:
    """Build the body of a webhook request, before it is serialized.

    :param event: Postal's name of the event, such as ``"MessageSent"``.
    :param payload: The payload of the event.
    :param timestamp: When the request was created, in seconds since 1970.
    :param event_id: The UUID of the request; a new one if not given. Retries have the
        same.
    """
    return {
        "event": event,
        "timestamp": timestamp,
        "payload": payload,
        "uuid": event_id or str(uuid.uuid4()),
    }


def server_payload(event: PostalEvent, timestamp: float) -> dict[str, Any]:
    """Build the payload of an event about the mail server.

    :param event: The event, one of :data:`.SERVER_EVENTS`.
    :param timestamp: When it happened, in seconds since 1970.
    """
    payload = {"server": _SERVER, **event.payload}
    if "dns_checked_at" in payload:
        payload["dns_checked_at"] = timestamp
    return payload


def foreign_payload(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return a payload as the mail server of another tenant would send it."""
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
    """Set a nested value in a body.

    :param path: The names of the keys, joined by dots: ``"payload.message.tag"``.
    :raises ValueError: if a key on the way doesn't exist.
    """
    *parents, last = path.split(".")
    place: Any = body
    for name in parents:
        place = place.get(name) if isinstance(place, dict) else None
    if not isinstance(place, dict):
        raise ValueError(
            f"there is nothing at {path!r}; a path begins with one of"
            f" {', '.join(body)}, as in payload.message.tag"
        )
    place[last] = value


def parse_change(text: str) -> tuple[str, Any]:
    """Parse ``path=value``, where the value is JSON or else a string.

    :raises ValueError: if there is no ``=``.
    """
    path, equals, value = text.partition("=")
    if not equals or not path:
        raise ValueError(f"{text!r} is not path=value")
    try:
        return path, json.loads(value)
    except ValueError:
        return path, value
