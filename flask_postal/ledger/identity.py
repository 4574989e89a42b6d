"""What is the same for two deliveries of one event.

An attempt to deliver a mail is told by its token, status and time, and a bounce by the
token and the id of the bounce: a second webhook for the same event has another uuid,
and an event that was read from Postal's API has none.

An identity is a digest, because what is in a request may be of any length.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from decimal import ROUND_HALF_UP, Decimal
from typing import Any

from ..values import as_dict, as_int, as_str
from ..vocabulary import BY_NAME
from ..webhooks.dispatch import Event
from ..webhooks.events import InboundEvent, TrackingEvent, UnsubscribeEvent

__all__ = ["identity_of", "identity_of_attempt", "identity_of_bounce"]

#: A time with more digits is none of Postal's.
_MAX_DIGITS = 40
#: Seconds since 1970; the year 5138.
_LATEST = 10**11


def identity_of(server: str, event: Event, body: bytes) -> str:
    """Return the identity of an event that was received.

    :param server: The extension key of the Postal that it came from.
    :param body: The body of the request, which must have been parsed without an error.
    """
    if isinstance(event, InboundEvent):
        return _identity("mail", server, event.dedupe_key)
    if isinstance(event, UnsubscribeEvent) or _is_reported(event):
        return _identity("report", server, event.dedupe_key)
    content = json.loads(body, parse_float=_Text)
    return _of_tracking(server, content) or _identity("uuid", server, event.dedupe_key)


def _is_reported(event: Event) -> bool:
    return isinstance(event, TrackingEvent) and event.source == "report"


def identity_of_attempt(server: str, token: str, status: str, micros: int) -> str:
    """Return the identity of an attempt to deliver a mail.

    :param micros: When it happened, in microseconds since 1970.
    """
    return _identity("attempt", server, token, status, micros)


def identity_of_bounce(server: str, token: str, bounce_id: int) -> str:
    """Return the identity of the bounce of a mail.

    :param token: The token of the mail that was returned.
    """
    return _identity("bounce", server, token, bounce_id)


def _identity(kind: str, *parts: str | int) -> str:
    text = json.dumps(parts).encode()
    return f"{kind}:{hashlib.sha256(text).hexdigest()}"


class _Text(str):
    """A number with a fraction, as it was written."""

    __slots__ = ()


def _of_tracking(server: str, content: Mapping[str, Any]) -> str | None:
    """Return the identity of an attempt or a bounce; ``None`` for another event."""
    payload = as_dict(content.get("payload"))
    row = BY_NAME.get(as_str(content.get("event")) or "")
    if row is None or row.status is None:
        return None
    if row.status == "Bounced":
        token = as_str(as_dict(payload.get("original_message")).get("token"))
        bounce_id = as_int(as_dict(payload.get("bounce")).get("id"))
        if token is None or bounce_id is None:
            return None
        return identity_of_bounce(server, token, bounce_id)
    token = as_str(as_dict(payload.get("message")).get("token"))
    status = as_str(payload.get("status"))
    micros = _micros(payload.get("timestamp"))
    if token is None or status is None or micros is None:
        return None
    return identity_of_attempt(server, token, status, micros)


def _micros(written: Any) -> int | None:
    """Return a time in microseconds.

    Postal writes more digits than a float can hold to the microsecond: by way of a
    float 5 to 13 % of the times would differ from those that its API tells.
    """
    if type(written) is int:
        return written * 1_000_000 if abs(written) < _LATEST else None
    if not isinstance(written, _Text) or len(written) > _MAX_DIGITS:
        return None
    try:
        exact = Decimal(written) * 1_000_000
        return int(exact.quantize(Decimal(1), rounding=ROUND_HALF_UP))
    except ArithmeticError:  # an exponent that makes it larger than Postal's times
        return None
