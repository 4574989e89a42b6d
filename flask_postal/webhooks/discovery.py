"""Finds Postal's keys at ``/.well-known/jwks.json``, and follows their rotation."""

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

#: Seconds: between two attempts, until a set is looked at again, and until it is
#: dropped when the server is not to be reached.
PAUSE, FRESH, KEPT = 30.0, 15 * 60.0, 7 * 24 * 3600.0
#: Seconds for one whole exchange.
TIMEOUT = 2.0
#: Seconds after which an attempt counts as over, whatever became of it: looking up a
#: name can't be ended.
STALE = 5.0
#: Bytes of a key set; one of a single RSA-8192 key has 1.5 kB.
MAX_SIZE = 64 * 1024

Fetch = Callable[[], bytes]


@dataclass(slots=True)
class _Attempt:
    """One fetch, which any number of threads wait for."""

    begun: float
    process: int = field(default_factory=os.getpid)
    done: threading.Event = field(default_factory=threading.Event)


class DiscoveredKeys:
    """The keys that a Postal serves, fetched when they are needed.

    :param fetch: Gets the key set; raises ``OSError`` if it can't.
    :param clock: Seconds, never going back.
    """

    def __init__(
        self, fetch: Fetch, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._fetch = fetch
        self._clock = clock
        # One for each process: a fork may copy a lock that is held.
        self._locks: dict[int, threading.Lock] = {}
        self._attempt: _Attempt | None = None
        self._keys: tuple[PublicKey, ...] = ()
        self._fetched = 0.0
        self._known: set[str] = set()

    def find(self, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys to try, none if there is no telling.

        A key that is known is returned at once, even while newer ones are fetched.
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

    def _matching(self, kid: str | None, now: float) -> tuple[PublicKey, ...]:
        if now - self._fetched >= KEPT:
            return ()
        return tuple(key for key in self._keys if kid is None or key.kid == kid)

    def _begin(self, now: float) -> _Attempt | None:
        """Join the fetch under way, or begin one; ``None`` if it is too early."""
        process = os.getpid()
        with self._locks.setdefault(process, threading.Lock()):
            attempt = self._attempt
            if attempt is not None and attempt.process == process:
                stale = now - attempt.begun > STALE
                if not attempt.done.is_set() and not stale:
                    return attempt
                if now - attempt.begun < PAUSE and attempt.done.is_set():
                    return None
            # No attempt, an attempt that has hung, or one of the process that this one
            # was forked from, whose thread is not here.
            self._attempt = attempt = _Attempt(now)
        # In a thread of its own: a request that needs no new key does not wait for
        # it, and one that does only for a while, however slow the server is.
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
    """Read the keys of a set that are fit for us; others may stand beside them.

    :raises ConfigurationError: if none is.
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
        raise ConfigurationError("the answer holds no RSA key for RS256")
    return tuple(fit)


def fetch_jwks(base_url: str, ca_bundle: str | None) -> bytes:
    """GET the key set of a Postal, without an API key and without a redirect.

    :raises OSError: if there is none, or it does not come in time.
    """
    import requests

    with requests.Session() as session, _Deadline(TIMEOUT) as deadline:
        session.mount("http://", deadline.adapter())
        session.mount("https://", deadline.adapter())
        # An auth of its own keeps requests from reading netrc.
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
                raise OSError(f"{base_url} answered HTTP {response.status_code}")
            content = b""
            for piece in response.iter_content(4096):
                content += piece
                if len(content) > MAX_SIZE:
                    raise OSError(f"the answer of {base_url} is too large")
            if deadline.passed:
                raise OSError(f"the answer of {base_url} is too slow")
    return content


class _Deadline:
    """Ends connections when a time has passed, whatever they are doing.

    A time-out of requests is one for each piece that comes, and a server that sends one
    byte a second never runs into it.

    :param seconds: How long the connections may live.
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
        """Make an adapter whose connections end with the deadline."""
        from requests.adapters import HTTPAdapter

        deadline = self

        class Watched:
            def _new_conn(self) -> socket.socket:
                connection: socket.socket = super()._new_conn()  # type: ignore[misc]
                # A second handle on it: TLS takes the first one over.
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
