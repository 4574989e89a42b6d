"""Keeps whatever else is in an app from answering Postal in the place of our views.

A login page, a CSRF check, a rate limiter or a friendly error page would lose mail: to
Postal a redirect or a 400 is a failure for good, and a 200 a delivery. The net is a
WSGI middleware. It sends the view's response after the after_request functions, the
session and the teardown functions have run, so none of them can change it. Middleware
that the app puts around it later is out of its reach.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from itertools import chain
from typing import Any

from flask import has_request_context, request
from werkzeug.wsgi import ClosingIterator

from .responses import SAVED_RESPONSES, SavedResponse, log_and_answer

__all__ = ["ResponseGuard"]

_log = logging.getLogger("flask_postal.webhooks")

WSGI = Callable[[dict[str, Any], Callable[..., Any]], Iterable[bytes]]


class ResponseGuard:
    """A WSGI middleware that answers our two endpoints with what our view made.

    :param wsgi_app: The app.
    :param endpoints: Our endpoints.
    :param paths: Where they are, without a slash at the end: for requests that the app
        answers before it looks for an endpoint.
    """

    def __init__(self, wsgi_app: WSGI, endpoints: set[str], paths: set[str]) -> None:
        self._wsgi_app = wsgi_app
        self._endpoints = endpoints
        self._paths = paths

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Pass a request on, and look at the answer if the request is ours."""
        started = False
        # A list, which a middleware that copies the environment passes on.
        made_here: list[SavedResponse] = environ.setdefault(SAVED_RESPONSES, [])

        def start(status: str, headers: Any, exc_info: Any = None) -> Any:
            nonlocal started
            started = True
            if not made_here:
                if not self._is_ours(environ):
                    return start_response(status, headers, exc_info)
                made_here.append(_refuse(environ, status))
            elif not status.startswith(str(made_here[-1].status)):
                _log.error(
                    "%s: the app made HTTP %s of our %d; ours is sent",
                    ascii(environ.get("PATH_INFO")),
                    ascii(status),
                    made_here[-1].status,
                )
            return _discard

        iterable: Iterable[bytes] = ()
        try:
            iterable = self._wsgi_app(environ, start)
            if not started:  # a generator, which begins with its first piece
                pieces = iter(iterable)
                whole = chain([next(pieces, b"")], pieces)
                iterable = ClosingIterator(whole, getattr(iterable, "close", None))
        except Exception:
            # After the view: a teardown_request function, in most cases.
            if not made_here:
                raise
            _log.exception(
                "%s: the app raised after our answer was made; ours is sent",
                ascii(environ.get("PATH_INFO")),
            )
        if not made_here:
            return iterable
        made = made_here[-1]
        _close(iterable)
        start_response(made.line, made.headers)
        return () if environ["REQUEST_METHOD"] == "HEAD" else made.content

    def _is_ours(self, environ: dict[str, Any]) -> bool:
        endpoint = request.endpoint if has_request_context() else None
        if endpoint is not None:
            return endpoint in self._endpoints
        return environ.get("PATH_INFO", "").rstrip("/") in self._paths


def _close(iterable: Iterable[bytes]) -> None:
    """End the app's own answer, which nobody reads."""
    close = getattr(iterable, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception:  # noqa: BLE001 - whatever the app does there
        _log.exception("a function that the app runs at the end of a request failed")


def _discard(data: bytes) -> None:
    """Take what an app writes by WSGI's old ``write()``."""


def _refuse(environ: dict[str, Any], status: str) -> SavedResponse:
    """Make 503 where something else answered."""
    cause = "a WSGI middleware of the app"
    if has_request_context():
        cause = "a before_request function or an error handler of the app"
        if request.routing_exception is not None:
            cause = type(request.routing_exception).__name__
    response = log_and_answer(
        503,
        "not answered by Flask-Postal",
        f"HTTP {status[:3]!a} came from {cause}, and not from our view; exempt the"
        " webhooks from it",
        logging.ERROR,
        where=str(environ.get("PATH_INFO")),
    )
    return SavedResponse(response)
