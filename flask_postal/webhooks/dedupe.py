"""Recognises duplicates, so that each receiver handles an event or a mail only once.

Postal delivers events and inbound mail at least once: it retries when a response is
lost or comes too late. While a request handles a delivery it holds a lease, so that no
other request handles the same one. When the receivers have succeeded, the delivery is
marked as handled; if there are several receivers, each one's success is marked too, so
that a retry calls only those that have failed.
"""

from __future__ import annotations

import hashlib
import logging
import threading
import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Any, Protocol

from ..errors import ConfigurationError
from ..outcome import redact

__all__ = [
    "Cache",
    "CacheClaim",
    "CacheStore",
    "Claim",
    "DedupeStore",
    "MemoryCache",
    "check_cache",
]

_log = logging.getLogger("flask_postal.webhooks")
_monotonic = time.monotonic

#: Seconds. After a failure that took longer, the cache isn't used again for the same
#: delivery.
SLOW = 0.5

#: Seconds after which a lease ends by itself, in case a worker dies while it holds one.
LEASE = 120
#: Seconds by which the clock of another worker may be ahead.
SKEW = 30
#: Seconds for which a handled delivery is remembered. Postal retries inbound mail for
#: about 31 hours, and events for 36 minutes.
KEPT = 48 * 3600
#: HTTP statuses after which Postal doesn't retry, so they may be marked as handled.
SETTLED = (200, 406, 429)
#: Entries of a :class:`MemoryCache`; the oldest are dropped first.
MAX_ENTRIES = 100_000

#: Backends of cachelib and Flask-Caching whose ``add`` may succeed twice.
_NOT_ATOMIC = {
    "BaseCache": "it stores nothing",
    "NullCache": "it stores nothing",
    "SimpleCache": "it is for one process; so is the default, 'memory', which is safe",
    "FileSystemCache": "two workers can add the same key at the same time",
    "MongoDbCache": "two workers can add the same key at the same time",
    "MongoDB": "two workers can add the same key at the same time",
}


class Claim(Protocol):
    """One request's view of an event or a mail in a :class:`DedupeStore`.

    A status is the HTTP status of the response to Postal: 200, 406 or 429. Methods must
    not raise. If the store fails, they act as if the event were new, because handling
    it twice is better than losing it.
    """

    def handled(self) -> int | None:
        """Return the status if the event has been handled, else ``None``."""

    def lease(self) -> bool:
        """Reserve the event for this request.

        :returns: ``False`` if another request is handling it right now.
        """

    def release(self) -> None:
        """End the reservation; does nothing if another request has it by now."""

    def done(self, status: int) -> None:
        """Remember that the event has been handled."""

    def has_done(self, receiver: str) -> int | None:
        """Return the status if a receiver has handled the event, else ``None``."""

    def mark(self, receiver: str, status: int) -> None:
        """Remember that a receiver has handled the event."""


class DedupeStore(Protocol):
    """Remembers what has been handled, so that Postal's retries are recognised.

    Apps normally use :class:`CacheStore`, but ``POSTAL_DEDUPE_CACHE`` accepts any
    object with this method.
    """

    def claim(self, identity: str) -> Claim:
        """Return the claim of an event or a mail, whether it is known or new.

        :param identity: A string of any length that is the same for each delivery of
            one event or mail, and different for all others.
        """


class Cache(Protocol):
    """The part of cachelib's interface that is used. Timeouts are in seconds."""

    def add(self, key: str, value: Any, timeout: int) -> Any: ...
    def get(self, key: str) -> Any: ...
    def set(self, key: str, value: Any, timeout: int) -> Any: ...
    def delete(self, key: str) -> Any: ...


class MemoryCache:
    """Thread-safe cache of one process, limited to :data:`MAX_ENTRIES`.

    :param clock: Returns the time in seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def add(self, key: str, value: Any, timeout: int) -> bool:
        """Set a key if it doesn't exist, and return whether it was set."""
        with self._lock:
            if self._alive(key) is not None:
                return False
            self._put(key, value, timeout)
            return True

    def get(self, key: str) -> Any:
        """Return the value of a key, or ``None``."""
        with self._lock:
            return self._alive(key)

    def set(self, key: str, value: Any, timeout: int) -> bool:
        """Set a key, whether it exists or not."""
        with self._lock:
            self._put(key, value, timeout)
            return True

    def delete(self, key: str) -> bool:
        """Delete a key, and return whether it existed."""
        with self._lock:
            return self._entries.pop(key, None) is not None

    def __len__(self) -> int:
        return len(self._entries)

    def _alive(self, key: str) -> Any:
        entry = self._entries.get(key)
        return None if entry is None or entry[0] <= self._clock() else entry[1]

    def _put(self, key: str, value: Any, timeout: int) -> None:
        self._entries.pop(key, None)
        self._entries[key] = (self._clock() + timeout, value)
        while len(self._entries) > MAX_ENTRIES:
            self._entries.popitem(last=False)


