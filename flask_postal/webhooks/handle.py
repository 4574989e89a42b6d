"""Handles a verified request: parses it, and calls the receivers of its event.

Needs no request context, so a queue or a replay can do it later and elsewhere.
"""

from __future__ import annotations

from flask import Flask

from .dispatch import Dispatched, Event, dispatch
from .inbound import parse_inbound
from .state import WebhookState
from .tracking import parse_tracking
from .verify import VerifiedRequest

__all__ = ["handle", "parse"]


def parse(verified: VerifiedRequest) -> Event:
    """Parse a request into the event that receivers get.

    :raises PayloadError: if it is no event of Postal's; ``.misdirected`` if it belongs
        to the other webhook.
    """
    if verified.hook == "inbound":
        return parse_inbound(verified.body, verified.media_type)
    return parse_tracking(verified.body)


def handle(
    verified: VerifiedRequest,
    app: Flask,
    state: WebhookState,
    *,
    postal: object,
    scope: str,
) -> Dispatched:
    """Parse a request and call every receiver that has not handled it before.

    :param app: The sender of the signal.
    :param state: Its store remembers what has been handled.
    :param postal: The extension, which receivers get as ``postal``.
    :param scope: Keeps the requests of several Postals apart in the store: the
        extension key.
    :raises PayloadError: as :func:`parse`.
    """
    event = parse(verified)
    outcome = dispatch(event, app, postal=postal, scope=scope, store=state.store)
    if outcome is Dispatched.NO_RECEIVER:
        state.note_unheard(type(event).__name__)
    return outcome
