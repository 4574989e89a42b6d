"""DNS lookups: bounded in time, cached, and replaceable in tests."""

from __future__ import annotations

import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from typing import Any

__all__ = ["Lookups", "Resolver", "resolving_with", "system_resolver"]

#: Called as ``resolver(name, record, timeout)`` with a name such as
#: ``"_dmarc.example.com"``, one of ``TXT``, ``A``, ``AAAA``, ``MX`` and ``PTR``, and
#: the seconds that it may take. Returns the records as text, such as
#: ``"10 mx.example.com"`` for ``MX``, and an empty list if there are none. Raises
#: :exc:`OSError`, such as :exc:`TimeoutError`, if nobody knows at the moment.
Resolver = Callable[[str, str, float], Sequence[str]]

#: Answers that are kept, each for as long as it says.
CACHED = 2000


class Lookups:
    """The look-ups for one mail.

    :param resolver: Asks DNS.
    :param timeout: Seconds that all of them may take together.
    """

    def __init__(self, resolver: Resolver, timeout: float) -> None:
        self._resolver = resolver
        self._until = time.monotonic() + timeout
        self._known: dict[tuple[str, str], Sequence[str]] = {}

    def __call__(self, name: str, record: str) -> Sequence[str]:
        """Return the records of a name.

        :raises OSError: if they can't be looked up in the time that is left.
        """
        key = name.rstrip(".").lower(), record
        if key not in self._known:
            left = self._until - time.monotonic()
            if left <= 0:
                raise TimeoutError("looking up records has taken too long")
            self._known[key] = self._resolver(*key, left)
        return self._known[key]


@cache
def system_resolver() -> Resolver:
    """Return a resolver that asks the name servers of the system, with dnspython."""
    import dns.exception
    import dns.name
    import dns.resolver

    resolver: Any = None
    lock = threading.Lock()

    def configured() -> Any:
        nonlocal resolver
        with lock:
            if resolver is None:
                resolver = dns.resolver.Resolver()
                resolver.cache = dns.resolver.LRUCache(CACHED)
        return resolver

    def resolve(name: str, record: str, timeout: float) -> Sequence[str]:
        try:
            absolute = dns.name.from_text(name).canonicalize()
        except (dns.exception.DNSException, UnicodeError, ValueError):
            return []  # no name at all, such as one with an empty label
        try:
            answer = configured().resolve(
                absolute, record, lifetime=timeout, raise_on_no_answer=False
            )
        except dns.resolver.NXDOMAIN:
            return []
        except dns.exception.Timeout as error:
            raise TimeoutError(str(error)) from None
        except dns.exception.DNSException as error:
            raise OSError(f"{type(error).__name__}: {error}") from None
        return [_text(item, record) for item in answer.rrset or ()]

    return resolve


def _text(item: Any, record: str) -> str:
    if record == "TXT":
        return b"".join(item.strings).decode("latin-1")
    if record == "MX":
        return f"{item.preference} {item.exchange.to_text(omit_final_dot=True)}"
    if record == "PTR":
        return str(item.target.to_text(omit_final_dot=True))
    return str(item.address)


_in_use: list[Resolver] = []


@contextmanager
def resolving_with(resolver: Resolver) -> Iterator[None]:
    """Use another resolver in this process, for tests."""
    _in_use.append(resolver)
    try:
        yield
    finally:
        _in_use.remove(resolver)


def resolver_in_use() -> Resolver:
    """Return the resolver of :func:`resolving_with`, or that of the system."""
    return _in_use[-1] if _in_use else system_resolver()
