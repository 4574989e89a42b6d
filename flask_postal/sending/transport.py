"""Calls Postal's API: a body goes out, its answer's ``data`` or an error comes back.

requests is imported at the first call (:mod:`.transport`), so that an app which never
sends does not pay for it.
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

#: HTTP statuses of a proxy or a server that may do better later.
_TEMPORARY = frozenset({429, 502, 503, 504})


class Transport(Protocol):
    """Calls Postal's API. :class:`HTTPTransport` is the one that apps use.

    ``Postal(transport=...)`` takes any other: a recorder for tests, a dry run, another
    version of the API. Any thread may call it.
    """

    def call(self, endpoint: str, body: Body) -> Any:
        """Call an endpoint, and return the ``data`` of the response.

        For ``send/message`` and ``send/raw`` that is ``{"message_id": str, "messages":
        {recipient: {"id": int, "token": str}}}``.

        :param endpoint: Such as ``"send/message"``.
        :param body: The JSON; ``b"".join(body.pieces())`` is all of it.
        :raises APIError: if the request was refused.
        :raises TransportError: if no response came; ``maybe_sent`` must be true unless
            surely nothing was sent.
        """


class HTTPTransport:
    """The HTTP side of one Postal server, safe for threads and after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._transports: dict[int, ConnectionPool] = {}  # by process
        self._locks: dict[int, threading.Lock] = {}
        self._headers: dict[str, str] = {}

    def call(self, endpoint: str, body: Body) -> Any:
        """POST a JSON body to an endpoint such as ``"send/message"``.

        :returns: What the answer holds as ``data``.
        :raises ConfigurationError: if there is no URL or no API key.
        :raises APIError: if Postal answered with anything but success.
        :raises TransportError: if no answer came, or none that can be read.
        """
        answer = self._connected().post(f"/api/v1/{endpoint}", self._headers, body)
        # The answer may hold the API key: it is looked at elsewhere, so that an error
        # raised here has no frame in its traceback that knows it.
        outcome = _Reader(self._settings, endpoint, body.length).read(answer)
        del answer
        if isinstance(outcome, SendError):
            raise outcome
        return outcome

    def _connected(self) -> ConnectionPool:
        """Return the transport of this process, made at the first call.

        Sockets that a parent process opened are left to it: two processes that write
        to one connection would mix up their mails. The lock is of this process too;
        another thread may have held its parent's while it forked.
        """
        pid = os.getpid()
        transport = self._transports.get(pid)
        if transport is None:
            with self._locks.setdefault(pid, threading.Lock()):
                transport = self._transports.get(pid)
                if transport is None:
                    transport = self._connect()
                    self._transports = {pid: transport}
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
                    " sent; set it before, to your Postal's or to what"
                    " `flask postal sandbox` prints",
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
    """A string that does not show itself where local variables are listed."""

    __slots__ = ()

    def __repr__(self) -> str:
        return "'***'"


class _Reader:
    """Makes sense of what came back from an endpoint."""

    def __init__(self, settings: Settings, endpoint: str, size: int) -> None:
        self._settings = settings
        self._size = size
        self._sends = endpoint.startswith("send/")

    def read(self, answer: Response | Failure) -> Any:
        """Return the ``data`` of a success, or the error to raise."""
        body = getattr(answer, "body", None)
        if body is None:
            return self._failure(answer)  # type: ignore[arg-type]
        return self._answer(answer, body)  # type: ignore[arg-type]

    def _failure(self, failure: Failure) -> TransportError:
        maybe_sent = failure.begun and self._sends
        text = f"{self._settings.api_url}: {failure.cause}"
        if self._sends:
            text += (
                "; Postal may have taken the mail, look before sending it again"
                if maybe_sent
                else "; nothing was sent"
            )
        if self._settings.uses_sandbox and not failure.begun:
            text += (
                ". These are the settings of a sandbox: does it run? `flask postal"
                " sandbox` starts it, and prints its settings"
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
        # Only these two are read: Postal sends a wrong API key back beside them.
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
        """Explain an answer that is not of Postal's API, or not whole."""
        status, url = answer.status, self._settings.api_url
        setting = f"{self._settings.prefix}API_URL"
        if status == 200:
            return TransportError(
                f"{url} answered something that is not a whole answer of Postal's API"
                + ("; Postal may have taken the mail" if self._sends else "")
                + f". Does {setting} point to Postal?",
                maybe_sent=self._sends,
            )
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
                "Postal failed (HTTP 500). Some recipients may have been queued; a"
                " mail of over about 11 MB does this on a database with the default"
                " packet size"
            )
        else:
            text = f"{url} answered HTTP {status} and not as Postal does"
        return APIError(
            text,
            http_status=status,
            retryable=status in _TEMPORARY,
            # Also a 202 or a 204: somebody has taken the mail, and may pass it on.
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
