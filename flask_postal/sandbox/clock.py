"""Clocks of the sandbox: real time, accelerated time, or time moved by hand."""

from __future__ import annotations

import time

__all__ = ["Clock", "ManualClock"]


class Clock:
    """Clock that runs by itself.

    :param speed: Factor by which it runs faster than real time: with 60, an hour takes
        a minute.
    :raises ValueError: if the speed is not above 0.
    """

    #: Whether the time only moves when :meth:`.Sandbox.advance` is called.
    manual = False

    def __init__(self, speed: float = 1.0) -> None:
        if not speed > 0:
            raise ValueError("the speed must be above 0")
        self._speed = speed
        self._began = time.time()
        self._ahead = 0.0

    def now(self) -> float:
        """Return the sandbox's time in seconds since 1970."""
        return self._began + self._ahead + (time.time() - self._began) * self._speed

    def go_on_from(self, now: float) -> None:
        """Move forward to a time in seconds since 1970; never move back."""
        self._ahead += max(0.0, now - self.now())

    def real_seconds(self, seconds: float) -> float:
        """Convert seconds of this clock to real seconds."""
        return max(0.0, seconds) / self._speed


class ManualClock(Clock):
    """Clock that stands still until :meth:`.Sandbox.advance` moves it.

    :param now: The time to start at, in seconds since 1970; the current time if not
        given.
    """

    manual = True

    def __init__(self, now: float | None = None) -> None:
        super().__init__()
        self._now = time.time() if now is None else now

    def now(self) -> float:
        return self._now

    def set(self, now: float) -> None:
        """Move forward to a time in seconds since 1970; never move back."""
        self._now = max(self._now, now)
