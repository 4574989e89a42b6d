"""Doubt: what became of a message whose response was lost is found out in Postal.

Every case is played by the sandbox, over HTTP. Time passes by changing the rows.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_postal import APIError, message_sent, send_failed
from flask_postal.ledger import scan
from flask_postal.ledger.turn import Turn
from flask_postal.sandbox import ManualClock, Sandbox, SigningKey, compose_mail
from flask_postal.sending.payload import Body
from flask_postal.sending.stored import fetch_message
from flask_postal.testing import sandboxed

from ..mails import message
from .world import World, change, enqueue, past, run


class Doubtful(World):
    """An app that sends to a sandbox."""

    sandbox: Sandbox

    def mails(self) -> list[tuple[str, str]]:
        """The Message-ID and the recipient of each mail in the sandbox."""
        return [(m.message_id or "", m.recipient) for m in self.sandbox.messages]

    def fail(self, fault: str, **changes: Any) -> Any:
        """Enqueue a message of which the response is lost."""
        self.sandbox.fault(fault, times=1)
        record = self.postal.enqueue(message(**changes))
        self.session.commit()
        assert self.ledger.drain() == 1
        assert self.state(record) == "doubtful"
        return record

    def state(self, record: Any) -> str:
        self.session.rollback()
        self.session.refresh(record)
        return str(record.state)

    def look(self) -> None:
        """Look for what is doubtful, as if it were due, but not settled."""
        self.due()
        self.ledger.drain()

    def due(self) -> None:
        table = self.ledger.models.table("mail")
        with self.db.engine.begin() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.state == "doubtful")
                .values(due_at=past())
            )

    def settle(self, seconds: float = 601.0) -> None:
        """Let time pass since the attempt, longer than POSTAL_SETTLE, and look."""
        table = self.ledger.models.table("mail")
        with self.db.engine.begin() as connection:
            connection.execute(
                sa.update(table)
                .where(table.c.state == "doubtful")
                .values(
                    ended_at=datetime.now(UTC).replace(tzinfo=None)
                    - timedelta(seconds=seconds)
                )
            )
        self.look()


@pytest.fixture
def world(database_url: str, monkeypatch: pytest.MonkeyPatch) -> Iterator[Doubtful]:
    monkeypatch.setattr(scan, "_sleep", float)
    made = Doubtful(database_url, POSTAL_DEFAULT_SENDER="app@example.com")
    made.postal._transport = None
    made.app.register_blueprint(made.postal.blueprint)
    with made.app.app_context(), sandboxed(made.app) as sandbox:
        made.sandbox = sandbox
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


def accepted(world: Doubtful, **changes: Any) -> Any:
    """A message that Postal has accepted, so that an id is known."""
    record = enqueue(world, **changes)
    world.ledger.drain()
    assert world.state(record) == "accepted"
    return record


# ---- found


def test_a_message_that_was_stored_is_found_and_not_sent_again(world: Doubtful) -> None:
    told: list[Any] = []

    def on_sent(app: Any, message: Any, result: Any, **extra: Any) -> None:
        told.append((message.subject, message.body, dict(result.recipients)))

    accepted(world)
    record = world.fail("reset-stored", subject="Lost", recipients=["b@example.com"])
    with message_sent.connected_to(on_sent):
        world.look()
    assert world.state(record) == "accepted"
    assert (record.error, record.waiting, record.due_at) == (None, None, None)
    assert [r.postal_id for r in record.recipients] == [2]
    assert [r.token for r in record.recipients] == [world.sandbox.messages[1].token]
    assert len(world.sandbox.messages) == 2
    ((subject, body, recipients),) = told
    assert (subject, body) == ("Lost", "x")
    assert recipients["b@example.com"].id == 2


def test_ids_of_others_lie_in_between(world: Doubtful) -> None:
    accepted(world)
    for number in range(30):
        world.sandbox.accept(["x@example.org"], b"\r\n", message_id=f"{number}@other")
    record = world.fail("truncated")
    world.sandbox.accept(["ana@example.com"], b"\r\n", message_id="later@other")
    world.look()
    assert world.state(record) == "accepted"
    assert [r.postal_id for r in record.recipients] == [32]


def test_incoming_mail_is_counted_by_the_same_counter(world: Doubtful) -> None:
    accepted(world)
    mail = compose_mail("Hello", "text", to="app@example.com")
    for _ in range(3):
        world.sandbox.receive(bytes(mail), to="app@example.com")
    record = world.fail("reset-stored")
    world.look()
    assert world.state(record) == "accepted"


def test_our_message_id_to_another_address_proves_nothing(world: Doubtful) -> None:
    accepted(world)
    record = world.fail("reset")
    world.sandbox.accept(["eve@example.com"], b"\r\n", message_id=record.message_id)
    world.look()
    assert world.state(record) == "doubtful"


# ---- not found


def test_not_found_counts_only_after_the_settling_time(world: Doubtful) -> None:
    accepted(world)
    record = world.fail("reset")
    world.look()
    assert world.state(record) == "doubtful"
    assert "POSTAL_SETTLE" in record.waiting
    assert len(world.sandbox.messages) == 1
    world.settle()
    assert world.state(record) == "accepted"
    assert (record.attempts, record.waiting) == (2, None)
    assert len(world.sandbox.messages) == 2


def test_a_message_that_is_stored_late_is_found(world: Doubtful) -> None:
    accepted(world)
    record = world.fail("late-store")
    world.look()
    assert world.state(record) == "doubtful"
    world.sandbox.advance(seconds=11)
    world.settle()
    assert world.state(record) == "accepted"
    assert record.attempts == 1
    assert len(world.sandbox.messages) == 2


def test_a_look_that_began_too_early_does_not_count(
    world: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However late it ends: an id that it has passed may have been given since."""
    accepted(world)
    record = world.fail("reset")
    monkeypatch.setattr(scan, "MOST", 5)
    world.look()
    assert "goes on" in (world.state(record) and record.waiting)
    monkeypatch.setattr(scan, "MOST", 5000)
    world.settle(seconds=600)
    assert world.state(record) == "doubtful"
    world.settle()
    assert world.state(record) == "accepted"
    assert len(world.sandbox.messages) == 2


