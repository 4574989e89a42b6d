"""Handles a verified request: parses it, and calls the receivers of its event.

Needs no request context, so queues and replays can use it in another process.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

from flask import Flask

from ..errors import PayloadError
from .dispatch import Dispatched, Event, dispatch
from .events import InboundEvent, UnsubscribeEvent
from .inbound import parse_inbound
from .reports import reported
from .state import WebhookState
from .tracking import parse_tracking
from .unsubscribe import parse_unsubscribed
from .verify import VerifiedRequest

__all__ = ["Handler", "handle", "parse"]

#: Takes the place of :func:`.dispatch`, for a layer above that stores requests.
Handler = Callable[[Flask, VerifiedRequest, Event], Dispatched]


def parse(verified: VerifiedRequest) -> Event:
    """Parse a verified request into the event that is passed to receivers.

    :param verified: The request. With the hook ``"report"`` its body is that of an
        inbound mail, and the event is what this mail reports; with ``"unsubscribe"`` it
        is what :func:`.unsubscribed_request` has written.
    :raises PayloadError: if the body can't be parsed. ``.misdirected`` is true if it
        belongs to the other webhook, that is, if the two URLs are swapped in Postal.
    """
    if verified.hook == "tracking":
        return parse_tracking(verified.body)
    if verified.hook == "unsubscribe":
        return parse_unsubscribed(verified.body)
    event = parse_inbound(verified.body, verified.media_type)
    if verified.hook == "inbound":
        return event
    report = reported(event)
    if report is None:
        raise PayloadError("the mail is no report")
    return report


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

    def call(event: Event, verified: VerifiedRequest) -> Dispatched:
        if handler is None:
            return dispatch(event, app, postal=postal, scope=scope, store=state.store)
        return handler(app, verified, event)

    told = Dispatched.NO_RECEIVER
    if isinstance(event, InboundEvent) and (report := reported(event)) is not None:
        told = call(report, replace(verified, hook="report"))
        if told in (Dispatched.FAILED, Dispatched.BUSY):
            return told
        if handler is not None:  # it has taken note, whoever else listens
            told = Dispatched.HANDLED
    outcome = call(event, verified)
    if outcome is Dispatched.NO_RECEIVER:
        if handler is not None and isinstance(event, UnsubscribeEvent):
            return Dispatched.HANDLED
        if told is Dispatched.HANDLED:
            return told
        state.note_unheard(type(event).__name__)
    return outcome
