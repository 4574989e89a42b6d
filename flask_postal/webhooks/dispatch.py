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
from typing import TYPE_CHECKING, Any

from blinker import Signal
from flask import Flask

from ..errors import RejectMail
from ..receivers import call_receiver, receiver_name
from ..signals import inbound_received, server_event_received, tracking_received
from .dedupe import Cache, CacheClaim
from .events import InboundEvent, ServerEvent, TrackingEvent

if TYPE_CHECKING:
    from ..extension import Postal

__all__ = ["Dispatched", "dispatch"]

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
    UNHEARD = 0  #: Nobody listens.


def signal_of(event: Event) -> Signal:
    """Return the signal that carries an event."""
    if isinstance(event, InboundEvent):
        return inbound_received
    return (
        server_event_received if isinstance(event, ServerEvent) else tracking_received
    )


def dispatch(
    postal: Postal, app: Flask, event: Event, cache: Cache | None = None
) -> Dispatched:
    """Call every receiver of an event that has not succeeded with it before.

    Each runs in an app context of its own, even if another raises. What is no
    ``Exception`` (``SystemExit``, ``gevent.Timeout``) is raised again after the last.

    :param postal: The extension, for the receivers.
    :param app: The sender of the signal.
    :param cache: Where deliveries are remembered; ``None`` handles every one.
    """
    receivers = list(signal_of(event).receivers_for(app))
    if not receivers:
        return Dispatched.UNHEARD
    if cache is None:
        return _call_all(receivers, app, None, event, postal)
    kind = type(event).__name__
    delivery = CacheClaim(cache, f"{postal.key}\0{kind}\0{event.dedupe_key}")
    if (status := delivery.handled()) is not None:
        return Dispatched(status)
    if not delivery.lease():
        return Dispatched.BUSY
    try:
        # Handled by another request between the two questions.
        if (status := delivery.handled()) is not None:
            return Dispatched(status)
        dispatched = _call_all(receivers, app, delivery, event, postal)
        if dispatched is not Dispatched.FAILED:
            delivery.done(dispatched.value)
    finally:
        delivery.release()
    return dispatched


def _call_all(
    receivers: list[Callable[..., Any]],
    app: Flask,
    delivery: CacheClaim | None,
    event: Event,
    postal: Postal,
) -> Dispatched:
    interrupts: list[BaseException] = []
    outcome = _call_groups(receivers, app, delivery, event, postal, interrupts)
    if interrupts:
        raise interrupts[0]
    return outcome


def _call_groups(
    receivers: list[Callable[..., Any]],
    app: Flask,
    delivery: CacheClaim | None,
    event: Event,
    postal: Postal,
    interrupts: list[BaseException],
) -> Dispatched:
    """Call receivers; those that share a name share a mark."""
    if delivery is None and len(receivers) == 1:
        return _call(receivers[0], app, event, postal, interrupts)
    by_name: dict[str | None, list[Callable[..., Any]]] = defaultdict(list)
    for receiver in receivers:
        by_name[receiver_name(receiver)].append(receiver)
    outcomes = []
    for name, group in by_name.items():
        marked = delivery if name is not None else None
        earlier = None if marked is None else marked.has_done(str(name))
        if earlier is not None:
            outcomes.append(Dispatched(earlier))
            continue
        outcome = _worst([_call(r, app, event, postal, interrupts) for r in group])
        # With a single receiver the delivery's own mark says all.
        if marked is not None and len(receivers) > 1 and outcome != Dispatched.FAILED:
            marked.mark(str(name), outcome.value)
        outcomes.append(outcome)
    return _worst(outcomes)


def _worst(outcomes: list[Dispatched]) -> Dispatched:
    """What the answer must say: an error before a rejection before success; between
    two rejections, the one that tells the author."""
    order = (Dispatched.FAILED, Dispatched.BOUNCED, Dispatched.DROPPED)
    return next((o for o in order if o in outcomes), Dispatched.HANDLED)


def _call(
    receiver: Any,
    app: Flask,
    event: Event,
    postal: Postal,
    interrupts: list[BaseException],
) -> Dispatched:
    started = _clock()
    try:
        with app.app_context():
            call_receiver(app, receiver, event=event, postal=postal)
    except RejectMail as rejection:
        if isinstance(event, InboundEvent):
            _log.info(
                "receiver %s rejected mail %s: %s",
                _label(receiver),
                event.id,
                ascii(rejection.reason),
            )
            return Dispatched.BOUNCED if rejection.bounce else Dispatched.DROPPED
        _log.exception("receiver %s failed", _label(receiver))
        return Dispatched.FAILED
    except BaseException as error:  # noqa: BLE001
        # Whatever it raises, it has not done its work: Postal comes again. What would
        # end the request, or the process, waits until the others have run. A cancelled
        # async receiver counts as an ordinary failure: it must not end the request.
        _log.exception("receiver %s failed", _label(receiver))
        if not isinstance(error, (Exception, asyncio.CancelledError)):
            interrupts.append(error)
        return Dispatched.FAILED
    took = _clock() - started
    if took > SLOW:
        _log.warning(
            "receiver %s took %.1f s; Postal gives 5, and has two threads for all its"
            " mail and webhooks: put the work into a queue",
            _label(receiver),
            took,
        )
    return Dispatched.HANDLED


def _label(receiver: Any) -> str:
    return receiver_name(receiver) or f"a nameless {type(receiver).__name__}"
