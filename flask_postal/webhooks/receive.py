"""The webhooks of one app: verify a request, handle it, and answer Postal.

:class:`Webhooks` is what ``postal.webhooks`` returns. Its two steps can be used apart:
store or queue what :meth:`Webhooks.verify` returns, and pass it to
:meth:`Webhooks.handle` later.
"""

from __future__ import annotations

import logging

from flask import Flask, Request, Response, current_app

from ..errors import PayloadError, RequestRefused
from ..settings import Settings
from .dispatch import Dispatched
from .handle import handle
from .responses import (
    SAVED_RESPONSES,
    SavedResponse,
    answer,
    log_and_answer,
    new_reference,
)
from .state import WebhookState
from .verify import HOOKS, VerifiedRequest, verify

__all__ = ["Webhooks"]

_log = logging.getLogger("flask_postal.webhooks")

#: How Postal is answered; the statuses are explained in :mod:`.verify`.
_TEXTS = {
    Dispatched.HANDLED: "ok",
    Dispatched.BOUNCED: "rejected",
    Dispatched.DROPPED: "rejected",
    Dispatched.FAILED: "a receiver failed",
    Dispatched.BUSY: "being handled right now",
}


class Webhooks(WebhookState):
    """Receives the webhooks of one app from one Postal server.

    :param scope: The extension key: it separates the requests of several Postals.
    :param postal: The extension, which receivers get as ``postal``.
    :raises ConfigurationError: for a key or a cache that can't be used.
    """

    def __init__(self, settings: Settings, *, scope: str, postal: object) -> None:
        super().__init__(settings)
        self._scope = scope
        self._postal = postal

    def verify(self, request: Request, hook: str) -> VerifiedRequest:
        """Check that a request comes from our Postal; nothing is parsed.

        :param request: The request; pass the object itself
            (``request._get_current_object()``) to save the look-ups of the proxy.
        :param hook: ``"tracking"`` or ``"inbound"``.
        :raises RequestRefused: if it does not; ``.status`` is the status to answer
            with.
        """
        return verify(request, HOOKS[hook], self)

    def handle(self, verified: VerifiedRequest, app: Flask | None = None) -> Dispatched:
        """Parse a verified request, and call the receivers of its event.

        :param app: The app whose receivers are called; the current one if not given.
        :returns: What became of it. With :attr:`.Dispatched.FAILED` and
            :attr:`.Dispatched.BUSY` it must be handled again later.
        :raises PayloadError: if it can't be parsed.
        """
        if app is None:
            app = current_app._get_current_object()  # type: ignore[attr-defined]
        return handle(verified, app, self, postal=self._postal, scope=self._scope)

    def receive(self, app: Flask, request: Request, hook: str) -> Response:
        """Verify a request, handle it, and return the response to Postal."""
        try:
            verified = self.verify(request, hook)
            response = _respond(hook, self._handled(app, verified))
        except RequestRefused as refusal:
            response = _refuse(refusal)
        except Exception:  # noqa: BLE001
            # Postal must retry, and no error page of the app may answer in our place.
            reference = new_reference()
            _log.exception("%s: unexpected error [%s]", request.endpoint, reference)
            response = answer(500, f"unexpected error [{reference}]")
        request.environ.setdefault(SAVED_RESPONSES, []).append(SavedResponse(response))
        return response

    def _handled(self, app: Flask, verified: VerifiedRequest) -> Dispatched:
        try:
            return self.handle(verified, app)
        except PayloadError as error:
            status = HOOKS[verified.hook].malformed
            reason = f"the request is signed, and can't be understood: {error}"
            if error.misdirected:
                status = 503
                reason = (
                    "this is the other webhook's request; swap the two URLs in Postal"
                )
        raise RequestRefused(status, "not understood", reason, level=logging.ERROR)


def _respond(hook: str, outcome: Dispatched) -> Response:
    if outcome is not Dispatched.NO_RECEIVER:
        return answer(outcome.value, _TEXTS[outcome])
    if hook == "inbound":
        return answer(503, "no receiver for inbound mail")
    return answer(200, "ok, nobody listens")


def _refuse(refusal: RequestRefused) -> Response:
    response = log_and_answer(
        refusal.status, refusal.text, refusal.reason, refusal.level
    )
    if refusal.status == 405:
        response.headers["Allow"] = "POST"
    elif refusal.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="Postal"'
    return response
