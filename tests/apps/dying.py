"""Workers that die in the middle of receivers, and are started again.

Every worker receives every event, in an order of its own, as from three webhooks.
"""

from __future__ import annotations

import os
import random
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask

from flask_postal import Postal, VerifiedRequest

__all__ = ["WORKERS", "Crew", "luck", "maybe_die", "run_workers"]

WORKERS = 3
luck = random.Random()


def maybe_die(odds: int) -> None:
    """End the process at once, in one of so many calls."""
    if luck.randrange(odds) == 0:
        os._exit(9)


class Crew:
    """What each worker needs.

    :param make_app: Makes the app; called by each worker for itself.
    :param request_of: Returns the event with a number, as a worker's webhook brings it.
    :param events: How many there are.
    :param folder: For the workers' progress.
    """

    def __init__(
        self,
        make_app: Callable[[], tuple[Flask, Postal]],
        request_of: Callable[[int, int], VerifiedRequest],
        *,
        seed: int,
        events: int,
        folder: Path,
    ) -> None:
        self.make_app = make_app
        self.request_of = request_of
        self.seed = seed
        self.events = events
        self.folder = folder

    def progress(self, worker: int) -> Path:
        return self.folder / f"progress-{worker}"

    def work(self, worker: int) -> None:
        """Receive what this worker has not received yet, then what is left."""
        luck.seed(f"{self.seed} {worker} {time.monotonic_ns()}")
        app, postal = self.make_app()
        order = list(range(1, self.events + 1))
        random.Random(f"{self.seed} {worker}").shuffle(order)
        progress = self.progress(worker)
        with app.app_context():
            for place in range(int(progress.read_text()), self.events):
                progress.write_text(str(place + 1))
                postal.webhooks.handle(self.request_of(order[place], worker))
            ledger: Any = postal.ledger
            event, session = ledger.models.event, ledger.db.session
            left = sa.select(event.id).where(event.state != "done").limit(1)
            while session.scalar(left) is not None:
                session.rollback()
                ledger.drain()
                time.sleep(0.05)


def run_workers(crew: Crew) -> int:
    """Start workers until each has ended by itself; return how often one has died."""
    running: dict[int, int] = {}

    def start(worker: int) -> None:
        process = os.fork()
        if process == 0:
            status = 1
            try:
                crew.work(worker)
                status = 0
            finally:
                os._exit(status)
        running[process] = worker

    for worker in range(WORKERS):
        crew.progress(worker).write_text("0")
        start(worker)
    deaths = 0
    while running:
        process, status = os.wait()
        worker = running.pop(process)
        code = os.waitstatus_to_exitcode(status)
        if code == 9:
            deaths += 1
            start(worker)
        elif code != 0:
            sys.exit(f"worker {worker} ended with {code}")
    return deaths
