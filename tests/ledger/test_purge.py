"""What is old is deleted, and what is not finished stays."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_postal import APIError, TransportError
from flask_postal.ledger import purge as purge_module
from flask_postal.ledger.columns import now
from flask_postal.ledger.content import PIECE
from flask_postal.ledger.purge import Purged

from .world import World, enqueue, run, states, transport


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    with made.app.app_context():
        made.db.create_all()
        transport(made)
        yield made
        made.session.remove()
        made.db.engine.dispose()


def age(world: World, days: float) -> None:
    """Make all messages older."""
    table = world.ledger.models.table("mail")
    then = datetime.now(UTC).replace(tzinfo=None) - timedelta(days=days)
    with world.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(created_at=then))
        finished = table.c.finished_at.is_not(None)
        connection.execute(sa.update(table).where(finished).values(finished_at=then))


def accepted(world: World, **changes: Any) -> Any:
    record = enqueue(world, **changes)
    world.ledger.drain()
    return record


def test_young_messages_stay(world: World) -> None:
    accepted(world)
    age(world, 6.9)
    assert world.ledger.purge() == Purged(0, 0)
    assert (world.count(), world.count("content")) == (1, 1)


def test_content_goes_before_the_rows(world: World) -> None:
    record = accepted(world, body="x" * (PIECE + 5) + "\n")
    assert world.count("content") == 2
    age(world, 7.1)
    assert world.ledger.purge() == Purged(1, 0)
    assert (world.count(), world.count("content")) == (1, 0)
    world.session.rollback()
    world.session.expire_all()
    assert (record.state, record.subject, record.mime()) == ("accepted", "Hi", None)
    age(world, 90.1)
    assert world.ledger.purge() == Purged(0, 1)
    assert (world.count(), world.count("recipient")) == (0, 0)


def test_unfinished_messages_stay_however_old_they_are(world: World) -> None:
    transport(world, TransportError("lost", maybe_sent=True))
    enqueue(world)
    world.ledger.drain()
    enqueue(world)
    age(world, 1000)
    assert states(world) == ["doubtful", "queued"]
    assert world.ledger.purge() == Purged(0, 0)
    assert world.count("content") == 2


def test_a_failed_message_can_be_sent_again_until_it_goes(world: World) -> None:
    transport(world, APIError("no", code="NoRecipients", http_status=200))
    enqueue(world)
    world.ledger.drain()
    age(world, 8)
    assert world.ledger.purge() == Purged(0, 0)
    assert run(world, "retry", "1", "--yes")[0] == 0
    assert world.ledger.drain() == 1
    assert states(world) == ["accepted"]


def test_an_event_outlives_the_message_that_it_is_about(world: World) -> None:
    accepted(world)
    table, recipient = (world.ledger.models.table(n) for n in ("event", "recipient"))
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.insert(table).values(
                identity="1",
                server="postal",
                source="webhook",
                kind="tracking",
                event_type="delivered",
                media_type="x",
                state="done",
                attempts=0,
                recipient_id=connection.scalar(sa.select(recipient.c.id)),
                created_at=now(),
            )
        )
    age(world, 91)
    assert world.ledger.purge() == Purged(0, 1)
    with world.db.engine.connect() as connection:
        assert connection.execute(sa.select(table.c.recipient_id)).all() == [(None,)]


def test_many_go_in_small_transactions(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(purge_module, "BATCH", 3)
    for number in range(8):
        accepted(world, subject=str(number))
    age(world, 8)
    enqueue(world, subject="young")
    assert world.ledger.purge() == Purged(8, 0)
    age(world, 91)
    database = world.ledger.of(world.app).database
    deleted: list[int] = []
    work = database.run

    def watched(function: Any, **options: Any) -> Any:
        done = work(function, **options)
        deleted.append(world.count())
        return done

    monkeypatch.setattr(database, "run", watched)
    assert world.ledger.purge() == Purged(0, 8)
    assert sorted(set(deleted), reverse=True) == [9, 6, 3, 1]


def test_the_settings_say_how_long(world: World) -> None:
    world.app.config.update(POSTAL_KEEP_CONTENT=1, POSTAL_KEEP_ROWS=2)
    world.app.extensions.pop("postal")
    world.app.extensions.pop("flask_postal_ledgers")
    world.postal.init_app(world.app)
    transport(world)
    accepted(world)
    age(world, 1.5)
    assert run(world, "purge") == (
        0,
        "deleted 0 messages, and the content of 1 others;"
        " 0 events, and the body of 0 others\n",
    )
    age(world, 2.5)
    assert run(world, "purge")[1].startswith("deleted 1 messages")
