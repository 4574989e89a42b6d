"""The thread of the app's own process, and when there is none."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
import requests
import sqlalchemy as sa
from flask import Flask
from sqlalchemy.orm import scoped_session, sessionmaker

from flask_postal import ConfigurationError, Message, message_sent
from flask_postal.ledger import thread as thread_module
from flask_postal.sandbox import Sandbox

from ..mails import message
from ..processes import free_port, gunicorn, running
from ..servers import Exchange, accept, loopback
from .world import (
    World,
    alive,
    end_threads,
    enqueue,
    environment,
    states,
    transport,
    until,
)


def made(url: str, **config: Any) -> World:
    return World(url, **{"POSTAL_RELAY": "thread", **config})


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    world = made(database_url)
    with world.app.app_context():
        world.db.create_all()
        yield world
        world.session.remove()
        end_threads()
        world.db.engine.dispose()


# ---- what starts it


def test_a_commit_sends_the_message(world: World) -> None:
    calls = transport(world)
    enqueue(world)
    until(lambda: states(world) == ["accepted"])
    assert len(calls.calls) == 1


def test_nothing_is_sent_before_the_commit_and_nothing_after_a_rollback(
    world: World,
) -> None:
    calls = transport(world)
    world.postal.enqueue(message())
    time.sleep(0.2)
    assert not alive()
    world.session.rollback()
    world.session.commit()
    assert not alive()
    assert calls.calls == []


def test_a_savepoint_is_no_commit(world: World) -> None:
    calls = transport(world)
    with world.session.begin_nested():
        world.postal.enqueue(message())
    assert not alive()
    with world.session.begin_nested() as savepoint:
        world.postal.enqueue(message(subject="forgotten"))
        savepoint.rollback()
    world.session.commit()
    until(lambda: states(world) == ["accepted"])
    assert len(calls.calls) == 1


def test_a_session_of_the_apps_own_starts_it_too(world: World) -> None:
    calls = transport(world)
    own = scoped_session(sessionmaker(world.db.engine))
    world.db.session = own
    world.postal.enqueue(message())
    own.commit()
    until(lambda: states(world) == ["accepted"])
    own.remove()
    assert len(calls.calls) == 1


def test_it_waits_for_a_message_of_the_future(world: World) -> None:
    transport(world)
    world.postal.enqueue(message(), send_at=datetime.now(UTC) + timedelta(seconds=1))
    world.session.commit()
    until(alive)
    assert states(world) == ["queued"]
    until(lambda: states(world) == ["accepted"])
    enqueue(world, subject="another")
    until(lambda: states(world) == ["accepted"] * 2)


def test_many_commits_share_one_thread(world: World) -> None:
    transport(world)
    for number in range(10):
        enqueue(world, subject=str(number))
        assert len(alive()) <= 1
    until(lambda: states(world) == ["accepted"] * 10)


def test_an_error_does_not_end_it(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    transport(world)
    ledger, errors = world.ledger.of(world.app), [LookupError("a bug")]
    errors.append(sa.exc.OperationalError("SELECT", {}, Exception("gone away")))  # type: ignore[arg-type]
    drain = ledger.drain

    def failing(*arguments: Any) -> int:
        if errors:
            raise errors.pop()
        return drain(*arguments)

    monkeypatch.setattr(ledger, "drain", failing)
    monkeypatch.setattr(thread_module, "AFTER_ERROR", 0.05)
    enqueue(world)
    until(lambda: states(world) == ["accepted"])
    assert "the database fails; retrying: 'gone away'" in caplog.text
    assert "a bug" in caplog.text


def test_a_receiver_has_a_session_of_its_own(world: World) -> None:
    seen: list[Any] = []

    def on_sent(app: Flask, message: Message, **extra: Any) -> None:
        seen.append((message.subject, world.session.scalar(sa.select(sa.literal(7)))))
        if message.subject == "0":
            world.session.execute(sa.text("SELECT nonsense FROM nowhere"))

    transport(world)
    with message_sent.connected_to(on_sent):
        for number in range(3):
            world.postal.enqueue(message(subject=str(number)))
        world.session.commit()
        until(lambda: len(seen) == 3)
    assert sorted(seen) == [("0", 7), ("1", 7), ("2", 7)]
    until(lambda: states(world) == ["accepted"] * 3)


# ---- when there is none


def test_none_with_testing(database_url: str) -> None:
    world = made(database_url, POSTAL_SUPPRESS_SEND=False)
    world.app.config["TESTING"] = True  # after init_app, as many tests do
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        enqueue(world)
        assert not alive()
        assert world.ledger.drain() == 1
        assert len(calls.calls) == 1
        world.session.remove()
        world.db.engine.dispose()


def test_none_with_an_sqlite_in_memory(caplog: pytest.LogCaptureFixture) -> None:
    world = made("sqlite://")
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        enqueue(world)
        assert not alive()
        assert "mails wait for ledger.drain(): an SQLite in memory" in caplog.text
        assert world.ledger.drain() == 1
        assert len(calls.calls) == 1
        world.session.remove()
        world.db.engine.dispose()


def begin(connection: sa.Connection) -> sa.RootTransaction:
    outer = connection.begin()
    if connection.dialect.name == "sqlite":  # its driver begins only with a write
        connection.exec_driver_sql("BEGIN")
    return outer


def test_none_if_the_engine_is_a_connection(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    """A test that rolls all back in the end: drain() works inside of it."""
    world = made(database_url)
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        engine = world.db.engine
        with engine.connect() as connection:
            outer = begin(connection)
            world.db.engines[None] = connection
            world.db.session = scoped_session(
                sessionmaker(connection, join_transaction_mode="create_savepoint")
            )
            record = world.postal.enqueue(message())
            world.session.commit()
            assert not alive()
            assert "the engine is a Connection" in caplog.text
            assert world.ledger.drain() == 1
            assert len(calls.calls) == 1
            world.session.refresh(record)
            assert record.state == "accepted"
            world.session.remove()
            outer.rollback()
        world.db.engines[None] = engine
        assert world.count() == 0
        engine.dispose()


def test_a_test_that_rolls_its_outer_transaction_back_sends_nothing(
    database_url: str,
) -> None:
    """The commit that wakes the thread is only a savepoint of the test's."""
    world = made(database_url)
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        with world.db.engine.connect() as connection:
            outer = begin(connection)
            world.db.session = scoped_session(
                sessionmaker(connection, join_transaction_mode="create_savepoint")
            )
            world.postal.enqueue(message())
            world.session.commit()
            time.sleep(0.3)
            world.session.remove()
            outer.rollback()
        end_threads()
        assert calls.calls == []
        assert world.count() == 0
        world.db.engine.dispose()


