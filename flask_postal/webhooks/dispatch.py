"""Calls the receivers of an event.

Needs no request context, so queues and replays can use it.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from enum import Enum
from typing import Any

from blinker import Signal
from flask import Flask

from ..errors import RejectMail
from ..receivers import call_receiver, receiver_name
from ..signals import (
    inbound_received,
    server_event_received,
    tracking_received,
    unsubscribed,
)
from .dedupe import Claim, DedupeStore
from .events import InboundEvent, ServerEvent, TrackingEvent, UnsubscribeEvent

__all__ = [
    "Called",
    "Dispatched",
    "Event",
    "by_name",
    "call_together",
    "dispatch",
    "ends_process",
    "signal_of",
    "worst",
]

_log = logging.getLogger("flask_postal.webhooks")

#: Seconds. A warning is logged for a receiver that takes longer: Postal closes the
#: connection after 5 s and tries again.
SLOW = 2.0
_clock = time.monotonic

Event = TrackingEvent | InboundEvent | ServerEvent | UnsubscribeEvent

_SIGNALS = {
    TrackingEvent: tracking_received,
    InboundEvent: inbound_received,
    ServerEvent: server_event_received,
    UnsubscribeEvent: unsubscribed,
}


class Dispatched(Enum):
    """The outcome of handling an event; the value is the HTTP status to respond with.

    :attr:`NO_RECEIVER` has no status of its own: :mod:`.receive` responds with 200 on
    the tracking webhook, and with 503 on the inbound one.
    """

    HANDLED = 200
    BOUNCED = 406  #: A receiver raised RejectMail.
    DROPPED = 429  #: A receiver raised RejectMail with ``bounce=False``.
    FAILED = 500  #: A receiver raised another exception.
    BUSY = 503  #: Another request is handling the same event right now.
    NO_RECEIVER = 0  #: No receiver is connected.


def signal_of(event: Event) -> Signal:
    """Return the signal that is sent for an event."""
    return _SIGNALS[type(event)]


def dispatch(
    event: Event,
    app: Flask,
    *,
    postal: object,
    scope: str,
    store: DedupeStore | None = None,
) -> Dispatched:
    """Call every receiver of an event that has not handled it successfully before.

    Each receiver runs in an app context of its own, and is called even if another one
    has raised. Something that is not an ``Exception`` (``SystemExit``,
    ``gevent.Timeout``) is raised again after the last receiver.

    :param event: The event.
    :param app: The sender of the signal.
    :param postal: The extension, which is passed to receivers as ``postal``.
    :param scope: The extension key. It is part of the deduplication key, so that apps
        with several Postal servers don't confuse their events.
    :param store: Remembers what has been handled; with ``None`` duplicates are handled
        again.
    """
    receivers = list(signal_of(event).receivers_for(app))
    if not receivers:
        return Dispatched.NO_RECEIVER
    call = _Call(app, event, postal)
    if store is None:
        return call.all_of(receivers, None)
    claim = store.claim(f"{scope}\0{type(event).__name__}\0{event.dedupe_key}")
    if (status := claim.handled()) is not None:
        return Dispatched(status)
    if not claim.lease():
        return Dispatched.BUSY
    try:
        # Check again: another request may have finished between the first check and
        # this lease.
        if (status := claim.handled()) is not None:
            return Dispatched(status)
        dispatched = call.all_of(receivers, claim)
        if dispatched is not Dispatched.FAILED:
            claim.done(dispatched.value)
    finally:
        claim.release()
    return dispatched


class _Call:
    """Calls receivers with one event.

    :ivar interrupts: What receivers have raised that is not an ``Exception``.
    """

    def __init__(self, app: Flask, event: Event, postal: object) -> None:
        self._app = app
        self._event = event
        self._postal = postal
        self.interrupts: list[BaseException] = []

    def all_of(
        self, receivers: list[Callable[..., Any]], claim: Claim | None
    ) -> Dispatched:
        """Call all receivers, then raise the first of the interrupts, if any."""
        outcome = self._groups(receivers, claim)
        if self.interrupts:
            raise self.interrupts[0]
        return outcome

    def _groups(
        self, receivers: list[Callable[..., Any]], claim: Claim | None
    ) -> Dispatched:
        """Call the receivers that have not handled the event before.

        Receivers are remembered by name. Those that share a name, such as two closures
        of one function, can't be distinguished: they are called, and marked, together.
        """
        if claim is None and len(receivers) == 1:
            return self._one(receivers[0])
        outcomes = []
        for name, group in by_name(receivers).items():
            marked = claim if name is not None else None
            earlier = None if marked is None else marked.has_done(str(name))
            if earlier is not None:
                outcomes.append(Dispatched(earlier))
                continue
            outcome = worst([self._one(receiver) for receiver in group])
            # With a single receiver, the mark of the event itself is enough.
            if (
                marked is not None
                and len(receivers) > 1
                and outcome != Dispatched.FAILED
            ):
                marked.mark(str(name), outcome.value)
            outcomes.append(outcome)
        return worst(outcomes)

    def _one(self, receiver: Callable[..., Any]) -> Dispatched:
        called = call_together(self._app, self._event, [receiver], postal=self._postal)
        if called.error is not None and ends_process(called.error):
            self.interrupts.append(called.error)
        return called.outcome


@dataclass(frozen=True, slots=True)
class Called:
    """What became of a call of receivers.

    :param error: What a receiver raised, unless it rejected a mail.
    """

    outcome: Dispatched
    error: BaseException | None = None


def by_name(
    receivers: Sequence[Callable[..., Any]],
) -> dict[str | None, list[Callable[..., Any]]]:
    """Group receivers by what they are remembered as; ``None`` has no such name."""
    groups: dict[str | None, list[Callable[..., Any]]] = defaultdict(list)
    for receiver in receivers:
        groups[receiver_name(receiver)].append(receiver)
    return groups


def call_together(
    app: Flask,
    event: Event,
    receivers: Sequence[Callable[..., Any]],
    *,
    postal: object,
    around: AbstractContextManager[object] | None = None,
    awaited: bool = True,
) -> Called:
    """Call receivers one after the other in one app context, until one raises.

    Whatever a receiver raises, its work isn't done. The caller raises again what ends
    the request or the process, once the other receivers have run.

    :param around: Entered within the app context, around the receivers.
    :param awaited: Whether Postal waits for them, and a slow one deserves a warning.
    """
    label = _label(receivers[0])
    started = _clock()
    try:
        with app.app_context(), around or nullcontext():
            for receiver in receivers:
                label = _label(receiver)
                call_receiver(app, receiver, event=event, postal=postal)
    except RejectMail as rejection:
        if isinstance(event, InboundEvent):
            _log.info(
                "receiver %s rejected mail %s: %s",
                label,
                event.id,
                ascii(rejection.reason),
            )
            return Called(
                Dispatched.BOUNCED if rejection.bounce else Dispatched.DROPPED
            )
        _log.exception("receiver %s failed", label)
        return Called(Dispatched.FAILED, rejection)
    except BaseException as error:  # noqa: BLE001
        _log.exception("receiver %s failed", label)
        return Called(Dispatched.FAILED, error)
    took = _clock() - started
    if awaited and took > SLOW:
        _log.warning(
            "receiver %s took %.1f s; Postal waits for 5 s, and has two threads for"
            " all its mail and webhooks: put the work into a queue",
            label,
            took,
        )
    return Called(Dispatched.HANDLED)


def ends_process(error: BaseException) -> bool:
    """Tell whether what a receiver raised must be raised again.

    A cancelled async receiver is an ordinary failure, although CancelledError isn't an
    Exception.
    """
    return not isinstance(error, (Exception, asyncio.CancelledError))


def worst(outcomes: list[Dispatched]) -> Dispatched:
    """Return the outcome that decides the response.

    A failure comes first, because Postal must retry it. Of two rejections the one that
    bounces wins, because the author learns of it.
    """
    order = (Dispatched.FAILED, Dispatched.BOUNCED, Dispatched.DROPPED)
    return next((o for o in order if o in outcomes), Dispatched.HANDLED)


def _label(receiver: Any) -> str:
    return receiver_name(receiver) or f"an unnamed {type(receiver).__name__}"
