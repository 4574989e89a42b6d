"""Workers die in the middle of receivers: each receiver takes effect once."""

from __future__ import annotations

import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from example_app.models import db

from ...apps import desk_receiving, receiving
from .workers import EVENTS, run_dying

#: What receivers have rolled back must not be there.
ONCE = {receiver.__name__ for receiver in receiving.RECEIVERS} - {"two_commits"}


@pytest.mark.slow
def test_each_receiver_takes_effect_once(database_url: str, tmp_path: Path) -> None:
    app = receiving.make_app(database_url)
    with app.app_context():
        receiving.db.create_all()
        receiving.db.engine.dispose()
    deaths = run_dying("receiving", database_url, tmp_path)
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        found = Counter(
            tuple(row)
            for row in connection.execute(sa.text("SELECT receiver, token FROM effect"))
        )
        attempts = connection.scalar(sa.text("SELECT sum(attempts) FROM postal_event"))
        stored = connection.scalar(sa.text("SELECT count(*) FROM postal_event"))
    engine.dispose()
    expected = {
        (name, f"t{number}")
        for name in {*ONCE, "first"}
        for number in range(1, EVENTS + 1)
    }
    once = {key: times for key, times in found.items() if key[0] != "second"}
    assert set(once) == expected
    assert {key: times for key, times in once.items() if times != 1} == {}
    # After its first commit, a receiver's work takes effect at most once.
    second = {key: times for key, times in found.items() if key[0] == "second"}
    assert set(second.values()) == {1}
    assert len(second) < EVENTS
    assert stored == EVENTS
    sys.stderr.write(f"{deaths} deaths, {attempts} attempts\n")


@pytest.mark.slow
def test_each_mail_opens_one_ticket_of_the_help_desk(
    database_url: str, tmp_path: Path
) -> None:
    app = desk_receiving.make_app(database_url, tmp_path)
    with app.app_context():
        db.engine.dispose()
    deaths = run_dying("desk_receiving", database_url, tmp_path)
    engine = sa.create_engine(database_url)
    with engine.connect() as connection:
        opened = Counter(
            connection.scalars(
                sa.text("SELECT message_id FROM entry WHERE mail_id IS NULL")
            )
        )
        numbers = {
            name: connection.scalar(sa.text(f"SELECT count(*) FROM {name}"))
            for name in ("ticket", "contact", "postal_mail", "postal_event")
        }
        confirmed = connection.scalar(
            sa.text("SELECT count(DISTINCT mail_id) FROM entry")
        )
        attempts = connection.scalar(sa.text("SELECT sum(attempts) FROM postal_event"))
    engine.dispose()
    assert opened == {f"{number}@x.y": 1 for number in range(1, EVENTS + 1)}
    assert numbers == {
        "ticket": EVENTS,
        "contact": EVENTS // 5 + 1,
        "postal_mail": EVENTS,
        "postal_event": EVENTS,
    }
    assert confirmed == EVENTS
    sys.stderr.write(f"{deaths} deaths, {attempts} attempts\n")
