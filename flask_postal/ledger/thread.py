"""Delivers messages in a thread of the app's own process.

It starts with the first request, for what an earlier process has left, and with each
commit that enqueued something. It ends when nothing is left to do. A server with
several processes has one thread in each; the claims keep them apart.
"""

from __future__ import annotations

import atexit
import logging
import os
import threading
from importlib import import_module
from weakref import WeakSet

import sqlalchemy as sa

from .app_ledger import AppLedger
from .columns import now
from .fork_gate import no_fork

__all__ = ["DeliveryThread", "why_not_here"]

_log = logging.getLogger("flask_postal.ledger")

#: Seconds between two looks at the database, at least and at most.
LEAST_PAUSE = 1.0
MOST_PAUSE = 60.0
#: Seconds to wait after an error.
AFTER_ERROR = 5.0
#: Seconds that the end of the process waits for a call that is under way, beyond the
#: call's own time-out.
GRACE = 5.0

_all: WeakSet[DeliveryThread] = WeakSet()


def why_not_here(bind: sa.Engine | sa.Connection) -> str | None:
    """Return why a thread can't see what the app commits; ``None`` if it can."""
    if isinstance(bind, sa.Connection):
        return "the engine is a Connection, which is not for several threads"
    if isinstance(bind.pool, (sa.StaticPool, sa.pool.SingletonThreadPool)):
        return "an SQLite in memory is not for several threads"
    return None


class DeliveryThread:
    """The thread of one app.

    :param longest_call: Seconds that a call of the API may take.
    """

    def __init__(self, ledger: AppLedger, longest_call: float) -> None:
        self._ledger = ledger
        self._longest_call = longest_call
        self._reset()
        _all.add(self)

    def _reset(self) -> None:
        self._lock = threading.Lock()
        self._woken = threading.Event()
        self._stopping = False
        self._failing = False
        self._thread: threading.Thread | None = None

    def wake(self) -> None:
        """Look for messages that are due now; starts the thread if there is none."""
        with self._lock:
            if self._stopping:
                return
            self._woken.set()
            if self._thread is None:
                thread = threading.Thread(
                    target=self._run, name="flask-postal-ledger", daemon=True
                )
                thread.start()  # raises if there are too many; the next commit tries
                self._thread = thread

    def halt(self) -> None:
        """Begin no other call."""
        with self._lock:
            self._stopping = True
            self._woken.set()

    def join(self) -> None:
        """Wait for the call that is under way, no longer than it may take."""
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(self._longest_call + GRACE)

    def forget_parent(self) -> None:
        """Begin anew in a forked process, which has no copy of the thread.

        The parent's connections must not be used here either.
        """
        had_one = self._thread is not None
        self._reset()
        if had_one:
            self._ledger.database.abandon()

    def _run(self) -> None:
        try:
            self._repeat()
        finally:
            with self._lock:
                self._thread = None

    def _repeat(self) -> None:
        with no_fork():
            # It is imported by the first call. A fork in the middle of the import would
            # leave it locked in the child.
            import_module("flask_postal.sending.http")
        while True:
            self._woken.clear()
            pause = self._work()
            with self._lock:
                if self._stopping or (pause is None and not self._woken.is_set()):
                    self._thread = None  # before a commit can believe that it runs
                    return
            if pause is not None:
                self._woken.wait(pause)

    def _work(self) -> float | None:
        """Do what is due; return the seconds until there is more, ``None`` for never.

        Whatever goes wrong, it goes on.
        """
        try:
            # A look at Postal's ids may take half a minute; new messages don't wait.
            done = self._ledger.drain(lambda: self._stopping, self._woken.is_set)
            due_at = self._ledger.next_due()
        except sa.exc.SQLAlchemyError as error:
            if not self._failing:  # once, and not every few seconds
                # Not the whole error: it has the statement's values in it.
                cause = getattr(error, "orig", None) or type(error).__name__
                _log.error("the database fails; retrying: %s", ascii(str(cause)))
            self._failing = True
            return AFTER_ERROR
        except Exception:  # noqa: BLE001
            # A bug in one message's way must not end the delivery of all others.
            _log.exception("delivering messages failed; it goes on")
            return AFTER_ERROR
        self._failing = False
        if due_at is None:
            return None
        pause = (due_at - now()).total_seconds()
        # What is due and could not be done is in the hands of another process.
        return min(max(pause, 0.0 if done else LEAST_PAUSE), MOST_PAUSE)


def _stop_all() -> None:
    threads = list(_all)
    for thread in threads:
        thread.halt()
    for thread in threads:
        thread.join()


def _after_fork() -> None:
    for thread in list(_all):
        thread.forget_parent()


atexit.register(_stop_all)
os.register_at_fork(after_in_child=_after_fork)
