"""Whatever goes wrong, no message is lost, doubled or held up by another one."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_postal import (
    APIError,
    MessageError,
    Postal,
    TransportError,
    message_sent,
    send_failed,
)
from flask_postal.sending.payload import Body

from ..mails import message
from ..test_seams import Recorder
from .world import (
    World,
    change,
    end_threads,
    enqueue,
    event,
    note,
    past,
    row,
    run,
    states,
    transport,
    until,
)


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        end_threads()
        made.db.engine.dispose()


# ---- what servers say


@pytest.mark.parametrize(
    "text",
    ["a NUL: \0", "x" * 100_000, "a lone surrogate: \ud800", "an emoji: \U0001f600"],
    ids=["nul", "long", "surrogate", "emoji"],
)
@pytest.mark.parametrize("maybe_sent", [True, False])
def test_an_error_of_any_text_can_be_stored(
    world: World, text: str, *, maybe_sent: bool
) -> None:
    transport(world, TransportError(text, maybe_sent=maybe_sent))
    enqueue(world)
    enqueue(world, subject="the next one")
    assert world.ledger.drain() == 2
    assert states(world) == ["doubtful" if maybe_sent else "queued", "accepted"]


def test_a_transport_that_raises_anything_holds_nothing_up(
    world: World, caplog: pytest.LogCaptureFixture
) -> None:
    transport(world, LookupError("a bug"))
    enqueue(world)
    enqueue(world, subject="the next one")
    assert world.ledger.drain() == 2
    assert states(world) == ["doubtful", "accepted"]
    assert "sending message 1 failed" in caplog.text


def test_what_was_claimed_is_given_back_if_the_process_is_interrupted(
    world: World,
) -> None:
    class Interrupted(Recorder):
        def call(self, endpoint: str, body: Body) -> Any:
            raise KeyboardInterrupt

    world.postal._of(world.app).pipeline.transport = Interrupted()
    for number in range(3):
        enqueue(world, subject=str(number))
    with pytest.raises(KeyboardInterrupt):
        world.ledger.drain()
    assert states(world) == ["sending", "queued", "queued"]


def test_a_recipient_that_the_response_does_not_list_keeps_what_is_known(
    world: World,
) -> None:
    class Silent(Recorder):
        def call(self, endpoint: str, body: Body) -> Any:
            about = {"message_id": record.message_id, "recipient": "b@example.com"}
            note(world, event("queued", id=7, token="t7", **about))
            answer = super().call(endpoint, body)
            del answer["messages"]["b@example.com"]
            return answer

    world.postal._of(world.app).pipeline.transport = Silent()
    record = enqueue(world, recipients=["a@example.com", "b@example.com"])
    world.ledger.drain()
    world.session.rollback()
    world.session.expire_all()
    assert [r.postal_id for r in record.recipients] == [1, 7]


# ---- between claim and call


def test_what_an_event_proves_after_the_claim_is_not_sent_again(world: World) -> None:
    calls = transport(world)
    record = enqueue(world, recipients=["a@example.com", "b@example.com"])
    ledger = world.ledger.of(world.app)
    (attempt,) = ledger._claims.claim_one(record.id)
    about = {"message_id": record.message_id, "recipient": "a@example.com"}
    note(world, event("queued", id=7, token="t7", **about))
    assert ledger._deliverers["postal"].deliver([attempt]) == {}
    assert calls.calls == []
    assert world.ledger.drain() == 1
    assert [content["rcpt_to"] for _, content in calls.calls] == [["b@example.com"]]


def test_a_message_without_recipients_or_content_fails_and_is_told(
    world: World,
) -> None:
    told: list[Any] = []

    def on_failed(app: Flask, message: Any, error: Any, **extra: Any) -> None:
        told.append(str(error))

    calls = transport(world)
    for name in ("recipient", "content"):
        enqueue(world)
        with world.db.engine.begin() as connection:
            connection.execute(sa.delete(world.ledger.models.table(name)))
        with send_failed.connected_to(on_failed):
            assert world.ledger.drain() == 1
    assert states(world) == ["failed", "failed"]
    assert told == ["its content or its recipients have been deleted"] * 2
    assert calls.calls == []


def test_a_result_is_told_once(world: World) -> None:
    """An event has settled the message before its late response is written."""
    told: list[Any] = []

    def on_sent(app: Flask, **extra: Any) -> None:
        told.append(app)

    class Late(Recorder):
        def call(self, endpoint: str, body: Body) -> Any:
            change(world, state="doubtful", due_at=past())
            about = {"message_id": record.message_id, "recipient": "ana@example.com"}
            note(world, event("queued", id=1, token="t1", **about))
            return super().call(endpoint, body)

    world.postal._of(world.app).pipeline.transport = Late()
    record = enqueue(world)
    with message_sent.connected_to(on_sent):
        world.ledger.drain()
    assert row(world).state == "accepted"
    assert len(told) == 1


# ---- one must not hold the others up


def test_each_postal_has_its_turn(database_url: str) -> None:
    world = World(database_url)
    other = Postal(name="other", ledger=world.ledger, transport=world.recorder)
    other.init_app(world.app)
    with world.app.app_context():
        world.db.create_all()
        world.postal.enqueue_many(message(subject=str(n)) for n in range(50))
        other.enqueue(message(recipients=["first@example.com"]))
        world.session.commit()
        assert world.ledger.drain() == 51
        to = [content["rcpt_to"] for _, content in world.recorder.calls]
        assert to.index(["first@example.com"]) <= 20
        world.session.remove()
        world.db.engine.dispose()


def test_a_pool_that_is_exhausted_for_a_moment_loses_no_result(
    database_url: str,
) -> None:
    options = {"pool_size": 1, "max_overflow": 0, "pool_timeout": 0.2}
    world = World(database_url, SQLALCHEMY_ENGINE_OPTIONS=options)
    if database_url.startswith("sqlite"):
        options["poolclass"] = sa.QueuePool  # type: ignore[assignment]
    with world.app.app_context():
        world.db.create_all()

        class Exhausting(Recorder):
            def call(self, endpoint: str, body: Body) -> Any:
                held = world.db.engine.connect()
                threading.Timer(0.7, held.close).start()
                return super().call(endpoint, body)

        world.postal._of(world.app).pipeline.transport = Exhausting()
        enqueue(world)
        world.session.remove()
        assert world.ledger.drain() == 1
        assert states(world) == ["accepted"]
        world.session.remove()
        world.db.engine.dispose()


# ---- the caller's session


def test_cancel_and_retry_are_part_of_the_callers_transaction(world: World) -> None:
    transport(world)
    record = enqueue(world)
    world.session.add(world.order(number="17"))
    world.session.flush()
    world.ledger.cancel(record)
    assert record.state == "cancelled"
    world.session.rollback()
    assert states(world) == ["queued"]
    world.session.add(world.order(number="18"))
    world.ledger.cancel(record)
    world.session.commit()
    assert states(world) == ["cancelled"]
    assert world.session.query(world.order).count() == 1
    with pytest.raises(ValueError, match="is not failed or doubtful"):
        world.ledger.retry(record)
    world.session.rollback()
    change(world, state="failed", tried_at=past(), finished_at=past())
    world.session.rollback()
    world.ledger.retry(record)
    world.session.commit()
    assert (record.state, record.tried_at, record.finished_at) == ("queued", None, None)
    assert world.ledger.drain() == 1


@pytest.mark.parametrize("key", [None, "k"])
def test_a_savepoint_that_is_the_first_statement_can_be_rolled_back(
    world: World, key: str | None
) -> None:
    """SQLite's driver begins no transaction before it."""
    with world.session.begin_nested():
        world.postal.enqueue(message(), key=key)
    world.session.rollback()
    assert world.count() == 0
    with world.session.begin_nested():
        world.postal.enqueue(message(), key=key)
    world.session.commit()
    assert world.count() == 1


