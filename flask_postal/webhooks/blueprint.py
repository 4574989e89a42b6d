"""The routes of the webhooks, and what keeps the app from answering in their place.

What happens to a request is in :mod:`.reception`, which is imported with the first one:
it needs cryptography, and an app should not wait for that at its start.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Request, Response, request
from flask.signals import request_started

from .answer import MADE, Made, log_and_answer

if TYPE_CHECKING:
    from ..extension import Postal

__all__ = ["create_blueprint"]

_log = logging.getLogger("flask_postal.webhooks")

#: Every method, so that ours is the answer to each.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def create_blueprint(postal: Postal, name: str, url_prefix: str) -> Blueprint:
    """Make the blueprint with ``/tracking/`` and ``/inbound/``."""
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    def tracking() -> Response:
        reception = _reception()
        response: Response = reception.receive(postal, reception.TRACKING)
        return response

    def inbound() -> Response:
        reception = _reception()
        response: Response = reception.receive(postal, reception.INBOUND)
        return response

    # Both forms are rules: to Postal, a redirect that adds a slash is a failure.
    for view in (tracking, inbound):
        for rule in (f"/{view.__name__}/", f"/{view.__name__}"):
            blueprint.add_url_rule(
                rule,
                view.__name__,
                view,
                methods=_METHODS,
                strict_slashes=True,
                provide_automatic_options=False,
            )
    blueprint.record(
        lambda state: _guard(
            state.app,
            f"{state.name_prefix}.{state.name}".lstrip("."),  # in another blueprint
            (state.url_prefix or "").rstrip("/"),
            tracking,
        )
    )
    return blueprint


@cache
def _reception() -> Any:
    from . import reception

    return reception


def _guard(app: Any, name: str, url_prefix: str, view: Callable[[], Response]) -> None:
    """Keep the app's own checks from answering Postal in our place."""
    endpoints = {f"{name}.tracking", f"{name}.inbound"}
    paths = {f"{url_prefix}/{hook}" for hook in ("tracking", "inbound")}

    def exempt_from_csrf(sender: Flask, **extra: Any) -> None:
        """Runs before the first request, when CSRFProtect is there if ever."""
        csrf: Any = sender.extensions.get("csrf")
        if hasattr(csrf, "exempt"):
            for function in ("tracking", "inbound"):
                csrf.exempt(f"{view.__module__}.{function}")
        request_started.disconnect(exempt_from_csrf, sender=sender)

    request_started.connect(exempt_from_csrf, sender=app, weak=False)

    process = app.process_response

    def net(response: Response) -> Response:
        """Run the app's after_request functions, and let none of them answer."""
        # The proxy costs a look-up each time.
        req: Request = request._get_current_object()  # type: ignore[attr-defined]
        ours = req.endpoint in endpoints or (
            req.endpoint is None and req.path.rstrip("/") in paths
        )
        if not ours:
            return process(response)  # type: ignore[no-any-return]
        try:
            response = process(response)
        except Exception:  # noqa: BLE001
            # Flask would answer with the app's error page, whatever its status.
            _log.exception("an after_request function of the app failed")
        made: Made | None = req.environ.get(MADE)
        if made is not None and made.is_as_it_was(response):
            return response
        return _keep(response, made)

    # Around the functions and the session, not among them: one that raises would
    # keep those before it from running, and cookies are set after the last.
    app.process_response = net


def _keep(response: Response, made: Made | None) -> Response:
    """Return the answer our view made, or 503 where something else answered."""
    # None, if a function forgot to return it.
    status = getattr(response, "status_code", None)
    if made is None:
        cause = type(request.routing_exception).__name__
        if request.routing_exception is None:
            cause = "a before_request function or an error handler of the app"
        return log_and_answer(
            503,
            "not answered by Flask-Postal",
            f"HTTP {status} came from {cause}, and not from our view;"
            " exempt the webhooks from it",
            logging.ERROR,
        )
    if status != made.status:
        _log.error(
            "%s: an after_request function of the app made HTTP %s of our %d; ours is"
            " sent",
            request.path,
            status,
            made.status,
        )
    # Made anew: an encoding, a cookie or a Location may have been put into the other.
    return Response(made.content, made.status, made.headers)
