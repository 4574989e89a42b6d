"""Calls Postal's API: a body goes out, its answer's ``data`` or an error comes back.

requests is imported at the first call (:mod:`.transport`), so that an app which never
sends does not pay for it.
"""

from __future__ import annotations

import json
import os
import threading
from importlib.metadata import version
from typing import TYPE_CHECKING, Any

from ..errors import APIError, ConfigurationError, SendError, TransportError
from .body import Body

if TYPE_CHECKING:
    from ..settings import Settings
    from .transport import Answer, Transport

__all__ = ["Client"]

#: HTTP statuses of a proxy or a server that may do better later.
_TEMPORARY = frozenset({429, 502, 503, 504})


class Client:
    """The HTTP side of one Postal server, safe for threads and after a fork."""

    def __init__(self, settings: Settings) -> None:
        self._settings = settings
        self._lock = threading.Lock()
        self._pid = os.getpid()
        self._transport: Transport | None = None
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
        outcome = _read_answer(answer, self._settings)
        del answer
        if isinstance(outcome, SendError):
            raise outcome
        return outcome

    def _connected(self) -> Transport:
        """Return the transport of this process, made at the first call.

        Sockets that a parent process opened are left to it: two processes that write
        to one connection would mix up their mails.
        """
        if self._transport is not None and self._pid == os.getpid():
            return self._transport
        if self._pid != os.getpid():
            # Another thread of the parent may have held the lock while it forked.
            self._lock = threading.Lock()
        with self._lock:
            if self._transport is None or self._pid != os.getpid():
                self._transport = self._connect()
                self._pid = os.getpid()
            return self._transport

    def _connect(self) -> Transport:
        from .transport import Transport

        settings = self._settings
        required = {"API_URL": settings.api_url, "API_KEY": settings.api_key}
        for name, value in required.items():
            if not value:
                key = f"{settings.prefix}{name}"
                raise ConfigurationError(
                    f"{key} is not set, so no mail can be sent; set it to your"
                    " Postal's, or set POSTAL_SUPPRESS_SEND to send nothing",
                    key=key,
                )
        self._headers = {
            "Content-Type": "application/json",
            "Accept": "application/json",
            "User-Agent": f"Flask-Postal/{version('Flask-Postal')}",
            "X-Server-API-Key": _Secret(settings.api_key),
        }
        return Transport(
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


def _read_answer(answer: Answer, settings: Settings) -> Any:
    """Return the ``data`` of a success, or the error to raise."""
    try:
        content = json.loads(answer.body) if answer.body else None
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    status = content.get("status")
    if answer.status != 200 or not isinstance(status, str):
        return _not_postals(answer, settings)
    data = content.get("data")
    if status == "success":
        return data
    details = data if isinstance(data, dict) else {}
    code = details.get("code") if status == "error" else status
    # Only these two are read: Postal sends a wrong API key back beside them.
    message = details.get("message")
    code = code if isinstance(code, str) else None
    said = message if isinstance(message, str) else _EXPLAINED.get(code or "")
    text = f"Postal refused with {code or 'an error'}" + (f": {said}" if said else "")
    if code in _CURES:
        text = f"{text} ({_CURES[code].format(prefix=settings.prefix)})"
    return APIError(
        _without(settings.api_key, text),
        code=_without(settings.api_key, code) if code else None,
        http_status=answer.status,
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


def _not_postals(answer: Answer, settings: Settings) -> SendError:
    """Explain an answer that is not of Postal's API, or not whole."""
    status = answer.status
    url_key = f"{settings.prefix}API_URL"
    if status == 200:
        return TransportError(
            f"{settings.api_url} answered something that is not an answer of Postal's"
            f" API; Postal may have taken the mail. Does {url_key} point to Postal?",
            maybe_sent=True,
        )
    if status == 403 and not answer.body:
        text = f"Host not allowed by this Postal; set {url_key} to its web hostname"
    elif 300 <= status < 400:
        text = (
            f"{settings.api_url} answered with a redirect ({status}), which is never"
            f" followed; set {url_key} to the address it leads to"
        )
    elif status == 404:
        text = f"{settings.api_url} has no Postal API (HTTP 404); check {url_key}"
    elif status == 413:
        text = "the mail is too large for the proxy in front of Postal (HTTP 413)"
    elif status == 500:
        text = (
            "Postal failed (HTTP 500); some recipients may have been queued. A mail of"
            " over about 11 MB does this on a database with the default packet size"
        )
    else:
        text = f"{settings.api_url} answered HTTP {status} and no answer of Postal"
    return APIError(text, http_status=status, retryable=status in _TEMPORARY)


def _without(secret: str | None, text: str) -> str:
    return text.replace(secret, "***") if secret else text
