"""Parses tracking webhooks into :class:`.TrackingEvent` or :class:`.ServerEvent`."""

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

#: ``/`` or ``:``, escaped by its code point as JSON allows.
_ESCAPED_URL = re.compile(rb"\\u00(?:2[fF]|3[aA])")
#: Used for events that the vocabulary doesn't have. A new event of a later Postal is
#: passed on as ``unknown`` instead of being refused.
_UNKNOWN = PostalEvent(name=None)
_RECORDS = ("spf", "dkim", "mx", "return_path")


def parse_tracking(body: bytes) -> TrackingEvent | ServerEvent:
    """Parse the body of a tracking webhook.

    Unknown events and fields, and values of the wrong type, are not errors: unknown
    fields are kept in ``esp_event``, and a value of the wrong type becomes ``None``.

    :param body: The raw body. Its signature must have been verified.
    :raises PayloadError: if it isn't an event; ``.misdirected`` is true if it is an
        inbound mail.
    """
    if body.startswith(b"id="):
        raise PayloadError("the body is a form", misdirected=b"&rcpt_to=" in body)
    content = read_json_object(body)
    name = as_str(content.get("event"))
    if name is None:
        raise PayloadError("the body is not an event", misdirected="rcpt_to" in content)
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
    """Read the fields that all events have, for the constructors of both classes."""
    get = message.get
    created_at = utc_time(content.get("timestamp"))
    common = read_outcome(
        row.status, as_str(payload.get("details")), as_str(payload.get("output"))
    )
    if row.status is None:  # not a delivery: an open, a click, a server event
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
    """Return whether the body may contain a URL, whose password must be redacted.

    JSON can escape ``/`` as ``\\/`` or by its code point, so both are looked for. This
    saves most events a copy of the whole dict.
    """
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
