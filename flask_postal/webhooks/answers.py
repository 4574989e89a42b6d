"""Why a webhook request was answered as it was, and who is told of it."""

from __future__ import annotations

import logging
from enum import StrEnum

from flask import Flask

from ..errors import RequestRefused
from ..receivers import call_receiver
from ..signals import webhook_answered
from .dispatch import Dispatched, Event
from .events import InboundEvent, TrackingEvent

__all__ = ["REASONS", "AnswerReason", "announce_answer", "reason_of_refusal"]

_log = logging.getLogger("flask_postal.webhooks")


class AnswerReason(StrEnum):
    """Why a webhook request was answered as it was. The set is closed, for labels."""

    HANDLED = "handled"
    NO_RECEIVER = "no_receiver"
    REJECTED = "rejected"  #: A receiver raised RejectMail.
    FAILED = "failed"  #: A receiver raised another exception.
    BUSY = "busy"  #: Another request was handling the same event.
    ERROR = "error"  #: Something failed that should not.
    METHOD = "method"
    NO_LENGTH = "no_length"
    TOO_LARGE = "too_large"
    UNAUTHORIZED = "unauthorized"  #: The password is missing or wrong.
    NO_SIGNATURE = "no_signature"
    WRONG_SIGNATURE = "wrong_signature"
    MEDIA_TYPE = "media_type"
    NO_KEY = "no_key"  #: No key with this KID is known.
    INCOMPLETE = "incomplete"
    MALFORMED = "malformed"  #: Signed by Postal, but it can't be parsed.


#: By the text of the refusal.
_REFUSALS = {
    "POST only": AnswerReason.METHOD,
    "no length": AnswerReason.NO_LENGTH,
    "too large": AnswerReason.TOO_LARGE,
    "wrong password": AnswerReason.UNAUTHORIZED,
    "no signature": AnswerReason.NO_SIGNATURE,
    "wrong signature": AnswerReason.WRONG_SIGNATURE,
    "wrong media type": AnswerReason.MEDIA_TYPE,
    "no key for this signature": AnswerReason.NO_KEY,
    "incomplete body": AnswerReason.INCOMPLETE,
    "can't be parsed": AnswerReason.MALFORMED,
}

#: By the outcome of a request that was not refused.
REASONS = {
    Dispatched.HANDLED: AnswerReason.HANDLED,
    Dispatched.BOUNCED: AnswerReason.REJECTED,
    Dispatched.DROPPED: AnswerReason.REJECTED,
    Dispatched.FAILED: AnswerReason.FAILED,
    Dispatched.BUSY: AnswerReason.BUSY,
    Dispatched.NO_RECEIVER: AnswerReason.NO_RECEIVER,
}


def reason_of_refusal(refusal: RequestRefused) -> AnswerReason:
    """Return the reason of a refusal."""
    return _REFUSALS.get(refusal.text, AnswerReason.ERROR)


def announce_answer(
    app: Flask,
    hook: str,
    status: int,
    reason: AnswerReason,
    event: Event | None,
    *,
    seconds: float,
    postal: object,
) -> None:
    """Emit :data:`.webhook_answered`."""
    if not webhook_answered.receivers:
        return
    for receiver in webhook_answered.receivers_for(app):
        try:
            call_receiver(
                app,
                receiver,
                hook=hook,
                status=status,
                reason=reason,
                seconds=seconds,
                event_type=_type_of(event),
                event=event,
                postal=postal,
            )
        except BaseException:  # noqa: BLE001
            # Postal's answer does not depend on who counts it: even SystemExit or
            # gevent's Timeout would keep it from being sent.
            _log.exception("a receiver of webhook-answered failed")


def _type_of(event: Event | None) -> str | None:
    if event is None:
        return None
    if isinstance(event, TrackingEvent):
        return str(event.event_type)
    return "inbound" if isinstance(event, InboundEvent) else "server"
