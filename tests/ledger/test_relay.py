"""The relay, and what an operator does by hand."""

from __future__ import annotations

import signal
import subprocess
import threading
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_postal import Postal, TransportError
from flask_postal.ledger.relay import Relay
from flask_postal.sandbox import Sandbox

from ..databases import mariadb, postgresql
from ..servers import Exchange, accept, loopback
from .world import (
    FLASK,
    World,
    enqueue,
    environment,
    row,
    run,
    states,
    transport,
    wait_until,
)


def test_a_relay_delivers_what_is_enqueued_while_it_runs(world: World) -> None:
    calls = transport(world)
    enqueue(world, subject="before")
    relay = Relay(world.ledger.of(world.app), threads=1)
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
    ledger, failures = world.ledger.of(world.app), [1, 1]
    send_due = ledger.send_due

    def failing(*arguments: Any) -> int:
        if failures:
            failures.pop()
            raise sa.exc.OperationalError("SELECT", {}, Exception("gone away"))
        return send_due(*arguments)

    monkeypatch.setattr(ledger, "send_due", failing)
    monkeypatch.setattr("flask_postal.ledger.relay.PAUSE", 0.05)
    relay = Relay(world.ledger.of(world.app))
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
    assert any(text.startswith("1 attempts to deliver") for text in texts)


