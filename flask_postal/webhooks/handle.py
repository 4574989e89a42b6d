"""Handles a verified request: parses it, and calls the receivers of its event.

Needs no request context, so queues and replays can use it in another process.
"""

from __future__ import annotations

from collections.abc import Callable

from flask import Flask

from .dispatch import Dispatched, Event, dispatch
from .inbound import parse_inbound
from .state import WebhookState
from .tracking import parse_tracking
from .verify import VerifiedRequest

__all__ = ["Handler", "handle", "parse"]

#: Takes the place of :func:`.dispatch`, for a layer above that stores requests.
Handler = Callable[[Flask, VerifiedRequest, Event], Dispatched]


def parse(verified: VerifiedRequest) -> Event:
    """Parse a verified request into the event that is passed to receivers.

    :param verified: The request.
    :raises PayloadError: if the body can't be parsed. ``.misdirected`` is true if it
        belongs to the other webhook, that is, if the two URLs are swapped in Postal.
    """
    if verified.hook == "inbound":
        return parse_inbound(verified.body, verified.media_type)
    return parse_tracking(verified.body)


def handle(
    event: Event,
    verified: VerifiedRequest,
    app: Flask,
    state: WebhookState,
    *,
    postal: object,
    scope: str,
    handler: Handler | None,
) -> Dispatched:
    """Call every receiver of an event that has not handled it before.

    :param event: What :func:`parse` has returned for the request.
    :param verified: The request.
    :param app: The sender of the signal.
    :param state: The app's webhook state; its store remembers what has been handled.
    :param postal: The extension, which is passed to receivers as ``postal``.
    :param scope: The extension key, which is part of the deduplication key.
    :param handler: Calls the receivers in place of :func:`.dispatch`. If it raises, the
        request has failed, and Postal sends it again.
    """
    if handler is None:
        outcome = dispatch(event, app, postal=postal, scope=scope, store=state.store)
    else:
        outcome = handler(app, verified, event)
    if outcome is Dispatched.NO_RECEIVER:
        state.note_unheard(type(event).__name__)
    return outcome
