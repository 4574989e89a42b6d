"""The test helpers deliver what the app has enqueued and committed."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

from flask_postal import ConfigurationError, message_sent
from flask_postal.testing import outbox, sandboxed

from ..mails import message
from .world import World, enqueue


@pytest.fixture
def world() -> Iterator[World]:
    """As in most tests of apps: TESTING, and an SQLite in memory."""
    made = World("sqlite://", TESTING=True, POSTAL_RELAY=None)
    made.postal._transport = None
    made.app.register_blueprint(made.postal.blueprint)

    @made.app.post("/order")
    def order() -> str:
        enqueue(made, metadata={"order": 7})
        return "ordered"

    with made.app.app_context():
        made.db.create_all()
    yield made
    with made.app.app_context():
        made.db.engine.dispose()


def test_the_outbox_has_what_was_enqueued(world: World) -> None:
    with outbox(world.app) as messages:
        assert messages == []
        world.app.test_client().post("/order")
        assert len(messages) == 1
        (sent,) = messages
        assert (sent.subject, sent.body, sent.metadata) == ("Hi", "x", {"order": 7})
        assert messages[0].recipients == ["ana@example.com"]


@pytest.mark.parametrize(
    "read",
    [list, lambda messages: messages[0], lambda messages: messages != [], len],
    ids=["iterate", "index", "compare", "len"],
)
def test_any_way_of_reading_delivers(world: World, read: Any) -> None:
    with outbox(world.app) as messages:
        world.app.test_client().post("/order")
        assert read(messages)


def test_the_sandbox_gets_what_was_enqueued(world: World) -> None:
    with sandboxed(world.app) as sandbox:
        world.app.test_client().post("/order")
        (mail,) = sandbox.messages
        assert mail.recipient == "ana@example.com"


def test_waiting_for_an_event_delivers_first(world: World) -> None:
    with sandboxed(world.app) as sandbox:
        world.app.test_client().post("/order")
        assert sandbox.wait_for("delivered").recipient == "ana@example.com"
        world.app.test_client().post("/order")
        assert sandbox.advance(minutes=1)


def test_reading_while_a_transaction_is_open_is_explained(world: World) -> None:
    with world.app.app_context(), outbox(world.app) as messages:
        world.postal.enqueue(message())
        with pytest.raises(ConfigurationError, match="commit or roll back"):
            len(messages)
        world.session.commit()
        assert len(messages) == 1


def test_a_transaction_that_only_reads_does_no_harm(world: World) -> None:
    with world.app.app_context(), outbox(world.app) as messages:
        enqueue(world)
        assert world.session.query(world.order).all() == []
        assert world.session().in_transaction()
        assert len(messages) == 1


def test_the_whole_message_is_told_to_receivers(world: World) -> None:
    seen: list[Any] = []

    def on_sent(app: Any, message: Any, **extra: Any) -> None:
        seen.append(message)

    with (
        world.app.app_context(),
        sandboxed(world.app) as sandbox,
        message_sent.connected_to(on_sent),
    ):
        sent = message(
            subject="Grüße",
            recipients=["Ana <ana@example.com>"],
            body="Grüße\nhier\n",
            html='<p>Grüße <img src="cid:logo"></p>',
            cc=["b@example.com"],
            bcc=["c@example.com"],
            reply_to=["d@example.com"],
            tags=["invoice"],
            metadata={"order": 7},
            extra_headers={
                "Auto-Submitted": "auto-generated",
                "Sender": "Ana <ana@example.com>",
                "X-Two": ["a", "b"],
                "X-Long": "lang und hübsch " * 20 + ".",
                "List-Unsubscribe": f"<https://example.com/{'u' * 200}>",
            },
            bounce=True,
            alts={"text/calendar": "BEGIN:VCALENDAR\nGrüße"},
        )
        sent.attach("a.pdf", "application/pdf", b"%PDF")
        sent.embed("logo.png", "image/png", b"png", "logo")
        world.postal.enqueue(sent)
        world.session.commit()
        assert len(sandbox.messages) == 3
    (told,) = seen
    assert told.subject == "Grüße"
    assert [str(a) for a in told.recipients] == ["Ana <ana@example.com>"]
    assert (told.cc, told.bcc) == (["b@example.com"], ["c@example.com"])
    assert told.reply_to == ["d@example.com"]
    assert told.body.rstrip() == "Grüße\nhier"
    assert told.html.startswith("<p>Grüße")
    assert (told.tags, told.metadata) == (["invoice"], {"order": 7})
    assert told.extra_headers == sent.extra_headers
    assert told.bounce is True
    assert told.alts == sent.alts
    assert [(a.filename, a.data, a.disposition) for a in told.attachments] == [
        ("a.pdf", b"%PDF", "attachment"),
        ("logo.png", b"png", "inline"),
    ]
