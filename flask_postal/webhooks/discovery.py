"""Fetches Postal's keys from ``/.well-known/jwks.json``, also after a rotation.

Used if no key is configured. Keys are kept in memory, per process.
"""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, field
from typing import Any

from ..errors import ConfigurationError
from .keys import PublicKey, load_keys

__all__ = ["DiscoveredKeys", "Fetch", "fetch_jwks", "fit_keys"]

_log = logging.getLogger("flask_postal.webhooks")

#: Seconds between two attempts to fetch the keys, until fetched keys are refreshed, and
#: until they are dropped if the server can't be reached. The pause keeps requests with
#: made-up key IDs from making the app call Postal each time.
PAUSE, FRESH, KEPT = 30.0, 15 * 60.0, 7 * 24 * 3600.0
#: Seconds for the whole exchange with the server, not for each read. Postal waits for
#: 5 s, and the receivers need some of that.
TIMEOUT = 2.0
#: Seconds after which an attempt counts as over even if its thread still runs: a DNS
#: lookup can't be interrupted.
STALE = 5.0
#: Bytes of the response that are read; a JWKS of one RSA-8192 key has 1.5 kB.
MAX_SIZE = 64 * 1024

Fetch = Callable[[], bytes]


@dataclass(slots=True)
class _Attempt:
    """One fetch of the keys, for which any number of threads may wait."""

    begun: float
    process: int = field(default_factory=os.getpid)
    done: threading.Event = field(default_factory=threading.Event)


