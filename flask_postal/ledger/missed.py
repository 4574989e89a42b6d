"""The webhook that Postal would have sent, from what its API tells of a mail.

Everything but the uuid, the time at which Postal wrote the event, and opens and clicks.
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from ..sending.stored import Delivery, MessageDetails
from ..values import as_dict
from ..vocabulary import BY_STATUS
from .identity import identity_of_attempt, identity_of_bounce

__all__ = ["MissedEvent", "events_of", "webhook_body"]

#: Seconds since 1970; the year 5138.
_LATEST = 1e11
_MAIL = re.compile(r"<msg:(\d{1,18})>")


@dataclass(frozen=True, slots=True)
class MissedEvent:
    """An event that a webhook may have brought.

    :param identities: Those that it may have been stored with; the first is its own.
    :param micros: When it happened, in microseconds since 1970.
    :param bounce_id: The id of the bounce, if it is one.
    """

    identities: Sequence[str]
    delivery: Delivery
    micros: int
    bounce_id: int | None = None


def events_of(
    server: str, token: str, deliveries: Sequence[Delivery]
) -> list[MissedEvent]:
    """Return the events that Postal has sent webhooks for, the oldest first.

    :param server: The extension key of the Postal.
    :param token: The token of the mail.
    """
    found = []
    for delivery in deliveries:
        row = BY_STATUS.get(delivery.status or "")
        micros = _micros(delivery.data.get("timestamp"))
        if row is None or row.name is None or micros is None:
            continue
        if row.status == "Bounced":
            mails = _MAIL.findall(delivery.description or "")
            if mails:
                number = int(mails[-1])
                identity = identity_of_bounce(server, token, number)
                found.append(MissedEvent([identity], delivery, micros, number))
            continue
        # A webhook has the time in more digits than a float holds.
        identities = [
            identity_of_attempt(server, token, str(row.status), micros + off)
            for off in (0, -1, 1)
        ]
        found.append(MissedEvent(identities, delivery, micros))
    return sorted(found, key=lambda event: event.micros)


def _micros(seconds: Any) -> int | None:
    """Return a time in microseconds; ``None`` if it can't be one."""
    if not isinstance(seconds, (int, float)) or not 0 < seconds < _LATEST:
        return None
    return round(seconds * 1e6)


def webhook_body(
    event: MissedEvent, mail: MessageDetails, bounce: MessageDetails | None
) -> bytes:
    """Return the body of the webhook that never came.

    :param mail: The mail, with ``details`` and ``inspection``.
    :param bounce: The bounce, if the event is one and Postal still has it.
    """
    data, row = event.delivery.data, BY_STATUS[str(event.delivery.status)]
    payload: dict[str, Any]
    if event.bounce_id is not None:
        about = {"id": event.bounce_id} if bounce is None else _message(bounce)
        payload = {"original_message": _message(mail), "bounce": about}
    else:
        payload = {
            "message": _message(mail),
            **{name: data.get(name) for name in ("status", "details", "output")},
            **{name: data.get(name) for name in ("sent_with_ssl", "timestamp", "time")},
        }
        if payload["output"] is None:  # no other server was asked
            payload |= {"output": "", "sent_with_ssl": None}
    return json.dumps(
        {
            "event": row.name,
            "timestamp": data.get("timestamp"),
            "payload": payload,
            "uuid": None,
        },
        ensure_ascii=False,
    ).encode("utf-8", "replace")


def _message(mail: MessageDetails) -> dict[str, Any]:
    details = as_dict(mail.data.get("details"))
    spam = {True: "Spam", False: "NotSpam"}.get(bool(mail.spam_detected))
    return {
        "id": mail.id,
        "token": mail.token,
        "direction": mail.direction,
        "message_id": details.get("message_id"),
        "to": details.get("rcpt_to"),
        "from": details.get("mail_from"),
        "subject": details.get("subject"),
        "timestamp": details.get("timestamp"),
        "spam_status": spam if mail.inspected else "NotChecked",
        "tag": details.get("tag"),
    }
