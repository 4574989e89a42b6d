"""Webhooks are stored before Postal is answered, and are the ledger's from then on."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import timedelta
from functools import partial
from typing import Any

import pytest
import sqlalchemy as sa

from flask_postal import (
    ConfigurationError,
    Dispatched,
    RejectMail,
    TransportError,
    VerifiedRequest,
    inbound_received,
    server_event_received,
    tracking_received,
)
from flask_postal.ledger import identity as identity_module
from flask_postal.ledger.columns import now
from flask_postal.ledger.event_store import INLINE, EventStore
from flask_postal.ledger.relay import Relay
from flask_postal.testing import WebhookClient
from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.tracking import parse_tracking

from ..captures import CAPTURES, PUBLIC_KEY_P, Recorded
from .world import World, end_threads, enqueue, past, run, transport, until

SENT = Recorded.load("webhooks/MessageSent")
MAIL = Recorded.load("inbound/raw-json")


@pytest.fixture
def make_world(database_url: str) -> Iterator[Callable[..., World]]:
    """Makes apps with a ledger and webhooks."""
    made: list[World] = []

    def make(**config: Any) -> World:
        world = World(database_url, **{"POSTAL_WEBHOOK_KEY": PUBLIC_KEY_P, **config})
        world.app.register_blueprint(world.postal.blueprint)
        with world.app.app_context():
            world.db.create_all()
        made.append(world)
        return world

    yield make
    for world in made:
        with world.app.app_context():
            world.session.remove()
            world.db.engine.dispose()


@pytest.fixture
def world(make_world: Callable[..., World]) -> Iterator[World]:
    made = make_world()
    with made.app.app_context():
        yield made


@contextmanager
def client(world: World) -> Iterator[WebhookClient]:
    with WebhookClient(world.app) as made:
        yield made


def events(world: World) -> list[Any]:
    """The rows of events, as another transaction sees them."""
    table = world.ledger.models.table("event")
    with world.db.engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)))


def alter(world: World, **values: Any) -> None:
    """Change all events as another process would."""
    table = world.ledger.models.table("event")
    with world.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(**values))


class Failing:
    """A receiver that raises errors, one after the other, before it works."""

    def __init__(self, *errors: BaseException) -> None:
        self.__qualname__ = "Failing"
        self.errors = list(errors)
        self.calls: list[Any] = []

    def __call__(self, app: Any, event: Any, **extra: Any) -> None:
        self.calls.append(event)
        if self.errors:
            raise self.errors.pop(0)


# ---- stored before answered


def test_a_request_is_stored_before_receivers_run(world: World) -> None:
    seen: list[Any] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        seen.extend(events(world))

    with tracking_received.connected_to(on_tracking):
        assert SENT.post(world.app.test_client()).status_code == 200
    (stored,) = seen
    assert (stored.state, stored.verdict, stored.attempts) == ("claimed", None, 1)
    assert bytes(stored.body) == SENT.body
    (row,) = events(world)
    assert (row.state, row.verdict, row.due_at) == ("done", 200, None)
    assert (row.kind, row.event_type, row.source) == (
        "tracking",
        "delivered",
        "webhook",
    )
    assert (row.server, row.media_type) == ("postal", "application/json")
    event = parse_tracking(SENT.body)
    assert (row.token, row.address) == (event.token, event.recipient)


def test_a_request_that_can_not_be_stored_is_sent_again(world: World) -> None:
    receiver = Failing()
    world.db.drop_all()
    with tracking_received.connected_to(receiver):
        assert SENT.post(world.app.test_client()).status_code == 500
    assert receiver.calls == []


def test_events_of_a_message_are_stored_with_its_recipient(world: World) -> None:
    transport(world)
    record = enqueue(world)
    world.ledger.drain()
    (recipient,) = record.recipients
    with client(world) as post:
        post.tracking("delivered", "ana@example.com", id=1, token="t1")
        post.tracking("delivered", "eve@example.com", id=2, token="t2")
    assert [row.recipient_id for row in events(world)] == [recipient.id, None]


@pytest.mark.parametrize("size", [0, INLINE, 3_000_000, 13_000_000])
def test_mail_of_any_size_is_stored(world: World, size: int) -> None:
    """13 MB of mail make a body of 18 MB; MariaDB takes 16 MB in a statement."""
    seen: list[Any] = []

    def on_inbound(app: Any, event: Any, **extra: Any) -> None:
        seen.append(event.message.raw)

    mail = b"Subject: x\r\n\r\n" + b"x" * size
    with inbound_received.connected_to(on_inbound), client(world) as post:
        assert post.inbound(mail).status_code == 200
    (row,) = events(world)
    record = world.ledger.get_event(row.id)
    assert parse_inbound(record.content()).message.raw == seen[0]
    assert seen[0].count(b"x") >= size


def test_events_that_nobody_listens_to_are_stored_and_done(world: World) -> None:
    done = SENT.post(world.app.test_client())
    assert (done.status_code, done.text) == (200, "ok, no receiver")
    assert [(row.state, row.verdict) for row in events(world)] == [("done", 200)]


def test_mail_without_a_receiver_is_not_stored(world: World) -> None:
    assert MAIL.post(world.app.test_client()).status_code == 503
    assert events(world) == []


def test_server_events_are_stored_too(world: World) -> None:
    receiver = Failing()
    recorded = Recorded.load("webhooks/DomainDNSError")
    with server_event_received.connected_to(receiver):
        assert recorded.post(world.app.test_client()).status_code == 200
    assert [(row.event_type, row.state) for row in events(world)] == [
        ("server", "done")
    ]


# ---- identity


@pytest.mark.parametrize(
    "name",
    sorted(
        {path.name.partition(".")[0] for path in (CAPTURES / "webhooks").glob("*.body")}
    ),
)
def test_each_recorded_event_has_its_identity(name: str) -> None:
    body = (CAPTURES / "webhooks" / f"{name}.body").read_bytes()
    event = parse_tracking(body)
    identity = identity_module.identity_of("postal", event, body)
    again = json.dumps(json.loads(body) | {"uuid": "another"}).encode()
    other = identity_module.identity_of("postal", parse_tracking(again), again)
    assert (other == identity) is (identity.partition(":")[0] != "uuid")
    assert identity_module.identity_of("other", event, body) != identity
    kind = "attempt" if "status" in json.loads(body)["payload"] else "uuid"
    assert identity.partition(":")[0] == ("bounce" if "Bounced" in name else kind)


@pytest.mark.parametrize(
    ("written", "micros"),
    [
        ("1780000000.1234565", 1780000000123457),
        ("1780000000.1234564999", 1780000000123456),
        ("1780000000", 1780000000000000),
        ("1780000000.0", 1780000000000000),
        ("1.78e9", 1780000000000000),
    ],
)
def test_times_are_rounded_as_they_are_written(written: str, micros: int) -> None:
    body = _sent(written)
    identity = identity_module.identity_of("postal", parse_tracking(body), body)
    assert identity == identity_module.identity_of_attempt(
        "postal", "t", "Sent", micros
    )


@pytest.mark.parametrize(
    "written", ["null", '"1"', "1e999", "1e-400", "1." + "1" * 99, "true", "{}", "-1.5"]
)
def test_times_of_any_form_have_an_identity(written: str) -> None:
    body = _sent(written)
    assert identity_module.identity_of("postal", parse_tracking(body), body)


def _sent(written: str) -> bytes:
    return (
        b'{"event": "MessageSent", "uuid": "u", "payload": {"status": "Sent",'
        b' "message": {"token": "t"}, "timestamp": %s}}' % written.encode()
    )


@pytest.mark.parametrize("number", [10**30, -(10**30), 2**63, 2**63 - 1, -1])
def test_numbers_of_any_size_are_stored(world: World, number: int) -> None:
    """Another tenant of the same Postal can send anything, with a valid signature."""
    receiver = Failing()
    body = json.loads(SENT.body)
    body["payload"]["message"] |= {
        "id": number,
        "token": "t" * 999,
        "to": "A\0" * 500,
        "message_id": "é" * 5000,
    }
    request = VerifiedRequest("tracking", json.dumps(body).encode())
    with tracking_received.connected_to(receiver):
        assert world.postal.webhooks.handle(request) is Dispatched.HANDLED
    (event,) = receiver.calls
    assert event.id == (number if abs(number) < 2**63 else None)


# ---- duplicates


def test_a_duplicate_is_handled_once_also_by_a_second_webhook(world: World) -> None:
    receiver = Failing()
    with tracking_received.connected_to(receiver), client(world) as post:
        for uuid in ("one", "one", "two"):
            changes = {"uuid": uuid, "payload.timestamp": 1780000000.5}
            done = post.tracking("delivered", token="t", set=changes)
            assert done.status_code == 200
    assert len(receiver.calls) == 1
    assert len(events(world)) == 1


@pytest.mark.parametrize("bounce", [True, False])
def test_a_duplicate_gets_the_verdict_of_the_first(world: World, bounce: bool) -> None:
    receiver = Failing(RejectMail("no", bounce=bounce))
    status = 406 if bounce else 429
    with inbound_received.connected_to(receiver):
        for _ in range(2):
            assert MAIL.post(world.app.test_client()).status_code == status
    assert len(receiver.calls) == 1
    assert [(row.state, row.verdict) for row in events(world)] == [("done", status)]


def test_a_duplicate_while_the_first_is_handled_comes_again(world: World) -> None:
    answers: list[int] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        post = SENT.post
        thread = threading.Thread(
            target=lambda: answers.append(post(app.test_client()).status_code)
        )
        thread.start()
        thread.join(20)

    with tracking_received.connected_to(on_tracking):
        assert SENT.post(world.app.test_client()).status_code == 200
        assert answers == [503]
        assert SENT.post(world.app.test_client()).status_code == 200
    assert answers == [503]


def test_a_duplicate_takes_over_what_a_dead_process_has_begun(world: World) -> None:
    receiver = Failing()
    with tracking_received.connected_to(receiver):
        SENT.post(world.app.test_client())
        alter(world, state="claimed", verdict=None, due_at=past())
        assert SENT.post(world.app.test_client()).status_code == 200
    assert len(receiver.calls) == 2
    assert [(row.state, row.attempts) for row in events(world)] == [("done", 2)]


def test_what_a_dead_process_has_begun_is_processed_by_the_ledger(world: World) -> None:
    receiver = Failing()
    with tracking_received.connected_to(receiver):
        SENT.post(world.app.test_client())
        alter(world, state="claimed", verdict=None, due_at=past())
        assert world.ledger.drain() == 1
        assert [row.state for row in events(world)] == ["done"]
        assert SENT.post(world.app.test_client()).status_code == 200
    assert len(receiver.calls) == 2


def test_what_a_process_writes_after_its_lease_changes_nothing(world: World) -> None:
    """It was stopped for longer than its lease, and another one has handled it."""

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        alter(world, attempts=2, state="queued", due_at=now(), error="x")

    with tracking_received.connected_to(on_tracking):
        assert SENT.post(world.app.test_client()).status_code == 200
    assert [(row.state, row.verdict) for row in events(world)] == [("queued", None)]


def test_the_dedupe_cache_is_not_used(make_world: Callable[..., World]) -> None:
    class Broken:
        def claim(self, key: str) -> Any:
            raise AssertionError(key)

    world = make_world(POSTAL_DEDUPE_CACHE=Broken())
    with tracking_received.connected_to(Failing()):
        assert SENT.post(world.app.test_client()).status_code == 200


# ---- later


def test_later_stores_and_answers_and_calls_receivers_afterwards(
    make_world: Callable[..., World],
) -> None:
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing(RejectMail("no"))
    with world.app.app_context(), inbound_received.connected_to(receiver):
        for _ in range(2):
            assert MAIL.post(world.app.test_client()).status_code == 200
        assert receiver.calls == []
        assert [row.state for row in events(world)] == ["queued"]
        assert world.ledger.drain() == 1
        assert MAIL.post(world.app.test_client()).status_code == 200
        assert [(row.state, row.verdict) for row in events(world)] == [("done", 406)]
    assert len(receiver.calls) == 1


def test_later_metadata_is_there_too(make_world: Callable[..., World]) -> None:
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing()
    with world.app.app_context(), tracking_received.connected_to(receiver):
        transport(world)
        enqueue(world, metadata={"order": 7})
        world.ledger.drain()
        with client(world) as post:
            post.tracking("delivered", "ana@example.com", id=1, token="t1")
        world.ledger.drain()
    (event,) = receiver.calls
    assert (event.metadata, event.source) == ({"order": 7}, "webhook")


def test_a_queue_gets_events_to_process(make_world: Callable[..., World]) -> None:
    queue: list[tuple[str, int]] = []
    world = make_world(
        POSTAL_EVENTS="later", POSTAL_DISPATCH=lambda *args: queue.append(args)
    )
    receiver = Failing()
    with world.app.app_context(), tracking_received.connected_to(receiver):
        SENT.post(world.app.test_client())
        assert queue == world.ledger.sweep() == [("event", 1)]
        assert world.ledger.process(1) == "done"
        assert world.ledger.process(1) is None
        assert world.ledger.process(99) is None
        assert world.ledger.sweep() == []
    assert len(receiver.calls) == 1


def test_a_wrong_value_is_an_error(database_url: str) -> None:
    with pytest.raises(ConfigurationError, match='"inline" or "later"'):
        World(database_url, POSTAL_EVENTS="never")


# ---- retries of our own


def test_a_receiver_that_fails_is_called_again_by_the_ledger(world: World) -> None:
    receiver = Failing(LookupError("one"), LookupError("two"))
    with tracking_received.connected_to(receiver):
        assert SENT.post(world.app.test_client()).status_code == 200
        pauses = []
        for _ in range(2):
            (row,) = events(world)
            pauses.append(round((row.due_at - now()).total_seconds()))
            assert (row.state, row.verdict) == ("queued", 200)
            assert world.ledger.drain() == 0
            alter(world, due_at=past())
            assert world.ledger.drain() == 1
    assert pauses == [30, 60]
    assert len(receiver.calls) == 3
    (row,) = events(world)
    assert (row.state, row.attempts, row.error) == ("done", 3, None)


def test_what_never_succeeds_is_dead_and_can_be_retried(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    receiver = Failing(*[LookupError("no such order")] * 2)
    with tracking_received.connected_to(receiver):
        SENT.post(world.app.test_client())
        alter(world, due_at=past(), tried_at=now() - timedelta(days=3))
        assert world.ledger.drain() == 1
        assert [(row.state, row.due_at) for row in events(world)] == [("dead", None)]
        assert "event 1 is dead" in caplog.text
        assert world.ledger.drain() == 0
        code, output = run(world, "events", "--dead")
        assert (code, output.splitlines()[1]) == (0, "    LookupError: no such order")
        assert output.startswith("1  dead, delivered, ")
        assert run(world, "events", "retry", "1") == (0, "event 1 is queued\n")
        assert world.ledger.drain() == 1
    assert [(row.state, row.attempts) for row in events(world)] == [("done", 3)]
    assert run(world, "events") == (0, "")
    code, output = run(world, "events", "retry", "1")
    assert "event 1 is not dead or queued" in output
    assert "there is no event 7" in run(world, "events", "show", "7")[1]


def test_an_event_is_shown_with_its_failures_and_without_passwords(
    make_world: Callable[..., World],
) -> None:
    secrets = {"API_KEY": "the-api-key", "WEBHOOK_SECRET": "u:pass-word"}
    world = make_world(**{f"POSTAL_{name}": value for name, value in secrets.items()})
    error = LookupError("the-api-key at https://me:secret@example.com/ and pass-word")
    with tracking_received.connected_to(Failing(error)), world.app.app_context():
        with client(world) as post:
            post.tracking("delivered", "ana@example.com")
        code, output = run(world, "events", "show", "1")
    assert code == 0, output
    assert "1  queued, due " in output
    assert "delivered, ana@example.com, 1 attempts" in output
    assert "tests.ledger.test_events.Failing" in output
    assert "LookupError: *** at https://***@example.com/ and ***" in output
    assert '"event":' in output.replace(" :", ":")
    for secret in ("the-api-key", "secret@", "pass-word"):
        assert secret not in output


def test_five_failures_are_kept(world: World) -> None:
    with tracking_received.connected_to(
        Failing(*(LookupError(str(number)) for number in range(8)))
    ):
        SENT.post(world.app.test_client())
        for _ in range(6):
            alter(world, due_at=past())
            world.ledger.drain()
    (row,) = events(world)
    errors = [failure["traceback"].splitlines()[-1] for failure in row.failures]
    assert errors == [f"LookupError: {number}" for number in range(2, 7)]


def test_a_poisonous_event_blocks_no_other(world: World) -> None:
    handled: list[Any] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        if event.token == "bad":
            raise LookupError
        handled.append((event.token, event.event_type))

    with tracking_received.connected_to(on_tracking), client(world) as post:
        post.tracking("deferred", token="bad")
        alter(world, due_at=past())
        for token in ("bad", "good"):
            post.tracking("delivered", token=token)
        alter(world, due_at=past())
        world.ledger.drain()
    assert handled == [("good", "delivered")]
    assert [row.state for row in events(world)] == ["queued", "queued", "done"]


def test_the_order_of_the_events_of_one_mail_is_kept(
    make_world: Callable[..., World],
) -> None:
    world = make_world(POSTAL_EVENTS="later")
    handled: list[Any] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        if not handled:
            # Another worker does not take the second one before the first is done.
            assert world.ledger.process(2) is None
        handled.append((event.token, str(event.event_type)))

    with (
        world.app.app_context(),
        tracking_received.connected_to(on_tracking),
        client(world) as post,
    ):
        for kind in ("deferred", "delivered", "opened"):
            post.tracking(kind, token="a")
        assert world.ledger.process(3) is None
        assert world.ledger.sweep() == [("event", 1)]
        assert world.ledger.drain() == 3
    assert handled == [("a", "deferred"), ("a", "delivered"), ("a", "opened")]


def test_an_event_that_has_failed_does_not_hold_up_the_next(
    make_world: Callable[..., World],
) -> None:
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing(LookupError())
    with (
        world.app.app_context(),
        tracking_received.connected_to(receiver),
        client(world) as post,
    ):
        for kind in ("deferred", "delivered"):
            post.tracking(kind, token="a")
        world.ledger.drain()
        assert [row.state for row in events(world)] == ["queued", "done"]


def test_a_process_without_receivers_loses_no_event(
    make_world: Callable[..., World],
) -> None:
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing()
    with world.app.app_context():
        with tracking_received.connected_to(receiver):
            SENT.post(world.app.test_client())
        world.ledger.drain()
        (row,) = events(world)
        assert (row.state, "no receiver is connected" in row.error) == ("queued", True)
        alter(world, due_at=past())
        with tracking_received.connected_to(receiver):
            world.ledger.drain()
    assert len(receiver.calls) == 1


def test_what_nobody_wants_is_done_and_not_retried_for_days(
    make_world: Callable[..., World],
) -> None:
    """Most apps have no receiver for events about the mail server."""
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing()
    recorded = Recorded.load("webhooks/DomainDNSError")
    with world.app.app_context(), tracking_received.connected_to(receiver):
        for request in (SENT, recorded):
            assert request.post(world.app.test_client()).status_code == 200
        assert world.ledger.drain() == 2
        assert [row.state for row in events(world)] == ["done", "done"]
    assert len(receiver.calls) == 1


def test_a_relay_may_have_receivers_that_the_web_process_has_not(
    make_world: Callable[..., World],
) -> None:
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing()
    with world.app.app_context():
        SENT.post(world.app.test_client())
        with tracking_received.connected_to(receiver):
            world.ledger.drain()
        assert [row.state for row in events(world)] == ["done"]
    assert len(receiver.calls) == 1


def test_of_two_receivers_only_the_one_that_failed_is_called_again(
    world: World,
) -> None:
    failing, calls = Failing(LookupError()), []

    def other(app: Any, event: Any, **extra: Any) -> None:
        calls.append(event)

    with (
        tracking_received.connected_to(failing),
        tracking_received.connected_to(other),
    ):
        SENT.post(world.app.test_client())
        alter(world, due_at=past())
        world.ledger.drain()
    assert (len(failing.calls), len(calls)) == (2, 1)
    assert "handled by tests.ledger.test_events" in run(world, "events", "show", "1")[1]


def test_a_rejection_is_told_to_postal_though_another_receiver_fails(
    world: World,
) -> None:
    def other(app: Any, event: Any, **extra: Any) -> None:
        raise RejectMail("no")

    failing = Failing(LookupError())
    with (
        inbound_received.connected_to(failing),
        inbound_received.connected_to(other),
    ):
        assert MAIL.post(world.app.test_client()).status_code == 406
        alter(world, due_at=past())
        world.ledger.drain()
        assert MAIL.post(world.app.test_client()).status_code == 406
    assert len(failing.calls) == 2


def test_what_ends_a_request_is_raised_after_the_failure_is_written(
    world: World,
) -> None:
    with (
        tracking_received.connected_to(Failing(SystemExit())),
        pytest.raises(SystemExit),
    ):
        SENT.post(world.app.test_client())
    assert [(row.state, row.verdict) for row in events(world)] == [("queued", 200)]


# ---- receipts


def test_work_and_receipt_are_committed_together(world: World) -> None:
    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        world.session.add(world.order(number=event.token))

    with tracking_received.connected_to(on_tracking):
        SENT.post(world.app.test_client())
    assert world.session.query(world.order).count() == 1
    assert world.count("receipt") == 1


def test_work_of_a_receiver_that_raises_is_rolled_back(world: World) -> None:
    def on_inbound(app: Any, event: Any, **extra: Any) -> None:
        world.session.add(world.order(number="1"))
        world.session.flush()
        raise errors.pop(0)

    errors = [LookupError(), RejectMail("no")]
    with inbound_received.connected_to(on_inbound):
        assert MAIL.post(world.app.test_client()).status_code == 200
        alter(world, due_at=past())
        world.ledger.drain()
    assert world.session.query(world.order).count() == 0
    assert [row.state for row in events(world)] == ["done"]
    assert world.count("receipt") == 1  # a rejection is not asked for again


def test_work_that_another_process_has_done_is_rolled_back(world: World) -> None:
    """Both run the receiver, because one was stopped for longer than its lease."""
    name = f"{on_tracking_twice.__module__}.{on_tracking_twice.__qualname__}"

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        receipts = world.ledger.models.table("receipt")
        with world.db.engine.begin() as connection:
            connection.execute(
                sa.insert(receipts).values(event_id=1, receiver=name, created_at=now())
            )
        world.session.add(world.order(number="1"))

    on_tracking.__qualname__ = on_tracking_twice.__qualname__
    with tracking_received.connected_to(on_tracking):
        assert SENT.post(world.app.test_client()).status_code == 200
    assert world.session.query(world.order).count() == 0
    assert [row.state for row in events(world)] == ["done"]


def on_tracking_twice() -> None:
    """Gives its name to a receiver."""


def test_receivers_of_one_name_are_committed_together(world: World) -> None:
    """Two closures of one function can't be told apart in a receipt."""

    def make(number: str, *errors: Exception) -> Any:
        def on_tracking(app: Any, event: Any, **extra: Any) -> None:
            world.session.add(world.order(number=number))
            if left:
                raise left.pop()

        left = list(errors)
        return on_tracking

    one, two = make("1"), make("2", LookupError())
    with tracking_received.connected_to(one), tracking_received.connected_to(two):
        SENT.post(world.app.test_client())
        assert world.session.query(world.order).count() == 0
        alter(world, due_at=past())
        world.ledger.drain()
        world.session.rollback()
    assert world.session.query(world.order).count() == 2


