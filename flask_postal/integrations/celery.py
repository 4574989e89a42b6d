"""Celery works for the ledger: it delivers messages and calls receivers.

Needs ``Flask-Postal[celery]``::

    celery = Celery("shop", broker="redis://localhost")
    app.config["POSTAL_DISPATCH"] = init_celery(celery, ledger, app)
    postal.init_app(app)
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

from flask import Flask, has_app_context

from ..errors import ConfigurationError

if TYPE_CHECKING:
    from ..ledger import Ledger

__all__ = ["init_celery"]

#: Seconds for which a broker that did not take a task is left alone. The sweep brings
#: what it has missed.
PAUSE = 30.0


def init_celery(
    celery: Any, ledger: Ledger, app: Flask | None = None, *, every: float = 60.0
) -> Callable[[str, int], None]:
    """Register the tasks of a ledger, and return what :data:`POSTAL_DISPATCH` takes.

    The tasks are ``flask_postal.deliver`` and ``flask_postal.process``, each with an
    id, and ``flask_postal.sweep``, which the beat runs. They are acknowledged when they
    have ended, so that a worker that dies loses none. A task that runs twice does
    nothing the second time. What the broker loses, or doesn't take, is found by the
    sweep: the rows in the database are the truth.

    :param celery: The Celery app. Call this before its workers start.
    :param app: The Flask app of the tasks; not needed if Celery's tasks have an app
        context already, as with the ``FlaskTask`` of Flask's documentation.
    :param every: Seconds between two sweeps.
    """

    tasks = _Tasks(celery, ledger, app, every)
    celery.conf.beat_schedule = {
        **(celery.conf.beat_schedule or {}),
        "flask_postal.sweep": {
            "task": "flask_postal.sweep",
            "schedule": every,
            "options": {"expires": every},
        },
    }
    return tasks.send


class _Tasks:
    """The tasks of a ledger; see :func:`init_celery`."""

    def __init__(
        self, celery: Any, ledger: Ledger, app: Flask | None, every: float
    ) -> None:
        self._ledger = ledger
        self._app = app
        self._every = every
        self._broker = _Broker()
        # Shared tasks would be those of every other Celery app in the process, too.
        common = {"shared": False, "ignore_result": True}
        late = {**common, "acks_late": True, "reject_on_worker_lost": True}

        def deliver(mail_id: int) -> None:
            with self._context():
                ledger.deliver(mail_id)

        def process(event_id: int) -> None:
            with self._context():
                ledger.process(event_id)

        def sweep() -> None:
            self._sweep()

        self._tasks = {
            "mail": celery.task(name="flask_postal.deliver", **late)(deliver),
            "event": celery.task(name="flask_postal.process", **late)(process),
        }
        celery.task(name="flask_postal.sweep", **common)(sweep)

    def send(self, kind: str, number: int, **how: Any) -> None:
        """Send a task, unless the broker was down a moment ago."""
        with self._broker.asked() as up:
            if up:
                self._tasks[kind].apply_async((number,), retry=False, **how)

    def _sweep(self) -> None:
        with self._context():
            for kind, number in self._ledger.sweep():
                # If workers are behind, the next sweep brings it again.
                self.send(kind, number, expires=self._every)
            self._ledger.settle()

    def _context(self) -> AbstractContextManager[object]:
        if has_app_context():
            return nullcontext()
        if self._app is None:
            raise ConfigurationError(
                "the task has no app context; pass the app: init_celery(celery,"
                " ledger, app)"
            )
        return self._app.app_context()


class _Broker:
    """Keeps callers from a broker that was down a moment ago.

    Redis' client takes 6 seconds to find out, and the caller may be a web request.
    """

    def __init__(self) -> None:
        self._not_before = 0.0

    @contextmanager
    def asked(self) -> Iterator[bool]:
        """Tell whether to send a task in the block, and note whether that fails."""
        if time.monotonic() < self._not_before:
            yield False
            return
        try:
            yield True
        except Exception:
            self._not_before = time.monotonic() + PAUSE
            raise
