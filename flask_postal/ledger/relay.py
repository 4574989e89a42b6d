"""Works for the ledger in a process of its own, until it is told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa

from .app_ledger import AppLedger

__all__ = ["Relay"]

_log = logging.getLogger("flask_postal.ledger")

#: Seconds between two looks for messages that are due.
PAUSE = 1.0
#: Seconds between two lines in the log about what was done.
REPORT = 60.0


class Relay:
    """Delivers what is due, again and again.

    Other threads call the receivers of events, and ask Postal about doubtful messages
    and missing events.

    :param threads: The number of messages that are sent at a time. Half as many events
        are handled at a time.
    :param rate: The number of messages that are sent in a minute at most; ``None`` for
        as many as possible.
    """

    def __init__(
        self, ledger: AppLedger, *, threads: int = 1, rate: float | None = None
    ) -> None:
        self._ledger = ledger
        self._threads = threads
        self._pace = None if rate is None else _Pace(rate)
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._counts = {"attempts": 0, "settled": 0, "events": 0, "missed": 0}
        self._failing: set[str] = set()  # names of threads

    def stop(self) -> None:
        """Tell the relay to finish the calls that are under way, and end."""
        self._stopping.set()

    def run(self) -> None:
        """Deliver messages until :meth:`stop` is called."""
        half = (self._threads + 1) // 2
        jobs = [*[self._send] * self._threads, *[self._process] * half, self._settle]
        workers = [
            threading.Thread(
                target=self._repeat, args=(job,), name=f"postal-relay-{number}"
            )
            for number, job in enumerate(jobs)
        ]
        for worker in workers:
            worker.start()
        reported = time.monotonic()
        while not self._stopping.wait(PAUSE):
            if time.monotonic() - reported >= REPORT:
                reported = time.monotonic()
                self._report()
        for worker in workers:
            worker.join()
        self._report()

    def _send(self) -> int:
        if self._pace is None:
            done = self._ledger.send_due(self._stopping.is_set)
        elif self._ledger.any_mail_due() and self._pace.wait_turn(self._stopping):
            done = self._ledger.send_due(self._stopping.is_set, most=1)
        else:
            done = 0
        self._count("attempts", done)
        return done

    def _process(self) -> int:
        done = self._ledger.process_due(self._stopping.is_set)
        self._count("events", done)
        return done

    def _settle(self) -> int:
        released = self._ledger.release_expired()
        settled = self._ledger.settle(self._stopping.is_set)
        self._count("settled", settled)
        missed = self._ledger.poll(self._stopping.is_set)
        self._count("missed", missed)
        return released + settled + missed

    def _repeat(self, job: Callable[[], int]) -> None:
        while not self._stopping.is_set():
            try:
                done = job()
            except sa.exc.SQLAlchemyError as error:
                # The database may be restarting: go on when it is back.
                self._note_failure(error)
                done = 0
            except Exception:  # noqa: BLE001
                # A bug in one message's way must not end the delivery of all others.
                _log.exception("the relay failed; it goes on")
                done = 0
            else:
                self._note_success()
            if not done:
                self._stopping.wait(PAUSE)

    def _note_failure(self, error: sa.exc.SQLAlchemyError) -> None:
        """Log that the database fails: once, and not for every thread each second."""
        with self._lock:
            known = bool(self._failing)
            self._failing.add(threading.current_thread().name)
        if not known:
            # Not the whole error: it has the statement's values in it.
            cause = getattr(error, "orig", None) or type(error).__name__
            _log.error("the database fails; retrying: %s", ascii(str(cause)))

    def _note_success(self) -> None:
        name = threading.current_thread().name
        if name in self._failing:
            with self._lock:
                self._failing.discard(name)
                back = not self._failing
            if back:
                _log.info("the database is back")

    def _count(self, what: str, number: int) -> None:
        with self._lock:
            self._counts[what] += number

    def _report(self) -> None:
        with self._lock:
            counts = dict(self._counts)
            self._counts = dict.fromkeys(counts, 0)
        _log.info(
            "%(attempts)d attempts to deliver a message,"
            " %(settled)d doubtful messages settled,"
            " %(events)d attempts to handle an event,"
            " %(missed)d events whose webhook never came",
            counts,
        )


class _Pace:
    """Spaces out messages evenly.

    :param rate: The number of messages in a minute.
    """

    def __init__(self, rate: float) -> None:
        self._gap = 60.0 / rate
        self._lock = threading.Lock()
        self._next = time.monotonic()

    def wait_turn(self, stopping: threading.Event) -> bool:
        """Wait until a message may be sent; ``False`` if the relay stops before."""
        with self._lock:
            turn = max(self._next, time.monotonic())
            self._next = turn + self._gap
        return not stopping.wait(max(turn - time.monotonic(), 0.0))
