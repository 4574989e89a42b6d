"""The settings of the ledger."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError
from ..sending.suppression import SuppressionReason

__all__ = ["LedgerSettings"]


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """Who delivers messages, how long the ledger waits for what, and what it keeps.

    :param lease: Seconds for which a claim holds; longer than the longest call.
    :param backoff: Seconds before the first retry, and at most; doubling in between.
    :param give_up: Seconds after which a message that can't be sent is ``failed``.
    :param settle: Seconds after an attempt whose end is not known until "not found"
        counts.
    :param relay: ``"thread"``; or ``"process"``, to deliver nothing in this process.
    :param dispatch: Called with ``"mail"`` or ``"event"`` and an id after the commit,
        for a queue.
    :param events: ``"inline"``, to call receivers before Postal is answered; or
        ``"later"``.
    :param keep_content: Days for which the content of finished messages is kept.
    :param keep_rows: Days for which finished messages are kept.
    :param suppression: The reasons for which nothing is sent to an address.
    """

    lease: float = 120.0
    backoff: tuple[float, float] = (30.0, 3600.0)
    give_up: float = 259_200.0
    settle: float = 600.0
    relay: str = "thread"
    dispatch: Callable[[str, int], object] | None = None
    events: str = "inline"
    keep_content: float = 7.0
    keep_rows: float = 90.0
    suppression: frozenset[SuppressionReason] = frozenset(SuppressionReason)

    def pause(self, attempts: int) -> float:
        """Return the seconds to wait after a number of attempts that failed."""
        first, longest = self.backoff
        return min(first * 2.0 ** min(attempts - 1, 30), longest)

    @property
    def first_look(self) -> float:
        """Seconds after a lost response until Postal's ids are looked up first.

        The mail is there by then, unless Postal is busy.
        """
        return min(5.0, self.settle)

    @property
    def next_look(self) -> float:
        """Seconds between two looks that have not settled a message."""
        return min(60.0, max(0.5, self.settle / 10))

    @classmethod
    def from_config(cls, config: Mapping[str, Any]) -> LedgerSettings:
        """Read and check ``POSTAL_LEASE`` and the others.

        :raises ConfigurationError: for a value that can't be used.
        """
        return cls(
            lease=_seconds(config, "POSTAL_LEASE", 120.0),
            backoff=_pair(config, "POSTAL_BACKOFF", (30.0, 3600.0)),
            give_up=_seconds(config, "POSTAL_GIVE_UP", 259_200.0),
            settle=_seconds(config, "POSTAL_SETTLE", 600.0),
            relay=_one_of(config, "POSTAL_RELAY", "thread", "process"),
            dispatch=_dispatch(config),
            events=_one_of(config, "POSTAL_EVENTS", "inline", "later"),
            keep_content=_days(config, "POSTAL_KEEP_CONTENT", 7.0),
            keep_rows=_days(config, "POSTAL_KEEP_ROWS", 90.0),
            suppression=_reasons(config),
        )


def _seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    return _number(value, key)


def _days(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    return _number(value, key, "days")


def _one_of(config: Mapping[str, Any], key: str, default: str, other: str) -> str:
    value = config.get(key)
    if value is None:
        return default
    if value not in (default, other):
        raise ConfigurationError(
            f'{key} must be "{default}" or "{other}", not {value!r}', key=key
        )
    return str(value)


def _reasons(config: Mapping[str, Any]) -> frozenset[SuppressionReason]:
    """Read ``POSTAL_SUPPRESSION``: a set, or names with commas between them."""
    value = config.get("POSTAL_SUPPRESSION")
    if value is None:
        return frozenset(SuppressionReason)
    if isinstance(value, str):
        value = [name.strip() for name in value.split(",") if name.strip()]
    try:
        return frozenset(SuppressionReason(name) for name in value)
    except (TypeError, ValueError):
        raise ConfigurationError(
            "POSTAL_SUPPRESSION must be a set of reasons:"
            f" {', '.join(SuppressionReason)}; not {value!r}",
            key="POSTAL_SUPPRESSION",
        ) from None


def _dispatch(config: Mapping[str, Any]) -> Callable[[str, int], object] | None:
    value = config.get("POSTAL_DISPATCH")
    if value is None or callable(value):
        return value
    raise ConfigurationError(
        "POSTAL_DISPATCH must be a function that is called with 'mail' or 'event' and"
        f" an id; not {value!r}",
        key="POSTAL_DISPATCH",
    )


def _pair(
    config: Mapping[str, Any], key: str, default: tuple[float, float]
) -> tuple[float, float]:
    value = config.get(key)
    if value is None:
        return default
    if isinstance(value, str):
        value = value.strip("()[] ").split(",")
    if not isinstance(value, (list, tuple)) or len(value) != 2:
        raise ConfigurationError(
            f"{key} must be two numbers of seconds, before the first retry and at most;"
            f" not {value!r}",
            key=key,
        )
    return _number(value[0], key), _number(value[1], key)


def _number(value: Any, key: str, unit: str = "seconds") -> float:
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = -1.0
    if not (number > 0 and math.isfinite(number)):
        raise ConfigurationError(
            f"{key} must be a number of {unit} above 0, not {value!r}", key=key
        )
    return number
