"""Delivers messages in a process of its own, until it is told to stop."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable

import sqlalchemy as sa
from flask import Flask

from .ledger import Ledger

__all__ = ["Relay"]

_log = logging.getLogger("flask_postal.ledger")

#: Seconds between two looks for messages that are due.
PAUSE = 1.0
#: Seconds between two lines in the log about what was done.
REPORT = 60.0


class Relay:
    """Delivers what is due, again and again.

    :param threads: The number of messages that are sent at a time.
    """

    def __init__(self, app: Flask, ledger: Ledger, *, threads: int = 1) -> None:
        self._app = app
        self._ledger = ledger
        self._threads = threads
        self._stopping = threading.Event()
        self._lock = threading.Lock()
        self._attempts = 0

    def stop(self) -> None:
        """Tell the relay to finish the calls that are under way, and end."""
        self._stopping.set()

    def run(self, wait: Callable[[float], bool] | None = None) -> None:
        """Deliver messages until :meth:`stop` is called.

        :param wait: Waits for seconds, and tells whether to stop; for tests.
        """
        wait = wait or self._stopping.wait
        workers = [
            threading.Thread(target=self._work, name=f"postal-relay-{number}")
            for number in range(self._threads)
        ]
        for worker in workers:
            worker.start()
        reported = time.monotonic()
        while not wait(PAUSE):
            if time.monotonic() - reported >= REPORT:
                reported = time.monotonic()
                self._report()
        self._stopping.set()
        for worker in workers:
            worker.join()
        self._report()

    def _work(self) -> None:
        failing = False
        while not self._stopping.is_set():
            try:
                with self._app.app_context():
                    done = self._ledger.drain(self._stopping.is_set)
            except sa.exc.SQLAlchemyError as error:
                # The database may be restarting: go on when it is back. The error is
                # logged once, and not every second.
                if not failing:
                    # Not the whole error: it has the statement's values in it.
                    cause = getattr(error, "orig", None) or type(error).__name__
                    _log.error("the database fails; retrying: %s", ascii(str(cause)))
                failing, done = True, 0
            except Exception:  # noqa: BLE001
                # A bug in one message's way must not end the delivery of all others.
                _log.exception("the relay failed; it goes on")
                done = 0
            else:
                if failing:
                    _log.info("the database is back")
                failing = False
            with self._lock:
                self._attempts += done
            if not done:
                self._stopping.wait(PAUSE)

    def _report(self) -> None:
        with self._lock:
            attempts, self._attempts = self._attempts, 0
        if attempts:
            _log.info("%d attempts to deliver a message", attempts)
