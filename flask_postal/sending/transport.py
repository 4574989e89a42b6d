"""Call Postal's API and turn its responses into data or exceptions.

HTTP itself is in :mod:`.http`, which imports requests. It is imported at the first
call, so that an app or a worker that never sends starts faster.
"""

from __future__ import annotations

import json
import os
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any, Protocol

from ..errors import APIError, ConfigurationError, SendError, TransportError
from .payload import Body

if TYPE_CHECKING:
    from ..settings import Settings
    from .http import ConnectionPool, Failure, Response

__all__ = ["HTTPTransport", "Transport"]

#: HTTP statuses after which the same request may succeed later.
_TEMPORARY = frozenset({429, 502, 503, 504})


class Transport(Protocol):
    """Interface for calling Postal's API. Implemented by :class:`HTTPTransport`.

    To replace HTTP, pass another implementation as ``Postal(transport=...)``: a
    recorder for tests, a dry run, another version of the API. It may be called from any
    thread.
    """

    def call(self, endpoint: str, body: Body) -> Any:
        """Call an endpoint, and return the ``data`` of the response.

        For ``send/message`` and ``send/raw``, the data is ``{"message_id": str,
        "messages": {recipient: {"id": int, "token": str}}}``.

        :param endpoint: The path below ``/api/v1/``, such as ``"send/message"``.
        :param body: The JSON; ``b"".join(body.pieces())`` returns it in one piece.
        :raises APIError: if the request was refused.
        :raises TransportError: if no usable response was received. ``maybe_sent`` must
            be true unless it is certain that nothing was sent.
        """


class HTTPTransport:
    """Calls the API of one Postal server over HTTP.

    It can be shared between threads, and used in a process that was forked after the
    first call.

    :param settings: URL, API key, time-outs and the like.
    """

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._pools: dict[int, ConnectionPool] = {}  # by process
        self._locks: dict[int, threading.Lock] = {}
        self._headers: dict[str, str] = {}

    def call(self, endpoint: str, body: Body) -> Any:
        """POST a JSON body to an endpoint, and return the ``data`` of the response.

        :param endpoint: The path below ``/api/v1/``, such as ``"send/message"``.
        :param body: The JSON.
        :raises ConfigurationError: if the API's URL or key is not set.
        :raises APIError: if the response was anything but success.
        :raises TransportError: if no response was received, or one that can't be read.
        """
        answer = self._connected().post(f"/api/v1/{endpoint}", self._headers, body)
        # Postal echoes an invalid API key in its response. The reader returns errors
        # instead of raising them, so that the frames in their traceback have no local
        # variable with the response, which error trackers would report.
        outcome = _Reader(self._settings, endpoint, body.length).read(answer)
        del answer
        if isinstance(outcome, SendError):
            raise outcome
        return outcome

    def _connected(self) -> ConnectionPool:
        """Return the connection pool of this process, created at the first call.

        A forked process must not use the connections of its parent: requests of two
        processes on one connection would be mixed up. The lock belongs to the process
        too, because another thread of the parent may have held it during the fork, and
        would never release it in the child.
        """
        pid = os.getpid()
        transport = self._pools.get(pid)
        if transport is None:
            with self._locks.setdefault(pid, threading.Lock()):
                transport = self._pools.get(pid)
                if transport is None:
                    transport = self._connect()
                    self._pools = {pid: transport}
        return transport

    def _connect(self) -> ConnectionPool:
        from .http import ConnectionPool

        settings = self._settings
        required = {"API_URL": settings.api_url, "API_KEY": settings.api_key}
        for name, value in required.items():
            if not value:
                key = f"{settings.prefix}{name}"
                raise ConfigurationError(
                    f"{key} was not set when init_app was called, so no mail can be"
                    " sent; set it before, to the value of your Postal server or to"
                    " the one that `flask postal sandbox` prints",
                    key=key,
                )
        self._headers = {
            "Content-Type": "application/json",
            "User-Agent": f"Flask-Postal/{version('Flask-Postal')}",
            "X-Server-API-Key": _Secret(settings.api_key),
        }
        return ConnectionPool(
            str(settings.api_url),
            timeout=settings.timeout,
            connect_retries=settings.connect_retries,
            ca_bundle=settings.ca_bundle,
            key_prefix=settings.prefix,
        )


