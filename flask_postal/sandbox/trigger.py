"""Events on demand: their names, what they say of a server, changes to their bodies."""

from __future__ import annotations

import json
from typing import Any

from .endpoint import FORMATS

__all__ = [
    "EVENTS",
    "KINDS",
    "SERVER",
    "SERVER_EVENTS",
    "parse_change",
    "read_stored_request",
    "server_payload",
    "set_path",
]

#: What may happen to a mail -> Postal's name of the event.
KINDS = {
    "Sent": "MessageSent",
    "SoftFail": "MessageDelayed",
    "HardFail": "MessageDeliveryFailed",
    "Held": "MessageHeld",
    "Bounced": "MessageBounced",
    "Loaded": "MessageLoaded",
    "Clicked": "MessageLinkClicked",
}
#: ``event.event_type`` -> Postal's name.
EVENTS = {
    "delivered": "MessageSent",
    "deferred": "MessageDelayed",
    "failed": "MessageDeliveryFailed",
    "queued": "MessageHeld",
    "held": "MessageHeld",
    "bounced": "MessageBounced",
    "opened": "MessageLoaded",
    "clicked": "MessageLinkClicked",
}
SERVER_EVENTS = ("DomainDNSError", "SendLimitApproaching", "SendLimitExceeded")
#: The mail server that the sandbox plays, as events name it.
SERVER = {
    "uuid": "5a9d0b0c-0000-4000-8000-0000000000aa",
    "name": "Sandbox",
    "permalink": "sandbox",
    "organization": "sandbox",
}


def server_payload(event: str, timestamp: float) -> dict[str, Any]:
    """Write the payload of an event about the mail server."""
    if event != "DomainDNSError":
        volume = 100 if event == "SendLimitExceeded" else 90
        return {"server": SERVER, "volume": volume, "limit": 100}
    domain = "example.com"
    return {
        "server": SERVER,
        "domain": domain,
        "uuid": "5a9d0b0c-0000-4000-8000-0000000000bb",
        "dns_checked_at": timestamp,
        "spf_status": "Missing",
        "spf_error": "No SPF record exists for this domain",
        "dkim_status": "OK",
        "dkim_error": None,
        "mx_status": "Missing",
        "mx_error": f"There are no MX records for {domain}",
        "return_path_status": "OK",
        "return_path_error": None,
    }


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


def read_stored_request(body: bytes) -> tuple[str, str, str]:
    """Recognise a request by its body.

    :returns: The webhook, the event or format, and the media type.
    :raises ValueError: if it is neither an event nor a mail.
    """
    if body.startswith(b"id=") and b"rcpt_to=" in body:
        kind = "raw-form" if b"&message=" in body else "hash-form"
        return "inbound", kind, FORMATS[kind]
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("event"), str):
        return "tracking", content["event"], "application/json"
    if "rcpt_to" in content:
        kind = "raw-json" if "message" in content else "hash-json"
        return "inbound", kind, FORMATS[kind]
    raise ValueError(
        "this is the body of neither an event nor a mail; store it as Postal sent it"
    )
