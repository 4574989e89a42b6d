"""postal.enqueue: a message becomes part of the caller's transaction."""

from __future__ import annotations

import email
import threading
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from email.policy import SMTP
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_postal import (
    CancelSend,
    ConfigurationError,
    Message,
    MessageError,
    Postal,
    UnsupportedFeature,
    message_sending,
    message_sent,
)
from flask_postal.ledger.content import PIECE

from ..mails import message
from .world import World

# ---- the record


def test_a_record_says_what_will_be_sent(world: World) -> None:
    record = world.postal.enqueue(
        message(
            recipients=["Ana <Ana@Bücher.example>", "b@example.com"],
            subject="Grüße",
            metadata={"order": 7, "tags": ["a"]},
        )
    )
    assert record.id
    assert record.state == "queued"
    assert record.message_id.endswith("@example.com")
    assert record.meta == {"order": 7, "tags": ["a"]}
    assert record.error is None
    assert [(r.address, r.envelope) for r in record.recipients] == [
        ("Ana@Bücher.example", "Ana@xn--bcher-kva.example"),
        ("b@example.com", "b@example.com"),
    ]
    mail = email.message_from_bytes(record.mime() or b"", policy=SMTP)
    assert mail["Message-ID"] == f"<{record.message_id}>"
    assert mail["Subject"] == "Grüße"
    assert record.due_at is not None
    assert abs(datetime.now(UTC) - record.due_at) < timedelta(seconds=30)


def test_nothing_is_sent_or_emitted_before_the_commit(world: World) -> None:
    def on_sent(app: Flask, **extra: Any) -> None:
        raise AssertionError("sent")

    with message_sent.connected_to(on_sent):
        world.postal.enqueue(message())
        assert world.recorder.calls == []
        world.session.commit()
    assert world.recorder.calls == []
    assert world.count() == 1


def test_a_large_message_is_stored_in_pieces(world: World) -> None:
    data = bytes(range(256)) * 4096 * 3
    sent = message()
    sent.attach("data.bin", "application/octet-stream", data)
    record = world.postal.enqueue(sent)
    world.session.commit()
    table = world.ledger.models.table("content")
    query = sa.select(sa.func.max(sa.func.length(table.c.data)))
    assert world.session.scalar(query) == PIECE
    assert world.count("content") >= 4
    mail = email.message_from_bytes(record.mime() or b"", policy=SMTP)
    (file,) = mail.iter_attachments()
    assert file.get_content() == data


def test_files_are_read_and_templates_rendered_at_once(
    world: World, tmp_path: Any
) -> None:
    file = tmp_path / "invoice.pdf"
    file.write_bytes(b"%PDF one")
    sent = message()
    sent.attach_file(file)
    record = world.postal.enqueue(sent)
    file.write_bytes(b"%PDF two")
    assert b"JVBERiBvbmU=" in (record.mime() or b"")


def test_receivers_may_change_or_cancel_it(world: World) -> None:
    def change(app: Flask, message: Message, **extra: Any) -> None:
        if message.subject == "stop":
            raise CancelSend
        message.subject = "changed"

    with message_sending.connected_to(change):
        record = world.postal.enqueue(message())
        cancelled = world.postal.enqueue(message(subject="stop"))
    assert record.subject == "changed"
    assert cancelled.state == "cancelled"
    assert cancelled.id is None
    world.session.commit()
    assert world.count() == 1


# ---- time


@pytest.mark.parametrize("kind", ["datetime", "posix"])
def test_a_time_is_kept_to_the_microsecond(world: World, kind: str) -> None:
    when = datetime.now(UTC).replace(microsecond=123_456) + timedelta(days=1)
    given: Any = when if kind == "datetime" else when.timestamp()
    by_argument = world.postal.enqueue(message(send_at=1.0), send_at=given)
    by_message = world.postal.enqueue(message(send_at=given))
    for record in (by_argument, by_message):
        world.session.expire(record)
        assert record.due_at is not None
        assert abs(record.due_at - when) <= timedelta(microseconds=1)


def test_the_past_is_now(world: World) -> None:
    record = world.postal.enqueue(message(), send_at=datetime(1999, 1, 1, tzinfo=UTC))
    assert record.due_at is not None
    assert abs(datetime.now(UTC) - record.due_at) < timedelta(seconds=30)


@pytest.mark.parametrize(
    "when",
    [datetime(2030, 1, 1), "tomorrow", True, float("inf"), 1e30],
    ids=["naive", "text", "bool", "infinite", "huge"],
)
def test_a_time_that_could_mean_anything_is_refused(world: World, when: Any) -> None:
    with pytest.raises(MessageError, match="send_at must be an aware datetime"):
        world.postal.enqueue(message(), send_at=when)


# ---- the caller's transaction


def test_a_rollback_forgets_the_message_and_the_callers_work(world: World) -> None:
    world.session.add(world.order(number="1"))
    world.postal.enqueue(message(), key="invoice-1")
    world.session.rollback()
    assert [world.count(n) for n in ("mail", "recipient", "content")] == [0, 0, 0]
    assert world.session.scalars(sa.select(world.order)).all() == []


def test_a_rolled_back_savepoint_forgets_its_message_only(world: World) -> None:
    first = world.postal.enqueue(message(subject="first"))
    savepoint = world.session.begin_nested()
    world.postal.enqueue(message(subject="second"), key="second")
    savepoint.rollback()
    world.postal.enqueue(message(subject="third"), key="third")
    world.session.commit()
    subjects = world.session.scalars(sa.select(world.ledger.models.mail.subject))
    assert sorted(subjects) == ["first", "third"]
    assert first.id