class _Secret(str):
    """A string with a masked ``repr``, for tools that report local variables."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class _Reader:
    """Interprets the response to one request.

    :param endpoint: The endpoint that was called. After a failed call to a ``send/``
        endpoint, the message may have been sent.
    :param size: The size of the request's body in bytes, for the error text.
    """

    def __init__(self, settings: Settings, endpoint: str, size: int) -> None:
        self._settings = settings
        self._size = size
        self._sends = endpoint.startswith("send/")

    def read(self, answer: Response | Failure) -> Any:
        """Return the ``data`` of a successful response, or the error to raise."""
        body = getattr(answer, "body", None)
        if body is None:
            return self._failure(answer)  # type: ignore[arg-type]
        return self._answer(answer, body)  # type: ignore[arg-type]

    def _failure(self, failure: Failure) -> TransportError:
        maybe_sent = failure.begun and self._sends
        text = f"{self._settings.api_url}: {failure.cause}"
        if self._sends:
            text += (
                "; Postal may have queued the message, check before sending it again"
                if maybe_sent
                else "; nothing was sent"
            )
        if self._settings.uses_sandbox and not failure.begun:
            text += (
                ". The settings are those of a sandbox; is it running? `flask postal"
                " sandbox` starts it and prints its settings"
            )
        return TransportError(
            _without(self._settings.api_key, text), maybe_sent=maybe_sent
        )

    def _answer(self, answer: Response, body: bytes) -> Any:
        try:
            content = json.loads(body) if body else None
        except (ValueError, RecursionError):
            content = None
        content = content if isinstance(content, dict) else {}
        status = content.get("status")
        if answer.status != 200 or not isinstance(status, str):
            return self._not_postals(answer)
        if status == "success":
            return content.get("data")
        data = content.get("data")
        return self._refusal(answer, status, data if isinstance(data, dict) else {})

    def _refusal(self, answer: Response, status: str, data: dict[str, Any]) -> APIError:
        # Nothing else of the data may be shown: Postal echoes an invalid API key in it
        # (data.token).
        code = data.get("code") if status == "error" else status
        message = data.get("message")
        code = code if isinstance(code, str) else None
        said = message if isinstance(message, str) else _EXPLAINED.get(code or "")
        text = f"Postal refused with {code or 'an error'}"
        if said:
            text = f"{text}: {said}"
        if code in _CURES:
            text = f"{text} ({_CURES[code].format(prefix=self._settings.prefix)})"
        key = self._settings.api_key
        return APIError(
            _without(key, text),
            code=_without(key, code) if code else None,
            http_status=answer.status,
        )

    def _not_postals(self, answer: Response) -> SendError:
        """Explain a response that is truncated or does not come from Postal's API."""
        status, url = answer.status, self._settings.api_url
        setting = f"{self._settings.prefix}API_URL"
        if status == 200:
            return TransportError(
                f"{url} sent something that is not a complete response of Postal's API"
                + ("; Postal may have queued the message" if self._sends else "")
                + f". Does {setting} point to Postal?",
                maybe_sent=self._sends,
            )
        # Postal answers HTTP 403 with an empty body to a Host that it is not
        # configured for.
        if status == 403 and not answer.body:
            text = f"Host not allowed by this Postal; set {setting} to its web hostname"
        elif 300 <= status < 400:
            text = (
                f"{url} answered with a redirect (HTTP {status}), which is never"
                f" followed; set {setting} to the address it leads to"
            )
        elif status == 404:
            text = f"{url} has no Postal API (HTTP 404); check {setting}"
        elif status == 413:
            size = f"{self._size:,} bytes of JSON are" if self._size else "the mail is"
            text = (
                f"{size} too large for the proxy in front of Postal (HTTP 413); raise"
                " its limit (client_max_body_size in nginx), or send a link to the file"
            )
        elif status == 500:
            text = (
                "Postal failed (HTTP 500). It may have queued some of the recipients. A"
                " frequent cause is a mail larger than about 11 MB, on a database with"
                " the default packet size"
            )
        else:
            text = f"{url} answered HTTP {status} without a response of Postal's API"
        return APIError(
            text,
            http_status=status,
            retryable=status in _TEMPORARY,
            # Also for other 2xx, such as 202: whatever answered has accepted the
            # request, and may pass it on to Postal.
            maybe_sent=self._sends and not 300 <= status < 500,
        )


_EXPLAINED = {
    "ServerSuspended": "the mail server is suspended in Postal",
    "UnauthenticatedFromAddress": (
        "the From address is not authorised to send mail from this server"
    ),
}
_CURES = {
    "AccessDenied": "set {prefix}API_KEY",
    "InvalidServerAPIKey": (
        "set {prefix}API_KEY to a credential of type API of the mail server"
    ),
    "UnauthenticatedFromAddress": (
        "send from a domain that is verified for the mail server, or set"
        " {prefix}DEFAULT_SENDER"
    ),
}


def _without(secret: str | None, text: str) -> str:
    return text.replace(secret, "***") if secret else text
