"""The sandbox's schedule: which job is due when, and doing it in that order.

Nothing here waits. :meth:`Schedule.run` does every job that is due by a given time, and
:mod:`.server` calls it when that time has come.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .clock import Clock
from .store import Store

__all__ = ["Schedule"]


class Schedule:
    """The jobs of one sandbox. They are kept in the store and survive a restart."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._workers: dict[str, Callable[..., None]] = {}
        # Held while jobs run. It is reentrant because a receiver that is called by a
        # job may move the time on, which runs other jobs.
        self._turn = threading.RLock()
        self._running: set[int] = set()

    def register(self, name: str, worker: Callable[..., None]) -> None:
        """Set the function that does the jobs of a name."""
        self._workers[name] = worker

    def plan(self, due: float, name: str, **arguments: Any) -> None:
        """Plan a job.

        :param due: When, in seconds since 1970.
        :param arguments: What its worker is called with; JSON.
        """
        self._store.add_job(due, name, arguments)

    def resume(self) -> None:
        """Continue at the time at which the sandbox was last running."""
        seen = self._store.note("clock")
        if seen is not None and not self._clock.manual:
            self._clock.go_on_from(float(seen))

    def save_time(self) -> None:
        """Note the time for :meth:`resume`."""
        self._store.set_note("clock", str(self._clock.now()))

    def run(
        self,
        until: float,
        arrive: Callable[[float], Any] = float,
        stopping: Callable[[], bool] = bool,
    ) -> int:
        """Do every job that is due by a time, in order.

        :param arrive: Called with the time of each job before the job is done.
        :param stopping: Tells whether to leave the remaining jobs for later.
        :returns: The number of jobs done.
        """
        done = 0
        with self._turn:
            while not stopping():
                job = self._store.next_job(until, self._running)
                if job is None:
                    break
                arrive(job.due)
                self._running.add(job.id)
                try:
                    self._workers[job.name](**job.arguments)
                except Exception:
                    self._store.remove_job(job.id)
                    raise
                finally:
                    self._running.discard(job.id)
                # The job is removed only now: a sandbox that is killed while doing it
                # does it again when it is restarted.
                self._store.remove_job(job.id)
                self.save_time()
                done += 1
        return done
