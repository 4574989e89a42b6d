"""Posts webhooks to the app, evaluates its responses, and retries as Postal does."""

from __future__ import annotations

import base64
import logging
from collections.abc import Callable, Mapping
from typing import Any
from urllib.parse import urlsplit

from .clock import Clock
from .faults import Fault, Faults
from .mailbox import describe_mail
from .records import Attempt, Mail, WebhookRequest
from .scenarios import scenario_for
from .schedule import Schedule
from .signing_key import SigningKey
from .store import Store
from .verdicts import Verdict, judge_inbound, judge_tracking
from .webhook_bodies import foreign_payload, webhook
from .webhook_client import Target, WebhookResponse, call_url, check_target

__all__ = ["WebhookSender"]

_log = logging.getLogger("flask_postal.sandbox")

_JSON = "application/json"
#: Seconds by which a fault delays a webhook.
_DELAYS = {Fault.LATE: 20 * 60.0, Fault.REORDER: 5.0}
_SENT_ELSEWHERE = {
    "status": "Sent",
    "details": "Message accepted by another tenant's recipient",
    "output": "250 OK",
    "sent_with_ssl": False,
    "time": 0.05,
}


class WebhookSender:
    """Sends the webhooks of one sandbox.

    :param key: The key to sign requests with.
    :param secret: ``user:password`` for basic auth, unless the URL contains them.
    :param changed: Called after each change that the sandbox's page shows.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        schedule: Schedule,
        *,
        key: SigningKey,
        secret: str,
        changed: Callable[[], None],
    ) -> None:
        self.key = key
        self.faults: Faults = Faults()
        #: ``"tracking"`` or ``"inbound"`` -> the app's URL, or ``None``.
        self.urls: dict[str, str | None] = {"tracking": None, "inbound": None}
        #: Delivers a request to the app: over HTTP, or within this process.
        self.target: Target = call_url
        #: Called after each attempt to post an incoming mail.
        self.inbound_answered: Callable[[Mail, Attempt, Verdict], None] | None = None
        self._store = store
        self._clock = clock
        self._schedule = schedule
        self._secret = secret
        self._changed = changed
        schedule.register("post", self._post_planned)

    def report(
        self, event: str, payload: Mapping[str, Any], mail: Mail
    ) -> WebhookRequest | None:
        """Plan the webhook of an event about a message, and apply an active fault.

        :param event: Postal's name of the event.
        :returns: The request, or ``None`` if no tracking URL is set.
        """
        if self.urls["tracking"] is None:
            self._changed()
            return None
        fault = self.faults.take(api=False)
        if fault is None and mail.direction == "outgoing":
            fault = scenario_for(mail.recipient).webhooks
        now = self._clock.now()
        foreign = fault is Fault.FOREIGN
        body = webhook(event, foreign_payload(payload) if foreign else payload, now)
        request = self._add(
            "tracking",
            event,
            _JSON,
            body,
            mail=mail,
            secret=not foreign,
            state="dropped" if fault is Fault.DROP else "pending",
        )
        if fault is not None:
            _log.info("fault %s applies to %s", fault, event)
        if fault is not Fault.DROP:
            due = now + (_DELAYS.get(fault, 0.0) if fault is not None else 0.0)
            for _ in range(2 if fault is Fault.DUPLICATE else 1):
                self._schedule.plan(due, "post", request=request.id)
        self._changed()
        return request

    def post(
        self,
        hook: str,
        event: str,
        media_type: str,
        body: bytes,
        mail: Mail | None = None,
    ) -> WebhookRequest:
        """Post a body to the app now.

        :param hook: ``"tracking"`` or ``"inbound"``.
        :param event: Postal's name of the event, or the format of inbound mail.
        :param media_type: The Content-Type of the body.
        :param mail: The message that the request is about, if any.
        :returns: The request, with the app's response.
        """
        return self.retry(self._add(hook, event, media_type, body, mail=mail))

    def post_foreign(self, mail: Mail) -> WebhookRequest:
        """Post an event of another tenant of the same Postal installation now.

        It has a valid signature but not this mail server's secret.
        """
        payload = foreign_payload({"message": describe_mail(mail), **_SENT_ELSEWHERE})
        body = webhook("MessageSent", payload, self._clock.now())
        request = self._add("tracking", "MessageSent", _JSON, body, secret=False)
        return self.retry(request)

    def retry(self, request: WebhookRequest) -> WebhookRequest:
        """Make one attempt now, and plan the next one if Postal would retry."""
        # Postal stores the URL of a webhook with each event, but looks up the URL of an
        # endpoint for inbound mail at each attempt.
        url = request.url or self.urls[request.hook]
        response = self._call(url, request)
        judge = judge_tracking if request.hook == "tracking" else judge_inbound
        verdict = judge(response.status, len(request.attempts) + 1)
        attempt = Attempt(
            self._clock.now(),
            _without_password(url or ""),
            response.status,
            response.text,
            verdict.text,
        )
        self._store.add_attempt(request.id, verdict.state, attempt)
        _log_attempt(request, verdict)
        if verdict.again_in is not None and url is not None:
            due = self._clock.now() + verdict.again_in
            self._schedule.plan(due, "post", request=request.id)
        mail = None if request.mail_id is None else self._store.mail(request.mail_id)
        if request.hook == "inbound" and mail is not None and self.inbound_answered:
            self.inbound_answered(mail, attempt, verdict)
        self._changed()
        return self._store.request(request.id) or request

    def _call(self, url: str | None, request: WebhookRequest) -> WebhookResponse:
        if url is None:
            return WebhookResponse(-2, f"no {request.hook} URL is set up")
        headers = {
            "Content-Type": request.content_type,
            **self.key.headers(request.body),
        }
        if request.secret and urlsplit(url).username is None:
            pair = base64.b64encode(self._secret.encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        try:
            return self.target(check_target(url), request.body, headers)
        except Exception as error:  # noqa: BLE001
            # The target may be an app in this process or a function of a test. If it
            # raises, a real Postal would have got no response.
            _log.exception("the webhook at %s failed", _without_password(url))
            return WebhookResponse(-2, f"{type(error).__name__}: {error}"[:250])

    def _add(
        self,
        hook: str,
        event: str,
        media_type: str,
        body: bytes,
        *,
        mail: Mail | None = None,
        secret: bool = True,
        state: str = "pending",
    ) -> WebhookRequest:
        return self._store.add_request(
            mail_id=None if mail is None else mail.id,
            hook=hook,
            event=event,
            content_type=media_type,
            body=body,
            created=self._clock.now(),
            state=state,
            secret=secret,
            url=self.urls[hook] if hook == "tracking" else None,
        )

    def _post_planned(self, request: int) -> None:
        found = self._store.request(request)
        if found is not None:
            self.retry(found)


def _log_attempt(request: WebhookRequest, verdict: Verdict) -> None:
    to = request.recipient
    _log.info(
        "%s%s%s%s -> %s",
        f"message {request.mail_id}, " if request.mail_id is not None else "",
        request.event,
        f" to {to!a}" if to else "",
        "" if request.secret else " (of another tenant)",
        verdict.text,
    )


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
