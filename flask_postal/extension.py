"""The extension object, :class:`Postal`.

It reads the settings of an app and connects the two halves of the package, which don't
import each other: :mod:`.sending` and :mod:`.webhooks`.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import cached_property, partial
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, current_app, has_app_context

from .address import AddressLike, parse_address
from .cli import postal_cli
from .errors import ConfigurationError
from .sending.message import Message
from .sending.payload import Prepared
from .sending.pipeline import SendPipeline
from .sending.result import SendResult
from .sending.stored import fetch_deliveries, fetch_message
from .sending.transport import Transport
from .settings import Settings, read_suppressed, warn_of_misspelt
from .signals import message_sent
from .text import list_name

if TYPE_CHECKING:
    from .ledger import Ledger
    from .ledger.models import MailMixin
    from .sending.batch import Progress, SendOutcome
    from .sending.stored import Delivery, MessageDetails
    from .webhooks.events import TrackingEvent
    from .webhooks.mail.bounce_report import BounceReport
    from .webhooks.receive import Webhooks

__all__ = ["Connection", "Postal"]


class _AppState:
    """State that one app keeps for one Postal server."""

    def __init__(
        self, settings: Settings, pipeline: SendPipeline, postal: Postal
    ) -> None:
        self.settings = settings
        self.pipeline = pipeline
        self._postal = postal
        self._webhooks: Webhooks | None = None
        self._lock = threading.Lock()

    def webhooks(self) -> Webhooks:
        """Return the object that verifies and handles this app's webhook requests.

        Created on first use, so that apps without webhooks don't import cryptography,
        which takes a third of the time that a small app needs to start.
        """
        if self._webhooks is None:
            from .webhooks.receive import Webhooks

            with self._lock:
                if self._webhooks is None:
                    ledger = self._postal.ledger
                    self._webhooks = Webhooks(
                        self.settings,
                        scope=self._postal.key,
                        postal=self._postal,
                        handler=None
                        if ledger is None
                        else partial(ledger.receive, self._postal),
                    )
        return self._webhooks


class Postal:
    """Send messages through a Postal server and receive its webhooks.

    One object can be used with any number of apps. It keeps a separate state for each,
    and its methods use the current app.

    :param app: The app to initialise. If not given, call :meth:`init_app` later.
    :param name: Distinguishes several mail servers in one app.
        ``Postal(name="marketing")`` reads ``POSTAL_MARKETING_*`` and serves
        ``/postal/marketing/``. Letters, digits and underscores.
    :param transport: Replaces HTTP, for tests and dry runs; see
        :class:`flask_postal.sending.transport.Transport`.
    :param ledger: Stores messages in the app's database, for :meth:`enqueue`. Several
        Postals may share one.
    :raises ConfigurationError: if the name is invalid, and as :meth:`init_app`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        name: str | None = None,
        transport: Transport | None = None,
        ledger: Ledger | None = None,
    ) -> None:
        if name is not None and not (name.isidentifier() and name.isascii()):
            raise ConfigurationError(
                f"the name {name!r} can't be part of a setting's name; use letters,"
                " digits and underscores"
            )
        self.name = name
        self._transport = transport
        self._wrappers: list[Callable[[Transport], Transport]] = []
        #: The ledger, or ``None``.
        self.ledger: Any = ledger
        #: The key in ``app.extensions``, such as ``"postal"`` or
        #: ``"postal_marketing"``. It is also the prefix of endpoints and dedupe keys.
        self.key: str = f"postal_{name}" if name else "postal"
        self._states: WeakKeyDictionary[Flask, _AppState] = WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Initialise an app: read its ``POSTAL_*`` settings and add the CLI commands.

        The settings are read once; later changes of ``app.config`` have no effect. The
        blueprint with the webhooks is not registered; see :attr:`blueprint`.

        :param app: The app, with its configuration loaded.
        :raises ConfigurationError: if a setting is invalid, or if the app has been
            initialised with a ``Postal`` of the same name already.
        """
        if self.key in app.extensions:
            raise ConfigurationError(
                f"this app already has a Postal object for {self.key!r}; give a"
                " second server a name: Postal(name=...)"
            )
        state = self._configured(app)
        warn_of_misspelt(app.config, state.settings.prefix)
        if "postal" not in app.cli.commands:
            app.cli.add_command(postal_cli)
        app.extensions[self.key] = self
        if self.ledger is not None:
            longest_call = sum(state.settings.timeout)
            self.ledger.register(
                app, self, self._pipeline_of, self._settings_of, longest_call
            )
        self._states[app] = state

    def _configured(self, app: Flask) -> _AppState:
        settings = Settings.from_config(app.config, f"{self.key.upper()}_")
        # The value is used at each send. Read it here too, so that an invalid one is
        # reported at start-up.
        read_suppressed(app.config, settings.prefix, testing=False)
        find_suppressed = None
        if self.ledger is not None:
            find_suppressed = self.ledger.suppressions.among_recipients
        pipeline = SendPipeline(
            settings,
            postal=self,
            transport=self._transport,
            find_suppressed=find_suppressed,
            unsubscribe_url=partial(self._unsubscribe_url, app, settings),
        )
        for wrap in self._wrappers:
            pipeline.transport = wrap(pipeline.transport)
        state = _AppState(settings, pipeline, self)
        if settings.webhook_key is not None or settings.dedupe_cache != "memory":
            state.webhooks()  # to report an invalid key or cache at start-up
        return state

    @contextmanager
    def reconfigured(self, app: Flask, **settings: Any) -> Iterator[None]:
        """Temporarily change the settings of an app that is initialised. For tests.

        :param app: The app; no app context is needed.
        :param settings: Settings by their full names. ``None`` counts as unset.
        :raises ConfigurationError: if a setting is invalid.
        """
        before, wrappers = self._of(app), len(self._wrappers)
        kept = {name: app.config[name] for name in settings if name in app.config}
        app.config.update(settings)
        try:
            self._states[app] = self._configured(app)
            yield
        finally:
            for wrap in self._wrappers[wrappers:]:
                before.pipeline.transport = wrap(before.pipeline.transport)
            self._states[app] = before
            for name in settings:
                app.config.pop(name, None)
            app.config.update(kept)

    def wrap_transport(self, wrap: Callable[[Transport], Transport]) -> None:
        """Put something around each call of Postal's API, such as a trace.

        It is used for all apps of this object, those to come included.

        :param wrap: Called with the transport; returns another one, whose ``call``
            calls the first one's. See
            :class:`flask_postal.sending.transport.Transport`.
        """
        self._wrappers.append(wrap)
        for state in self._states.values():
            state.pipeline.transport = wrap(state.pipeline.transport)

    # ---- sending

    def send(self, message: Message) -> SendResult:
        """Send a message.

        The message is not modified: receivers of :data:`.message_sending` get a copy,
        and the same message can be sent again.

        :param message: The message.
        :returns: Postal's id and token for each recipient. Success means that Postal
            has queued the mail; :data:`.tracking_received` reports what happens to it.
        :raises MessageError: if the message is invalid.
        :raises ConfigurationError: if the API's URL or key is not set.
        :raises APIError: if Postal refused the request.
        :raises TransportError: if no usable response was received. Check
            ``.maybe_sent`` before you send the message again.
        """
        app = self._app()
        return self._of(app).pipeline.send(app, message)

    def send_message(self, *args: Any, **kwargs: Any) -> SendResult:
        """Create a :class:`.Message` from the arguments and send it.

        Takes the parameters of :class:`.Message`; otherwise as :meth:`send`.
        """
        return self.send(Message(*args, **kwargs))

    def send_many(
        self,
        messages: Iterable[Message],
        concurrency: int = 4,
        on_progress: Progress | None = None,
    ) -> list[SendOutcome]:
        """Send many messages concurrently.

        Only the HTTP requests run in other threads. Templates are rendered and signals
        emitted in the calling thread, so that they can use the app context and its
        database session. An error of one message does not stop the others.

        :param messages: The messages. A generator is consumed as messages are sent, so
            that they need not fit into memory together.
        :param concurrency: The number of requests at a time, at least 1. A Postal web
            process has 5 threads by default, which all its clients share.
        :param on_progress: Called as ``on_progress(done, total)`` after each message,
            in the calling thread; ``total`` is ``None`` for an iterable without a
            length.
        :returns: A :class:`.SendOutcome` for each message, in the same order, with
            ``.message`` and either ``.result`` or ``.error``.
        :raises TypeError: if ``concurrency`` is not an int.
        :raises ValueError: if ``concurrency`` is less than 1.
        """
        from .sending.batch import send_many

        app = self._app()
        pipeline = self._of(app).pipeline
        return send_many(
            pipeline, app, messages, concurrency=concurrency, on_progress=on_progress
        )

    def send_batch(
        self,
        message: Message,
        merge_data: Mapping[str, Mapping[str, Any]] | None = None,
        concurrency: int = 4,
        on_progress: Progress | None = None,
    ) -> list[SendOutcome]:
        """Send a separate message to each recipient, who does not see the others.

        :param message: The message. Its ``template`` is rendered for each recipient.
        :param merge_data: Template context by recipient's address. It is added to the
            context of the message; a recipient without an entry gets that alone.
        :param concurrency: See :meth:`send_many`.
        :param on_progress: See :meth:`send_many`.
        :returns: A :class:`.SendOutcome` for each recipient.
        :raises MessageError: before anything is sent: if the message has ``cc``,
            ``bcc`` or a ``message_id``, or if an address in ``merge_data`` is not one
            of its recipients.
        """
        from .sending.batch import private_messages

        messages = list(private_messages(message, merge_data))
        return self.send_many(messages, concurrency, on_progress)

    def enqueue(
        self,
        message: Message,
        *,
        key: str | None = None,
        send_at: datetime | float | None = None,
    ) -> MailMixin:
        """Add a message to the transaction of ``db.session``.

        It is rendered and checked now, and sent after the commit; a rollback forgets
        it. Needs ``Postal(ledger=Ledger(db))``.

        :param key: Such as ``"invoice-17"``. A second call with the same key stores
            nothing, and returns the first record.
        :param send_at: When to send it, an aware datetime or seconds since 1970; at
            once if not given. It wins over the message's own.
        :returns: The record, with ``.id``, ``.message_id``, ``.state``,
            ``.recipients``, ``.meta`` and ``.mime()``. After :exc:`.CancelSend` its
            state is ``"cancelled"``, and it is not stored.
        :raises MessageError: if the message can't be sent, or its metadata is not JSON;
            the session is as it was.
        :raises ConfigurationError: without a ledger.
        """
        app = self._app()
        record: MailMixin = self._with_ledger().enqueue(
            app,
            self._of(app).pipeline,
            message,
            server=self.key,
            key=key,
            send_at=send_at,
        )
        return record

    def enqueue_many(self, messages: Iterable[Message]) -> list[MailMixin]:
        """Add messages to the transaction of ``db.session``, all of them or none.

        :returns: A record for each message; see :meth:`enqueue`.
        :raises MessageError: for the first message that can't be sent.
        """
        app = self._app()
        return self._with_ledger().enqueue_many(
            app,
            self._of(app).pipeline,
            [(message, None, None) for message in messages],
            server=self.key,
        )

    def is_suppressed(self, address: AddressLike, *, list: str | None = None) -> bool:
        """Tell whether nothing is sent to an address.

        An address is suppressed after a permanent bounce, a complaint, or five failed
        messages in a row, and for a list that it has left; see
        :data:`POSTAL_SUPPRESSION`. A message with ``ignore_suppression=True`` is sent
        all the same.

        :param list: The list that a message would belong to.
        :raises MessageError: for an invalid address or list.
        :raises ConfigurationError: without a ledger.
        """
        ledger = self._with_ledger("is_suppressed()")
        envelope = parse_address(address, "address")[0].addr_spec
        name = None if list is None else list_name(list, "list")
        return bool(ledger.suppressions.among([envelope], name))

    def mail_of(self, event: TrackingEvent) -> MailMixin | None:
        """Return the record of the message that an event is about.

        :param event: An event of this Postal.
        :returns: The record in the current session; ``None`` if the message was not
            enqueued here.
        :raises ConfigurationError: without a ledger.
        """
        found: MailMixin | None = self._with_ledger().mail_of(self.key, event)
        return found

    def health(self) -> dict[str, float | int | None]:
        """Return numbers for a health endpoint: ages in seconds, and counts.

        It takes a few milliseconds, and tells no addresses. An age is ``None`` if there
        is nothing of the kind.

        :returns: ``seconds_since_event`` and ``seconds_since_accepted``, since the last
            webhook and the last message that Postal took; ``oldest_due_mail`` and
            ``oldest_due_event``, how long those have waited that could be worked on;
            ``doubtful_mails`` and ``dead_events``, counted up to 1,000; and
            ``webhook_keys_age``, since the keys were fetched from Postal, ``None`` if
            they are configured.
        :raises ConfigurationError: without a ledger.
        """
        ledger, app = self._with_ledger("health()"), self._app()
        keys_age = self._webhooks_of(app).keys_age
        return {**ledger.health(self.key), "webhook_keys_age": keys_age}

    def _pipeline_of(self, app: Flask) -> SendPipeline:
        return self._of(app).pipeline

    def _settings_of(self, app: Flask) -> Settings:
        return self._of(app).settings

    def _with_ledger(self, what: str = "enqueue()") -> Ledger:
        if self.ledger is None:
            raise ConfigurationError(
                f"{what} needs a ledger: install Flask-Postal[ledger], and write"
                " Postal(ledger=Ledger(db)) with flask_postal.ledger.Ledger"
            )
        ledger: Ledger = self.ledger
        return ledger

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Flask-Mail's ``connect``: ``with postal.connect() as c: c.send(...)``.

        It exists for compatibility and gains nothing: connections are always kept
        alive.
        """
        yield Connection(self)

    def render(self, message: Message) -> Message:
        """Return a copy of a message that no longer depends on the app.

        Defaults are merged, templates rendered, lazy strings evaluated and files read,
        so that a task queue can carry it and any process can send it.

        :raises MessageError: if a template or a file does not exist.
        """
        app = self._app()
        return self._of(app).pipeline.complete(app, message).resolved()

    def prepare(self, message: Message) -> Prepared:
        """Validate and serialize a message without sending it.

        No signal is emitted.

        :raises MessageError: if the message is invalid, that is, if Postal would
            refuse, lose or change it.
        """
        app = self._app()
        return self._of(app).pipeline.prepare(app, message)

    def deliver(self, prepared: Prepared) -> SendResult:
        """Send a message that :meth:`prepare` has serialized.

        No signal is emitted. Sending can be suppressed as with :meth:`send`.

        :raises APIError: if Postal refused the request.
        :raises TransportError: if no usable response was received.
        """
        app = self._app()
        pipeline = self._of(app).pipeline
        return pipeline.post(prepared, suppressed=pipeline.is_suppressed(app))

    @contextmanager
    def record_messages(self) -> Iterator[list[Message]]:
        """Record the messages that are sent: ``with ... as outbox``.

        The list contains copies of the messages, in the order of sending, including
        those whose sending is suppressed. Only messages of the current app are
        recorded; without an app context, those of the only app.

        :raises ConfigurationError: without an app context, if this object is used with
            several apps or with none.
        """
        app = self._app() if has_app_context() else self._only_app()
        outbox: list[Message] = []

        def record(app: Flask, message: Message, postal: Postal, **extra: Any) -> None:
            if postal is self:
                outbox.append(message.resolved())

        with message_sent.connected_to(record, sender=app):
            yield outbox

    def get_message(
        self,
        id: int,
        expand: bool | str | Iterable[str] = ("status", "details"),  # noqa: FBT001
    ) -> MessageDetails:
        """Look up a mail that Postal has stored.

        :param id: The mail's id: ``result.recipients[...].id`` or ``event.id``.
        :param expand: What to request: ``True`` for everything, or one or more of
            ``status``, ``details``, ``inspection``, ``plain_body``, ``html_body``,
            ``attachments``, ``headers``, ``raw_message``, ``activity_entries``.
        :raises MessageError: if the id is not an int, or for an unknown name.
        :raises APIError: with the code ``MessageNotFound`` if the mail server has no
            such mail, and for other refusals.
        :raises TransportError: if no usable response was received.
        """
        return fetch_message(self._of(self._app()).pipeline.transport, id, expand)

    def get_deliveries(self, id: int) -> list[Delivery]:
        """Look up Postal's attempts to deliver a mail.

        :param id: The mail's id: ``result.recipients[...].id`` or ``event.id``.
        :raises MessageError: if the id is not an int.
        :raises APIError: with the code ``MessageNotFound`` if the mail server has no
            such mail, and for other refusals.
        :raises TransportError: if no usable response was received.
        """
        return fetch_deliveries(self._of(self._app()).pipeline.transport, id)

    def bounce_report(self, event: TrackingEvent) -> BounceReport | None:
        """Fetch the bounce mail of an event from Postal, and read it.

        A ``bounced`` event says that a mail came back, and not why; the bounce mail
        does.

        :param event: An event of this Postal.
        :returns: The report; ``None`` if the event has no bounce mail, or if Postal has
            deleted its content.
        :raises APIError: with the code ``MessageNotFound`` if Postal has deleted it,
            and for other refusals.
        :raises TransportError: if no usable response was received.
        """
        from .webhooks.mail.bounce_report import read_bounce

        number = (event.bounce or {}).get("id")
        if type(number) is not int:
            return None
        raw = self.get_message(number, expand="raw_message").raw
        return None if raw is None else read_bounce(raw)

    # ---- receiving

    @cached_property
    def blueprint(self) -> Blueprint:
        """The blueprint with the webhooks ``/postal/tracking/`` and
        ``/postal/inbound/``, and the page ``/postal/unsubscribe/``.

        To serve them under other URLs, pass ``url_prefix=`` to
        ``app.register_blueprint(postal.blueprint)``.
        """
        from .webhooks.blueprint import create_blueprint

        prefix = f"/postal/{self.name}" if self.name else "/postal"
        return create_blueprint(self._webhooks_of, self.key, prefix)

    def unsubscribe_url(self, address: AddressLike, list: str) -> str:
        """Return the link by which an address leaves a list.

        A template of a message with ``unsubscribe=`` has it as ``unsubscribe_url``.

        :param list: The list, as in ``Message(unsubscribe=...)``.
        :raises MessageError: for an invalid address or list.
        :raises ConfigurationError: if :data:`POSTAL_EXTERNAL_URL` or ``SECRET_KEY`` is
            missing, or the blueprint is not registered.
        """
        app = self._app()
        envelope = parse_address(address, "address")[0].addr_spec
        name = list_name(list, "list")
        return self._unsubscribe_url(app, self._of(app).settings, envelope, name)

    def _unsubscribe_url(
        self, app: Flask, settings: Settings, envelope: str, name: str
    ) -> str:
        from .webhooks.unsubscribe import unsubscribe_url

        return unsubscribe_url(app, self.key, settings, envelope, name)

    @property
    def webhooks(self) -> Webhooks:
        """The object that verifies and handles the webhook requests of the current app.

        Use it to receive webhooks in views of your own, in place of :attr:`blueprint`.
        """
        return self._webhooks_of(self._app())

    def _webhooks_of(self, app: Flask) -> Webhooks:
        return self._of(app).webhooks()

    # ---- both

    @property
    def settings(self) -> Settings:
        """The settings of the current app."""
        return self._of(self._app()).settings

    def _app(self) -> Flask:
        if not has_app_context():
            raise ConfigurationError(
                "no app context; wrap the call in `with app.app_context():`"
            )
        return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]

    def _only_app(self) -> Flask:
        apps = list(self._states)
        if len(apps) != 1:
            raise ConfigurationError(
                f"this Postal object is used with {len(apps)} apps and there is no app"
                " context; wrap the call in `with app.app_context():`"
            )
        return apps[0]

    def _of(self, app: Flask) -> _AppState:
        try:
            return self._states[app]
        except KeyError:
            raise ConfigurationError(
                "the current app is not initialised with this Postal object; did you"
                " forget to call 'postal.init_app(app)'?"
            ) from None


class Connection:
    """The object that :meth:`Postal.connect` returns, as in Flask-Mail."""

    def __init__(self, postal: Postal) -> None:
        self._postal = postal

    def send(self, message: Message) -> SendResult:
        """Send a message; see :meth:`Postal.send`."""
        return self._postal.send(message)

    def send_message(self, *args: Any, **kwargs: Any) -> SendResult:
        """Create a message and send it; see :meth:`Postal.send_message`."""
        return self._postal.send_message(*args, **kwargs)