@pytest.mark.slow
def test_the_command_relays_until_sigterm(database_url: str, sandbox: Sandbox) -> None:
    around = environment(database_url, sandbox, FLASK_POSTAL_RELAY="process")
    subprocess.run([*FLASK, "order"], env=around, check=True)
    assert sandbox.messages == []
    relay = subprocess.Popen(
        [*FLASK, "postal", "relay", "--threads", "2"],
        env=around,
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
    assert "1 attempts to deliver a message, 0 doubtful messages settled" in output
    assert output.endswith("stopped\n"), output
    (mail,) = sandbox.messages
    assert (mail.recipient, mail.content.text) == ("ana@example.com", "x")
    listed = subprocess.run(
        [*FLASK, "postal", "mails"],
        env=around,
        check=True,
        capture_output=True,
        text=True,
    )
    assert listed.stdout == "1  accepted, to ana@example.com\n"


@pytest.mark.slow
def test_sigterm_in_the_middle_of_a_call_waits_for_its_result(
    database_url: str, sandbox: Sandbox
) -> None:
    def slowly(exchange: Exchange) -> bool:
        time.sleep(2)
        return accept(exchange)

    with loopback(slowly) as server:
        around = environment(
            database_url,
            sandbox,
            FLASK_POSTAL_RELAY="process",
            FLASK_POSTAL_API_URL=server.url,
        )
        for _ in range(3):
            subprocess.run([*FLASK, "order"], env=around, check=True)
        relay = subprocess.Popen(
            [*FLASK, "postal", "relay", "--threads", "1"],
            env=around,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        deadline = time.monotonic() + 30
        while not server.connections and time.monotonic() < deadline:
            time.sleep(0.05)
        time.sleep(0.5)
        asked = time.monotonic()
        relay.send_signal(signal.SIGTERM)
        output, _ = relay.communicate(timeout=30)
        took = time.monotonic() - asked
    assert (relay.returncode, "Traceback" in output) == (0, False), output
    assert 0.5 < took < 10
    assert len(server.bodies) == 1
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        query = sa.text("SELECT state, attempts FROM postal_mail ORDER BY id")
        found = [tuple(row) for row in connection.execute(query)]
    engine.dispose()
    assert found == [("accepted", 1), ("queued", 0), ("queued", 0)]


def test_a_relay_tells_what_it_did(
    world: World, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_postal.ledger")
    monkeypatch.setattr("flask_postal.ledger.relay.PAUSE", 0.02)
    monkeypatch.setattr("flask_postal.ledger.relay.REPORT", 0.1)
    transport(world)
    for number in range(3):
        enqueue(world, subject=str(number))
    relay = Relay(world.ledger.of(world.app), threads=2)
    thread = threading.Thread(target=relay.run)
    thread.start()
    wait_until(world, ["accepted"] * 3)
    time.sleep(0.5)
    relay.stop()
    thread.join(20)
    lines = [r.getMessage() for r in caplog.records if "attempts" in r.getMessage()]
    assert len(lines) >= 3
    counts = [int(line.partition(" ")[0]) for line in lines]
    assert sum(counts) == 3


def test_a_rate_spaces_messages_out(world: World) -> None:
    calls = transport(world)
    for number in range(3):
        enqueue(world, subject=str(number))
    relay = Relay(world.ledger.of(world.app), threads=2, rate=120)
    thread = threading.Thread(target=relay.run)
    began = time.monotonic()
    thread.start()
    while states(world) != ["accepted"] * 3 and time.monotonic() < began + 20:
        time.sleep(0.02)
    took = time.monotonic() - began
    relay.stop()
    thread.join(20)
    assert states(world) == ["accepted"] * 3
    assert len(calls.calls) == 3
    assert took > 0.9  # two gaps of half a second


@pytest.mark.parametrize("server", ["postgresql", "mariadb"])
def test_a_relay_survives_a_database_that_restarts(
    server: str, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_postal.ledger")
    start = {"postgresql": postgresql, "mariadb": mariadb}[server]
    with TemporaryDirectory() as folder, start(Path(folder)) as running:
        world = World(running.url)
        with world.app.app_context():
            world.db.create_all()
            calls = transport(world)
            relay = Relay(world.ledger.of(world.app), threads=2)
            thread = threading.Thread(target=relay.run)
            thread.start()
            try:
                enqueue(world, subject="before")
                wait_until(world, ["accepted"])
                running.stop()
                time.sleep(1.5)
                running.start()
                world.session.rollback()
                world.db.engine.dispose()
                enqueue(world, subject="after")
                wait_until(world, ["accepted"] * 2)
                deadline = time.monotonic() + 20
                while "is back" not in caplog.text and time.monotonic() < deadline:
                    time.sleep(0.05)
            finally:
                relay.stop()
                thread.join(20)
            world.session.remove()
            world.db.engine.dispose()
    assert len(calls.calls) == 2
    logged = [r.getMessage() for r in caplog.records if "database" in r.getMessage()]
    assert [text.partition(";")[0] for text in logged] == [
        "the database fails",
        "the database is back",
    ]


# ---- by hand


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


def test_giving_a_doubtful_message_up_asks_and_says_what_may_happen(
    world: World,
) -> None:
    calls = transport(world, TransportError("lost", maybe_sent=True))
    enqueue(world)
    world.ledger.drain()
    code, output = run(world, "cancel", "1", answer="n\n")
    assert code == 1
    assert "never get it" in output
    assert row(world).state == "doubtful"
    assert run(world, "cancel", "1", answer="y\n")[0] == 0
    assert row(world).state == "cancelled"
    assert world.ledger.drain() == 0
    assert len(calls.calls) == 1


def test_only_what_is_not_accepted_can_be_cancelled(world: World) -> None:
    calls = transport(world)
    enqueue(world)
    assert run(world, "cancel", "1", "--yes")[1] == "message 1 is cancelled\n"
    assert world.ledger.drain() == 0
    assert calls.calls == []
    code, output = run(world, "cancel", "1", "--yes")
    assert code == 1
    assert output == "Error: message 1 is not queued or doubtful, and stays as it is\n"
    assert run(world, "retry", "1", "--yes")[0] == 1
    assert run(world, "cancel", "7", "--yes")[1] == "Error: there is no message 7\n"


def test_an_app_without_a_ledger_is_explained() -> None:
    app = Flask("none")
    Postal(app)
    done = app.test_cli_runner().invoke(args=["postal", "mails"])
    assert (done.exit_code, "Postal(ledger=Ledger(db))" in done.output) == (1, True)
