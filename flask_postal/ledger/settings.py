"""The settings of the ledger."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import ConfigurationError

__all__ = ["LedgerSettings"]


@dataclass(frozen=True, slots=True)
class LedgerSettings:
    """How long the ledger waits for what, in seconds.

    :param lease: For how long a claim holds. It must be longer than the longest call.
    :param backoff: Before the first retry, and at most; doubling in between.
    :param give_up: After this a message that could not be sent is ``failed``.
    :param settle: After an attempt whose end is not known, until "not there" counts.
    """

    lease: float = 120.0
    backoff: tuple[float, float] = (30.0, 3600.0)
    give_up: float = 259_200.0
    settle: float = 600.0

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
        )


def _seconds(config: Mapping[str, Any], key: str, default: float) -> float:
    value = config.get(key)
    if value is None:
        return default
    return _number(value, key)


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


def _number(value: Any, key: str) -> float:
    try:
        number = -1.0 if isinstance(value, bool) else float(value)
    except (OverflowError, TypeError, ValueError):
        number = -1.0
    if not (number > 0 and math.isfinite(number)):
        raise ConfigurationError(
            f"{key} must be a number of seconds above 0, not {value!r}", key=key
        )
    return number