def test_only_the_recipients_that_postal_has_not_taken_get_it(world: Doubtful) -> None:
    to = ["a@example.com", "b@example.com", "c@example.com"]
    accepted(world)
    record = world.fail("partial", recipients=to)
    world.look()
    assert world.state(record) == "doubtful"
    assert [r.postal_id for r in record.recipients] == [2, None, None]
    world.settle()
    assert world.state(record) == "accepted"
    assert [r.postal_id for r in record.recipients] == [2, 3, 4]
    assert world.mails()[1:] == [(record.message_id, address) for address in to]


def test_a_process_that_died_while_sending_is_found_out(world: Doubtful) -> None:
    """The row was left as being sent: its lease ran out, and then it is doubtful."""
    accepted(world)
    token = world.sandbox.messages[0].token
    record = enqueue(world)
    table = world.ledger.models.table("mail")
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.id == record.id)
            .values(
                state="sending",
                attempts=1,
                due_at=past(),
                anchor=[{"id": 1, "token": token}],
            )
        )
    assert world.ledger.drain() == 0
    assert world.state(record) == "doubtful"
    ended = record.ended_at
    assert datetime.now(UTC) - ended >= timedelta(seconds=5)
    world.look()
    assert world.state(record) == "doubtful"
    world.settle()
    assert world.state(record) == "accepted"
    assert len(world.sandbox.messages) == 2


# ---- anchors


def test_without_an_anchor_it_waits_until_an_id_is_known(world: Doubtful) -> None:
    record = world.fail("reset-stored")
    world.settle()
    assert world.state(record) == "doubtful"
    assert "no id of this Postal is known yet" in record.waiting
    accepted(world, recipients=["b@example.com"])
    world.look()
    assert world.state(record) == "accepted"
    assert [r.postal_id for r in record.recipients] == [1]


