"""What the tests of an app need; :mod:`.pytest_plugin` has the same as fixtures.

``outbox`` records mails and lets none out, ``sandboxed`` sends them to a
:class:`.Sandbox`, and :class:`WebhookClient` posts signed requests to the app.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager, suppress
from email.message import EmailMessage
from email.policy import SMTP
from os import PathLike
from pathlib import Path
from typing import Any

from flask import Flask
from werkzeug.test import TestResponse

from .errors import ConfigurationError
from .extension import Postal
from .sandbox import ManualClock, Sandbox, SigningKey
from .sandbox.mail_reader import read_mail
from .sandbox.webhook_client import WebhookResponse, app_host, hook_urls
from .sending.message import Message
from .sending.result import RecipientStatus
from .signals import message_sent
from .vocabulary import EventType, find_event

__all__ = ["WebhookClient", "outbox", "sandboxed"]


@contextmanager
def outbox(app: Flask) -> Iterator[list[Message]]:
    """Record what an app sends through any of its Postals, and let nothing out.

    The list holds copies with nothing left to resolve, in the order of sending.
    """
    messages: list[Message] = []

    def record(app: Flask, message: Message, **extra: Any) -> None:
        messages.append(message.resolved())

    with ExitStack() as stack:
        for postal in _postals(app):
            key = f"{postal.key.upper()}_SUPPRESS_SEND"
            stack.enter_context(postal.reconfigured(app, **{key: True}))
        stack.enter_context(message_sent.connected_to(record, sender=app))
        yield messages


@contextmanager
def sandboxed(
    app: Flask, key: SigningKey | None = None, name: str | None = None
) -> Iterator[Sandbox]:
    """Have an app send to a sandbox, really and over HTTP, and get its webhooks.

    Time stands still: ``sandbox.advance(minutes=2)`` and ``sandbox.wait_for(...)`` move
    it. Webhooks are handed to the app in this process; what a receiver raises fails
    the test that waits for its event.

    :param key: The key to sign with; making one takes a tenth of a second.
    :param name: Which Postal, where the app has several.
    """
    postal = _postal(app, name)
    with Sandbox(key=key, clock=ManualClock()) as sandbox:
        settings = sandbox.settings(name)
        settings[f"{postal.key.upper()}_SUPPRESS_SEND"] = False
        with postal.reconfigured(app, **settings):
            # An app that only sends has no webhooks.
            with suppress(ConfigurationError):
                sandbox.deliver_to(app, postal.key)
            with _Failures().watching(sandbox):
                yield sandbox


class _Failures(logging.Handler):
    """Remembers what receivers raised, by the body of the request.

    The app answers 500 and logs it, as in production; a test that waits for the event
    should fail with the traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_body: dict[bytes, BaseException] = {}
        self._current = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Note what was raised for the request that this thread hands to the app."""
        error = record.exc_info[1] if record.exc_info else None
        body = getattr(self._current, "body", None)
        if error is not None and body is not None:
            self._by_body.setdefault(body, error)

    @contextmanager
    def watching(self, sandbox: Sandbox) -> Iterator[None]:
        """Have a sandbox raise what is remembered."""
        logger = logging.getLogger("flask_postal.webhooks")
        logger.addHandler(self)
        call = sandbox.target

        def watched(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
            self._current.body = body
            try:
                return call(url, body, headers)
            finally:
                self._current.body = None

        sandbox.call_with(watched)
        sandbox.failure_of = lambda request: self._by_body.get(request.body)
        try:
            yield
        finally:
            logger.removeHandler(self)


class WebhookClient:
    """Posts requests to an app's webhooks, signed as Postal signs them.

    Use it as a context manager: the app trusts its key inside the ``with`` block.

    :param key: The key to sign with; making one takes a tenth of a second.
    :param name: Which Postal, where the app has several.
    :raises ConfigurationError: if the app has no such Postal, or no webhooks.
    """

    def __init__(
        self, app: Flask, key: SigningKey | None = None, name: str | None = None
    ) -> None:
        self._app = app
        self._postal = _postal(app, name)
        self._sandbox = Sandbox(
            key=key or SigningKey.generate(), clock=ManualClock(), tracking=False
        )
        urls = hook_urls(app, self._postal.key, "http://127.0.0.1:5000")
        self._sandbox.tracking_url, self._sandbox.inbound_url = urls
        self._sandbox.call_with(self._call)
        self._response: TestResponse | None = None
        self._stack = ExitStack()

    def __enter__(self) -> WebhookClient:
        prefix = f"{self._postal.key.upper()}_"
        self._stack.enter_context(
            self._postal.reconfigured(
                self._app, **{f"{prefix}WEBHOOK_KEY": self._sandbox.key.record()}
            )
        )
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    def tracking(
        self,
        event: str,
        recipient: str | RecipientStatus = "ana@example.com",
        *,
        id: int | None = None,
        token: str | None = None,
        message_id: str | None = None,
        sender: str | None = None,
        subject: str | None = None,
        tag: str | None = None,
        set: Mapping[str, Any] | None = None,
    ) -> TestResponse:
        """Post a tracking event.

        :param event: One of ``event.event_type``, such as ``"bounced"``, or Postal's
            name, such as ``"DomainDNSError"``.
        :param recipient: Whom it is about: an address, or one of ``result.recipients``,
            whose id and token it then has.
        :param set: Path -> value, for all else in the body:
            ``{"payload.output": "550 5.7.1 Blocked"}``.
        :returns: The app's answer.
        :raises ValueError: for an unknown event or path.
        """
        sent = None
        if isinstance(recipient, RecipientStatus):
            sent, recipient = recipient, recipient.address
        about = {
            "id": id if sent is None or id is not None else sent.id,
            "token": token if sent is None or token else sent.token,
            "message_id": message_id,
            "from": sender,
            "subject": subject,
            "tag": tag,
        }
        row = find_event(event)
        bounced = row is not None and row.event_type is EventType.BOUNCED
        place = "original_message" if bounced else "message"
        changes = {
            f"payload.{place}.{key}": value
            for key, value in about.items()
            if value is not None
        }
        self._sandbox.trigger(event, to=recipient, set={**changes, **(set or {})})
        return self._answer()

    def inbound(
        self,
        mail: bytes | EmailMessage | PathLike[str],
        *,
        to: str | None = None,
        sender: str | None = "zoe@example.net",
        format: str = "raw-json",
        strip_replies: bool = False,
        spam: bool = False,
    ) -> TestResponse:
        """Post a mail that comes in.

        :param mail: The mail, or a file that holds it. :func:`.compose_mail` and
            :func:`.reply_to` of :mod:`flask_postal.sandbox` write one.
        :param to: The envelope recipient; the first address in To if not given.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param format: ``"raw-json"``, ``"raw-form"``, ``"hash-json"`` or
            ``"hash-form"``: what the HTTP endpoint in Postal is set to.
        :param spam: Whether Postal takes it for spam.
        :returns: The app's answer.
        """
        if isinstance(mail, EmailMessage):
            mail = mail.as_bytes(policy=SMTP)
        elif not isinstance(mail, bytes):
            mail = Path(mail).read_bytes()
        if to is None:
            addresses = read_mail(mail).to
            to = addresses[0].addr_spec if addresses else "app@example.com"
        self._sandbox.receive(
            mail,
            to=to,
            sender=sender,
            format=format,
            strip_replies=strip_replies,
            spam=spam,
        )
        return self._answer()

    def _call(self, url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        headers.pop("Authorization", None)
        with self._app.app_context():
            secrets = self._postal.settings.webhook_secrets
        if secrets:
            pair = base64.b64encode(secrets[0].encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        self._response = self._app.test_client().post(
            url.removeprefix("http://127.0.0.1:5000"),
            data=body,
            headers=headers,
            base_url=f"http://{app_host(self._app)}",
        )
        return WebhookResponse(self._response.status_code, "")

    def _answer(self) -> TestResponse:
        response, self._response = self._response, None
        if response is None:
            raise RuntimeError("the app was not called")
        return response


def _postals(app: Flask) -> list[Postal]:
    found = [item for item in app.extensions.values() if isinstance(item, Postal)]
    if not found:
        raise ConfigurationError("this app has no Postal; call postal.init_app(app)")
    return found


def _postal(app: Flask, name: str | None) -> Postal:
    for postal in _postals(app):
        if postal.name == name:
            return postal
    raise ConfigurationError(f"this app has no Postal with the name {name!r}")
