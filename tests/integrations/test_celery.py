"""Celery works for the ledger; workers and the broker are killed in the middle."""

from __future__ import annotations

import contextlib
import importlib
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from celery import Celery
from kombu.exceptions import OperationalError

from flask_postal import ConfigurationError, Message
from flask_postal.integrations.celery import init_celery
from flask_postal.sandbox import Sandbox

from ..databases import postgresql
from ..ledger.world import World, enqueue, states, transport
from ..processes import free_port
from .broker import Broker

MAILS = 60


class Worker:
    """A Celery worker with two processes, or the beat, in a process group."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        self.command = [
            *(sys.executable, "-m", "celery", "-A"),
            "tests.apps.celery_shop:celery",
            *arguments,
        ]
        self.log = folder / f"{arguments[0]}-{id(self)}.log"
        self.start()

    def start(self) -> None:
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                self.command, stdout=log, stderr=log, start_new_session=True
            )

    def kill(self) -> None:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()


@pytest.fixture
def shop(monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[Any, Broker, Sandbox]]:
    """The app, its broker and its Postal."""
    with (
        TemporaryDirectory() as folder,
        postgresql(Path(folder)) as server,
        Sandbox() as sandbox,
        contextlib.closing(_Closing()) as closing,
    ):
        broker = closing.broker = Broker()
        settings = {
            **sandbox.settings(),
            "SQLALCHEMY_DATABASE_URI": server.url,
            "POSTAL_EVENTS": "later",
            "POSTAL_TIMEOUT": "2",
            "POSTAL_LEASE": "5",
            "POSTAL_SETTLE": "4",
            "POSTAL_BACKOFF": "[0.2, 1]",
            "POSTAL_DEFAULT_SENDER": "shop@example.com",
        }
        for key, value in settings.items():
            if value is not None:
                monkeypatch.setenv(f"FLASK_{key}", str(value))
        monkeypatch.setenv("SHOP_BROKER", broker.url)
        module = importlib.import_module("tests.apps.celery_shop")
        with module.app.app_context():
            module.db.create_all()
            sandbox.deliver_to(module.app)
            yield module, broker, sandbox
            module.db.session.remove()
            module.db.engine.dispose()


class _Closing:
    broker: Broker | None = None

    def close(self) -> None:
        if self.broker is not None:
            self.broker.kill()


@pytest.mark.slow
def test_nothing_is_lost_and_nothing_happens_twice(
    shop: tuple[Any, Broker, Sandbox], tmp_path: Path
) -> None:
    module, broker, sandbox = shop
    worker = ("worker", "--concurrency", "2", "--loglevel", "INFO")
    running = [
        Worker(tmp_path, *worker, "--hostname", "one@%h"),
        Worker(tmp_path, *worker, "--hostname", "two@%h"),
        Worker(tmp_path, "beat", "--schedule", str(tmp_path / "beat")),
    ]
    try:
        for number in range(MAILS):
            message = Message(
                *("Hi", f"delayed+{number}@example.com"),
                body="x",
                metadata={"number": number},
            )
            module.postal.enqueue(message)
            module.db.session.commit()
            if number == MAILS // 3:
                _until(lambda: len(sandbox.messages) > 5, running)
                running[0].kill()
                running[0].start()
            if number == 2 * MAILS // 3:
                broker.kill()  # and all that it held
            time.sleep(0.02)
        broker.start()
        for mail in sandbox.messages[: MAILS // 2]:
            sandbox.happen(mail, "opened")
        running[1].kill()
        running[1].start()
        _until(lambda: _is_done(module), running)
    finally:
        for process in running:
            process.kill()
    sent = Counter(mail.recipient for mail in sandbox.messages)
    assert sent == {f"delayed+{number}@example.com": 1 for number in range(MAILS)}
    effects = Counter(module.db.session.scalars(sa.select(module.Effect.event)))
    assert {event: times for event, times in effects.items() if times != 1} == {}
    deferred = {event for event in effects if event.endswith(" deferred")}
    assert deferred == {f"{number} deferred" for number in range(MAILS)}


def _is_done(module: Any) -> bool:
    module.db.session.rollback()
    mail, event = module.ledger.models.mail, module.ledger.models.event
    accepted = module.db.session.scalar(
        sa.select(sa.func.count()).where(mail.state == "accepted")
    )
    done = module.db.session.scalar(
        sa.select(sa.func.count()).where(
            event.state == "done", event.event_type == "deferred"
        )
    )
    left = module.db.session.scalar(
        sa.select(sa.func.count()).where(event.state != "done")
    )
    return bool(accepted == MAILS and done == MAILS and left == 0)


def _until(condition: Any, running: list[Worker], seconds: float = 90.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        if time.monotonic() > deadline:
            logs = "\n".join(worker.log.read_text()[-3000:] for worker in running)
            pytest.fail(f"it has not happened\n{logs}")
        time.sleep(0.2)


# ---- the tasks, in this process


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    made = World(f"sqlite:///{tmp_path}/app.sqlite")
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


def test_the_tasks_do_the_work(world: World) -> None:
    celery = Celery("x", broker="memory://")
    celery.conf.task_always_eager = True
    dispatch = init_celery(celery, world.ledger, world.app)
    transport(world)
    record = enqueue(world)
    dispatch("mail", record.id)
    assert states(world) == ["accepted"]
    enqueue(world)
    celery.tasks["flask_postal.sweep"].delay()
    assert states(world) == ["accepted", "accepted"]
    for name in ("deliver", "process"):
        task = celery.tasks[f"flask_postal.{name}"]
        assert (task.acks_late, task.reject_on_worker_lost) == (True, True)
    (job,) = celery.conf.beat_schedule.values()
    assert (job["task"], job["schedule"]) == ("flask_postal.sweep", 60.0)


def test_a_task_without_an_app_is_explained() -> None:
    celery = Celery("x", broker="memory://")
    celery.conf.update(task_always_eager=True, task_eager_propagates=True)
    world = World("sqlite://")
    dispatch = init_celery(celery, world.ledger)
    with pytest.raises(ConfigurationError, match="pass the app"):
        dispatch("mail", 1)


def test_a_broker_that_is_down_holds_up_one_commit_only(world: World) -> None:
    celery = Celery("x", broker=f"redis://127.0.0.1:{free_port()}/0")
    dispatch = init_celery(celery, world.ledger, world.app)
    with pytest.raises(OperationalError):
        dispatch("mail", 1)
    began = time.monotonic()
    for number in range(100):
        dispatch("mail", number)  # the sweep brings them
    assert time.monotonic() - began < 0.5