def test_the_first_message_of_a_server_is_sent_if_it_is_not_there(
    world: Doubtful,
) -> None:
    record = world.fail("reset")
    accepted(world, recipients=["b@example.com"])
    world.settle()
    assert world.state(record) == "accepted"
    assert len(world.sandbox.messages) == 2


def test_going_down_ends_at_a_mail_from_before_the_attempt(
    world: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.sandbox.tracking_url = None
    for number in range(100):
        world.sandbox.accept(["x@example.org"], b"\r\n", message_id=f"{number}@other")
    world.sandbox.advance(minutes=20)
    record = world.fail("reset-stored")
    accepted(world, recipients=["b@example.com"])
    seen: list[int] = []
    fetch = fetch_message

    def counting(transport: Any, number: int, expand: Any) -> Any:
        seen.append(number)
        return fetch(transport, number, expand)

    monkeypatch.setattr(scan, "fetch_message", counting)
    world.look()
    assert world.state(record) == "accepted"
    assert min(seen) > 90


def change_began(world: Doubtful, minutes: float) -> None:
    """Have our clock be off by some minutes when the attempts began."""
    table = world.ledger.models.table("mail")
    with world.db.engine.begin() as connection:
        for row in connection.execute(sa.select(table)).all():
            connection.execute(
                sa.update(table)
                .where(table.c.id == row.id)
                .values(began_at=row.began_at + timedelta(minutes=minutes))
            )


@pytest.mark.parametrize("minutes", [-30, 30])
def test_clocks_that_differ_do_not_matter(world: Doubtful, minutes: float) -> None:
    """The difference is measured with a mail of ours that is known."""
    record = world.fail("reset-stored")
    for number in range(30):
        world.sandbox.accept(["x@example.org"], b"\r\n", message_id=f"{number}@other")
    accepted(world, recipients=["b@example.com"])
    change_began(world, minutes)
    world.settle()
    assert world.state(record) == "accepted"
    assert record.attempts == 1


def test_a_hole_in_the_ids_is_not_their_beginning(world: Doubtful) -> None:
    record = world.fail("reset-stored")
    for number in range(60):
        world.sandbox.accept(["x@example.org"], b"\r\n", message_id=f"{number}@other")
    for number in range(20, 55):
        world.sandbox.store._forget(number)
    accepted(world, recipients=["b@example.com"])
    world.settle()
    assert world.state(record) == "accepted"
    assert record.attempts == 1


def test_the_beginning_of_one_server_is_not_that_of_another(world: Doubtful) -> None:
    """The anchor is the beginning of a server of which a later mail is known."""
    record = world.fail("late-store")
    accepted(world, recipients=["b@example.com"])
    world.look()
    assert world.state(record) == "doubtful"
    assert record.anchor == [
        {"id": 1, "token": world.sandbox.messages[0].token, "start": 0}
    ]
    with Sandbox(key=SigningKey.generate(), clock=ManualClock()) as other:
        other.accept(["x@example.org"], b"\r\n", message_id="1@other")
        with world.postal.reconfigured(world.app, **other.settings()):
            world.settle()
        assert world.state(record) == "doubtful"
        assert len(other.messages) == 1


def test_ids_that_were_made_up_while_sending_was_suppressed_are_not_postals(
    world: Doubtful,
) -> None:
    accepted(world)
    record = world.fail("reset-stored")
    with world.postal.reconfigured(world.app, POSTAL_SUPPRESS_SEND=True):
        for number in range(3):
            enqueue(world, recipients=[f"{number}@example.com"])
        world.ledger.drain()
    world.settle()
    assert world.state(record) == "accepted"
    assert len(world.sandbox.messages) == 2
    lost = world.fail("reset-stored")
    world.settle()
    assert world.state(lost) == "accepted"


def test_a_message_that_postal_never_takes_is_given_up(world: Doubtful) -> None:
    """Postal answers HTTP 500 to what is too large for it, each time."""
    told: list[Any] = []

    def on_failed(app: Any, message: Any, error: Any, **extra: Any) -> None:
        told.append((message.subject, str(error)))

    class TooLarge:
        def call(self, endpoint: str, body: Body) -> Any:
            if endpoint == "send/raw":
                raise APIError("HTTP 500", http_status=500, maybe_sent=True)
            return real.call(endpoint, body)

    accepted(world)
    pipeline = world.postal._of(world.app).pipeline
    real = pipeline.transport
    pipeline.transport = TooLarge()
    record = enqueue(world, subject="large")
    world.ledger.drain()
    world.settle()
    assert (world.state(record), record.attempts) == ("doubtful", 2)
    world.settle()
    assert (world.state(record), record.attempts) == ("queued", 2)
    wait = record.due_at - datetime.now(UTC)
    assert timedelta(seconds=20) < wait <= timedelta(seconds=30)
    table = world.ledger.models.table("mail")
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.id == record.id)
            .values(state="doubtful", tried_at=past() - timedelta(days=3))
        )
    with send_failed.connected_to(on_failed):
        world.settle()
    assert world.state(record) == "failed"
    assert len(told) == 1
    assert told[0][0] == "large"
    assert "HTTP 500" in told[0][1]


