"""The body of a tracking webhook -> :class:`.TrackingEvent`."""

from __future__ import annotations

import json

from ..errors import PayloadError
from ..outcome import EventType, Outcome, redact_all
from ..values import as_dict, as_int, as_str, utc_time
from .events import TrackingEvent

__all__ = ["parse_tracking"]

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
    payload = as_dict(content.get("payload"))
    message = as_dict(payload.get("message") or payload.get("original_message"))
    outcome = Outcome.read(
        _STATUSES.get(name),
        as_str(payload.get("details")),
        as_str(payload.get("output")),
    )
    created_at = utc_time(content.get("timestamp"))
    tag = as_str(message.get("tag"))
    return TrackingEvent(
        event_type=_NAMED.get(name, outcome.event_type),
        event_id=as_str(content.get("uuid")),
        created_at=created_at,
        timestamp=utc_time(payload.get("timestamp")) or created_at,
        id=as_int(message.get("id")),
        token=as_str(message.get("token")),
        message_id=as_str(message.get("message_id")),
        recipient=as_str(message.get("to")),
        sender=as_str(message.get("from")),
        subject=as_str(message.get("subject")),
        tags=[tag] if tag else [],
        reject_reason=outcome.reject_reason,
        hold_reason=outcome.hold_reason,
        smtp_code=outcome.smtp_code,
        enhanced_status=outcome.enhanced_status,
        description=outcome.description,
        mta_response=outcome.mta_response,
        click_url=as_str(payload.get("url")),
        user_agent=as_str(payload.get("user_agent")),
        ip_address=as_str(payload.get("ip_address")),
        bounce=as_dict(payload.get("bounce")) or None,
        esp_event=redact_all(content),
    )
