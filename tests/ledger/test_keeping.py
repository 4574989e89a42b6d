"""Events are purged, addresses are forgotten, and health() tells no addresses."""

from __future__ import annotations

import json
from collections.abc import Iterator
from datetime import timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_postal import (
    ConfigurationError,
    Postal,
    inbound_received,
    tracking_received,
)
from flask_postal.ledger.columns import now
from flask_postal.ledger.purge import Purged
from flask_postal.sandbox import compose_mail
from flask_postal.testing import WebhookClient

from .world import World, enqueue, run, states, transport


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url, POSTAL_DEFAULT_SENDER="app@example.com")
    made.app.register_blueprint(made.postal.blueprint)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


@pytest.fixture
def post(world: World) -> Iterator[WebhookClient]:
    def receiver(app: Any, event: Any, **extra: Any) -> None:
        world.session.add(world.order(number=str(world.count("receipt"))))

    with (
        tracking_received.connected_to(receiver),
        inbound_received.connected_to(receiver),
        WebhookClient(world.app) as client,
    ):
        yield client


def mail_from(author: str, size: int = 0) -> Any:
    return compose_mail(sender=author, to="support@example.com", text="x" * size)


def alter(world: World, name: str, **values: Any) -> None:
    table = world.ledger.models.table(name)
    with world.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(**values))


def everything(world: World) -> str:
    """All that is in the tables, as text."""
    found = []
    with world.db.engine.connect() as connection:
        for name in world.ledger.models.given():
            for row in connection.execute(sa.select(world.ledger.models.table(name))):
                found += [
                    bytes(value).decode("latin-1")
                    if isinstance(value, (bytes, memoryview))
                    else str(value)
                    for value in row
                ]
    return "\n".join(found)


# ---- purge


def test_bodies_go_first_and_rows_later(world: World, post: WebhookClient) -> None:
    post.tracking("delivered", "ana@example.com")
    post.inbound(mail_from("zoe@example.net", 200_000))
    assert world.ledger.purge() == Purged(0, 0, 0, 0)
    alter(world, "event", created_at=now() - timedelta(days=8))
    assert world.ledger.purge() == Purged(0, 0, 2, 0)
    assert world.ledger.purge() == Purged(0, 0, 0, 0)
    assert world.count("content") == 1  # what is known of Postal's ids
    assert world.ledger.get_event(1).content() is None
    assert "its body has been deleted" in run(world, "events", "show", "1")[1]
    alter(world, "event", created_at=now() - timedelta(days=91))
    assert world.ledger.purge() == Purged(0, 0, 0, 2)
    assert (world.count("event"), world.count("receipt")) == (0, 0)


def test_events_that_are_not_done_keep_their_bodies(
    world: World, post: WebhookClient
) -> None:
    for state, left in (("queued", 1), ("claimed", 1), ("dead", 0)):
        post.tracking("delivered", "ana@example.com", token=state)
        old = now() - timedelta(days=8)
        alter(world, "event", created_at=old, state=state)
        assert world.ledger.purge() == Purged(0, 0, 0, 0)
        alter(world, "event", created_at=now() - timedelta(days=91))
        assert world.ledger.purge().events == 1 - left
        alter(world, "event", created_at=now() - timedelta(days=91), state="done")
        assert world.ledger.purge().events == left


# ---- forget


def test_an_address_is_forgotten_in_all_tables(
    world: World, post: WebhookClient
) -> None:
    transport(world)
    enqueue(world, recipients=["Ana@Example.com"], metadata={"name": "Ana@Example.com"})
    enqueue(world, recipients=["bea@example.com"])
    world.ledger.drain()
    post.tracking("delivered", "Ana@example.com", id=1, token="t1")
    post.tracking("delivered", "bea@example.com", id=2, token="t2")
    post.inbound(mail_from("Ana <ANA@example.com>"), sender="bounces@example.com")
    post.inbound(mail_from("Ana <ANA@example.com>", 100_000), sender="x@example.com")
    post.inbound(mail_from("bea@example.com"), sender="ana@example.com")
    post.inbound(mail_from("bea@example.com"), sender="bea@example.com")
    assert "ana@example.com" in everything(world).lower()
    assert world.ledger.forget("ana@example.com") == (1, 1, 4, 0)
    assert "ana@example.com" not in everything(world).lower()
    assert "bea@example.com" in everything(world)
    assert (world.count("event"), world.count("receipt")) == (2, 2)
    assert world.ledger.forget("ana@example.com") == (0, 0, 0, 0)


def test_a_message_that_waits_is_cancelled_or_goes_to_the_others(world: World) -> None:
    calls = transport(world)
    enqueue(world, recipients=["ana@example.com"])
    enqueue(world, recipients=["ana@example.com", "bea@example.com"])
    code, output = run(world, "forget", "Ana <ana@example.com>", "--yes")
    assert code == 0, output
    assert output.startswith("erased 2 recipients, the content of 1 messages, and 0")
    assert "the content of 1 messages to other recipients too stays" in output
    assert states(world) == ["cancelled", "queued"]
    world.ledger.drain()
    assert [body["rcpt_to"] for _, body in calls.calls] == [["bea@example.com"]]


def test_forgetting_asks_first(world: World) -> None:
    transport(world)
    enqueue(world, recipients=["ana@example.com"])
    assert run(world, "forget", "ana@example.com", answer="n\n")[0] == 1
    assert states(world) == ["queued"]


@pytest.mark.parametrize("address", ["", "@", "x", "a" * 3000, "\0", "a\ud800@b.c"])
def test_strange_addresses_are_no_error(world: World, address: str) -> None:
    assert world.ledger.forget(address) == (0, 0, 0, 0)


# ---- health


def test_health_of_nothing(world: World) -> None:
    assert world.postal.health() == {
        "seconds_since_event": None,
        "seconds_since_accepted": None,
        "oldest_due_mail": None,
        "oldest_due_event": None,
        "doubtful_mails": 0,
        "dead_events": 0,
        "webhook_keys_age": None,
    }


def test_health_tells_ages_and_counts(world: World, post: WebhookClient) -> None:
    transport(world)
    enqueue(world)
    world.ledger.drain()
    minute = now() - timedelta(minutes=1)
    alter(world, "mail", finished_at=minute)
    enqueue(world)
    for state in ("queued", "dead"):
        post.tracking("delivered", "ana@example.com", token=state)
    alter(world, "event", state="dead", due_at=None, created_at=minute)
    post.tracking("deferred", "ana@example.com", token="t")
    with world.db.engine.begin() as connection:
        mails, events = (world.ledger.models.table(n) for n in ("mail", "event"))
        connection.execute(
            sa.update(mails).where(mails.c.state == "queued").values(due_at=minute)
        )
        connection.execute(
            sa.update(events)
            .where(events.c.state == "done")
            .values(state="queued", due_at=minute, created_at=minute)
        )
    found = world.postal.health()
    ages = ("event", "accepted"), ("mail", "event")
    for name in (
        *(f"seconds_since_{what}" for what in ages[0]),
        *(f"oldest_due_{what}" for what in ages[1]),
    ):
        assert 60 <= float(found[name] or 0) < 70, name
    assert (found["doubtful_mails"], found["dead_events"]) == (0, 2)
    assert "@" not in json.dumps(found)


def test_health_needs_a_ledger(world: World) -> None:
    with pytest.raises(ConfigurationError, match=r"health\(\) needs a ledger"):
        Postal().health()
