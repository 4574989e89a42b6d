"""The webhooks of one app: verify a request, handle it, and respond to Postal.

:class:`Webhooks` is what ``postal.webhooks`` returns. Its two steps can be used
separately: store or queue what :meth:`Webhooks.verify` returns, and pass it to
:meth:`Webhooks.handle` later.
"""

from __future__ import annotations

import logging
import time

from flask import Flask, Request, Response, current_app

from ..errors import PayloadError, RequestRefused
from ..settings import Settings
from .answers import REASONS, AnswerReason, announce_answer, reason_of_refusal
from .dispatch import Dispatched, Event
from .handle import Handler, handle, parse
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

#: The text of the response for each outcome. :mod:`.verify` explains the statuses.
_TEXTS = {
    Dispatched.HANDLED: "ok",
    Dispatched.BOUNCED: "rejected",
    Dispatched.DROPPED: "rejected",
    Dispatched.FAILED: "a receiver failed",
    Dispatched.BUSY: "already being handled",
}


class Webhooks(WebhookState):
    """Receives the requests of one Postal server for one app.

    :param settings: The settings of the app.
    :param scope: The extension key. It is part of each deduplication key, so that apps
        with several Postal servers don't confuse their events.
    :param postal: The extension, which is passed to receivers as ``postal``.
    :param handler: See :func:`.handle`.
    :raises ConfigurationError: if a key or the dedupe cache can't be used.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        scope: str,
        postal: object,
        handler: Handler | None = None,
    ) -> None:
        super().__init__(settings)
        self._scope = scope
        self._postal = postal
        self._handler = handler

    def verify(self, request: Request, hook: str) -> VerifiedRequest:
        """Check that a request was signed by the app's Postal server.

        The body is not parsed, so nothing from an unknown sender reaches a parser.

        :param request: The request. Passing the object itself
            (``request._get_current_object()``) instead of the proxy is faster.
        :param hook: The name of the webhook: ``"tracking"`` or ``"inbound"``.
        :returns: The body and what is needed to handle it, as plain data.
        :raises RequestRefused: if a check fails; ``.status`` is the HTTP status to
            respond with.
        """
        return verify(request, HOOKS[hook], self)

    def handle(self, verified: VerifiedRequest, app: Flask | None = None) -> Dispatched:
        """Parse a verified request, and call the receivers of its event.

        :param verified: What :meth:`verify` returned, now or earlier.
        :param app: The app whose receivers are called; by default the current app.
        :returns: The outcome. After :attr:`.Dispatched.FAILED` and
            :attr:`.Dispatched.BUSY` the request must be handled again later.
        :raises PayloadError: if the body can't be parsed.
        """
        if app is None:
            app = current_app._get_current_object()  # type: ignore[attr-defined]
        return self._handle(parse(verified), verified, app)

    def receive(self, app: Flask, request: Request, hook: str) -> Response:
        """Verify and handle a request, and return the response to Postal.

        Refusals and unexpected errors become responses too. The response is also
        appended to the WSGI environment, where the :class:`.ResponseGuard` finds it
        after the app's own code has run.
        """
        began, event = time.perf_counter(), None

        def announce(status: int, reason: AnswerReason) -> None:
            announce_answer(
                app,
                hook,
                status,
                reason,
                event,
                seconds=time.perf_counter() - began,
                postal=self._postal,
            )

        try:
            verified = self.verify(request, hook)
            event = _parsed(verified)
            outcome = self._handle(event, verified, app)
            response, reason = _respond(hook, outcome), REASONS[outcome]
        except RequestRefused as refusal:
            response, reason = _refuse(refusal), reason_of_refusal(refusal)
        except Exception:  # noqa: BLE001
            # A 500 makes Postal retry. Letting the exception through would call the
            # app's error handlers, and a friendly error page with status 200 would tell
            # Postal that the mail has been delivered.
            reference = new_reference()
            _log.exception("%s: unexpected error [%s]", request.endpoint, reference)
            response = answer(500, f"unexpected error [{reference}]")
            reason = AnswerReason.ERROR
        except BaseException:
            # A receiver ends the process, or gevent its greenlet: the server answers.
            announce(500, AnswerReason.FAILED)
            raise
        request.environ.setdefault(SAVED_RESPONSES, []).append(SavedResponse(response))
        announce(response.status_code, reason)
        return response

    def _handle(
        self, event: Event, verified: VerifiedRequest, app: Flask
    ) -> Dispatched:
        return handle(
            event,
            verified,
            app,
            self,
            postal=self._postal,
            scope=self._scope,
            handler=self._handler,
        )


def _parsed(verified: VerifiedRequest) -> Event:
    try:
        return parse(verified)
    except PayloadError as error:
        status = HOOKS[verified.hook].malformed
        reason = f"the signature is valid, but the body can't be parsed: {error}"
        if error.misdirected:
            status = 503
            reason = "this is the other webhook's request; swap the two URLs in Postal"
    raise RequestRefused(status, "can't be parsed", reason, level=logging.ERROR)


def _respond(hook: str, outcome: Dispatched) -> Response:
    if outcome is not Dispatched.NO_RECEIVER:
        return answer(outcome.value, _TEXTS[outcome])
    if hook == "inbound":
        return answer(503, "no receiver for inbound mail")
    return answer(200, "ok, no receiver")


def _refuse(refusal: RequestRefused) -> Response:
    response = log_and_answer(
        refusal.status, refusal.text, refusal.reason, refusal.level
    )
    if refusal.status == 405:
        response.headers["Allow"] = "POST"
    elif refusal.status == 401:
        response.headers["WWW-Authenticate"] = 'Basic realm="Postal"'
    return response
