"""WSGI middleware that makes sure that Postal gets the response of the webhook views.

A login page, a CSRF check, a rate limiter or a friendly error page in place of that
response would lose mail: Postal takes a 200 for a delivery, bounces inbound mail after
a redirect or a 400, and drops it after a 429. If the view wasn't called, the response
is replaced by a 503, after which Postal retries; if it was, its own response is sent.

This is a middleware and not an ``after_request`` function, because Flask runs those in
the reverse order of their registration, so that one which the app has registered
earlier could still change the response, as could the session. A ``teardown_request``
function that raises would even turn a handled event into a 500. The middleware sends
the response after all of these have run. It has no control over middleware that the app
wraps around it later.
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
    """WSGI middleware that sends the webhook views' own responses, or a 503.

    Other requests pass through unchanged.

    :param wsgi_app: The WSGI app to wrap.
    :param endpoints: The endpoints of the webhook views.
    :param paths: The paths of the webhooks, without a trailing slash. They identify
        requests that get a response before an endpoint is known.
    """

    def __init__(self, wsgi_app: WSGI, endpoints: set[str], paths: set[str]) -> None:
        self._wsgi_app = wsgi_app
        self._endpoints = endpoints
        self._paths = paths

    def __call__(
        self, environ: dict[str, Any], start_response: Callable[..., Any]
    ) -> Iterable[bytes]:
        """Call the app, and replace its response if the request is for a webhook."""
        started = False
        # A list and not a value, because the app's middleware may copy the environment:
        # the copy then has the same list, to which the view appends.
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
                    "%s: the app changed the status to HTTP %s; the webhook's own"
                    " response, HTTP %d, is sent",
                    ascii(environ.get("PATH_INFO")),
                    ascii(status),
                    made_here[-1].status,
                )
            return _discard

        iterable: Iterable[bytes] = ()
        try:
            iterable = self._wsgi_app(environ, start)
            if not started:  # a generator calls start() with its first piece
                pieces = iter(iterable)
                whole = chain([next(pieces, b"")], pieces)
                iterable = ClosingIterator(whole, getattr(iterable, "close", None))
        except Exception:
            # The view is done, so this is a teardown_request function in most cases.
            if not made_here:
                raise
            _log.exception(
                "%s: the app raised after the webhook was handled; the webhook's own"
                " response is sent",
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
    """Close the app's response, which is discarded.

    Closing it runs what Flask does at the end of a request, which may raise.
    """
    close = getattr(iterable, "close", None)
    if close is None:
        return
    try:
        close()
    except Exception:  # noqa: BLE001 - whatever the app does there
        _log.exception("a function that the app runs at the end of a request failed")


def _discard(data: bytes) -> None:
    """Ignore data that is passed to the ``write()`` function of WSGI."""


def _refuse(environ: dict[str, Any], status: str) -> SavedResponse:
    """Make the 503 for a request whose response didn't come from the view."""
    cause = "a WSGI middleware of the app"
    if has_request_context():
        cause = "a before_request function or an error handler of the app"
        if request.routing_exception is not None:
            cause = type(request.routing_exception).__name__
    response = log_and_answer(
        503,
        "not answered by Flask-Postal",
        f"HTTP {status[:3]!a} came from {cause}, and not from the webhook's view;"
        " exempt the webhooks from it",
        logging.ERROR,
        where=str(environ.get("PATH_INFO")),
    )
    return SavedResponse(response)
