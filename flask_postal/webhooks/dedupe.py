"""What has been handled, what is being handled, and what each receiver has done.

Postal delivers events and mails at least once. A delivery is leased to one request at a
time, and marked when all of its receivers, or one of several, have done their work.
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

#: Seconds after which a cache that fails is not asked again for the same delivery.
SLOW = 0.5

#: Seconds for which a delivery belongs to one request. A worker that dies frees it so.
LEASE = 120
#: Seconds by which the clock of another worker may be ahead.
SKEW = 30
#: Seconds for which a handled delivery is remembered; Postal retries mail for 31 hours.
KEPT = 48 * 3600
#: How a delivery, or a receiver's part of it, is answered once it is settled.
SETTLED = (200, 406, 429)
#: Deliveries and receivers' marks that one process remembers.
MAX_ENTRIES = 100_000

#: Backends of cachelib and Flask-Caching whose ``add`` may succeed twice.
_NOT_ATOMIC = {
    "BaseCache": "it keeps nothing",
    "NullCache": "it keeps nothing",
    "SimpleCache": "it is of one process; the default, 'memory', is too, and safe",
    "FileSystemCache": "two workers may add one key to it at once",
    "MongoDbCache": "two workers may add one key to it at once",
    "MongoDB": "two workers may add one key to it at once",
}


class Claim(Protocol):
    """One event or mail in a :class:`DedupeStore`, as one request handles it.

    A status is the HTTP status that the request was answered with: 200, 406 or 429.
    No method may raise: an event is rather handled twice than lost.
    """

    def handled(self) -> int | None:
        """Return the status if it has been handled, else ``None``."""

    def lease(self) -> bool:
        """Reserve it for this request; ``False`` if another request has it now."""

    def release(self) -> None:
        """Give the reservation back."""

    def done(self, status: int) -> None:
        """Remember that it has been handled."""

    def has_done(self, receiver: str) -> int | None:
        """Return the status if a receiver has handled it, else ``None``."""

    def mark(self, receiver: str, status: int) -> None:
        """Remember that a receiver has handled it."""


class DedupeStore(Protocol):
    """Remembers what has been handled, so that retries of Postal's are recognised.

    :class:`CacheStore` is the one that apps use. ``POSTAL_DEDUPE_CACHE`` takes any
    object with this method.
    """

    def claim(self, identity: str) -> Claim:
        """Return the claim of an event or a mail; it need not be known yet.

        :param identity: Distinguishes it from every other.
        """


class Cache(Protocol):
    """The part of cachelib's interface that is used."""

    def add(self, key: str, value: Any, timeout: int) -> Any: ...
    def get(self, key: str) -> Any: ...
    def set(self, key: str, value: Any, timeout: int) -> Any: ...
    def delete(self, key: str) -> Any: ...


class MemoryCache:
    """A cache of one process, of bounded size."""

    def __init__(self, clock: Callable[[], float] = time.time) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._entries: OrderedDict[str, tuple[float, Any]] = OrderedDict()

    def add(self, key: str, value: Any, timeout: int) -> bool:
        """Set a key that is not there; whether it was not."""
        with self._lock:
            if self._alive(key) is not None:
                return False
            self._put(key, value, timeout)
            return True

    def get(self, key: str) -> Any:
        """Return a value, or ``None``."""
        with self._lock:
            return self._alive(key)

    def set(self, key: str, value: Any, timeout: int) -> bool:
        """Set a key."""
        with self._lock:
            self._put(key, value, timeout)
            return True

    def delete(self, key: str) -> bool:
        """Forget a key."""
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
    """Check that a cache can tell the first of two at once.

    :param cache: A cachelib or Flask-Caching object.
    :raises ConfigurationError: if it can't, with the reason.
    """
    backend = cache
    if isinstance(getattr(type(cache), "cache", None), property):  # Flask-Caching's
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
            f"{setting}: a {type(backend).__name__} can't tell duplicates apart:"
            f" {reason}; use one of Redis or Memcached, 'memory', or None",
            key=setting,
        )
    return backend  # type: ignore[no-any-return]


