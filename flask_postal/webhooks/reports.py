"""Turns complaints that come as mails into events about the messages they are about.

Anybody can write such a mail. So an event of it names no recipient by itself: only the
ledger can, which knows the messages that were sent; see :mod:`.ledger.evidence`.
"""

from __future__ import annotations

from ..vocabulary import EventType
from .events import InboundEvent, TrackingEvent, UnsubscribeEvent

__all__ = ["reported"]

_OPT_OUTS = frozenset({"opt-out", "opt-out-list"})


def reported(event: InboundEvent) -> TrackingEvent | UnsubscribeEvent | None:
    """Return what a mail reports about a message of the app.

    :returns: ``None`` if it is no complaint (``abuse``) or wish for no more mail
        (``opt-out``), or doesn't tell what it is about.
    """
    report = event.message.feedback_report
    if report is None or (report.message_id is None and report.token is None):
        return None
    at = event.timestamp or event.message.date
    key = f"report:{event.dedupe_key}"
    if report.feedback_type in _OPT_OUTS:
        return UnsubscribeEvent(
            recipient=None,
            list=None,
            timestamp=at,
            source="report",
            message_id=report.message_id,
            token=report.token,
            dedupe_key=key,
        )
    if report.feedback_type != "abuse":
        return None
    return TrackingEvent(
        event_type=EventType.COMPLAINED,
        timestamp=at,
        created_at=at,
        message_id=report.message_id,
        token=report.token,
        source="report",
        esp_event={"report": dict(report.fields), "headers": dict(report.headers)},
        dedupe_key=key,
    )
