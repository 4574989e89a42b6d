"""An app with a ledger, and what its tests do with it."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_postal import EventType, Postal, TrackingEvent
from flask_postal.ledger import Ledger, thread
from flask_postal.sandbox import Sandbox
from flask_postal.sending.payload import Body

from ..mails import message
from ..test_seams import Recorder

FLASK = [sys.executable, "-m", "flask", "--app", "tests.apps.ledgered"]


NOW = datetime(2026, 11, 25, 12, tzinfo=UTC)


class World:
    """An app with a ledger, and a table of its own."""

    def __init__(self, url: str, **config: Any) -> None:
        class Base(DeclarativeBase):
            pass

        self.db: Any = SQLAlchemy(model_class=Base)

        class Order(self.db.Model):  # type: ignore[name-defined,misc]
            __tablename__ = "shop_order"
            id: Mapped[int] = mapped_column(primary_key=True)
            number: Mapped[str] = mapped_column(sa.String(50), unique=True)

        self.order: Any = Order
        self.recorder = Recorder()
        self.ledger = Ledger(self.db)
        self.postal = Postal(ledger=self.ledger, transport=self.recorder)
        self.app = Flask("world")
        # What is due is delivered by drain(), when a test wants it.
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=url, **{"POSTAL_RELAY": "process", **config}
        )
        self.db.init_app(self.app)
        self.postal.init_app(self.app)

    @property
    def session(self) -> Any:
        return self.db.session

    def count(self, name: str = "mail") -> int:
        """The rows of a table, as another transaction sees them."""
        table = self.ledger.models.table(name)
        with self.db.engine.connect() as connection:
            query = sa.select(sa.func.count()).select_from(table)
            return int(connection.execute(query).scalar_one())


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


def transport(world: World, *errors: Exception) -> Unsteady:
    made = Unsteady(*errors)
    world.postal._of(world.app).pipeline.transport = made
    return made


def enqueue(world: World, **changes: Any) -> Any:
    record = world.postal.enqueue(message(**changes))
    world.session.commit()
    return record


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


def states(world: World) -> list[str]:
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        return list(connection.scalars(sa.select(table.c.state).order_by(table.c.id)))


def until(condition: Callable[[], object], seconds: float = 20.0) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, "it has not happened"
        time.sleep(0.02)


def wait_until(world: World, expected: list[str]) -> None:
    deadline = time.monotonic() + 20
    while states(world) != expected:
        assert time.monotonic() < deadline, states(world)
        time.sleep(0.05)


def alive() -> list[threading.Thread]:
    return [t for t in threading.enumerate() if t.name == "flask-postal-ledger"]


def end_threads() -> None:
    """End all threads, as at the end of the process."""
    thread._stop_all()
    until(lambda: not alive())


def event(kind: str, *, at: int = 0, **about: Any) -> TrackingEvent:
    return TrackingEvent(
        event_type=EventType(kind), timestamp=NOW + timedelta(seconds=at), **about
    )


def note(world: World, *events: TrackingEvent) -> list[Any]:
    """Note events as they are stored; returns what is known of their messages."""
    ledger, found = world.ledger.of(world.app), []
    for one in events:
        with ledger.database.begin() as connection:
            found.append(ledger.note(connection, one, server="postal"))
        ledger.noted(found[-1])
    return found


def run(world: World, *arguments: str, answer: str = "") -> tuple[int, str]:
    runner = world.app.test_cli_runner()
    done = runner.invoke(args=["postal", *arguments], input=answer)
    return done.exit_code, done.output


def environment(database_url: str, sandbox: Sandbox, **more: str) -> dict[str, str]:
    """The environment of a process with the app of tests.apps.ledgered."""
    settings = {f"FLASK_{k}": v for k, v in sandbox.settings().items() if v is not None}
    return {
        **os.environ,
        **settings,
        "FLASK_SQLALCHEMY_DATABASE_URI": database_url,
        "PYTHONUNBUFFERED": "1",
        **more,
    }