def test_a_key_as_the_first_statement_of_a_transaction_can_be_rolled_back(
    world: World,
) -> None:
    world.session.commit()
    world.postal.enqueue(message(), key="first")
    world.session.rollback()
    assert world.count() == 0


@pytest.mark.parametrize(
    "broken",
    [
        lambda: message(recipients=["nonsense"]),
        lambda: message(metadata={"x": object()}),
        lambda: message(metadata={1: "x"}),
        lambda: message(body=None),
    ],
    ids=["recipient", "metadata", "metadata-key", "content"],
)
def test_an_error_comes_at_once_and_leaves_the_session_alone(
    world: World, broken: Callable[[], Message]
) -> None:
    pending = world.order(number="7")
    world.session.add(pending)
    with pytest.raises(MessageError):
        world.postal.enqueue(broken())
    assert pending in world.session.new
    world.session.commit()
    assert world.count() == 0
    assert pending.id


def test_what_the_caller_has_not_finished_is_not_flushed(world: World) -> None:
    unfinished = world.order()  # its number is missing
    world.session.add(unfinished)
    world.postal.enqueue(message())
    world.postal.enqueue(message(), key="k")
    assert unfinished in world.session.new
    unfinished.number = "8"
    world.session.commit()
    assert world.count() == 2


def test_many_are_stored_together_or_not_at_all(world: World) -> None:
    records = world.postal.enqueue_many(message(subject=str(n)) for n in range(20))
    assert len({record.message_id for record in records}) == 20
    with pytest.raises(MessageError):
        world.postal.enqueue_many([message(), message(recipients=["nonsense"])])
    world.session.commit()
    assert world.count() == 20


def test_many_are_stored_all_or_none(world: World) -> None:
    """The second one's Message-ID is known, which only the database can tell."""
    world.postal.enqueue(message(message_id="known@example.com"))
    world.session.commit()
    world.session.add(world.order(number="17"))
    with pytest.raises(MessageError, match="has been stored already"):
        world.postal.enqueue_many(
            [message(subject="first"), message(message_id="known@example.com")]
        )
    world.session.commit()
    assert world.count() == 1
    assert world.session.query(world.order).count() == 1


# ---- keys


def test_a_key_is_used_once(world: World) -> None:
    first = world.postal.enqueue(message(subject="first"), key="invoice-7")
    again = world.postal.enqueue(message(subject="again"), key="invoice-7")
    other = world.postal.enqueue(message(), key="Invoice-7")
    assert again is first
    assert other.id != first.id
    world.session.commit()
    assert world.postal.enqueue(message(), key="invoice-7").id == first.id
    world.session.commit()
    assert world.count() == 2


# SQLite has one writer at a time.
@pytest.mark.parametrize("database_url", ["postgresql", "mariadb"], indirect=True)
def test_two_transactions_at_once_share_one_message(world: World) -> None:
    """The second waits for the first, and finds its message."""
    begun = threading.Barrier(2)
    ids: list[int] = []

    def enqueue() -> None:
        with world.app.app_context():
            # Both transactions have seen that there is no such key.
            world.session.scalars(sa.select(world.ledger.models.mail)).all()
            begun.wait(10)
            ids.append(world.postal.enqueue(message(), key="once").id)
            world.session.commit()

    threads = [threading.Thread(target=enqueue) for _ in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(30)
    assert len(ids) == 2
    assert len(set(ids)) == 1
    assert world.count() == 1


def test_a_message_id_of_ones_own_is_used_once(world: World) -> None:
    record = world.postal.enqueue(message(message_id="<mine@example.com>"))
    assert record.message_id == "mine@example.com"
    with pytest.raises(MessageError, match="has been stored already"):
        world.postal.enqueue(message(message_id="mine@example.com"))
    world.session.commit()
    assert world.count() == 1


# ---- without a ledger, and beside it


def test_without_a_ledger_the_error_says_how_to_get_one() -> None:
    app = Flask("none")
    postal = Postal(app)
    with app.app_context():
        with pytest.raises(ConfigurationError, match=r"Postal\(ledger=Ledger\(db\)\)"):
            postal.enqueue(message())
        with pytest.raises(ConfigurationError, match="needs a ledger"):
            postal.enqueue_many([message()])


@pytest.mark.parametrize("field", ["metadata", "send_at"])
def test_send_stays_as_it_is_and_names_enqueue(world: World, field: str) -> None:
    asked: Any = {"metadata": {"a": 1}, "send_at": 1.0}[field]
    with pytest.raises(UnsupportedFeature, match="enqueue"):
        world.postal.send(message(**{field: asked}))
    world.postal.send(message())
    assert len(world.recorder.calls) == 1
    assert world.count() == 0


def test_two_postals_share_a_ledger(world: World) -> None:
    other = Postal(world.app, name="marketing", ledger=world.ledger)
    assert world.postal.enqueue(message()).server == "postal"
    assert other.enqueue(message()).server == "postal_marketing"


def test_a_redirected_message_is_stored_as_redirected(database_url: str) -> None:
    world = World(database_url, POSTAL_REDIRECT_TO="staging@example.com")
    with world.app.app_context():
        world.db.create_all()
        record = world.postal.enqueue(message())
        assert [r.envelope for r in record.recipients] == ["staging@example.com"]
        assert b"X-Original-To: ana@example.com" in (record.mime() or b"")
        world.session.remove()
        world.db.engine.dispose()
