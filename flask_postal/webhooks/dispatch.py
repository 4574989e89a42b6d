"""Calls the receivers of an event.

Needs no request context, so that queues and replays can use :func:`dispatch` too.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import defaultdict
from collections.abc import Callable
from enum import Enum
from typing import Any

from blinker import Signal
from flask import Flask

from ..errors import RejectMail
from ..receivers import call_receiver, receiver_name
from ..signals import inbound_received, server_event_received, tracking_received
from .dedupe import Claim, DedupeStore
from .events import InboundEvent, ServerEvent, TrackingEvent

__all__ = ["Dispatched", "Event", "dispatch", "signal_of"]

_log = logging.getLogger("flask_postal.webhooks")

#: Seconds after which a receiver is warned about.
SLOW = 2.0
_clock = time.monotonic

Event = TrackingEvent | InboundEvent | ServerEvent


class Dispatched(Enum):
    """What became of an event."""

    HANDLED = 200
    BOUNCED = 406  #: A receiver raised RejectMail.
    DROPPED = 429  #: A receiver raised RejectMail with ``bounce=False``.
    FAILED = 500  #: A receiver raised something else.
    BUSY = 503  #: Another request is handling it right now.
    NO_RECEIVER = 0  #: Nobody listens.


def signal_of(event: Event) -> Signal:
    """Return the signal that carries an event."""
    if isinstance(event, InboundEvent):
        return inbound_received
    return (
        server_event_received if isinstance(event, ServerEvent) else tracking_received
    )


def dispatch(
    event: Event,
    app: Flask,
    *,
    postal: object,
    scope: str,
    store: DedupeStore | None = None,
) -> Dispatched:
    """Call every receiver of an event that has not handled it successfully before.

    Each runs in an app context of its own, even if another raises. What is not an
    ``Exception`` (``SystemExit``, ``gevent.Timeout``) is raised again after the last.

    :param app: The sender of the signal.
    :param postal: The extension, which receivers get as ``postal``.
    :param scope: Keeps the events of several Postals apart in the store: the extension
        key.
    :param store: Remembers what has been handled; ``None`` handles every event.
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
        # Another request may have handled it between the two questions.
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

    :ivar interrupts: What receivers raised that is not an ``Exception``.
    """

    def __init__(self, app: Flask, event: Event, postal: object) -> None:
        self._app = app
        self._event = event
        self._postal = postal
        self.interrupts: list[BaseException] = []

    def all_of(
        self, receivers: list[Callable[..., Any]], claim: Claim | None
    ) -> Dispatched:
        """Call receivers, and raise what would end the request after the last."""
        outcome = self._groups(receivers, claim)
        if self.interrupts:
            raise self.interrupts[0]
        return outcome

    def _groups(
        self, receivers: list[Callable[..., Any]], claim: Claim | None
    ) -> Dispatched:
        """Call receivers; those that share a name share a mark."""
        if claim is None and len(receivers) == 1:
            return self._one(receivers[0])
        by_name: dict[str | None, list[Callable[..., Any]]] = defaultdict(list)
        for receiver in receivers:
            by_name[receiver_name(receiver)].append(receiver)
        outcomes = []
        for name, group in by_name.items():
            marked = claim if name is not None else None
            earlier = None if marked is None else marked.has_done(str(name))
            if earlier is not None:
                outcomes.append(Dispatched(earlier))
                continue
            outcome = _worst([self._one(receiver) for receiver in group])
            # With a single receiver, that the event is done says all.
            if (
                marked is not None
                and len(receivers) > 1
                and outcome != Dispatched.FAILED
            ):
                marked.mark(str(name), outcome.value)
            outcomes.append(outcome)
        return _worst(outcomes)

    def _one(self, receiver: Any) -> Dispatched:
        started = _clock()
        try:
            with self._app.app_context():
                call_receiver(
                    self._app, receiver, event=self._event, postal=self._postal
                )
        except RejectMail as rejection:
            if isinstance(self._event, InboundEvent):
                _log.info(
                    "receiver %s rejected mail %s: %s",
                    _label(receiver),
                    self._event.id,
                    ascii(rejection.reason),
                )
                return Dispatched.BOUNCED if rejection.bounce else Dispatched.DROPPED
            _log.exception("receiver %s failed", _label(receiver))
            return Dispatched.FAILED
        except BaseException as error:  # noqa: BLE001
            # Whatever it raises, it has not done its work, so Postal must retry. What
            # would end the request or the process is raised after the other receivers.
            # A cancelled async receiver is an ordinary failure.
            _log.exception("receiver %s failed", _label(receiver))
            if not isinstance(error, (Exception, asyncio.CancelledError)):
                self.interrupts.append(error)
            return Dispatched.FAILED
        took = _clock() - started
        if took > SLOW:
            _log.warning(
                "receiver %s took %.1f s; Postal waits for 5 s, and has two threads for"
                " all its mail and webhooks: put the work into a queue",
                _label(receiver),
                took,
            )
        return Dispatched.HANDLED


def _worst(outcomes: list[Dispatched]) -> Dispatched:
    """What the answer must say: an error before a rejection before success; between
    two rejections, the one that tells the author."""
    order = (Dispatched.FAILED, Dispatched.BOUNCED, Dispatched.DROPPED)
    return next((o for o in order if o in outcomes), Dispatched.HANDLED)


def _label(receiver: Any) -> str:
    return receiver_name(receiver) or f"a nameless {type(receiver).__name__}"
