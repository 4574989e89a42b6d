"""Flask-Mail's extension object, its connection and its signal."""

from __future__ import annotations

import inspect
import logging
import threading
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from functools import partial
from typing import Any, Self

from blinker import NamedSignal, Namespace
from flask import Flask, current_app

from ...errors import UnsupportedFeature
from ...extension import Postal
from ...receivers import call_receiver
from ...settings import read_flag
from .message import BadHeaderError, Message, MissingError, state_of
from .mime import address_alone

__all__ = ["Connection", "Mail", "email_dispatched", "signals"]

_log = logging.getLogger("flask_postal.integrations.flask_mail")
_making_postal = threading.Lock()


class _Dispatched(NamedSignal):
    """Calls receivers of both kinds: ``(app, message)`` and ``(message, app)``."""

    def send(self, *sender: Any, **arguments: Any) -> list[tuple[Any, Any]]:
        """Call all receivers, as :meth:`blinker.Signal.send`."""
        [app] = sender
        if self.is_muted:
            return []
        answers = []
        for receiver in self.receivers_for(app):
            call = receiver
            if _first_parameter(receiver) == "message":
                call = partial(_message_first, receiver)
            call_receiver(app, call, **arguments)
            answers.append((receiver, None))
        return answers


def _message_first(receiver: Any, app: Flask, message: Any) -> Any:
    return receiver(message, app=app)


def _first_parameter(receiver: Any) -> str | None:
    try:
        return next(iter(inspect.signature(receiver).parameters), None)
    except (TypeError, ValueError):  # some callables have no signature
        return None


signals: Namespace = Namespace()
email_dispatched: NamedSignal = _Dispatched(
    "email-dispatched",
    doc="Emitted when a message was sent, or would have been if sending were not"
    " suppressed. Receivers are called as ``receiver(app, message)``, or as"
    " ``receiver(message, app)`` if their first parameter is called ``message``.",
)
signals["email-dispatched"] = email_dispatched


class Connection:
    """Sends messages. There is no connection to keep open, and nothing to close.

    :ivar num_emails: Messages since it was opened, or since the last
        ``MAIL_MAX_EMAILS``.
    """

    def __init__(self, mail: _State) -> None:
        self.mail = mail
        self.host: None = None
        self.num_emails: int = 0

    def __enter__(self) -> Self:
        self.num_emails = 0
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def send(self, message: Message, envelope_from: Any = None) -> None:
        """Send a message, and note Postal's answer as ``message.postal_result``.

        :param envelope_from: The message's sender, or nothing: Postal always uses a
            return path of its own.
        :raises MissingError: without a recipient or a sender; it is an AssertionError.
        :raises BadHeaderError: for a line break in a header.
        :raises PostalError: as :meth:`.Postal.send`.
        """
        if not message.send_to:
            raise MissingError("No recipients have been added", field="recipients")
        if not message.sender:
            raise MissingError(
                "The message does not specify a sender and a default sender has not"
                " been configured",
                field="sender",
            )
        if message.has_bad_headers():
            raise BadHeaderError("a header contains a line break")
        own = address_alone(message.sender).lower()
        if envelope_from and address_alone(envelope_from).lower() != own:
            raise UnsupportedFeature(
                "envelope_from: Postal sends with a return path of its own, by which it"
                " recognizes bounces; leave it out",
                feature="envelope_from",
            )
        if message.date is None:
            message.date = time.time()
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        message.postal_result = self.mail._post(app, message)
        email_dispatched.send(app, message=message)
        self.num_emails += 1
        if self.num_emails == self.mail.max_emails:
            self.num_emails = 0

    def send_message(self, *args: Any, **kwargs: Any) -> None:
        """Create a message from the arguments, and send it."""
        self.send(Message(*args, **kwargs))


class _Sender:
    """What ``Mail`` and its state both do."""

    def connect(self) -> Connection:
        """Return a connection, for ``with mail.connect() as connection:``."""
        return Connection(state_of(getattr(self, "app", None) or current_app))

    def send(self, message: Message) -> None:
        """Send a message."""
        with self.connect() as connection:
            message.send(connection)

    def send_message(self, *args: Any, **kwargs: Any) -> None:
        """Create a message from the arguments, and send it."""
        self.send(Message(*args, **kwargs))

    @contextmanager
    def record_messages(self) -> Iterator[list[Message]]:
        """Record the messages that are sent: ``with ... as outbox``."""
        outbox: list[Message] = []

        def record(app: Flask, message: Message, **extra: Any) -> None:
            outbox.append(message)

        with email_dispatched.connected_to(record):
            yield outbox