def check_cache(cache: Any, setting: str) -> Cache:
    """Check that a cache can be used, and return the backend to use.

    Its ``add`` must be atomic: of two workers that add the same key at the same time
    only one may succeed. Backends for which this isn't so are refused by name.

    :param cache: A cachelib or Flask-Caching object.
    :param setting: The name of the setting, for error messages.
    :raises ConfigurationError: if it can't be used, with the reason.
    """
    backend = cache
    if isinstance(getattr(type(cache), "cache", None), property):  # Flask-Caching
        try:
            backend = cache.cache
        except (KeyError, RuntimeError, AttributeError):
            raise ConfigurationError(
                f"{setting}: this Flask-Caching object is not initialised; call its"
                " init_app before Postal's",
                key=setting,
            ) from None
    reason = _NOT_ATOMIC.get(type(backend).__name__)
    missing = [m for m in ("add", "get", "set", "delete") if not hasattr(backend, m)]
    if missing:
        reason = f"it has no {missing[0]}()"
    if reason is not None:
        raise ConfigurationError(
            f"{setting}: a {type(backend).__name__} can't recognise duplicates,"
            f" because {reason}; use a cache in Redis or Memcached, 'memory', or None",
            key=setting,
        )
    return backend  # type: ignore[no-any-return]


class CacheStore:
    """A :class:`DedupeStore` that uses a cache.

    :param cache: A cache with cachelib's interface and an atomic ``add``, as
        :func:`check_cache` returns it.
    :param clock: Returns seconds since 1970, like ``time.time``. The clocks of workers
        may differ by up to :data:`SKEW`.
    """

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.time) -> None:
        self.cache = cache
        self._clock = clock

    def claim(self, identity: str) -> CacheClaim:
        """Return the claim of an event or a mail."""
        return CacheClaim(self.cache, identity, self._clock)


class CacheClaim:
    """A :class:`Claim` that uses a cache.

    No event is lost because the cache fails: it counts as new, and may be handled
    twice.

    :param cache: The cache; with ``None`` nothing is remembered.
    :param name: The identity of the event or mail.
    :param clock: Returns seconds since 1970, see :class:`CacheStore`.
    """

    def __init__(
        self, cache: Cache | None, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._cache = cache
        # Hashed, because Memcached accepts only keys of up to 250 characters without
        # whitespace.
        self._key = f"flask-postal:{hashlib.sha256(name.encode()).hexdigest()}"
        self._clock = clock
        self._deadline: float | None = None

    def handled(self) -> int | None:
        """Return the status if the event has been handled, else ``None``."""
        return _status(self._ask("get", f"{self._key}:done"))

    def lease(self) -> bool:
        """Reserve the event for this request.

        The lease stores its own deadline and doesn't rely on the timeout of the cache
        entry, because backends may expire entries late or not at all: a worker that
        died would then block the event for good. The deadline also shows whose lease it
        is, so that :meth:`release` never ends that of another request.

        :returns: ``False`` if another request is handling it right now.
        """
        if self._cache is None:
            return True
        key, now = f"{self._key}:lease", self._clock()
        deadline = now + LEASE
        if self._ask("add", key, deadline, LEASE):
            self._deadline = deadline
            return True
        held = self._ask("get", key)
        now = self._clock()  # again: the other lease may be newer than the first
        if isinstance(held, (int, float)) and held > now:
            if held > now + LEASE + SKEW:
                # Flask-Postal never writes such a deadline: limit it to LEASE from now.
                self._ask("set", key, now + LEASE, LEASE)
            return False
        # Either the lease has expired but its entry has not, or the cache fails to add
        # and to return entries. Neither may keep the event from being handled.
        deadline = now + LEASE
        self._ask("set", key, deadline, LEASE)
        self._deadline = deadline
        return True

    def release(self) -> None:
        """End the reservation; does nothing if another request has it by now."""
        key = f"{self._key}:lease"
        # If this lease has expired, another request may have taken the event.
        if self._deadline is not None and self._ask("get", key) == self._deadline:
            self._ask("delete", key)
        self._deadline = None

    def done(self, status: int) -> None:
        """Remember that the event has been handled, and the status of the response."""
        self._ask("set", f"{self._key}:done", status, KEPT)

    def has_done(self, receiver: str) -> int | None:
        """Return the status if a receiver has handled the event, else ``None``."""
        return _status(self._ask("get", self._mark(receiver)))

    def mark(self, receiver: str, status: int) -> None:
        """Remember that a receiver has handled the event, and with which status."""
        self._ask("set", self._mark(receiver), status, KEPT)

    def _mark(self, receiver: str) -> str:
        return f"{self._key}:{hashlib.sha256(receiver.encode()).hexdigest()[:32]}"

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self._cache is None:
            return None
        began = _monotonic()
        try:
            return getattr(self._cache, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - each client has its own errors
            _log.error(
                "the cache for duplicates failed; continuing without it: %s: %s",
                type(error).__name__,
                ascii(redact(str(error))),
            )
            if _monotonic() - began > SLOW:
                # Postal waits for five seconds in all. Several calls that each time out
                # would use them up, so the cache isn't used again for this request.
                self._cache = None
            return None


def _status(value: Any) -> int | None:
    """Return the status of a mark; anything that isn't written here is ignored."""
    return value if type(value) is int and value in SETTLED else None
