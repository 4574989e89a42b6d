"""HTTP in, status out: the two views and the order of their checks.

What the statuses mean to Postal is in the docs, "Webhooks"; in short: a tracking event
that is not answered with 2xx comes again, six times at most; inbound mail comes again
only after a 5xx, and anything else sends it back to its author.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from typing import TYPE_CHECKING

from flask import Blueprint, Response, current_app, request

from ..errors import PayloadError, SignatureError
from ..signals import inbound_received, tracking_received
from .dispatch import dispatch
from .inbound import parse_inbound
from .signature import KID_HEADER, SHA1_HEADER, SHA256_HEADER, verify
from .tracking import parse_tracking

if TYPE_CHECKING:
    from blinker import Signal

    from ..extension import Postal
    from .events import InboundEvent, TrackingEvent

__all__ = ["create_blueprint"]

_log = logging.getLogger("flask_postal.webhooks")


def create_blueprint(postal: Postal, name: str, url_prefix: str) -> Blueprint:
    """Make the blueprint with ``/tracking/`` and ``/inbound/``."""
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    def tracking() -> Response:
        return _receive(postal, tracking_received, parse_tracking, refused=400)

    def inbound() -> Response:
        return _receive(postal, inbound_received, parse_inbound, refused=503)

    # Both forms are rules: to Postal, a redirect that adds a slash is a failure.
    for view in (tracking, inbound):
        for rule in (f"/{view.__name__}/", f"/{view.__name__}"):
            blueprint.add_url_rule(
                rule, view.__name__, view, methods=["POST"], strict_slashes=True
            )
    return blueprint


def _receive(
    postal: Postal,
    signal: Signal,
    parse: Callable[[bytes], TrackingEvent | InboundEvent],
    *,
    refused: int,
) -> Response:
    """Check a request and hand its event to the receivers.

    :param refused: The status for a body that is signed and can't be understood.
        Inbound mail must come again then, until somebody has read the log.
    """
    headers = request.headers
    if SHA256_HEADER not in headers and SHA1_HEADER not in headers:
        return _answer(403, "no Postal signature")
    keys = postal.webhook_keys
    kid = headers.get(KID_HEADER)
    if not keys or (kid is not None and all(kid != key.kid for key in keys)):
        _log.error(
            "%s: no key to check a request with; set %sWEBHOOK_KEY",
            request.endpoint,
            postal.settings.prefix,
        )
        return _answer(503, "no key for this signature")
    body = request.get_data()
    try:
        verify(body, headers, keys)
    except SignatureError as error:
        _log.warning("%s: %s", request.endpoint, error)
        return _answer(403 if refused == 400 else 503, "wrong signature")
    try:
        event = parse(body)
    except PayloadError as error:
        _log.error("%s: signed, and not understood: %s", request.endpoint, error)
        return _answer(refused, "not understood")
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    if not dispatch(signal, app, event=event, postal=postal):
        return _answer(500, "a receiver failed")
    return _answer(200, "ok")


def _answer(status: int, text: str) -> Response:
    """Answer in short ASCII: Postal stores it, and chokes on more than 64 kB."""
    return Response(text, status, mimetype="text/plain")
