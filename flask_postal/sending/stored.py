"""Look up stored mails and their deliveries through Postal's API.

See :meth:`.Postal.get_message` and :meth:`.Postal.get_deliveries`.
"""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from ..errors import MessageError, TransportError
from ..outcome import Outcome, read_outcome, redact_all
from ..values import as_bool, as_dict, as_int, as_str, utc_time
from ..vocabulary import EventType
from .payload import Body
from .transport import Transport

__all__ = [
    "EXPANSIONS",
    "Activity",
    "Delivery",
    "MessageDetails",
    "StoredAttachment",
    "fetch_deliveries",
    "fetch_message",
]

#: The values that Postal accepts in ``_expansions``.
EXPANSIONS = (
    "status",
    "details",
    "inspection",
    "plain_body",
    "html_body",
    "attachments",
    "headers",
    "raw_message",
    "activity_entries",
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery(Outcome):
    """One attempt to deliver a mail. Has the attributes of :class:`.Outcome` too.

    :param id: Postal's id of the attempt.
    :param status: Postal's status: Sent, SoftFail, HardFail, Held, Bounced, ...
    :param sent_with_ssl: Whether the connection to the remote server used TLS.
    :param log_id: The id of the attempt in Postal's log.
    :param time: The duration in seconds.
    :param timestamp: The time of the attempt, an aware datetime in UTC.
    :param data: Postal's dict, unchanged except that passwords in URLs are redacted.
    """

    id: int | None = None
    status: str | None = None
    sent_with_ssl: bool | None = None
    log_id: str | None = None
    time: float | None = None
    timestamp: datetime | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredAttachment:
    """An attachment of a stored mail.

    :param content: The content, decoded.
    :param size: The size in bytes that Postal reports.
    :param hash: The SHA-1 of the content in hex, computed by Postal.
    """

    filename: str | None = None
    content_type: str | None = None
    content: bytes = field(default=b"", repr=False)
    size: int | None = None
    hash: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Activity:
    """An open of a mail or a click on a link in it, as tracked by Postal.

    :param event_type: ``"opened"`` or ``"clicked"``.
    :param timestamp: The time, an aware datetime in UTC.
    :param click_url: The URL of the link; ``None`` for an open.
    """

    event_type: EventType
    timestamp: datetime | None = None
    click_url: str | None = None
    ip_address: str | None = None
    user_agent: str | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MessageDetails:
    """A mail that Postal has stored.

    Attributes that were not requested by ``expand=`` are ``None``. By default, Postal
    keeps the content of a mail for 30 days and everything else for 60; after the
    content is removed, ``raw``, ``headers`` and ``attachments`` are ``None``.

    :param status: Postal's status: Pending, Sent, SoftFail, HardFail, Held, Bounced,
        ...
    :param event_type: The event type that corresponds to the status.
    :param held: Whether Postal holds the mail until somebody releases it.
    :param hold_expiry: When the hold expires, an aware datetime in UTC, as all times
        here are.
    :param recipient: The envelope recipient.
    :param sender: The sender, as in :attr:`.TrackingEvent.sender`.
    :param size: The size of the raw mail in bytes.
    :param bounce: Whether the mail itself is a bounce.
    :param bounce_for_id: The id of the mail that this one is a bounce for.
    :param raw: The raw mail.
    :param headers: Lists of values by lower-case name.
    :param activity: Opens and clicks, oldest first.
    :param data: Postal's dict, unchanged except that passwords in URLs are redacted.
    """

    id: int | None = None
    token: str | None = None
    status: str | None = None
    event_type: EventType | None = None
    held: bool | None = None
    hold_expiry: datetime | None = None
    last_delivery_attempt: datetime | None = None
    recipient: str | None = None
    sender: str | None = None
    subject: str | None = None
    message_id: str | None = None
    timestamp: datetime | None = None
    direction: str | None = None
    size: int | None = None
    bounce: bool | None = None
    bounce_for_id: int | None = None
    tags: list[str] = field(default_factory=list)
    received_with_ssl: bool | None = None
    inspected: bool | None = None
    spam_detected: bool | None = None
    spam_score: float | None = None
    threat_detected: bool | None = None
    threat_details: str | None = None
    text: str | None = field(default=None, repr=False)
    html: str | None = field(default=None, repr=False)
    attachments: list[StoredAttachment] | None = None
    headers: Mapping[str, list[str]] | None = field(default=None, repr=False)
    raw: bytes | None = field(default=None, repr=False)
    activity: list[Activity] | None = None
    data: Mapping[str, Any] = field(default_factory=dict, repr=False)


def fetch_message(transport: Transport, id: int, expand: Any) -> MessageDetails:
    """Look up a stored mail; see :meth:`.Postal.get_message`."""
    query: dict[str, Any] = {"id": _mail_number(id)}
    if wanted := _expansions(expand):
        query["_expansions"] = wanted
    return _read_details(_ask(transport, "messages/message", query))


def fetch_deliveries(transport: Transport, id: int) -> list[Delivery]:
    """Look up the deliveries of a mail; see :meth:`.Postal.get_deliveries`."""
    query = {"id": _mail_number(id)}
    return _read_deliveries(_ask(transport, "messages/deliveries", query))


def _ask(transport: Transport, endpoint: str, query: Mapping[str, Any]) -> Any:
    return transport.call(endpoint, Body(json.dumps(query).encode()))


def _mail_number(value: Any) -> int:
    """Validate an id. Postal answers HTTP 500 to anything but a JSON integer.

    Before 3.3.7, JSON objects even reached its SQL.

    :raises MessageError: if the value is not a non-negative int.
    """
    if isinstance(value, bool) or not isinstance(value, int) or value < 0:
        raise MessageError(
            f"id must be an int, as in result.recipients[...].id or event.id; not"
            f" {value!r}",
            field="id",
        )
    return value


def _expansions(expand: Any) -> bool | list[str]:
    """Validate ``expand``: ``True`` for everything, or names of :data:`EXPANSIONS`.

    :raises MessageError: for an unknown name.
    """
    if isinstance(expand, bool):
        return expand
    names = [expand] if isinstance(expand, str) else list(expand or ())
    if unknown := [name for name in names if name not in EXPANSIONS]:
        raise MessageError(
            f"expand: {unknown[0]!r} is not one of {', '.join(EXPANSIONS)}",
            field="expand",
        )
    return names


def _read_deliveries(data: Any) -> list[Delivery]:
    """Read the ``data`` of a response from messages/deliveries.

    :raises TransportError: if it is not a list.
    """
    if not isinstance(data, list):
        raise TransportError("Postal reported success without a list of deliveries")
    return [_delivery(as_dict(item)) for item in data]


def _delivery(data: Mapping[str, Any]) -> Delivery:
    status = as_str(data.get("status"))
    details, output = as_str(data.get("details")), as_str(data.get("output"))
    return Delivery(
        **read_outcome(status, details, output),
        id=as_int(data.get("id")),
        status=status,
        sent_with_ssl=as_bool(data.get("sent_with_ssl")),
        log_id=as_str(data.get("log_id")),
        time=_float(data.get("time")),
        timestamp=utc_time(data.get("timestamp")),
        data=redact_all(data),
    )


def _read_details(data: Any) -> MessageDetails:
    """Read the ``data`` of a response from messages/message.

    :raises TransportError: if it is not a dict.
    """
    if not isinstance(data, dict):
        raise TransportError("Postal reported success without a message")
    status, details, inspection = (
        as_dict(data.get(name)) for name in ("status", "details", "inspection")
    )
    word = as_str(status.get("status"))
    pruned = _is_pruned(data)
    tag = as_str(details.get("tag"))
    return MessageDetails(
        id=as_int(data.get("id")),
        token=as_str(data.get("token")),
        status=word,
        event_type=read_outcome(word, None, None)["event_type"] if word else None,
        held=as_bool(status.get("held")),
        hold_expiry=utc_time(status.get("hold_expiry")),
        last_delivery_attempt=utc_time(status.get("last_delivery_attempt")),
        recipient=as_str(details.get("rcpt_to")),
        sender=as_str(details.get("mail_from")),
        subject=as_str(details.get("subject")),
        message_id=as_str(details.get("message_id")),
        timestamp=utc_time(details.get("timestamp")),
        direction=as_str(details.get("direction")),
        size=_size(details.get("size")),
        bounce=as_bool(details.get("bounce")),
        bounce_for_id=as_int(details.get("bounce_for_id")) or None,
        tags=[tag] if tag else [],
        received_with_ssl=as_bool(details.get("received_with_ssl")),
        inspected=as_bool(inspection.get("inspected")),
        spam_detected=as_bool(inspection.get("spam")),
        spam_score=_float(inspection.get("spam_score")),
        threat_detected=as_bool(inspection.get("threat")),
        threat_details=as_str(inspection.get("threat_details")),
        text=as_str(data.get("plain_body")),
        html=as_str(data.get("html_body")),
        attachments=None if pruned else _attachments(data.get("attachments")),
        headers=None if pruned else _headers(data.get("headers")),
        raw=None if pruned else _bytes(data.get("raw_message")),
        activity=_activity(data.get("activity_entries")),
        data=redact_all(data),
    )


def _is_pruned(data: Mapping[str, Any]) -> bool:
    """Return whether Postal has removed the content of a mail.

    Postal has no flag for it. It returns empty headers, no attachments, and a raw
    message of two line breaks; a mail with content always has headers.
    """
    raw = data.get("raw_message", False)
    if raw is not False and not (_bytes(raw) or b"").strip():
        return True
    headers = data.get("headers", False)
    return headers is not False and not headers


def _attachments(value: Any) -> list[StoredAttachment] | None:
    if not isinstance(value, list):
        return None
    return [
        StoredAttachment(
            filename=as_str(item.get("filename")),
            content_type=as_str(item.get("content_type")),
            content=_bytes(item.get("data")) or b"",
            size=_size(item.get("size")),
            hash=as_str(item.get("hash")),
        )
        for item in map(as_dict, value)
    ]


def _headers(value: Any) -> dict[str, list[str]] | None:
    if not isinstance(value, dict):
        return None
    return {
        name: [str(text) for text in (texts if isinstance(texts, list) else [texts])]
        for name, texts in value.items()
    }


def _activity(value: Any) -> list[Activity] | None:
    if not isinstance(value, dict):
        return None
    entries = [
        Activity(
            event_type=event_type,
            timestamp=_iso_time(item.get("timestamp")),
            click_url=as_str(item.get("url")),
            ip_address=as_str(item.get("ip_address")),
            user_agent=as_str(item.get("user_agent")),
        )
        for name, event_type in (
            ("loads", EventType.OPENED),
            ("clicks", EventType.CLICKED),
        )
        for item in map(as_dict, _list(value.get(name)))
    ]
    never = datetime.min.replace(tzinfo=UTC)
    return sorted(entries, key=lambda entry: entry.timestamp or never)


def _iso_time(value: Any) -> datetime | None:
    """Parse a time in ISO 8601, which Postal uses for activity entries only."""
    try:
        time = datetime.fromisoformat(value)
        return time.astimezone(UTC) if time.tzinfo else time.replace(tzinfo=UTC)
    except (OverflowError, TypeError, ValueError):
        return None


def _list(value: Any) -> list[Any]:
    return value if isinstance(value, list) else []


def _bytes(value: Any) -> bytes | None:
    """Decode base64. Postal inserts a newline after every 60 characters."""
    if not isinstance(value, str):
        return None
    try:
        return base64.b64decode(value)
    except (binascii.Error, ValueError):
        return None


def _size(value: Any) -> int | None:
    """Read a size, which Postal returns as a string in some places."""
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value) if len(value) < 19 else None
    return as_int(value)


def _float(value: Any) -> float | None:
    if isinstance(value, bool) or not isinstance(value, (int, float)):
        return None
    try:
        return float(value)
    except OverflowError:
        return None
