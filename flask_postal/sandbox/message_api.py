"""Builds the responses of ``messages/message`` and ``messages/deliveries``."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from datetime import UTC, datetime
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from .mail_reader import PostalMail, base64_lines
from .records import Mail
from .store import Store

__all__ = ["describe", "describe_deliveries"]

#: Seconds for which Postal holds a message: seven days.
MAX_HOLD = 7 * 24 * 3600.0


def describe(store: Store, mail: Mail, expansions: Any) -> dict[str, Any]:
    """Build the ``data`` of a messages/message response.

    :param expansions: The parameter ``_expansions``: ``True`` for all of them, or a
        list of names such as ``"details"``. Anything else expands nothing.
    """
    answer: dict[str, Any] = {"id": mail.id, "token": mail.token}
    for name, expand in _EXPANSIONS.items():
        if expansions is True or (isinstance(expansions, list) and name in expansions):
            answer[name] = expand(store, mail)
    return answer


def describe_deliveries(store: Store, mail: Mail) -> list[dict[str, Any]]:
    """Build the ``data`` of a messages/deliveries response."""
    return [
        {
            "id": delivery["id"],
            "status": delivery["status"],
            "details": delivery["details"],
            "output": delivery["output"],
            "sent_with_ssl": bool(delivery["sent_with_ssl"]),
            "log_id": delivery["log_id"],
            "time": delivery["time"],
            "timestamp": _as_stored(delivery["timestamp"]),
        }
        for delivery in store.deliveries(mail.id)
    ]


def _as_stored(seconds: float) -> float:
    """Return a time as Postal's database has it: in microseconds, rounded half up."""
    exact = Decimal(repr(seconds)).quantize(Decimal("0.000001"), rounding=ROUND_HALF_UP)
    return float(exact)


def _status(store: Store, mail: Mail) -> dict[str, Any]:
    last = None if mail.last_attempt is None else _as_stored(mail.last_attempt)
    held = last if mail.status == "Held" else None
    return {
        "status": mail.status,
        "last_delivery_attempt": last,
        "held": mail.status == "Held",
        "hold_expiry": held + MAX_HOLD if held is not None else None,
    }


def _details(store: Store, mail: Mail) -> dict[str, Any]:
    return {
        "rcpt_to": mail.recipient,
        "mail_from": mail.sender,
        "subject": mail.subject,
        "message_id": mail.message_id,
        "timestamp": mail.timestamp,
        "direction": mail.direction,
        "size": str(mail.size),
        "bounce": mail.bounce,
        "bounce_for_id": mail.bounce_for_id,
        "tag": mail.tag,
        "received_with_ssl": True if mail.direction == "outgoing" else None,
    }


def _inspection(store: Store, mail: Mail) -> dict[str, Any]:
    inspected = mail.spam_status != "NotChecked"
    return {
        "inspected": inspected,
        "spam": mail.spam_status == "Spam",
        "spam_score": (mail.content.spam_score or 0.0) if inspected else 0.0,
        "threat": False,
        "threat_details": None,
    }


def _raw(mail: Mail) -> bytes:
    return mail.delivered or mail.raw


def _attachments(store: Store, mail: Mail) -> list[dict[str, Any]]:
    return [
        {
            "filename": file.filename,
            "content_type": file.media_type,
            "data": base64_lines(file.content),
            "size": len(file.content),
            "hash": hashlib.sha1(file.content).hexdigest(),  # noqa: S324
        }
        for file in PostalMail(_raw(mail)).attachments
    ]


def _headers(store: Store, mail: Mail) -> dict[str, list[str]]:
    return PostalMail(_raw(mail)).all_headers()


def _activity(store: Store, mail: Mail) -> dict[str, Any]:
    entries: dict[str, list[dict[str, Any]]] = {"loads": [], "clicks": []}
    for row in store.activity(mail.id):
        when = datetime.fromtimestamp(row["timestamp"], UTC)
        entry = {
            "ip_address": row["ip_address"],
            "user_agent": row["user_agent"],
            "timestamp": when.isoformat(timespec="milliseconds").replace("+00:00", "Z"),
        }
        if row["kind"] == "click":
            entries["clicks"].append({"url": row["url"], **entry})
        else:
            entries["loads"].append(entry)
    return entries


_EXPANSIONS: dict[str, Callable[[Store, Mail], Any]] = {
    "status": _status,
    "details": _details,
    "inspection": _inspection,
    "plain_body": lambda store, mail: PostalMail(_raw(mail)).plain_body,
    "html_body": lambda store, mail: PostalMail(_raw(mail)).html_body,
    "attachments": _attachments,
    "headers": _headers,
    "raw_message": lambda store, mail: base64_lines(_raw(mail)),
    "activity_entries": _activity,
}
