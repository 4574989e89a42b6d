"""Events know their message, and settle what a lost response left in doubt."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest

from flask_postal import (
    TransportError,
    message_sent,
    tracking_received,
)
from flask_postal.ledger.evidence import Evidence
from flask_postal.testing import WebhookClient, sandboxed

from .world import NOW, World, enqueue, event, note, row, transport


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url, POSTAL_DEFAULT_SENDER="app@example.com")
    made.app.register_blueprint(made.postal.blueprint)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


def doubtful(world: World, **changes: Any) -> Any:
    """A message whose response was lost."""
    transport(world, TransportError("lost", maybe_sent=True))
    record = enqueue(world, **changes)
    world.ledger.drain()
    assert row(world).state == "doubtful"
    return record


# ---- receivers


def test_receivers_get_the_metadata_and_find_the_record(world: World) -> None:
    seen: list[Any] = []

    def on_tracking(app: Any, event: Any, postal: Any, **extra: Any) -> None:
        found = postal.mail_of(event)
        seen.append((event.event_type, event.metadata, found.subject))

    transport(world)
    record = enqueue(world, metadata={"order": 7})
    world.ledger.drain()
    with (
        tracking_received.connected_to(on_tracking),
        WebhookClient(world.app) as client,
    ):
        done = client.tracking("delivered", "ana@example.com", id=1, token="t1")
        assert done.status_code == 200
        other = client.tracking("delivered", "eve@example.com", id=9, token="t9")
    # mail_of() has returned None. The event is stored: Postal need not send it again.
    assert other.status_code == 200
    assert seen == [("delivered", {"order": 7}, "Hi")]
    world.session.rollback()  # MariaDB's snapshot too
    assert record.recipients[0].status == "delivered"


def test_a_whole_way_through_the_sandbox(world: World) -> None:
    seen: list[Any] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        seen.append((event.event_type.value, event.recipient, event.metadata))

    def on_sent(app: Any, message: Any, result: Any, **extra: Any) -> None:
        seen.append(("sent", list(result.recipients), message.metadata))

    world.postal._transport = None
    with (
        sandboxed(world.app) as sandbox,
        tracking_received.connected_to(on_tracking),
        message_sent.connected_to(on_sent),
    ):
        record = enqueue(
            world,
            recipients=["ana@example.com", "bounced@example.com"],
            metadata={"order": 7},
        )
        assert world.ledger.drain() == 1
        sandbox.advance(minutes=1)
    meta = {"order": 7}
    assert seen[0] == ("sent", ["ana@example.com", "bounced@example.com"], meta)
    assert sorted(seen[1:]) == [
        ("bounced", "bounced@example.com", meta),
        ("delivered", "ana@example.com", meta),
        ("delivered", "bounced@example.com", meta),
    ]
    world.session.rollback()  # MariaDB's snapshot too
    assert [r.status for r in record.recipients] == ["delivered", "bounced"]
    assert record.state == "accepted"


def test_the_test_helpers_exchange_where_the_ledger_sends(world: World) -> None:
    """A message must not leave by the settings that a fixture has replaced."""
    calls = transport(world)
    world.postal._transport = None
    with sandboxed(world.app) as sandbox:
        enqueue(world)
        world.ledger.drain()
        assert len(sandbox.messages) == 1
    assert calls.calls == []


def test_a_database_that_fails_makes_postal_retry(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[Any] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        seen.append(event)

    def fail(*arguments: Any) -> None:
        raise LookupError("the database is gone")

    monkeypatch.setattr(Evidence, "note", fail)
    with (
        tracking_received.connected_to(on_tracking),
        WebhookClient(world.app) as client,
    ):
        assert client.tracking("delivered").status_code == 500
    assert seen == []


# ---- doubt


def test_an_event_settles_a_lost_response(world: World) -> None:
    record = doubtful(world, metadata={"order": 7})
    found = event(
        *("delivered",),
        id=5,
        token="t5",
        message_id=record.message_id,
        recipient="ana@example.com",
    )
    assert note(world, found)[0].meta == {"order": 7}
    world.session.rollback()  # MariaDB's snapshot too
    assert (record.state, record.error, record.due_at) == ("accepted", None, None)
    assert (record.recipients[0].postal_id, record.recipients[0].token) == (5, "t5")


def test_one_recipient_of_two_does_not_settle_it(world: World) -> None:
    record = doubtful(world, recipients=["a@example.com", "b@Example.com"])
    about = {"message_id": record.message_id}
    note(world, event("deferred", id=5, token="t5", recipient="a@example.com", **about))
    assert row(world).state == "doubtful"
    note(world, event("deferred", id=6, token="t6", recipient="b@example.com", **about))
    assert row(world).state == "accepted"


def test_an_event_may_come_before_the_response(world: World) -> None:
    """It is told by its Message-ID; the state is left to who sends it."""
    record = enqueue(world)
    note(
        world,
        event(
            *("delivered",),
            id=1,
            token="t1",
            message_id=record.message_id,
            recipient="ana@example.com",
        ),
    )
    world.session.rollback()  # MariaDB's snapshot too
    assert (record.state, record.recipients[0].status) == ("queued", "delivered")


@pytest.mark.parametrize(
    "about",
    [
        {"id": 1, "token": "of another server"},
        {"message_id": "other@example.com", "recipient": "ana@example.com"},
        {"recipient": "ana@example.com"},
        {"id": 1},
        {},
    ],
    ids=["token", "message-id", "recipient", "id", "nothing"],
)
def test_events_about_other_mail_change_nothing(
    world: World, about: dict[str, Any]
) -> None:
    transport(world)
    record = enqueue(world)
    world.ledger.drain()
    assert note(world, event("bounced", **about)) == [None]
    world.session.rollback()  # MariaDB's snapshot too
    assert record.recipients[0].status is None


# ---- the status of a recipient

STEPS = [
    event("queued", at=1, id=1, token="t1"),
    event("deferred", at=2, id=1, token="t1"),
    event("delivered", at=3, id=1, token="t1"),
    event("opened", at=4, id=1, token="t1"),
]


@pytest.mark.parametrize("order", list(itertools.permutations(range(4))), ids=str)
def test_the_status_is_the_same_in_any_order(order: tuple[int, ...]) -> None:
    world = World("sqlite://")
    with world.app.app_context():
        world.db.create_all()
        transport(world)
        record = enqueue(world)
        world.ledger.drain()
        note(world, *(STEPS[index] for index in order))
        world.session.rollback()  # MariaDB's snapshot too
        (recipient,) = record.recipients
        assert recipient.status == "opened"
        assert recipient.status_at == NOW + timedelta(seconds=4)
        world.session.remove()
        world.db.engine.dispose()


def test_a_bounce_is_stronger_than_a_delivery_and_has_its_reason(world: World) -> None:
    transport(world)
    record = enqueue(world)
    world.ledger.drain()
    with WebhookClient(world.app) as client:
        for kind in ("failed", "delivered"):
            client.tracking(kind, id=1, token="t1")
    world.session.rollback()  # MariaDB's snapshot too
    (recipient,) = record.recipients
    assert (recipient.status, recipient.reason) == ("failed", "invalid")