class _State(_Sender):
    """The settings of one app; it stands in ``app.extensions["mail"]``."""

    def __init__(
        self, config: Mapping[str, Any], postal: Postal | None, *, debug: bool
    ) -> None:
        prefix = "POSTAL_" if postal is None else f"{postal.key.upper()}_"
        #: Not used: there is no SMTP. Packages that show them find them here.
        self.server: str = config.get("MAIL_SERVER", "127.0.0.1")
        self.username: str | None = config.get("MAIL_USERNAME")
        self.password: str | None = config.get("MAIL_PASSWORD")
        self.port: int = config.get("MAIL_PORT", 25)
        self.use_tls: bool = config.get("MAIL_USE_TLS", False)
        self.use_ssl: bool = config.get("MAIL_USE_SSL", False)
        self.default_sender: Any = config.get("MAIL_DEFAULT_SENDER") or config.get(
            f"{prefix}DEFAULT_SENDER"
        )
        self.debug: int = int(config.get("MAIL_DEBUG", debug))
        self.max_emails: int | None = config.get("MAIL_MAX_EMAILS")
        self.ascii_attachments: bool = config.get("MAIL_ASCII_ATTACHMENTS", False)
        #: Whether messages are validated but not sent; ``None`` for as Postal's own
        #: setting says, and by default while the app is tested.
        self.suppress: bool | None = (
            None
            if config.get("MAIL_SUPPRESS_SEND") in (None, "")
            else read_flag(config, "MAIL_SUPPRESS_SEND", default=False)
        )
        self._postal = postal

    def _post(self, app: Flask, message: Message) -> Any:
        """Send a message through the app's Postal, and return the result."""
        pipeline = self._postal_of(app)._pipeline_of(app)
        made = message.to_postal(ascii_attachments=bool(self.ascii_attachments))
        decides = self.suppress is not None and not self._says_postal(app)
        suppressed = bool(self.suppress) if decides else None
        result = pipeline.send(app, made, suppressed=suppressed)
        if self.debug:
            ids = [sent.id for sent in result.recipients.values()]
            _log.debug("message %s was sent as Postal's %s", message.msgId, ids)
        return result

    def _says_postal(self, app: Flask) -> bool:
        """Whether Postal's own setting decides whether sending is suppressed."""
        key = f"{self._postal_of(app).key.upper()}_SUPPRESS_SEND"
        return app.config.get(key) is not None

    def _postal_of(self, app: Flask) -> Postal:
        """Return the Postal that was given, the app's, or a new one."""
        if self._postal is not None:
            return self._postal
        with _making_postal:
            found: Postal | None = app.extensions.get("postal")
            return Postal(app) if found is None else found


class Mail(_Sender):
    """Flask-Mail's extension object.

    :param app: The app to initialise. If not given, call :meth:`init_app` later. Both
        may be called more than once, also in a request: some packages do it for each
        mail.
    :param postal: The Postal to send through. By default that of the app or, if it has
        none, one that is made from the app's ``POSTAL_*`` settings when the first
        message is sent.
    :ivar state: Flask-Mail's settings of the app; its attributes are also this
        object's, and ``None`` for those that do not exist.
    """

    def __init__(
        self, app: Flask | None = None, *, postal: Postal | None = None
    ) -> None:
        self._postal = postal
        self.app: Flask | None = app
        self.state: Any = None if app is None else self.init_app(app)

    def init_app(self, app: Flask) -> Any:
        """Read the app's ``MAIL_*`` settings; ``app.extensions["mail"]`` has them."""
        state = self.init_mail(app.config, app.debug, app.testing)
        app.extensions["mail"] = state
        return state

    def init_mail(
        self,
        config: Mapping[str, Any],
        debug: bool | int = False,  # noqa: FBT001, FBT002
        testing: bool = False,  # noqa: FBT001, FBT002
    ) -> Any:
        """Return the settings in a config."""
        return _State(config, self._postal, debug=bool(debug))

    def __getattr__(self, name: str) -> Any:
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.__dict__.get("state"), name, None)
