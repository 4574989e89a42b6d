"""Delivering: each message once, whatever goes wrong, on three databases."""

from __future__ import annotations

import threading
from collections.abc import Iterator
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
from flask_postal.ledger.settings import LedgerSettings
from flask_postal.sending.payload import Body

from ..mails import message
from ..test_seams import Recorder
from .test_enqueue import World


class Unsteady(Recorder):
    """A transport that raises errors, one after the other, before it works."""

    def __init__(self, *errors: Exception) -> None:
        super().__init__()
        self.errors = list(errors)

    def call(self, endpoint: str, body: Body) -> Any:
        answer = super().call(endpoint, body)
        if self.errors:
            raise self.errors.pop(0)
        return answer


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


def enqueue(world: World, **changes: Any) -> Any:
    record = world.postal.enqueue(message(**changes))
    world.session.commit()
    return record


def transport(world: World, *errors: Exception) -> Unsteady:
    made = Unsteady(*errors)
    world.postal._of(world.app).pipeline.transport = made
    return made


def change(world: World, **values: Any) -> None:
    """Change a row as another process would."""
    table = world.ledger.models.table("mail")
    with world.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(**values))


def row(world: World) -> Any:
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        return connection.execute(sa.select(table)).one()


def past() -> datetime:
    return datetime.now(UTC).replace(tzinfo=None) - timedelta(seconds=5)


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


def test_after_days_a_message_is_given_up(world: World) -> None:
    transport(world, TransportError("down", maybe_sent=False))
    enqueue(world)
    old = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=3)
    change(world, created_at=old)
    assert world.ledger.drain() == 1
    assert row(world).state == "failed"


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


def test_a_result_that_comes_after_the_lease_keeps_the_ids_only(world: World) -> None:
    """Somebody else has taken over; what Postal said of the recipients is kept."""

    class Slow(Recorder):
        def call(self, endpoint: str, body: Body) -> Any:
            change(world, state="doubtful", attempts=2)
            return super().call(endpoint, body)

    world.postal._of(world.app).pipeline.transport = Slow()
    record = enqueue(world)
    world.ledger.drain()
    assert row(world).state == "doubtful"
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
