"""Delivering: each message once, whatever goes wrong, on three databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_postal import (
    APIError,
    ConfigurationError,
    Message,
    PostalError,
    TransportError,
    message_sent,
    send_failed,
)
from flask_postal.ledger.lease import LeasedBody, LeaseExpiredError
from flask_postal.ledger.settings import LedgerSettings
from flask_postal.sending.payload import Body

from ..mails import message
from ..test_seams import Recorder
from .world import World, change, enqueue, past, row, transport


def test_a_message_is_sent_after_the_commit_and_accepted(world: World) -> None:
    told: list[Any] = []

    def on_sent(app: Flask, message: Message, result: Any, **extra: Any) -> None:
        told.append((message.subject, message.metadata, result.recipients))

    calls = transport(world)
    record = world.postal.enqueue(
        message(recipients=["a@example.com", "b@example.com"], metadata={"order": 7})
    )
    assert world.ledger.drain() == 0
    world.session.commit()
    with message_sent.connected_to(on_sent):
        assert world.ledger.drain() == 1
        assert world.ledger.drain() == 0
    world.session.expire_all()
    assert (record.state, record.error, record.attempts) == ("accepted", None, 1)
    assert record.due_at is None
    assert record.finished_at is not None
    assert [r.postal_id for r in record.recipients] == [1, 2]
    assert [r.token for r in record.recipients] == ["t1", "t2"]
    ((endpoint, content),) = calls.calls
    assert endpoint == "send/raw"
    assert content["rcpt_to"] == ["a@example.com", "b@example.com"]
    ((subject, metadata, recipients),) = told
    assert (subject, metadata) == ("Hi", {"order": 7})
    assert recipients["b@example.com"].id == 2


def test_a_message_of_the_future_waits(world: World) -> None:
    transport(world)
    record = world.postal.enqueue(
        message(), send_at=datetime.now(UTC) + timedelta(hours=1)
    )
    world.session.commit()
    assert world.ledger.drain() == 0
    assert world.ledger.deliver(record.id) is None
    change(world, due_at=past())
    assert world.ledger.drain() == 1


def test_what_surely_was_not_taken_is_tried_again_with_backoff(world: World) -> None:
    calls = transport(world, *[TransportError("down", maybe_sent=False)] * 3)
    enqueue(world)
    pauses = []
    for _ in range(3):
        assert world.ledger.drain() == 1
        found = row(world)
        assert (found.state, found.error) == ("queued", "down")
        left = found.due_at - datetime.now(UTC).replace(tzinfo=None)
        pauses.append(round(left.total_seconds() / 30))
        assert world.ledger.drain() == 0
        change(world, due_at=past())
    assert pauses == [1, 2, 4]
    assert world.ledger.drain() == 1
    assert row(world).state == "accepted"
    assert len(calls.calls) == 4


@pytest.mark.parametrize(
    "error",
    [
        APIError("no", code="NoRecipients", http_status=200),
        APIError("no", code="parameter-error", http_status=200),
        APIError("no", code="AttachmentMissingName", http_status=200),
        APIError("too large", http_status=413),
    ],
    ids=["code", "parameter", "attachment", "413"],
)
def test_what_postal_refuses_for_good_fails_and_is_told(
    world: World, error: PostalError
) -> None:
    told: list[Any] = []

    def on_failed(app: Flask, message: Message, error: Any, **extra: Any) -> None:
        told.append((message.message_id, error))

    transport(world, error)
    record = enqueue(world)
    with send_failed.connected_to(on_failed):
        assert world.ledger.drain() == 1
        assert world.ledger.drain() == 0
    found = row(world)
    assert (found.state, found.due_at, found.error) == ("failed", None, str(error))
    assert told == [(record.message_id, error)]


@pytest.mark.parametrize(
    "error",
    [
        APIError("key", code="InvalidServerAPIKey", http_status=200),
        APIError("suspended", code="ServerSuspended", http_status=200),
        APIError("host", http_status=403),
        ConfigurationError("no URL"),
    ],
    ids=["key", "suspended", "host", "url"],
)
def test_what_the_operator_must_mend_waits_with_an_error(
    world: World, error: PostalError, caplog: pytest.LogCaptureFixture
) -> None:
    transport(world, error)
    enqueue(world)
    assert world.ledger.drain() == 1
    assert row(world).state == "queued"
    (logged,) = [r for r in caplog.records if r.name == "flask_postal.ledger"]
    assert logged.levelname == "ERROR"
    assert str(error) in logged.getMessage()
    change(world, due_at=past())
    assert world.ledger.drain() == 1
    assert row(world).state == "accepted"


def test_after_days_of_trying_a_message_is_given_up(world: World) -> None:
    transport(world, TransportError("down", maybe_sent=False))
    enqueue(world)
    old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=3)
    change(world, tried_at=old)
    assert world.ledger.drain() == 1
    assert row(world).state == "failed"


def test_a_message_that_was_stored_long_ago_is_tried_as_long(world: World) -> None:
    """It waited for its time, or for a relay."""
    transport(world, TransportError("down", maybe_sent=False))
    enqueue(world)
    old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=30)
    change(world, created_at=old)
    assert world.ledger.drain() == 1
    assert row(world).state == "queued"
    assert datetime.now(UTC).replace(tzinfo=None) - row(world).tried_at < timedelta(
        minutes=1
    )


@pytest.mark.parametrize(
    "error",
    [
        TransportError("answer lost", maybe_sent=True),
        APIError("HTTP 502", http_status=502, retryable=True, maybe_sent=True),
    ],
    ids=["lost", "502"],
)
def test_what_may_have_been_sent_is_never_sent_again(
    world: World, error: PostalError
) -> None:
    calls = transport(world, error)
    enqueue(world)
    assert world.ledger.drain() == 1
    found = row(world)
    assert (found.state, found.error) == ("doubtful", str(error))
    change(world, due_at=past())
    assert world.ledger.drain() == 0
    assert len(calls.calls) == 1


# ---- claims, leases and fences


def test_many_threads_send_each_message_once(world: World) -> None:
    calls = transport(world)
    for number in range(30):
        world.postal.enqueue(message(subject=str(number)))
    world.session.commit()
    threads = 2 if world.db.engine.dialect.name == "sqlite" else 6

    def work() -> None:
        with world.app.app_context():
            while world.ledger.drain():
                pass

    workers = [threading.Thread(target=work) for _ in range(threads)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join(60)
    assert len(calls.calls) == 30
    mails = {content["data"] for _, content in calls.calls}
    assert len(mails) == 30
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        states = connection.scalars(sa.select(table.c.state)).all()
    assert set(states) == {"accepted"}


def test_a_claim_that_ran_out_is_queued_again(world: World) -> None:
    calls = transport(world)
    enqueue(world)
    change(world, state="claimed", due_at=past(), attempts=1)
    assert world.ledger.drain() == 1
    assert (row(world).state, row(world).attempts) == ("accepted", 2)
    assert len(calls.calls) == 1


def test_a_call_that_ran_out_is_doubtful_and_not_repeated(world: World) -> None:
    calls = transport(world)
    enqueue(world)
    change(world, state="sending", due_at=past(), attempts=1)
    assert world.ledger.drain() == 0
    assert row(world).state == "doubtful"
    assert calls.calls == []


@pytest.mark.parametrize("state", ["claimed", "sending"])
def test_a_lease_that_holds_is_left_alone(world: World, state: str) -> None:
    transport(world)
    enqueue(world)
    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(seconds=60)
    change(world, state=state, due_at=later, attempts=1)
    assert world.ledger.drain() == 0
    assert row(world).state == state


def test_a_result_that_comes_after_the_lease_settles_the_doubt(world: World) -> None:
    """Somebody else has found the message; what Postal said of it is kept."""

    class Slow(Recorder):
        def call(self, endpoint: str, body: Body) -> Any:
            change(world, state="doubtful", attempts=2)
            return super().call(endpoint, body)

    world.postal._of(world.app).pipeline.transport = Slow()
    record = enqueue(world)
    world.ledger.drain()
    assert row(world).state == "accepted"
    world.session.expire_all()
    assert [r.postal_id for r in record.recipients] == [1]


def test_only_recipients_that_are_missing_are_sent_again(world: World) -> None:
    calls = transport(world)
    record = enqueue(world, recipients=["a@example.com", "b@example.com"])
    table = world.ledger.models.table("recipient")
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.address == "a@example.com")
            .values(postal_id=5, token="t5")
        )
    world.ledger.drain()
    assert [content["rcpt_to"] for _, content in calls.calls] == [["b@example.com"]]
    world.session.expire_all()
    assert [r.token for r in record.recipients] == ["t5", "t1"]


def test_a_message_that_postal_is_known_to_have_is_not_sent(world: World) -> None:
    calls = transport(world)
    enqueue(world)
    table = world.ledger.models.table("recipient")
    with world.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(postal_id=5, token="t5"))
    world.ledger.drain()
    assert row(world).state == "accepted"
    assert calls.calls == []


# ---- as with send


def test_suppressed_messages_are_accepted_and_not_sent(database_url: str) -> None:
    world = World(database_url, POSTAL_SUPPRESS_SEND=True)
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        enqueue(world)
        with world.postal.record_messages() as outbox:
            assert world.ledger.drain() == 1
        assert row(world).state == "accepted"
        assert calls.calls == []
        assert [sent.subject for sent in outbox] == ["Hi"]
        # Made-up ids would be taken for Postal's.
        table = world.ledger.models.table("recipient")
        with world.db.engine.connect() as connection:
            assert connection.scalars(sa.select(table.c.postal_id)).all() == [None]
        world.session.remove()
        world.db.engine.dispose()


def test_in_memory_nothing_is_sent_while_the_caller_has_a_transaction_open() -> None:
    """All share one connection, and a rollback would come too late."""
    world = World("sqlite://")
    with world.app.app_context():
        world.db.create_all()
        calls = transport(world)
        world.postal.enqueue(message())
        with pytest.raises(ConfigurationError, match="commit or roll back"):
            world.ledger.drain()
        world.session.rollback()
        assert world.ledger.drain() == 0
        enqueue(world)
        assert world.ledger.drain() == 1
        assert len(calls.calls) == 1
        world.session.remove()
        world.db.engine.dispose()


# ---- settings


def test_a_lease_must_be_longer_than_a_call() -> None:
    with pytest.raises(ConfigurationError, match="may take 35; set POSTAL_LEASE"):
        World("sqlite://", POSTAL_LEASE=35)
    World("sqlite://", POSTAL_LEASE=6, POSTAL_TIMEOUT="2.5")


def test_the_settings_are_read_strictly() -> None:
    read = LedgerSettings.from_config
    assert read({}) == LedgerSettings()
    given = {"POSTAL_LEASE": "60", "POSTAL_BACKOFF": "1, 5", "POSTAL_SETTLE": 2}
    assert read(given) == LedgerSettings(60.0, (1.0, 5.0), settle=2.0)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("POSTAL_LEASE", 0),
        ("POSTAL_GIVE_UP", "soon"),
        ("POSTAL_SETTLE", float("inf")),
        ("POSTAL_BACKOFF", 5),
        ("POSTAL_BACKOFF", (1, -1)),
        ("POSTAL_LEASE", True),
    ],
)
def test_a_bad_setting_is_named(key: str, value: Any) -> None:
    with pytest.raises(ConfigurationError, match=key) as caught:
        LedgerSettings.from_config({key: value})
    assert caught.value.key == key


# ---- a process that was stopped


@pytest.mark.parametrize("size", [10, 300_000], ids=["one piece", "many pieces"])
def test_a_process_that_sleeps_over_its_lease_sends_nothing(
    world: World, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    """It is stopped in the middle of the body, and another one has judged by then."""

    later = datetime.now(UTC).replace(tzinfo=None) + timedelta(hours=1)

    class Stopped(Recorder):
        pieces = 0

        def call(self, endpoint: str, body: Body) -> Any:
            for _ in body.pieces():
                self.pieces += 1
                monkeypatch.setattr("flask_postal.ledger.lease.now", lambda: later)
            return super().call(endpoint, body)

    stopped = Stopped()
    world.postal._of(world.app).pipeline.transport = stopped
    enqueue(world, body="x" * size + "\n")
    assert world.ledger.drain() == 1
    assert stopped.pieces == 1
    assert stopped.calls == []
    found = row(world)
    assert (found.state, "the lease ran out" in found.error) == ("queued", True)


def test_a_lease_that_ran_out_before_the_body_sends_nothing(world: World) -> None:
    body = LeasedBody(Body(b"x"), past())
    assert body.length == 1
    with pytest.raises(LeaseExpiredError):
        list(body.pieces())


# ---- the database fails while a result is written


def test_a_result_is_written_when_the_database_is_back(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Otherwise it would be lost, and the message in doubt."""
    calls = transport(world)
    enqueue(world)
    ledger = world.ledger.of(world.app)
    begin, failures = ledger.database.begin, [1, 1]

    @contextmanager
    def failing() -> Iterator[sa.Connection]:
        with begin() as connection:
            yield connection
            if calls.calls and failures:
                failures.pop()
                raise sa.exc.OperationalError("COMMIT", {}, Exception("gone away"))

    monkeypatch.setattr(ledger.database, "begin", failing)
    assert world.ledger.drain() == 1
    assert row(world).state == "accepted"
    assert failures == []
    assert len(calls.calls) == 1


def test_messages_that_were_claimed_and_not_begun_are_given_back(world: World) -> None:
    calls = transport(world)
    for number in range(5):
        enqueue(world, subject=str(number))
    assert world.ledger.drain(lambda: len(calls.calls) >= 2) == 2
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        rows = connection.execute(
            sa.select(table.c.state, table.c.attempts).order_by(table.c.id)
        ).all()
    assert [tuple(one) for one in rows] == [("accepted", 1)] * 2 + [("queued", 0)] * 3
    assert world.ledger.drain() == 3


def test_one_error_is_logged_for_all_messages_that_wait_for_the_same_cure(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    error = APIError("key", code="InvalidServerAPIKey", http_status=200)
    transport(world, error, error, error)
    for number in range(3):
        enqueue(world, subject=str(number))
    assert world.ledger.drain() == 3
    errors = [r for r in caplog.records if r.name == "flask_postal.ledger"]
    assert [r.levelname for r in errors] == ["ERROR"]
