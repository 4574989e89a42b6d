"""The body of a tracking webhook -> :class:`.TrackingEvent`."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import PayloadError
from ..outcome import EventType, Outcome
from .events import TrackingEvent, utc_time

__all__ = ["parse_tracking"]

_NO_FIELDS: Mapping[str, Any] = {}

#: Events that carry no status; what they mean is in their names.
_NAMED = {
    "MessageBounced": EventType.BOUNCED,
    "MessageLinkClicked": EventType.CLICKED,
    "MessageLoaded": EventType.OPENED,
}
#: The status that an event has where its payload does not tell.
_STATUSES = {
    "MessageSent": "Sent",
    "MessageDelayed": "SoftFail",
    "MessageDeliveryFailed": "HardFail",
    "MessageHeld": "Held",
    "MessageBounced": "Bounced",
}


def parse_tracking(body: bytes) -> TrackingEvent:
    """Read the body of a tracking webhook.

    :param body: The raw body, whose signature has been verified.
    :raises PayloadError: if it is no event of Postal's.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise PayloadError("the body is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("event"), str):
        raise PayloadError("the body is no event of Postal's")
    name = content["event"]
    payload = _dict(content.get("payload"))
    message = _dict(payload.get("message") or payload.get("original_message"))
    outcome = Outcome.read(
        _STATUSES.get(name), _str(payload.get("details")), _str(payload.get("output"))
    )
    created_at = utc_time(content.get("timestamp"))
    tag = _str(message.get("tag"))
    return TrackingEvent(
        event_type=_NAMED.get(name, outcome.event_type),
        event_id=_str(content.get("uuid")),
        created_at=created_at,
        timestamp=utc_time(payload.get("timestamp")) or created_at,
        id=_int(message.get("id")),
        token=_str(message.get("token")),
        message_id=_str(message.get("message_id")),
        recipient=_str(message.get("to")),
        sender=_str(message.get("from")),
        subject=_str(message.get("subject")),
        tags=[tag] if tag else [],
        reject_reason=outcome.reject_reason,
        hold_reason=outcome.hold_reason,
        smtp_code=outcome.smtp_code,
        enhanced_status=outcome.enhanced_status,
        description=outcome.description,
        mta_response=outcome.mta_response,
        click_url=_str(payload.get("url")),
        user_agent=_str(payload.get("user_agent")),
        ip_address=_str(payload.get("ip_address")),
        bounce=_dict(payload.get("bounce")) or None,
        esp_event=content,
    )


def _dict(value: Any) -> Mapping[str, Any]:
    return value if isinstance(value, dict) else _NO_FIELDS


def _str(value: Any) -> str | None:
    return value if isinstance(value, str) else None


def _int(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) else None