class DiscoveredKeys:
    """The keys that a Postal server publishes, fetched when they are needed.

    :param fetch: Returns the JWKS as bytes; raises ``OSError`` if it can't be fetched.
    :param clock: Returns seconds and never goes back, such as ``time.monotonic``.
    """

    def __init__(
        self, fetch: Fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        # One lock for each process: a fork may copy a lock while it is held, which
        # nobody would then release in the child.
        self._locks: dict[int, threading.Lock] = {}
        self._attempt: _Attempt | None = None
        self._keys: tuple[PublicKey, ...] = ()
        self._fetched = 0.0
        self._known: set[str] = set()

    def find(self, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys that may have signed a request.

        Known keys are returned at once, also while they are being refreshed. Only for
        an unknown key ID, as after a rotation, the call waits up to 2.5 seconds.

        :param kid: The key ID that the request names, or ``None`` for any key.
        :returns: Empty if the server doesn't publish this key, or can't be reached.
        """
        now = self._clock()
        keys = self._matching(kid, now)
        if keys:
            if now - self._fetched >= FRESH:
                self._begin(now)
            return keys
        attempt = self._begin(now)
        if attempt is not None:
            attempt.done.wait(TIMEOUT + 0.5)
            keys = self._matching(kid, self._clock())
        return keys

    @property
    def age(self) -> float | None:
        """Seconds since the keys were fetched; ``None`` if they never were."""
        return self._clock() - self._fetched if self._keys else None

    def _matching(self, kid: str | None, now: float) -> tuple[PublicKey, ...]:
        if now - self._fetched >= KEPT:
            return ()
        return tuple(key for key in self._keys if kid is None or key.kid == kid)

    def _begin(self, now: float) -> _Attempt | None:
        """Return the running attempt, or start one.

        :returns: ``None`` if the last attempt is over and began less than :data:`PAUSE`
            ago.
        """
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):
            attempt = self._attempt
            if attempt is not None and attempt.process == process:
                stale = now - attempt.begun > STALE
                if not attempt.done.is_set() and not stale:
                    return attempt
                if now - attempt.begun < PAUSE and attempt.done.is_set():
                    return None
            # There is no attempt, or it hangs, or it was started before this process
            # was forked: then its thread doesn't exist in this process.
            self._attempt = attempt = _Attempt(now)
        # A thread, so that a request with a known key doesn't wait at all, and one with
        # an unknown key only for a bounded time, however slow DNS or the server is.
        # Many requests may wait for the same attempt.
        threading.Thread(target=self._run, args=(attempt,), daemon=True).start()
        return attempt

    def _run(self, attempt: _Attempt) -> None:
        try:
            keys = fit_keys(self._fetch())
        except (OSError, ConfigurationError) as error:
            _log.error("Postal's keys can't be fetched: %s", ascii(str(error)))
        else:
            self._keys, self._fetched = keys, self._clock()
            for key in keys:
                if key.kid not in self._known:
                    self._known.add(key.kid)
                    _log.info("trusting Postal's key %s, %d bits", key.kid, key.bits)
        finally:
            attempt.done.set()


def fit_keys(content: bytes) -> tuple[PublicKey, ...]:
    """Return the usable keys of a JWKS, skipping keys of other kinds.

    :param content: The JWKS as JSON.
    :raises ConfigurationError: if it contains no usable key.
    """
    try:
        jwks = json.loads(content.decode("utf-8"))["keys"]
    except (ValueError, RecursionError, LookupError, TypeError):
        jwks = None
    fit: list[PublicKey] = []
    for jwk in jwks if isinstance(jwks, list) else []:
        with suppress(ConfigurationError):
            fit += load_keys(jwk, "jwks.json")
    if not fit:
        raise ConfigurationError("the response contains no RSA key for RS256")
    return tuple(fit)


def fetch_jwks(base_url: str, ca_bundle: str | None) -> bytes:
    """Fetch the JWKS of a Postal server.

    The request carries no API key, and redirects are not followed: the keys must come
    from the configured server.

    :param base_url: ``POSTAL_API_URL``, without a trailing slash.
    :param ca_bundle: The path of a CA bundle, or ``None`` for the default one.
    :returns: The body of the response, which isn't parsed yet.
    :raises OSError: if the server can't be reached, is too slow, or its response is
        not a 200 or too large.
    """
    import requests

    with requests.Session() as session, _Deadline(TIMEOUT) as deadline:
        session.mount("http://", deadline.adapter())
        session.mount("https://", deadline.adapter())
        # With an explicit auth, requests doesn't send passwords from ~/.netrc.
        response = session.get(
            f"{base_url}/.well-known/jwks.json",
            auth=lambda request: request,
            headers={"Accept-Encoding": "identity"},
            verify=ca_bundle if ca_bundle is not None else True,
            timeout=TIMEOUT,
            allow_redirects=False,
            stream=True,
        )
        with response:
            if response.status_code != 200:
                raise OSError(f"{base_url} responded with HTTP {response.status_code}")
            content = b""
            for piece in response.iter_content(4096):
                content += piece
                if len(content) > MAX_SIZE:
                    raise OSError(f"the response of {base_url} is too large")
            if deadline.passed:
                raise OSError(f"the response of {base_url} is too slow")
    return content


class _Deadline:
    """Context manager that shuts down connections after a time.

    A timeout of requests applies to each read, so a server that sends one byte per
    second never exceeds it.

    :param seconds: How long the connections may last in total.
    :ivar passed: Whether the time is over.
    """

    def __init__(self, seconds: float) -> None:
        self.passed = False
        self._sockets: list[socket.socket] = []
        self._timer = threading.Timer(seconds, self._end)
        self._timer.daemon = True

    def __enter__(self) -> _Deadline:
        self._timer.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._timer.cancel()
        for connection in self._sockets:
            connection.close()

    def _end(self) -> None:
        self.passed = True
        for connection in self._sockets:
            with suppress(OSError):
                connection.shutdown(socket.SHUT_RDWR)

    def adapter(self) -> Any:
        """Return a requests adapter whose connections end with the deadline."""
        from requests.adapters import HTTPAdapter

        deadline = self

        class Watched:
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()  # type: ignore[misc]
                # Keep a duplicate, because wrapping the socket in TLS detaches it.
                deadline._sockets.append(connection.dup())
                if deadline.passed:
                    connection.close()
                return connection

        class Adapter(HTTPAdapter):
            def get_connection_with_tls_context(
                self, request: Any, verify: Any, proxies: Any = None, cert: Any = None
            ) -> Any:
                pool: Any = super().get_connection_with_tls_context(
                    request, verify, proxies=proxies, cert=cert
                )
                pool.ConnectionCls = type("Timed", (Watched, pool.ConnectionCls), {})
                return pool

        return Adapter()