def test_none_with_a_relay_in_another_process(database_url: str) -> None:
    world = made(database_url, POSTAL_RELAY="process")
    with world.app.app_context():
        world.db.create_all()
        transport(world)
        enqueue(world)
        assert not alive()
        assert states(world) == ["queued"]
        world.session.remove()
        world.db.engine.dispose()


# ---- a queue


def test_a_queue_gets_the_ids_after_the_commit(database_url: str) -> None:
    queue: list[tuple[str, int]] = []

    def dispatch(kind: str, number: int) -> None:
        queue.append((kind, number))

    world = made(database_url, POSTAL_DISPATCH=dispatch)
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        records = [world.postal.enqueue(message(subject=str(n))) for n in range(2)]
        ids = [record.id for record in records]
        assert queue == []
        world.session.commit()
        assert queue == [("mail", ids[0]), ("mail", ids[1])]
        assert not alive()
        assert [world.ledger.deliver(number) for _, number in queue] == ["accepted"] * 2
        assert world.ledger.deliver(ids[0]) is None
        world.postal.enqueue(message())
        world.session.rollback()
        world.session.commit()
        assert len(queue) == 2
        assert len(calls.calls) == 2
        world.session.remove()
        world.db.engine.dispose()


def test_a_queue_that_fails_leaves_the_commit_alone(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    def dispatch(kind: str, number: int) -> None:
        raise ConnectionError("the broker is down")

    world = made(database_url, POSTAL_DISPATCH=dispatch)
    with world.app.app_context():
        world.db.create_all()
        transport(world)
        record = enqueue(world)
        assert "the broker is down" in caplog.text
        assert world.ledger.sweep() == [("mail", record.id)]
        assert world.ledger.deliver(record.id) == "accepted"
        assert world.ledger.sweep() == []
        world.session.remove()
        world.db.engine.dispose()


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("POSTAL_RELAY", "celery"),
        ("POSTAL_DISPATCH", "tasks.deliver"),
        ("POSTAL_KEEP_ROWS", 0),
    ],
)
def test_a_bad_setting_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=key):
        made("sqlite://", **{key: value})