def test_an_event_about_foreign_mail_tells_an_id(world: Doubtful) -> None:
    record = world.fail("reset-stored")
    world.look()
    assert world.state(record) == "doubtful"
    world.sandbox.accept(["x@example.org"], b"\r\n", message_id="1@other")
    world.sandbox.trigger("delivered", to="x@example.org")
    world.look()
    assert world.state(record) == "accepted"


def test_another_server_behind_the_same_url_leaves_it_doubtful(world: Doubtful) -> None:
    """Its ids say nothing about what the first one has done."""
    accepted(world)
    record = world.fail("reset-stored")
    with Sandbox(key=SigningKey.generate(), clock=ManualClock()) as other:
        for number in range(5):
            other.accept(["x@example.org"], b"\r\n", message_id=f"{number}@other")
        with world.postal.reconfigured(world.app, **other.settings()):
            world.settle()
            assert world.state(record) == "doubtful"
            assert "does not show its message 1" in record.waiting
            # Not even if the new server is known by now.
            accepted(world, recipients=["b@example.com"])
            world.settle()
        assert world.state(record) == "doubtful"
        assert len(other.messages) == 6
    world.settle()
    assert world.state(record) == "accepted"


def test_ids_that_an_older_server_has_given_are_not_skipped(world: Doubtful) -> None:
    """They are in our rows, and belong to other mail on the server of today."""
    for number in range(8):
        accepted(world, recipients=[f"{number}@example.com"])
    table = world.ledger.models.table("mail")
    with world.db.engine.begin() as connection:
        long_ago = past() - timedelta(days=1)
        recipients = world.ledger.models.table("recipient")
        connection.execute(sa.update(recipients).values(told_at=long_ago))
    with Sandbox(key=SigningKey.generate(), clock=ManualClock()) as other:
        (seen,) = other.accept(["x@example.org"], b"\r\n", message_id="1@other")
        with world.postal.reconfigured(world.app, **other.settings()):
            other.fault("reset-stored", times=1)
            record = enqueue(world)
            world.ledger.drain()
            with world.db.engine.begin() as connection:
                connection.execute(
                    sa.update(table)
                    .where(table.c.id == record.id)
                    .values(anchor=[{"id": seen.id, "token": seen.token}])
                )
            world.settle()
            assert world.state(record) == "accepted"
            assert len(other.messages) == 2


def test_rows_past_retention_leave_it_doubtful(world: Doubtful) -> None:
    accepted(world)
    world.sandbox.advance(hours=61 * 24)
    record = world.fail("reset-stored")
    world.settle()
    assert world.state(record) == "doubtful"
    assert "older than what Postal keeps" in record.waiting
    code, output = run(world, "mails", "--state", "doubtful")
    assert code == 0
    assert "Only an event can tell" in output