def test_the_session_of_the_caller_is_not_touched(world: World) -> None:
    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        world.session.add(world.order(number="of the receiver"))

    with tracking_received.connected_to(on_tracking):
        mine = world.order(number="of the caller")
        world.session.add(mine)
        SENT.post(world.app.test_client())
        assert mine in world.session.new
        world.session.rollback()
    numbers = [order.number for order in world.session.query(world.order)]
    assert numbers == ["of the receiver"]


# ---- who does it


def test_the_thread_of_the_process_retries(make_world: Callable[..., World]) -> None:
    receiver = Failing(LookupError(), LookupError())
    world = make_world(POSTAL_RELAY="thread", POSTAL_BACKOFF=(0.1, 0.1))
    with tracking_received.connected_to(receiver), world.app.app_context():
        SENT.post(world.app.test_client())
        until(lambda: [row.state for row in events(world)] == ["done"])
        end_threads()
    assert len(receiver.calls) == 3


def test_the_relay_processes_events(
    make_world: Callable[..., World], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "flask_postal.ledger")
    receiver, world = Failing(), make_world(POSTAL_EVENTS="later")
    with tracking_received.connected_to(receiver), world.app.app_context():
        SENT.post(world.app.test_client())
        relay = Relay(world.ledger.of(world.app))
        thread = threading.Thread(target=relay.run)
        thread.start()
        until(lambda: [row.state for row in events(world)] == ["done"])
        relay.stop()
        thread.join(20)
    assert len(receiver.calls) == 1
    assert "1 attempts to handle an event" in caplog.text