# ---- processes


@pytest.mark.slow
def test_the_end_of_the_process_waits_for_a_call(
    database_url: str,
) -> None:
    """The script ends in the middle of the call."""

    def slowly(exchange: Exchange) -> bool:
        time.sleep(1.5)
        return accept(exchange)

    script = """
import time
from tests.apps.ledgered import app, enqueue
with app.app_context():
    enqueue("ana@example.com")
    time.sleep(0.7)
"""
    with loopback(slowly) as server:
        done = subprocess.run(
            [sys.executable, "-c", script],
            env={
                **os.environ,
                "FLASK_POSTAL_API_URL": server.url,
                "FLASK_POSTAL_API_KEY": "k",
                "FLASK_SQLALCHEMY_DATABASE_URI": database_url,
            },
            check=True,
            capture_output=True,
            text=True,
            timeout=60,
        )
    assert done.stderr == ""
    assert len(server.bodies) == 1
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        state = connection.scalar(sa.text("SELECT state FROM postal_mail"))
    engine.dispose()
    assert state == "accepted"


@pytest.mark.slow
@pytest.mark.parametrize(
    "options",
    [
        ["--preload", "--workers=2", "--threads=2"],
        ["--worker-class=gevent", "--workers=2"],
    ],
    ids=["preload", "gevent"],
)
def test_each_worker_delivers(
    database_url: str, sandbox: Sandbox, options: list[str]
) -> None:
    world = World(database_url)
    with world.app.app_context():
        world.db.create_all()  # two workers at the same time would not get on
        world.db.engine.dispose()
    around = environment(database_url, sandbox, ENQUEUE_ON_IMPORT="1")
    with gunicorn("tests.apps.ledgered:app", *options, **around) as url:
        pids: set[int] = set()
        addresses = [f"u{number}@example.com" for number in range(20)]
        for address in addresses:
            pids.add(requests.get(f"{url}/{address}", timeout=20).json()["pid"])
        # With --preload the app is imported once, and else by each worker.
        imports = 1 if "--preload" in options else 2
        until(lambda: len(sandbox.messages) >= 20 + imports)
        time.sleep(0.5)
    recipients = sorted(mail.recipient for mail in sandbox.messages)
    assert recipients == sorted(addresses + ["master@example.com"] * imports)


def asked(port: int, address: str) -> int | None:
    """Ask the app to enqueue a message; ``None`` while it restarts."""
    try:
        answer = requests.get(f"http://127.0.0.1:{port}/{address}", timeout=20)
    except requests.ConnectionError:
        return None
    return int(answer.json()["pid"])


@pytest.mark.slow
def test_the_debug_reloader_sends_nothing_twice(
    database_url: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    source = (Path(__file__).parent.parent / "apps" / "ledgered.py").read_text()
    app = tmp_path / "reloaded.py"
    app.write_text(source)
    port, folders = free_port(), os.pathsep.join([str(tmp_path), *sys.path])
    around = environment(database_url, sandbox, PYTHONPATH=folders)
    command = [sys.executable, "-m", "flask", "--app", "reloaded", "run", "--debug"]
    pids, sent = set[int](), list[str]()
    with running([*command, f"--port={port}"], port, **around):
        until(lambda: asked(port, "up@example.com"))
        for number in range(400):
            if number == 20:
                app.write_text(f"{source}\n# changed\n")
            address = f"u{number}@example.com"
            if (pid := asked(port, address)) is not None:
                pids.add(pid)
                sent.append(address)
            elif number > 20:
                time.sleep(0.05)
            if len(pids) == 2 and number > 30:
                break
        until(lambda: len(sandbox.messages) > len(sent))
        time.sleep(0.3)
    assert len(pids) == 2
    recipients = [mail.recipient for mail in sandbox.messages]
    assert len(recipients) == len(set(recipients))
    assert {*sent, "up@example.com"} <= set(recipients)
