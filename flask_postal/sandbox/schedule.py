"""Schedule of the sandbox: plans jobs, and runs them in the order of their time.

Nothing here waits. :meth:`Schedule.run` runs every job that is due by a given time;
:mod:`.server` decides when to call it.
"""

from __future__ import annotations

import threading
from collections.abc import Callable
from typing import Any

from .clock import Clock
from .store import Store

__all__ = ["Schedule"]


class Schedule:
    """Jobs of one sandbox. They are kept in the store and so survive a restart."""

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock
        self._workers: dict[str, Callable[..., None]] = {}
        # Held while jobs run. It is reentrant because a job may call a receiver of the
        # app that moves the time forward, which runs other jobs.
        self._turn = threading.RLock()
        self._running: set[int] = set()

    def register(self, name: str, worker: Callable[..., None]) -> None:
        """Set the function that runs the jobs with a name."""
        self._workers[name] = worker

    def plan(self, due: float, name: str, **arguments: Any) -> None:
        """Plan a job.

        :param due: When to run it, in seconds since 1970.
        :param name: The name of a registered worker.
        :param arguments: The keyword arguments of the worker, which must be JSON.
        """
        self._store.add_job(due, name, arguments)

    def resume(self) -> None:
        """Continue at the time at which the sandbox stopped."""
        seen = self._store.note("clock")
        if seen is not None and not self._clock.manual:
            self._clock.go_on_from(float(seen))

    def save_time(self) -> None:
        """Store the current time for :meth:`resume`."""
        self._store.set_note("clock", str(self._clock.now()))

    def run(
        self,
        until: float,
        arrive: Callable[[float], Any] = float,
        stopping: Callable[[], bool] = bool,
    ) -> int:
        """Run every job that is due by a time, in order.

        :param until: Seconds since 1970.
        :param arrive: Called with the time of each job before the job runs.
        :param stopping: Returns whether to leave the remaining jobs for later.
        :returns: The number of jobs that were run.
        :raises Exception: whatever a job raises. The job is removed, so that it does
            not fail again and again; the remaining jobs stay.
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
                # Remove the job only after it is done. Removing it first would lose a
                # webhook if the sandbox is killed in between. This way, the worst case
                # is a webhook that is posted twice, after a restart; apps have to
                # expect duplicates from a real Postal too.
                self._store.remove_job(job.id)
                self.save_time()
                done += 1
        return done
