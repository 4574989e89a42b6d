"""The body of a tracking webhook -> :class:`.TrackingEvent` or
:class:`.ServerEvent`."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Mapping
from typing import Any

from ..errors import PayloadError
from ..outcome import read_outcome, redact_all
from ..values import (
    as_dict,
    as_int,
    as_line,
    as_str,
    as_subject,
    read_json_object,
    utc_time,
)
from ..vocabulary import BY_NAME, PostalEvent
from .events import ServerEvent, TrackingEvent

__all__ = ["parse_tracking"]

#: ``/`` or ``:``, written with its code.
_ESCAPED_URL = re.compile(rb"\\u00(?:2[fF]|3[aA])")
#: Stands for every event that the table does not have.
_UNKNOWN = PostalEvent(name=None)
_RECORDS = ("spf", "dkim", "mx", "return_path")


def parse_tracking(body: bytes) -> TrackingEvent | ServerEvent:
    """Read the body of a tracking webhook.

    :param body: The raw body, whose signature has been verified.
    :raises PayloadError: if it is no event of Postal's; ``.misdirected`` if it is a
        mail.
    """
    if body.startswith(b"id="):
        raise PayloadError("the body is a form", misdirected=b"&rcpt_to=" in body)
    content = read_json_object(body)
    name = as_str(content.get("event"))
    if name is None:
        raise PayloadError("the body is no event", misdirected="rcpt_to" in content)
    payload = as_dict(content.get("payload"))
    message = as_dict(payload.get("message")) or as_dict(
        payload.get("original_message")
    )
    row = BY_NAME.get(name, _UNKNOWN)
    common = _common(row, content, payload, message)
    common["esp_event"] = redact_all(content) if _may_hold_url(body) else content
    common["dedupe_key"] = common["event_id"] or hashlib.sha256(body).hexdigest()
    if row.about == "server" or message.get("direction") == "incoming":
        return _server_event(name, payload, common)
    tag = as_line(message.get("tag"))
    return TrackingEvent(
        tags=[tag] if tag else [],
        click_url=as_line(payload.get("url")),
        user_agent=as_line(payload.get("user_agent")),
        ip_address=as_str(payload.get("ip_address")),
        bounce=as_dict(payload.get("bounce")) or None,
        **common,
    )


def _common(
    row: PostalEvent,
    content: Mapping[str, Any],
    payload: Mapping[str, Any],
    message: Mapping[str, Any],
) -> dict[str, Any]:
    """Read what events about a message and events about the server have in common."""
    get = message.get
    created_at = utc_time(content.get("timestamp"))
    common = read_outcome(
        row.status, as_str(payload.get("details")), as_str(payload.get("output"))
    )
    if row.status is None:  # the event's name alone says what happened
        common["event_type"] = row.event_type
    common.update(
        event_id=as_str(content.get("uuid")),
        created_at=created_at,
        timestamp=utc_time(payload.get("timestamp")) or created_at,
        id=as_int(get("id")),
        token=as_str(get("token")),
        message_id=as_line(get("message_id")),
        recipient=as_line(get("to")),
        sender=as_line(get("from")),
        subject=as_subject(get("subject")),
    )
    return common


def _may_hold_url(body: bytes) -> bool:
    """Tell whether there may be a URL in ``details``; JSON can write ``/`` as ``\\/``
    or with its code."""
    if b"://" in body:
        return True
    return b"\\" in body and (b"\\/" in body or _ESCAPED_URL.search(body) is not None)


def _server_event(
    name: str, payload: Mapping[str, Any], common: dict[str, Any]
) -> ServerEvent:
    server = as_dict(payload.get("server"))
    problems = {
        record: as_str(payload.get(f"{record}_error")) or ""
        for record in _RECORDS
        if as_str(payload.get(f"{record}_status")) not in (None, "OK")
    }
    return ServerEvent(
        event=name,
        server=as_str(server.get("permalink")),
        organization=as_str(server.get("organization")),
        domain=as_str(payload.get("domain")),
        problems=problems,
        volume=as_int(payload.get("volume")),
        limit=as_int(payload.get("limit")),
        **common,
    )