def test_a_session_that_is_closed_forgets_what_was_not_committed(
    database_url: str,
) -> None:
    queue: list[Any] = []
    world = World(database_url, POSTAL_DISPATCH=lambda *args: queue.append(args))
    with world.app.app_context():
        world.db.create_all()
        world.postal.enqueue(message())
        world.session.close()
        world.session.add(world.order(number="17"))
        world.session.commit()
        assert queue == []
        world.session.remove()
        world.db.engine.dispose()


class Timeout(BaseException):
    """Like gevent's."""


@pytest.mark.parametrize("error", [RuntimeError("can't start new thread"), Timeout()])
def test_a_commit_never_seems_to_have_failed(
    database_url: str, error: BaseException, caplog: pytest.LogCaptureFixture
) -> None:
    errors = [error]

    def dispatch(kind: str, number: int) -> None:
        if errors:
            raise errors.pop()

    world = World(database_url, POSTAL_DISPATCH=dispatch)
    with world.app.app_context():
        world.db.create_all()
        world.session.add(world.order(number="17"))
        world.postal.enqueue(message())
        world.session.commit()
        assert "failed for m" in caplog.text
        assert world.session.query(world.order).count() == 1
        world.session.remove()
        world.db.engine.dispose()


def test_a_thread_that_can_not_be_started_is_started_by_the_next_commit(
    database_url: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    world = World(database_url, POSTAL_RELAY="thread")
    with world.app.app_context():
        world.db.create_all()

        def fail(self: Any) -> None:
            raise RuntimeError("can't start new thread")

        with monkeypatch.context() as patch:
            patch.setattr(threading.Thread, "start", fail)
            enqueue(world)
        assert states(world) == ["queued"]
        enqueue(world, subject="the next one")
        until(lambda: states(world) == ["accepted"] * 2)
        world.session.remove()
        end_threads()
        world.db.engine.dispose()


def test_the_first_request_sends_what_an_earlier_process_has_left(
    database_url: str,
) -> None:
    earlier = World(database_url)
    with earlier.app.app_context():
        earlier.db.create_all()
        enqueue(earlier)
        earlier.session.remove()
        earlier.db.engine.dispose()
    world = World(database_url, POSTAL_RELAY="thread")
    world.app.test_client().get("/")
    with world.app.app_context():
        until(lambda: states(world) == ["accepted"])
        end_threads()
        world.db.engine.dispose()


# SQLite has one writer, and no deadlocks.
servers = pytest.mark.parametrize(
    "database_url", ["postgresql", "mariadb"], indirect=True
)


@servers
def test_the_same_key_in_many_threads_makes_no_deadlock(world: World) -> None:
    barrier, done = threading.Barrier(8), list[Any]()

    def work() -> None:
        with world.app.app_context():
            world.session.execute(sa.text("SELECT 1"))
            barrier.wait(10)
            record = world.postal.enqueue(message(), key="the same")
            time.sleep(0.05)
            world.session.commit()
            done.append(record.id)

    threads = [threading.Thread(target=work) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(done) == 8
    assert len(set(done)) == 1
    assert world.count() == 1


@servers
def test_a_deadlock_is_not_taken_for_a_committed_transaction(world: World) -> None:
    """MariaDB rolls everything back then, savepoints too."""
    engine = world.db.engine
    enqueue(world, subject="a")
    enqueue(world, subject="b")
    table = world.ledger.models.table("mail")
    lock = sa.update(table).values(subject="locked")
    failed: list[BaseException] = []
    held = threading.Event()

    def other() -> None:
        with engine.connect() as connection:
            connection.execute(lock.where(table.c.id == 2))
            held.set()
            time.sleep(0.5)
            try:
                connection.execute(lock.where(table.c.id == 1))
                connection.commit()
            except sa.exc.OperationalError as error:
                failed.append(error)

    thread = threading.Thread(target=other)
    thread.start()
    held.wait(10)
    world.session.add(world.order(number="17"))
    world.session.execute(lock.where(table.c.id == 1))
    try:
        with world.session.begin_nested():
            world.session.execute(lock.where(table.c.id == 2))
            world.postal.enqueue(message())
        world.session.commit()
    except sa.exc.SQLAlchemyError as error:
        failed.append(error)
        world.session.rollback()
    thread.join(30)
    assert len(failed) == 1
    orders = world.session.query(world.order).count()
    assert (orders, world.count()) in {(1, 3), (0, 2)}


# ---- input


@pytest.mark.parametrize("key", ["", " a", "a ", "a\0", "a\n", "\ud800", "x" * 256, 7])
def test_a_key_that_a_database_could_change_is_refused(world: World, key: Any) -> None:
    with pytest.raises(MessageError, match="key must be a string"):
        world.postal.enqueue(message(), key=key)


def nested(depth: int) -> dict[str, Any]:
    return {"a": nested(depth - 1)} if depth else {}


@pytest.mark.parametrize(
    "changes",
    [
        {"metadata": nested(21)},
        {"metadata": {"a": "\ud800"}},
        {"metadata": {"a": "\0"}},
        {"esp_extra": {"a": float("nan")}},
        {"esp_extra": {"a": "\ud800"}},
        {"esp_extra": {"a": object()}},
    ],
    ids=["deep", "surrogate", "nul", "nan", "extra-surrogate", "extra-object"],
)
def test_what_no_database_can_store_is_refused_and_the_session_unharmed(
    world: World, changes: dict[str, Any]
) -> None:
    world.session.add(world.order(number="17"))
    world.session.flush()
    with pytest.raises(MessageError):
        world.postal.enqueue(message(**changes))
    world.session.commit()
    assert world.session.query(world.order).count() == 1
    assert world.count() == 0


def test_metadata_may_be_nested_twenty_deep(world: World) -> None:
    record = world.postal.enqueue(message(metadata=nested(19)))
    world.session.commit()
    world.session.expire_all()
    assert record.meta == nested(19)


@pytest.mark.parametrize("send_at", [1e300, 2**70, float("nan")])
def test_a_time_that_does_not_exist_is_named(world: World, send_at: Any) -> None:
    with pytest.raises(MessageError) as caught:
        world.postal.enqueue(message(), send_at=send_at)
    assert repr(send_at) in str(caught.value)


# ---- commands


def test_commands_explain_a_database_without_tables(database_url: str) -> None:
    world = World(database_url)
    with world.app.app_context():
        for command in (["mails"], ["purge"], ["retry", "1"], ["cancel", "1", "--yes"]):
            code, output = run(world, *command)
            assert code == 1
            assert output.startswith("Error: the database fails: ")
            assert "flask db upgrade" in output
        world.session.remove()
        world.db.engine.dispose()


@pytest.mark.parametrize(
    "command",
    [
        ["mails", "--state", "bogus"],
        ["mails", "--limit", "9" * 30],
        ["retry", "9" * 30],
        ["cancel", "-1"],
    ],
)
def test_commands_refuse_what_can_not_be(world: World, command: list[str]) -> None:
    code, output = run(world, *command)
    assert code == 2
    assert "Traceback" not in output


def test_an_api_error_says_when_it_happened(world: World) -> None:
    transport(world, APIError("no", code="NoRecipients", http_status=200))
    record = enqueue(world)
    world.ledger.drain()
    world.session.rollback()
    world.session.expire_all()
    assert record.finished_at is not None
    assert datetime.now(UTC) >= record.finished_at >= record.tried_at
