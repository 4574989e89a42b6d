"""The sandbox's time: the computer's, a faster one, or one that stands still."""

from __future__ import annotations

import time

__all__ = ["Clock", "ManualClock"]


class Clock:
    """Time that passes.

    :param speed: How much faster than the computer's: with 60, an hour takes a minute.
    """

    #: Whether time passes only when it is told to.
    manual = False

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError("the speed must be above 0")
        self._speed = speed
        self._began = time.time()
        self._ahead = 0.0

    def now(self) -> float:
        """Return the time in seconds since 1970."""
        return self._began + self._ahead + (time.time() - self._began) * self._speed

    def go_on_from(self, now: float) -> None:
        """Move on to a time, if it is still to come."""
        self._ahead += max(0.0, now - self.now())

    def real_seconds(self, seconds: float) -> float:
        """Return how long one has to wait for so many seconds of this clock."""
        return max(0.0, seconds) / self._speed


class ManualClock(Clock):
    """Time that stands still until :meth:`.Sandbox.advance` moves it."""

    manual = True

    def __init__(self, now: float | None = None) -> None:
        super().__init__()
        self._now = time.time() if now is None else now

    def now(self) -> float:
        return self._now

    def set(self, now: float) -> None:
        """Move on; never back."""
        self._now = max(self._now, now)
