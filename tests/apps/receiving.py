"""Workers whose receivers die in the middle of their work, again and again.

Run as ``python -m tests.apps.receiving URL SEED EVENTS FOLDER``: it starts three
workers, starts each again when it has died, and ends when all events are handled.
"""

from __future__ import annotations

import asyncio
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_postal import Postal, VerifiedRequest, tracking_received
from flask_postal.ledger import Ledger

from .dying import Crew, luck, maybe_die, run_workers

#: In how many calls of :func:`.maybe_die` the process dies. One attempt to handle an
#: event calls it about 20 times, so that one in five attempts dies.
ODDS = 100


class Base(DeclarativeBase):
    pass


db: Any = SQLAlchemy(model_class=Base)
postal = Postal(ledger=Ledger(db))


class Effect(db.Model):  # type: ignore[misc]
    """What a receiver has done for an event; it may be there twice."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    receiver: Mapped[str] = mapped_column(sa.String(40))
    token: Mapped[str] = mapped_column(sa.String(40))


def note(receiver: str, event: Any) -> None:
    maybe_die(ODDS)
    db.session.add(Effect(receiver=receiver, token=event.token))
    db.session.flush()
    maybe_die(ODDS)


# ---- receivers, each of which must take effect once


def without_commit(app: Flask, event: Any, **extra: Any) -> None:
    note("without_commit", event)


def own_commit(app: Flask, event: Any, **extra: Any) -> None:
    note("own_commit", event)
    db.session.commit()
    maybe_die(ODDS)


def raises_after_its_commit(app: Flask, event: Any, **extra: Any) -> None:
    note("raises_after_its_commit", event)
    db.session.commit()
    raise LookupError("after the commit")


def rolls_back_and_goes_on(app: Flask, event: Any, **extra: Any) -> None:
    note("forgotten", event)
    db.session.rollback()
    note("rolls_back_and_goes_on", event)


def with_begin(app: Flask, event: Any, **extra: Any) -> None:
    with db.session.begin():
        note("with_begin", event)


def nested(app: Flask, event: Any, **extra: Any) -> None:
    with db.session.begin_nested():
        note("nested", event)
    with db.session.begin_nested() as savepoint:
        note("forgotten", event)
        savepoint.rollback()


async def asynchronous(app: Flask, event: Any, **extra: Any) -> None:
    await asyncio.sleep(0)
    note("asynchronous", event)


def slow(app: Flask, event: Any, **extra: Any) -> None:
    note("slow", event)
    time.sleep(0.01)


def fails_at_times(app: Flask, event: Any, **extra: Any) -> None:
    note("fails_at_times", event)
    if luck.randrange(3) == 0:
        raise LookupError("at times")


def removes_the_session(app: Flask, event: Any, **extra: Any) -> None:
    note("forgotten", event)
    db.session.remove()
    note("removes_the_session", event)


def two_commits(app: Flask, event: Any, **extra: Any) -> None:
    """What follows the first commit takes effect at most once."""
    note("first", event)
    db.session.commit()
    maybe_die(ODDS)
    note("second", event)
    db.session.commit()


RECEIVERS: list[Callable[..., Any]] = [
    *(without_commit, own_commit, raises_after_its_commit, rolls_back_and_goes_on),
    *(with_begin, nested, asynchronous, slow, fails_at_times, removes_the_session),
    two_commits,
]


# ---- the workers


def make_app(url: str) -> Flask:
    app = Flask("receiving")
    app.config.update(
        SQLALCHEMY_DATABASE_URI=url,
        POSTAL_RELAY="process",
        POSTAL_TIMEOUT=0.5,
        POSTAL_LEASE=2,
        POSTAL_BACKOFF=(0.05, 0.2),
    )
    db.init_app(app)
    postal.init_app(app)
    for receiver in RECEIVERS:
        tracking_received.connect(receiver, app)
    return app


def request_of(number: int, worker: int) -> VerifiedRequest:
    """The event with a number, as the webhook of a worker brings it."""
    body = {
        "event": "MessageSent",
        "uuid": f"{worker}-{number}",
        "timestamp": 1780000000.5,
        "payload": {
            "status": "Sent",
            "timestamp": 1780000000.5,
            "message": {"id": number, "token": f"t{number}", "to": "ana@example.com"},
        },
    }
    return VerifiedRequest("tracking", json.dumps(body).encode())


if __name__ == "__main__":
    url, seed, events, folder = sys.argv[1:]
    crew = Crew(
        lambda: (make_app(url), postal),
        request_of,
        seed=int(seed),
        events=int(events),
        folder=Path(folder),
    )
    print(run_workers(crew))
