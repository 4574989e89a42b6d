"""flask postal check looks at the ledger too."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta

import pytest
import sqlalchemy as sa
from flask import Flask

from flask_postal import Postal
from flask_postal.checks import ledger as checks
from flask_postal.checks.finding import Finding
from flask_postal.checks.ledger import check_ledger

from .world import World, change, enqueue, past


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url)
    with made.app.app_context():
        yield made
        made.session.remove()
        made.db.engine.dispose()


def found(world: World) -> list[Finding]:
    return list(check_ledger(world.postal, world.app))


def test_a_ledger_that_is_well(world: World) -> None:
    world.db.create_all()
    assert found(world) == [Finding("ok", "the ledger's tables and indexes exist")]


def test_missing_tables_are_named(world: World) -> None:
    findings = found(world)
    assert [finding.level for finding in findings] == ["error"] * 6
    assert findings[0].text == "the table postal_mail is missing"
    assert "flask db upgrade" in findings[0].cure


def test_a_missing_column_and_a_missing_index_are_named(world: World) -> None:
    world.db.create_all()
    with world.db.engine.begin() as connection:
        connection.execute(sa.text("ALTER TABLE postal_mail DROP COLUMN waiting"))
        index = next(iter(world.ledger.models.table("mail").indexes))
        index.drop(connection)
    texts = [(finding.level, finding.text) for finding in found(world)]
    assert texts == [
        ("error", "the column postal_mail.waiting is missing"),
        ("warning", "postal_mail has no index on state, due_at"),
    ]


def test_a_message_that_nobody_delivers_is_seen(world: World) -> None:
    world.db.create_all()
    enqueue(world)
    change(world, due_at=past() - timedelta(minutes=10))
    *_, waiting = found(world)
    assert waiting.text == "a message that is queued has been due for 10 minutes"
    assert "flask postal relay" in waiting.cure


def test_clocks_and_packets_are_compared(
    world: World, monkeypatch: pytest.MonkeyPatch
) -> None:
    world.db.create_all()
    monkeypatch.setattr(checks, "CLOCKS", timedelta(seconds=-1))
    monkeypatch.setattr(checks, "LEAST_PACKET", 2**40)
    texts = [finding.text for finding in found(world)[1:]]
    name = world.db.engine.dialect.name
    assert len(texts) == {"sqlite": 0, "postgresql": 1, "mysql": 2}[name]
    if name != "sqlite":
        assert "differ by 0 seconds" in texts[-1]
    if name == "mysql":
        assert "the database takes statements of 16777216 bytes only" in texts[0]


def test_a_database_that_does_not_answer_is_explained() -> None:
    world = World("postgresql+psycopg://nobody@127.0.0.1:9/none")
    with world.app.app_context():
        (finding,) = found(world)
    assert finding.level == "error"
    assert finding.text.startswith("the ledger's database fails: ")


def test_an_app_without_a_ledger_has_no_such_check() -> None:
    app = Flask("none")
    postal = Postal(app)
    with app.app_context():
        assert list(check_ledger(postal, app)) == []
