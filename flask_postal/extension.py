"""The extension object: joins what sends with what receives."""

from __future__ import annotations

import threading
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from functools import cached_property
from typing import TYPE_CHECKING, Any
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, current_app, has_app_context

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

if TYPE_CHECKING:
    from .sending.batch import Progress, SendOutcome
    from .sending.stored import Delivery, MessageDetails
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
        """Return the receiving side.

        Created on first use, so that apps without webhooks don't import cryptography,
        which takes a third of the time that a small app needs to start.
        """
        if self._webhooks is None:
            from .webhooks.receive import Webhooks

            with self._lock:
                if self._webhooks is None:
                    self._webhooks = Webhooks(
                        self.settings, scope=self._postal.key, postal=self._postal
                    )
        return self._webhooks


class Postal:
    """A Postal server: sends mail through it and receives its webhooks.

    One object serves any number of apps; what belongs to an app is kept with it.

    :param app: The app to initialise at once; else call :meth:`init_app`.
    :param name: Tells several servers apart. ``Postal(name="marketing")`` reads
        ``POSTAL_MARKETING_*`` and serves ``/postal/marketing/``.
    :param transport: Calls Postal's API in place of HTTP, for tests and dry runs; see
        :class:`flask_postal.sending.transport.Transport`.
    """

    def __init__(
        self,
        app: Flask | None = None,
        *,
        name: str | None = None,
        transport: Transport | None = None,
    ) -> None:
        if name is not None and not (name.isidentifier() and name.isascii()):
            raise ConfigurationError(
                f"the name {name!r} is to stand in settings; use letters, digits and _"
            )
        self.name = name
        self._transport = transport
        #: The extension key; endpoints and dedupe keys begin with it too.
        self.key: str = f"postal_{name}" if name else "postal"
        self._states: WeakKeyDictionary[Flask, _AppState] = WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read ``POSTAL_*`` from the app's configuration.

        :raises ConfigurationError: for a setting that can't be used, and for a second
            call with the same app.
        """
        if self.key in app.extensions:
            raise ConfigurationError(
                f"this app already has a Postal under the name {self.key!r}; give the"
                " second one a name: Postal(name=...)"
            )
        state = self._configured(app)
        warn_of_misspelt(app.config, state.settings.prefix)
        if "postal" not in app.cli.commands:
            app.cli.add_command(postal_cli)
        app.extensions[self.key] = self
        self._states[app] = state

    def _configured(self, app: Flask) -> _AppState:
        settings = Settings.from_config(app.config, f"{self.key.upper()}_")
        # Read when a mail is sent; a value that can't be read is better known now.
        read_suppressed(app.config, settings.prefix, testing=False)
        pipeline = SendPipeline(settings, postal=self, transport=self._transport)
        state = _AppState(settings, pipeline, self)
        if settings.webhook_key is not None or settings.dedupe_cache != "memory":
            state.webhooks()  # so that a bad value is known now
        return state

    @contextmanager
    def reconfigured(self, app: Flask, **settings: Any) -> Iterator[None]:
        """Give an app's Postal other settings for a while; for tests.

        :param settings: ``POSTAL_*`` -> value. ``None`` counts as unset.
        :raises ConfigurationError: for a setting that can't be used.
        """
        before = self._of(app)
        kept = {name: app.config[name] for name in settings if name in app.config}
        app.config.update(settings)
        try:
            self._states[app] = self._configured(app)
            yield
        finally:
            self._states[app] = before
            for name in settings:
                app.config.pop(name, None)
            app.config.update(kept)

    # ---- mail out

    def send(self, message: Message) -> SendResult:
        """Send a message.

        The message itself stays as it is; receivers of :data:`.message_sending` get a
        copy.

        :returns: Postal's id and token for each recipient. Postal has queued the mail;
            whether it arrives is told by :data:`.tracking_received`.
        :raises MessageError: if the message can't be sent as it is.
        :raises ConfigurationError: if there is no URL or API key.
        :raises APIError: if Postal refused it.
        :raises TransportError: if no answer came; ``.maybe_sent`` tells whether sending
            again is safe.
        """
        app = self._app()
        return self._of(app).pipeline.send(app, message)

    def send_message(self, *args: Any, **kwargs: Any) -> SendResult:
        """Make a :class:`.Message` of the arguments and send it."""
        return self.send(Message(*args, **kwargs))

    def send_many(
        self,
        messages: Iterable[Message],
        concurrency: int = 4,
        on_progress: Progress | None = None,
    ) -> list[SendOutcome]:
        """Send messages, several at a time.

        Templates are rendered, messages checked and signals emitted in the calling
        thread; only HTTP runs in others. A message that fails stops no other.

        :param messages: They may be more than fit into memory at once.
        :param concurrency: How many calls are under way at a time. A Postal web process
            has 5 threads by default.
        :param on_progress: Called as ``on_progress(done, total)`` after each message;
            ``total`` is ``None`` for an iterable without a length.
        :returns: For each message, in order, a :class:`.SendOutcome` with ``.message``,
            and ``.result`` or ``.error``.
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
        """Send a private mail to each recipient, who sees no other.

        :param message: Its ``template`` is rendered for each recipient. ``cc`` and
            ``bcc`` are refused.
        :param merge_data: Address -> what is added to the message's context for it. A
            recipient who is not in it gets the context alone.
        :returns: As :meth:`send_many`, one for each recipient.
        :raises MessageError: before anything is sent, for ``cc``, ``bcc``, a
            ``message_id``, or an address in merge_data that is no recipient's.
        """
        from .sending.batch import private_messages

        messages = list(private_messages(message, merge_data))
        return self.send_many(messages, concurrency, on_progress)

    @contextmanager
    def connect(self) -> Iterator[Connection]:
        """Flask-Mail's ``connect``: ``with postal.connect() as c: c.send(...)``.

        Connections are kept alive with or without it.
        """
        yield Connection(self)

    def render(self, message: Message) -> Message:
        """Return a copy with nothing left to resolve.

        Defaults are merged, templates rendered, lazy strings evaluated and files read,
        so that it can go through a task queue.

        :raises MessageError: if a template or a file is not there.
        """
        app = self._app()
        return self._of(app).pipeline.complete(app, message).resolved()

    def prepare(self, message: Message) -> Prepared:
        """Check a message and serialize it; nothing is emitted or sent.

        :raises MessageError: if Postal would refuse, lose or change it.
        """
        app = self._app()
        return self._of(app).pipeline.prepare(app, message)

    def deliver(self, prepared: Prepared) -> SendResult:
        """Send what :meth:`prepare` made; nothing is emitted.

        Suppressed as :meth:`send` is.

        :raises APIError: if Postal refused it.
        :raises TransportError: if no answer came.
        """
        app = self._app()
        pipeline = self._of(app).pipeline
        return pipeline.post(prepared, suppressed=pipeline.is_suppressed(app))

    @contextmanager
    def record_messages(self) -> Iterator[list[Message]]:
        """Record what is sent, or suppressed: ``with ... as outbox``.

        The list holds copies, in the order of sending, of the messages of the current
        app; without an app context, of the one app that this Postal is used with.
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
        """Ask Postal for a mail that it has stored.

        :param id: ``result.recipients[...].id`` or ``event.id``.
        :param expand: What to ask for: ``True`` for all, or some of ``status``,
            ``details``, ``inspection``, ``plain_body``, ``html_body``, ``attachments``,
            ``headers``, ``raw_message``, ``activity_entries``.
        :raises MessageError: for an id that is no int, or an unknown name.
        :raises APIError: with the code ``MessageNotFound``, among others.
        """
        return fetch_message(self._of(self._app()).pipeline.transport, id, expand)

    def get_deliveries(self, id: int) -> list[Delivery]:
        """Ask Postal for its attempts to deliver a mail.

        :param id: ``result.recipients[...].id`` or ``event.id``.
        :raises MessageError: for an id that is no int.
        :raises APIError: with the code ``MessageNotFound``, among others.
        """
        return fetch_deliveries(self._of(self._app()).pipeline.transport, id)

    # ---- events in

    @cached_property
    def blueprint(self) -> Blueprint:
        """The webhooks: ``/postal/tracking/`` and ``/postal/inbound/``.

        ``app.register_blueprint(postal.blueprint, url_prefix=...)`` moves them.
        """
        from .webhooks.blueprint import create_blueprint

        prefix = f"/postal/{self.name}" if self.name else "/postal"
        return create_blueprint(self._webhooks_of, self.key, prefix)

    @property
    def webhooks(self) -> Webhooks:
        """The receiving side of the current app: verifies and handles requests."""
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
                f"this Postal is used with {len(apps)} apps and there is no app"
                " context; wrap the call in `with app.app_context():`"
            )
        return apps[0]

    def _of(self, app: Flask) -> _AppState:
        try:
            return self._states[app]
        except KeyError:
            raise ConfigurationError(
                "this app has no such Postal; did you forget to call"
                " 'postal.init_app(app)'?"
            ) from None


class Connection:
    """What :meth:`Postal.connect` gives: Flask-Mail's connection."""

    def __init__(self, postal: Postal) -> None:
        self._postal = postal

    def send(self, message: Message) -> SendResult:
        """Send a message; see :meth:`Postal.send`."""
        return self._postal.send(message)

    def send_message(self, *args: Any, **kwargs: Any) -> SendResult:
        """Make a :class:`.Message` of the arguments and send it."""
        return self._postal.send_message(*args, **kwargs)
