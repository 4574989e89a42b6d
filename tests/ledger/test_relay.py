"""The relay, and what an operator does by hand."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_postal import Postal, TransportError
from flask_postal.ledger.relay import Relay
from flask_postal.sandbox import Sandbox

from .test_deliver import enqueue, row, transport
from .test_enqueue import World

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


def states(world: World) -> list[str]:
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        return list(connection.scalars(sa.select(table.c.state).order_by(table.c.id)))


def test_a_relay_delivers_what_is_enqueued_while_it_runs(world: World) -> None:
    calls = transport(world)
    enqueue(world, subject="before")
    relay = Relay(world.app, world.ledger, threads=1)
    thread = threading.Thread(target=relay.run)
    thread.start()
    try:
        enqueue(world, subject="while")
        deadline = time.monotonic() + 20
        while states(world) != ["accepted"] * 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    finally:
        relay.stop()
        thread.join(20)
    assert states(world) == ["accepted"] * 2
    assert len(calls.calls) == 2
    assert not thread.is_alive()


def test_a_relay_goes_on_when_the_database_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_postal.ledger")
    transport(world)
    enqueue(world)
    drain, failures = world.ledger.drain, [1, 1]

    def failing(*arguments: Any) -> int:
        if failures:
            failures.pop()
            raise sa.exc.OperationalError("SELECT", {}, Exception("gone away"))
        return drain(*arguments)

    monkeypatch.setattr(world.ledger, "drain", failing)
    monkeypatch.setattr("flask_postal.ledger.relay.PAUSE", 0.05)
    relay = Relay(world.app, world.ledger)
    thread = threading.Thread(target=relay.run)
    thread.start()
    deadline = time.monotonic() + 20
    while states(world) != ["accepted"] and time.monotonic() < deadline:
        time.sleep(0.05)
    relay.stop()
    thread.join(20)
    assert states(world) == ["accepted"]
    texts = [record.getMessage() for record in caplog.records]
    assert len([text for text in texts if "the database fails" in text]) == 1
    assert "the database is back" in texts
    assert "1 attempts to deliver a message" in texts


APP = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from flask_postal import Message, Postal
from flask_postal.ledger import Ledger

app = Flask("relayed")
app.config.from_prefixed_env()
db = SQLAlchemy(app)
postal = Postal(app, ledger=Ledger(db))
with app.app_context():
    db.create_all()

@app.cli.command("order")
def order():
    postal.enqueue(Message("Hi", "ana@example.com", body="x", sender="a@example.com"))
    db.session.commit()
"""


def test_the_command_relays_until_sigterm(
    database_url: str, tmp_path: Path, sandbox: Sandbox
) -> None:
    (tmp_path / "app.py").write_text(APP)
    settings = {f"FLASK_{k}": v for k, v in sandbox.settings().items() if v is not None}
    environment = {
        **os.environ,
        **settings,
        "FLASK_SQLALCHEMY_DATABASE_URI": database_url,
        "PYTHONUNBUFFERED": "1",
    }
    flask = [sys.executable, "-m", "flask", "--app", "app"]
    subprocess.run([*flask, "order"], cwd=tmp_path, env=environment, check=True)
    relay = subprocess.Popen(
        [*flask, "postal", "relay", "--threads", "2"],
        cwd=tmp_path,
        env=environment,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    deadline = time.monotonic() + 30
    while not sandbox.messages and time.monotonic() < deadline:
        time.sleep(0.1)
    time.sleep(0.5)
    relay.send_signal(signal.SIGTERM)
    output, _ = relay.communicate(timeout=30)
    assert relay.returncode == 0, output
    assert "delivering messages" in output
    assert output.endswith("stopped\n"), output
    (mail,) = sandbox.messages
    assert (mail.recipient, mail.content.text) == ("ana@example.com", "x")
    listed = subprocess.run(
        [*flask, "postal", "mails"],
        cwd=tmp_path,
        env=environment,
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout == "1  accepted, to ana@example.com\n"


# ---- by hand


def run(world: World, *arguments: str, answer: str = "") -> tuple[int, str]:
    runner = world.app.test_cli_runner()
    done = runner.invoke(args=["postal", *arguments], input=answer)
    return done.exit_code, done.output


def test_doubtful_messages_are_listed_with_their_error(world: World) -> None:
    transport(world, TransportError("the answer was lost", maybe_sent=True))
    enqueue(world)
    world.ledger.drain()
    enqueue(world, recipients=["b@example.com"])
    code, output = run(world, "mails", "--state", "doubtful")
    assert code == 0
    assert output.startswith("1  doubtful, due ")
    assert "to ana@example.com\n    the answer was lost\n" in output
    assert run(world, "mails", "--recipient", "b@example.com")[1].startswith(
        "2  queued"
    )
    assert run(world, "mails", "--recipient", "c@example.com") == (0, "")


def test_retrying_a_doubtful_message_asks_and_says_what_may_happen(
    world: World,
) -> None:
    calls = transport(world, TransportError("lost", maybe_sent=True))
    enqueue(world)
    world.ledger.drain()
    code, output = run(world, "retry", "1", answer="n\n")
    assert code == 1
    assert "get it twice" in output
    assert row(world).state == "doubtful"
    assert run(world, "retry", "1", answer="y\n")[0] == 0
    assert world.ledger.drain() == 1
    assert row(world).state == "accepted"
    assert len(calls.calls) == 2


def test_only_what_is_queued_can_be_cancelled(world: World) -> None:
    calls = transport(world)
    enqueue(world)
    assert run(world, "cancel", "1", "--yes")[1] == "message 1 is cancelled\n"
    assert world.ledger.drain() == 0
    assert calls.calls == []
    code, output = run(world, "cancel", "1", "--yes")
    assert code == 1
    assert output == "Error: message 1 is not queued, and stays as it is\n"
    assert run(world, "retry", "1", "--yes")[0] == 1
    assert run(world, "cancel", "7", "--yes")[1] == "Error: there is no message 7\n"


def test_an_app_without_a_ledger_is_explained() -> None:
    app = Flask("none")
    Postal(app)
    done = app.test_cli_runner().invoke(args=["postal", "mails"])
    assert (done.exit_code, "Postal(ledger=Ledger(db))" in done.output) == (1, True)
