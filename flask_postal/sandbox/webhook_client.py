"""Calls the app's webhooks over HTTP on loopback, or in the same process."""

from __future__ import annotations

import base64
import contextlib
import http.client
import socket
import threading
from dataclasses import dataclass
from typing import Any, Protocol
from urllib.parse import urlsplit

from flask import Flask

from ..errors import ConfigurationError
from ..settings import is_loopback
from ..webhooks.endpoints import find_endpoint

__all__ = [
    "Target",
    "WebhookResponse",
    "app_host",
    "call_app",
    "call_url",
    "check_target",
    "hook_urls",
]

#: Seconds after which Postal gives up waiting for a response.
TIMEOUT = 5.0
#: Bytes of a response body that are kept.
MAX_RESPONSE = 250
_USER_AGENT = "Postal/3.3.6"


@dataclass(frozen=True, slots=True)
class WebhookResponse:
    """Response of a webhook.

    :param status: The HTTP status; ``-1`` for a time-out and ``-2`` for a failed
        connection, as in Postal.
    :param text: The first 250 characters of the body, or of the error.
    """

    status: int
    text: str


class Target(Protocol):
    """Callable that delivers a webhook request and returns the response."""

    def __call__(
        self, url: str, body: bytes, headers: dict[str, str]
    ) -> WebhookResponse: ...


def check_target(url: str) -> str:
    """Return a URL if the sandbox may call it.

    :raises ConfigurationError: if it is not an http URL on loopback.
    """
    try:
        parts = urlsplit(url)
        right = parts.scheme == "http" and is_loopback(url) and parts.port != 0
    except ValueError:
        right = False
    if not right:
        raise ConfigurationError(
            "the sandbox calls loopback URLs only, over http, such as"
            f" http://127.0.0.1:5000/postal/tracking/, and not {_plain(url)}"
        )
    return url


def call_url(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
    """Post a request as Postal does: in five seconds, without redirects or proxies.

    It doesn't raise; a failed connection gives a response with a negative status.
    """
    parts = urlsplit(check_target(url))
    connection = http.client.HTTPConnection(
        parts.hostname or "", parts.port or 80, timeout=TIMEOUT
    )
    path = parts.path or "/"
    if parts.query:
        path = f"{path}?{parts.query}"
    ended = threading.Event()
    timer = None
    try:
        connection.connect()
        # The socket's time-out is per read; Postal limits the exchange as a whole.
        timer = threading.Timer(TIMEOUT, _end, (connection.sock, ended))
        timer.daemon = True
        timer.start()
        connection.request("POST", path, body, _complete(headers, parts))
        response = connection.getresponse()
        text = response.read(MAX_RESPONSE).decode("utf-8", "replace")
    except (OSError, http.client.HTTPException) as error:
        if isinstance(error, TimeoutError) or ended.is_set():
            return WebhookResponse(-1, f"Timed out after {TIMEOUT:.0f}s")
        return WebhookResponse(-2, f"{type(error).__name__}: {error}"[:MAX_RESPONSE])
    finally:
        if timer is not None:
            timer.cancel()
        connection.close()
    if ended.is_set():
        return WebhookResponse(-1, f"Timed out after {TIMEOUT:.0f}s")
    return WebhookResponse(response.status, text)


def _end(connection: socket.socket, ended: threading.Event) -> None:
    ended.set()
    with contextlib.suppress(OSError):
        connection.shutdown(socket.SHUT_RDWR)


def call_app(
    app: Any, url: str, body: bytes, headers: dict[str, str]
) -> WebhookResponse:
    """Post a request to a WSGI app in this process."""
    from werkzeug.test import Client

    parts = urlsplit(check_target(url))
    with Client(app).open(
        parts.path or "/",
        method="POST",
        data=body,
        query_string=parts.query,
        headers=_complete(headers, parts),
        base_url=f"http://{app_host(app)}",
    ) as response:
        return WebhookResponse(
            response.status_code, response.get_data(as_text=True)[:MAX_RESPONSE]
        )


def app_host(app: Any) -> str:
    """Return a Host that an app accepts, from SERVER_NAME or TRUSTED_HOSTS."""
    config = getattr(app, "config", {})
    trusted = config.get("TRUSTED_HOSTS") or ["127.0.0.1:5000"]
    return str(config.get("SERVER_NAME") or trusted[0].lstrip("."))


def _complete(headers: dict[str, str], parts: Any) -> dict[str, str]:
    complete = {
        "Accept-Encoding": "gzip;q=1.0,deflate;q=0.6,identity;q=0.3",
        "Accept": "*/*",
        "User-Agent": _USER_AGENT,
        **headers,
        "Connection": "close",
    }
    if parts.username is not None and "Authorization" not in headers:
        # Postal does not percent-decode the user and password of the URL.
        pair = f"{parts.username}:{parts.password or ''}"
        complete["Authorization"] = f"Basic {base64.b64encode(pair.encode()).decode()}"
    return complete


def _plain(url: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:  # http://[127.0.0.1]/
        return ascii(url.rpartition("@")[2])
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"


def hook_urls(app: Flask, postal_key: str, base_url: str) -> tuple[str, str]:
    """Return the URLs of an app's webhooks for tracking and for inbound mail.

    :param postal_key: The name of the blueprint, such as ``"postal"``.
    :param base_url: The URL at which the app runs.
    :raises ConfigurationError: if the app has no such blueprint.
    """
    adapter = app.url_map.bind("localhost")
    paths = []
    for hook in ("tracking", "inbound"):
        endpoint = find_endpoint(app, postal_key, hook)
        if endpoint is None:
            raise ConfigurationError(
                "this app has no webhooks; call"
                " app.register_blueprint(postal.blueprint)"
            )
        paths.append(base_url.rstrip("/") + adapter.build(endpoint))
    return paths[0], paths[1]