# ---- what goes wrong while looking


def test_a_failed_look_up_is_repeated(world: Doubtful) -> None:
    accepted(world)
    record = world.fail("reset-stored")
    world.sandbox.fault("502", times=2)
    world.look()
    assert world.state(record) == "accepted"


def test_a_look_that_fails_goes_on_later_where_it_was(
    world: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted(world)
    for number in range(250):
        world.sandbox.accept(["x@example.org"], b"\r\n", message_id=f"{number}@other")
    record = world.fail("reset-stored")
    seen: list[int] = []
    fetch = fetch_message
    failing = [True]

    def failing_at_201(transport: Any, number: int, expand: Any) -> Any:
        seen.append(number)
        if number == 202 and failing:
            raise APIError("HTTP 502", http_status=502, retryable=True)
        return fetch(transport, number, expand)

    monkeypatch.setattr(scan, "fetch_message", failing_at_201)
    world.look()
    assert world.state(record) == "doubtful"
    assert "can't be asked at the moment: HTTP 502" in record.waiting
    failing.clear()
    seen.clear()
    world.look()
    assert world.state(record) == "accepted"
    assert [number for number in seen if 1 < number < 202] == []


def test_only_one_process_looks_at_a_time(world: Doubtful) -> None:
    accepted(world)
    record = world.fail("reset-stored")
    turn = Turn(
        world.ledger.of(world.app).database,
        world.ledger.models.table("content"),
        "scan:postal",
        60,
    )
    assert turn.take()
    world.look()
    assert world.state(record) == "doubtful"
    turn.end()
    world.look()
    assert world.state(record) == "accepted"


def test_a_look_whose_lease_ran_out_is_taken_over(world: Doubtful) -> None:
    database = world.ledger.of(world.app).database
    table = world.ledger.models.table("content")
    first = Turn(database, table, "scan:postal", 0.001)
    assert first.take()
    second = Turn(database, table, "scan:postal", 60)
    assert second.take()
    assert not first.save(place=7)
    first.end(place=7)
    assert not Turn(database, table, "scan:postal", 60).take()


def test_many_doubtful_messages_share_one_look(
    world: Doubtful, monkeypatch: pytest.MonkeyPatch
) -> None:
    accepted(world)
    world.sandbox.fault("reset-stored", times=20)
    for number in range(20):
        world.postal.enqueue(message(recipients=[f"{number}@example.com"]))
    world.session.commit()
    assert world.ledger.drain() == 20
    seen: list[int] = []
    fetch = fetch_message

    def counting(transport: Any, number: int, expand: Any) -> Any:
        seen.append(number)
        return fetch(transport, number, expand)

    monkeypatch.setattr(scan, "fetch_message", counting)
    world.look()
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        states = set(connection.scalars(sa.select(table.c.state)))
    assert states == {"accepted"}
    assert len(world.sandbox.messages) == 21
    assert len(seen) < 50


def test_two_events_at_the_same_time_leave_nothing_doubtful(world: Doubtful) -> None:
    """Each transaction sees the other recipient as missing; a look repairs it."""
    accepted(world)
    record = world.fail("reset-stored", recipients=["a@example.com", "b@example.com"])
    table = world.ledger.models.table("recipient")
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.update(table).where(table.c.mail_id == record.id).values(postal_id=9)
        )
    world.look()
    assert world.state(record) == "accepted"


def test_nothing_is_looked_up_while_sending_is_suppressed(world: Doubtful) -> None:
    accepted(world)
    record = world.fail("reset-stored")
    with world.postal.reconfigured(world.app, POSTAL_SUPPRESS_SEND=True):
        world.look()
    assert world.state(record) == "doubtful"
    change(world, error="lost")
    assert row_of(world, record).error == "lost"


def row_of(world: Doubtful, record: Any) -> Any:
    world.session.rollback()
    world.session.refresh(record)
    return record
