"""Runs the sandbox on a port of loopback and posts its webhooks."""

from __future__ import annotations

import logging
import secrets
import threading
import time
from types import TracebackType

import requests
from werkzeug.serving import BaseWSGIServer, make_server

from ..errors import ConfigurationError
from ..settings import is_loopback
from .api import StoredMessage, create_app
from .traffic import SigningKey, message_payload, webhook

__all__ = ["Sandbox"]

_log = logging.getLogger("flask_postal.sandbox")

#: Seconds that Postal gives a webhook.
WEBHOOK_TIMEOUT = 5


class Sandbox:
    """A Postal on 127.0.0.1 that sends nothing and reports everything as delivered.

    ::

        with Sandbox() as sandbox:
            app.config.update(sandbox.settings())  # before init_app
            postal.init_app(app)
            sandbox.tracking_url = "http://127.0.0.1:5000/postal/tracking/"

    :param port: The port to listen on; 0 for a free one.
    :param tracking_url: Where to post webhooks; nowhere if not given.
    :param key: The key to sign with; a new one if not given.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        tracking_url: str | None = None,
        key: SigningKey | None = None,
    ) -> None:
        self.key = key or SigningKey.generate()
        self.api_key = f"sandbox-{secrets.token_hex(12)}"
        self.tracking_url = tracking_url
        self.app = create_app(self.api_key, self.key, self._report)
        self._port = port
        self._server: BaseWSGIServer | None = None
        self._thread = threading.Thread()

    @property
    def tracking_url(self) -> str | None:
        """Where webhooks are posted to, on loopback."""
        return self._tracking_url

    @tracking_url.setter
    def tracking_url(self, url: str | None) -> None:
        if url is not None and not is_loopback(url):
            raise ConfigurationError(
                f"the sandbox calls loopback only; {url} is elsewhere"
            )
        self._tracking_url = url

    @property
    def url(self) -> str:
        """The value for ``POSTAL_API_URL``."""
        if self._server is None:
            raise ConfigurationError("the sandbox is not running; call start() first")
        return f"http://127.0.0.1:{self._server.server_port}"

    def settings(self) -> dict[str, object]:
        """What an app needs in its configuration to use this sandbox."""
        return {
            "POSTAL_API_URL": self.url,
            "POSTAL_API_KEY": self.api_key,
            "POSTAL_WEBHOOK_KEY": self.key.jwks(),
        }

    def start(self) -> Sandbox:
        """Begin to listen; once it does, nothing."""
        if self._server is None:
            server = make_server("127.0.0.1", self._port, self.app, threaded=True)
            # Looks for stop() 50 times a second: a test suite stops many.
            self._thread = threading.Thread(
                target=server.serve_forever, args=(0.02,), daemon=True
            )
            self._thread.start()
            self._server = server
        return self

    def stop(self) -> None:
        """Stop listening, if it does."""
        server, self._server = self._server, None
        if server is not None:
            server.shutdown()
            self._thread.join()
            server.server_close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _report(self, message: StoredMessage) -> None:
        """Post MessageSent about a mail, from a thread of its own."""
        if self.tracking_url is not None:
            threading.Thread(
                target=self._post, args=(self.tracking_url, message), daemon=True
            ).start()

    def _post(self, url: str, message: StoredMessage) -> None:
        now = time.time()
        payload = {
            "message": message_payload(
                id=message.id,
                token=message.token,
                message_id=message.message_id,
                to=message.to,
                sender=message.sender,
                subject=message.subject,
                timestamp=message.timestamp,
                tag=message.tag,
            ),
            "status": "Sent",
            "details": f"Message for {message.to} accepted by the sandbox",
            "output": "250 OK",
            "sent_with_ssl": False,
            "timestamp": now,
            "time": 0.0,
        }
        body = webhook("MessageSent", payload, now)
        headers = {
            "User-Agent": "Postal/3.3.6",
            "Content-Type": "application/json",
            "Connection": "close",
            **self.key.headers(body),
        }
        with requests.Session() as session:
            session.trust_env = False  # no proxy between us and loopback
            try:
                response = session.post(
                    url,
                    data=body,
                    headers=headers,
                    timeout=WEBHOOK_TIMEOUT,
                    allow_redirects=False,
                )
            except requests.RequestException as error:
                _log.warning("the webhook at %s can't be reached: %s", url, error)
                return
        if not response.ok or response.is_redirect:
            _log.warning("the webhook at %s answered %d", url, response.status_code)
