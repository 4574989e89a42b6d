"""Helpers for the tests of an app; :mod:`.pytest_plugin` has them as fixtures.

:func:`outbox` records messages without sending them, :func:`sandboxed` sends them to a
:class:`.Sandbox`, and :class:`WebhookClient` posts signed requests to the app.
"""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager, nullcontext, suppress
from email.message import EmailMessage
from email.policy import SMTP
from functools import partial
from os import PathLike
from pathlib import Path
from typing import Any

from flask import Flask, current_app, has_app_context
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
from .webhooks.mail.authentication import resolving_with

__all__ = ["WebhookClient", "outbox", "resolving_with", "sandboxed"]


@contextmanager
def outbox(app: Flask) -> Iterator[list[Message]]:
    """Record the messages that an app sends, without sending them.

    It covers all Postals of the app. The list contains a copy of each message in the
    order of sending, with defaults merged and templates rendered. With a ledger,
    whoever reads the list lets the app deliver first what it has enqueued and
    committed.

    :raises ConfigurationError: if the app has no Postal.
    """
    messages = _Outbox(partial(_catch_up, app))

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
    """Connect an app to a sandbox: it sends over HTTP, and gets webhooks.

    Time stands still until ``sandbox.advance(minutes=2)`` or ``sandbox.wait_for(...)``
    moves it. Webhooks are delivered to the app in this process. If a receiver raises,
    ``wait_for`` raises the same exception, so that the test fails with its traceback.
    With a ledger, both of them and ``sandbox.messages`` let the app deliver first what
    it has enqueued and committed.

    :param key: The key to sign with. Pass one to save time: generating a key takes a
        tenth of a second.
    :param name: The name of the Postal, if the app has several.
    :raises ConfigurationError: if the app has no such Postal.
    """
    postal = _postal(app, name)
    with Sandbox(key=key, clock=ManualClock()) as sandbox:
        settings = sandbox.settings(name)
        settings[f"{postal.key.upper()}_SUPPRESS_SEND"] = False
        with postal.reconfigured(app, **settings):
            # An app that only sends has no webhooks.
            with suppress(ConfigurationError):
                sandbox.deliver_to(app, postal.key)
            sandbox.catch_up = partial(_catch_up, app)
            sandbox.follow_up = partial(_follow_up, app)
            with _Failures().watching(sandbox), resolving_with(sandbox.dns):
                yield sandbox


class _Failures(logging.Handler):
    """Logging handler that collects what receivers raise, by the body of the request.

    As in production, the app responds with 500 and logs the exception. A test that
    waits for the event should fail with that exception and its traceback.
    """

    def __init__(self) -> None:
        super().__init__()
        self._by_body: dict[bytes, BaseException] = {}
        self._current = threading.local()

    def emit(self, record: logging.LogRecord) -> None:
        """Store the exception for the request that this thread delivers to the app."""
        error = record.exc_info[1] if record.exc_info else None
        body = getattr(self._current, "body", None)
        if error is not None and body is not None:
            self._by_body.setdefault(body, error)

    @contextmanager
    def watching(self, sandbox: Sandbox) -> Iterator[None]:
        """Have a sandbox's ``wait_for`` raise the collected exceptions."""
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
    """Client that posts requests to an app's webhooks, signed as Postal signs them.

    Use it as a context manager: the app trusts its key inside of the ``with`` block.

    :param key: The key to sign with. Pass one to save time: generating a key takes a
        tenth of a second.
    :param name: The name of the Postal, if the app has several.
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

        :param event: A value of ``event.event_type``, such as ``"bounced"``, or
            Postal's name, such as ``"DomainDNSError"``.
        :param recipient: The recipient of the message that the event is about: an
            address, or one of ``result.recipients``, which sets id and token too.
        :param id: Postal's id of the message.
        :param token: Postal's token of the message.
        :param message_id: The Message-ID, without angle brackets.
        :param sender: The envelope sender.
        :param set: Path -> value of other changes to the body, such as
            ``{"payload.output": "550 5.7.1 Blocked"}``.
        :returns: The app's response.
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
        """Post inbound mail.

        :param mail: The email, or the path of a file that contains it.
            :func:`.compose_mail` and :func:`.reply_to` of :mod:`flask_postal.sandbox`
            build one.
        :param to: The envelope recipient; the first address in To if not given.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param format: ``"raw-json"``, ``"raw-form"``, ``"hash-json"`` or
            ``"hash-form"``: the format that the HTTP endpoint in Postal is set to.
        :param strip_replies: Whether the HTTP endpoint is set to separate quoted
            replies.
        :param spam: Whether Postal classifies the mail as spam.
        :returns: The app's response.
        :raises ValueError: for an unknown format, or an email of over 25 MB.
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
            raise RuntimeError("no request was posted to the app")
        return response


class _Outbox(list[Message]):
    """List of messages that the app delivers what is due for, before it is read.

    :param catch_up: Delivers what is due.
    """

    def __init__(self, catch_up: Callable[[], object]) -> None:
        super().__init__()
        self._catch_up = catch_up

    def __len__(self) -> int:
        self._catch_up()
        return super().__len__()

    def __iter__(self) -> Iterator[Message]:
        self._catch_up()
        return super().__iter__()

    def __getitem__(self, place: Any) -> Any:
        self._catch_up()
        return super().__getitem__(place)

    def __contains__(self, message: object) -> bool:
        self._catch_up()
        return super().__contains__(message)

    def __eq__(self, other: object) -> bool:
        self._catch_up()
        return super().__eq__(other)

    def __ne__(self, other: object) -> bool:
        return not self == other

    __hash__ = None  # as a list


def _catch_up(app: Flask) -> None:
    """Deliver what an app has enqueued and committed, if it has a ledger."""
    for ledger in _ledgers(app):
        here = has_app_context() and current_app == app
        with nullcontext() if here else app.app_context():
            ledger.drain()


def _follow_up(app: Flask) -> None:
    """Fetch the bounce mails of events that have come."""
    for ledger in _ledgers(app):
        ledger.of(app).read_bounces()


def _ledgers(app: Flask) -> set[Any]:
    found = {postal.ledger for postal in _postals(app)}
    return found - {None}


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
