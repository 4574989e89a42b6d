"""The extension object: joins what sends with what receives."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

from flask import Blueprint, Flask, current_app, has_app_context

from .errors import ConfigurationError
from .sending.client import Client
from .sending.message import Message
from .sending.prepare import Prepared, prepare
from .sending.result import SendResult, read_result
from .settings import Settings

if TYPE_CHECKING:
    from .webhooks.keys import PublicKey

__all__ = ["Postal"]


@dataclass(frozen=True, slots=True)
class _Server:
    """What one app has of one Postal."""

    settings: Settings
    client: Client
    keys: tuple[PublicKey, ...]


class Postal:
    """A Postal server: sends mail through it and receives its webhooks.

    One object serves any number of apps; what belongs to an app is kept with it.

    :param app: The app to initialise at once; else call :meth:`init_app`.
    :param name: Tells several servers apart. ``Postal(name="marketing")`` reads
        ``POSTAL_MARKETING_*`` and serves ``/postal/marketing/``.
    """

    def __init__(self, app: Flask | None = None, *, name: str | None = None) -> None:
        self.name = name
        self._key = f"postal_{name}" if name else "postal"
        self._servers: WeakKeyDictionary[Flask, _Server] = WeakKeyDictionary()
        if app is not None:
            self.init_app(app)

    def init_app(self, app: Flask) -> None:
        """Read ``POSTAL_*`` from the app's configuration.

        :raises ConfigurationError: for a setting that can't be used, and for a second
            call with the same app.
        """
        if self._key in app.extensions:
            raise ConfigurationError(
                f"this app already has a Postal under the name {self._key!r}; give the"
                " second one a name: Postal(name=...)"
            )
        settings = Settings.from_config(app.config, f"{self._key.upper()}_")
        keys: tuple[PublicKey, ...] = ()
        if settings.webhook_key is not None:
            # cryptography takes 10 ms to import; only who has webhooks needs it.
            from .webhooks.keys import load_keys

            keys = load_keys(settings.webhook_key, f"{settings.prefix}WEBHOOK_KEY")
        app.extensions[self._key] = self
        self._servers[app] = _Server(settings, Client(settings), keys)

    @cached_property
    def blueprint(self) -> Blueprint:
        """The webhooks: ``/postal/tracking/`` and ``/postal/inbound/``.

        ``app.register_blueprint(postal.blueprint, url_prefix=...)`` moves them.
        """
        from .webhooks.blueprint import create_blueprint

        return create_blueprint(self, self._key, f"/{self._key.replace('_', '/', 1)}")

    @property
    def settings(self) -> Settings:
        """The settings of the current app."""
        return self._server.settings

    @property
    def webhook_keys(self) -> tuple[PublicKey, ...]:
        """The keys that the current app trusts."""
        return self._server.keys

    def prepare(self, message: Message) -> Prepared:
        """Check a message and serialize it, without sending it.

        :raises MessageError: if Postal would refuse, lose or change it.
        """
        return prepare(message, self._server.settings)

    def deliver(self, prepared: Prepared) -> SendResult:
        """Send what :meth:`prepare` made.

        :raises APIError: if Postal refused it.
        :raises TransportError: if no answer came; ``.maybe_sent`` tells whether sending
            again is safe.
        """
        data = self._server.client.call(prepared.endpoint, prepared.body)
        return read_result(data, prepared)

    def send(self, message: Message) -> SendResult:
        """Send a message.

        :returns: Postal's id and token for each recipient. Postal has queued the mail;
            whether it arrives is told by :data:`.tracking_received`.
        :raises MessageError: if the message can't be sent as it is.
        :raises APIError: if Postal refused it.
        :raises TransportError: if no answer came; ``.maybe_sent`` tells whether sending
            again is safe.
        """
        return self.deliver(self.prepare(message))

    @property
    def _server(self) -> _Server:
        if not has_app_context():
            raise ConfigurationError(
                "no app context; wrap the call in `with app.app_context():`"
            )
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        try:
            return self._servers[app]
        except KeyError:
            raise ConfigurationError(
                "this app has no such Postal; did you forget to call"
                " 'postal.init_app(app)'?"
            ) from None