class CacheStore:
    """A :class:`DedupeStore` in a cache.

    :param cache: A cache with cachelib's interface and an atomic ``add``.
    :param clock: Seconds since 1970, the same for all workers.
    """

    def __init__(self, cache: Cache, clock: Callable[[], float] = time.time) -> None:
        self.cache = cache
        self._clock = clock

    def claim(self, identity: str) -> CacheClaim:
        """Return the claim of an event or a mail."""
        return CacheClaim(self.cache, identity, self._clock)


class CacheClaim:
    """One event or mail, as the cache knows it.

    A cache that fails never costs an event: what can't be known counts as new.

    :param cache: The cache; ``None`` remembers nothing.
    :param name: What tells this delivery from all others.
    :param clock: Seconds since 1970, the same for all workers.
    """

    def __init__(
        self, cache: Cache | None, name: str, clock: Callable[[], float] = time.time
    ) -> None:
        self._cache = cache
        # Memcached takes keys of 250 characters without blanks.
        self._key = f"flask-postal:{hashlib.sha256(name.encode()).hexdigest()}"
        self._clock = clock
        self._deadline: float | None = None

    def handled(self) -> int | None:
        """Return the status that this delivery was answered with, once handled."""
        return _status(self._ask("get", f"{self._key}:done"))

    def lease(self) -> bool:
        """Take the delivery; ``False`` if another request has it right now."""
        if self._cache is None:
            return True
        key, now = f"{self._key}:lease", self._clock()
        deadline = now + LEASE
        if self._ask("add", key, deadline, LEASE):
            self._deadline = deadline
            return True
        held = self._ask("get", key)
        now = self._clock()  # later than the other request, which has read its own
        if isinstance(held, (int, float)) and held > now:
            if held > now + LEASE + SKEW:
                # Not written by us: cap the lease at two minutes from now.
                self._ask("set", key, now + LEASE, LEASE)
            return False
        # Expired, whatever the backend thinks of it; or a cache that adds nothing and
        # holds nothing, and must not keep the event from being handled.
        deadline = now + LEASE
        self._ask("set", key, deadline, LEASE)
        self._deadline = deadline
        return True

    def release(self) -> None:
        """Give the delivery back."""
        key = f"{self._key}:lease"
        # Unless it has expired and somebody else has taken it.
        if self._deadline is not None and self._ask("get", key) == self._deadline:
            self._ask("delete", key)
        self._deadline = None

    def done(self, status: int) -> None:
        """Remember that the delivery is handled, and how it was answered."""
        self._ask("set", f"{self._key}:done", status, KEPT)

    def has_done(self, receiver: str) -> int | None:
        """Return the status that a receiver has settled this delivery with before."""
        return _status(self._ask("get", self._mark(receiver)))

    def mark(self, receiver: str, status: int) -> None:
        """Remember that a receiver has settled this delivery, and how."""
        self._ask("set", self._mark(receiver), status, KEPT)

    def _mark(self, receiver: str) -> str:
        return f"{self._key}:{hashlib.sha256(receiver.encode()).hexdigest()[:32]}"

    def _ask(self, method: str, *arguments: Any) -> Any:
        if self._cache is None:
            return None
        began = _monotonic()
        try:
            return getattr(self._cache, method)(*arguments)
        except Exception as error:  # noqa: BLE001 - whatever client, whatever it raises
            _log.error(
                "the cache for duplicates failed; going on without it: %s: %s",
                type(error).__name__,
                ascii(redact(str(error))),
            )
            if _monotonic() - began > SLOW:
                # Postal waits five seconds in all: it is not asked again this time.
                self._cache = None
            return None


def _status(value: Any) -> int | None:
    """Return a mark's status; what was not written here counts as no mark."""
    return value if type(value) is int and value in SETTLED else None