# ---- what an attack has found


def test_a_receiver_that_exits_ends_no_thread(make_world: Callable[..., World]) -> None:
    world, receiver = make_world(POSTAL_EVENTS="later"), Failing(SystemExit(2))
    with tracking_received.connected_to(receiver), world.app.app_context():
        with client(world) as post:
            for token in ("bad", "good"):
                post.tracking("delivered", token=token)
        relay = Relay(world.ledger.of(world.app))
        thread = threading.Thread(target=relay.run)
        thread.start()
        until(lambda: [row.state for row in events(world)] == ["queued", "done"])
        relay.stop()
        thread.join(20)


def test_a_rejection_is_answered_though_its_process_died(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It died after the receipt, and before Postal was answered."""

    def die(*arguments: Any) -> None:
        raise LookupError("killed")

    receiver = Failing(RejectMail("no"))
    with inbound_received.connected_to(receiver):
        with monkeypatch.context() as patch:
            patch.setattr(EventStore, "finish", die)
            assert MAIL.post(world.app.test_client()).status_code == 500
        alter(world, due_at=past())
        assert MAIL.post(world.app.test_client()).status_code == 406
        assert MAIL.post(world.app.test_client()).status_code == 406
    assert len(receiver.calls) == 1


def test_rejecting_what_is_no_mail_is_a_failure_like_others(world: World) -> None:
    receiver = Failing(RejectMail("no"))
    with tracking_received.connected_to(receiver):
        assert SENT.post(world.app.test_client()).status_code == 200
        assert [row.state for row in events(world)] == ["queued"]
        assert world.count("receipt") == 0
        alter(world, due_at=past())
        world.ledger.drain()
    assert len(receiver.calls) == 2


def test_receivers_without_a_name_do_not_hold_each_other_up(world: World) -> None:
    calls: list[str] = []

    def receive(name: str, app: Any, event: Any, **extra: Any) -> None:
        calls.append(name)
        if name == "bad":
            raise LookupError

    bad, good = partial(receive, "bad"), partial(receive, "good")
    with tracking_received.connected_to(bad), tracking_received.connected_to(good):
        SENT.post(world.app.test_client())
    assert sorted(calls) == ["bad", "good"]


def test_a_receiver_that_kills_its_process_is_called_with_pauses(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking_received.connected_to(Failing()):
        SENT.post(world.app.test_client())
    ledger = world.ledger.of(world.app)
    pauses = []
    for attempts in (1, 2, 3):
        alter(world, state="claimed", attempts=attempts, due_at=past())
        ledger.release_expired()
        pauses.append(round((events(world)[0].due_at - now()).total_seconds()))
    assert pauses == [0, 30, 60]
    tried = now() - timedelta(days=3)
    alter(world, state="claimed", due_at=past(), tried_at=tried)
    ledger.release_expired()
    assert events(world)[0].state == "dead"
    assert "event 1 is dead" in caplog.text


def test_a_sweep_has_room_for_mails_and_events(
    make_world: Callable[..., World],
) -> None:
    world = make_world(POSTAL_EVENTS="later")
    with world.app.app_context(), client(world) as post:
        for number in range(6):
            post.tracking("delivered", token=str(number))
            enqueue(world)
        kinds = [kind for kind, _ in world.ledger.sweep(4)]
        assert kinds == ["event", "event", "mail", "mail"]
        assert len(world.ledger.sweep()) == 12


def test_the_log_has_no_values_of_an_event_that_can_not_be_stored(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    with tracking_received.connected_to(Failing()), client(world) as post:
        world.db.drop_all()
        assert post.tracking("delivered", "ana@example.com").status_code == 500
    assert "the event can't be stored" in caplog.text
    errors = [r for r in caplog.records if r.levelname == "ERROR"]
    assert all("ana@example.com" not in str(r.exc_text) for r in errors)


@pytest.mark.parametrize("written", ["1e999999", "9" * 4297, "-" + "9" * 30])
def test_times_that_are_none_have_an_identity(written: str) -> None:
    body = _sent(written)
    assert identity_module.identity_of("postal", parse_tracking(body), body)


def test_an_error_that_can_not_be_shown_is_kept(world: World) -> None:
    class UnshowableError(Exception):
        def __str__(self) -> str:
            raise LookupError

    with tracking_received.connected_to(Failing(UnshowableError())):
        assert SENT.post(world.app.test_client()).status_code == 200
    (row,) = events(world)
    assert (row.state, "UnshowableError" in row.error) == ("queued", True)


def test_a_token_of_any_length_is_no_error_where_it_proves_a_recipient(
    world: World,
) -> None:
    transport(world, TransportError("lost", maybe_sent=True))
    record = enqueue(world)
    world.ledger.drain()
    with client(world) as post:
        done = post.tracking(
            "delivered", id=1, token="t" * 99, message_id=record.message_id
        )
    assert done.status_code == 200


def test_numbers_are_not_used_again(world: World) -> None:
    """A receipt would be taken for one of another event."""
    with tracking_received.connected_to(Failing()), client(world) as post:
        post.tracking("delivered", "ana@example.com")
        world.ledger.forget("ana@example.com")
        post.tracking("delivered", "bea@example.com")
    assert [row.id for row in events(world)] == [2]


def test_an_event_is_not_forgotten_while_it_is_handled(world: World) -> None:
    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        assert world.ledger.forget(event.recipient).events == 0
        world.session.add(world.order(number=event.recipient))

    with tracking_received.connected_to(on_tracking), client(world) as post:
        for name in ("ana", "bea"):
            post.tracking("delivered", f"{name}@example.com")
    assert world.session.query(world.order).count() == 2
