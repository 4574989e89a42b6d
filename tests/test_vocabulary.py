"""Postal's events and statuses are listed in one table that everything else reads."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

import flask_postal
from flask_postal import EventType
from flask_postal.sandbox.scenarios import SCENARIOS
from flask_postal.vocabulary import (
    BY_NAME,
    BY_STATUS,
    EVENTS,
    MESSAGE_EVENTS,
    find_event,
    known_events,
    names_of,
)

from .captures import CAPTURES

TESTS = Path(__file__).parent
ROW = """\
    PostalEvent(
        name="MessageQuarantined",
        status="Quarantined",
        event_type=EventType.FAILED,
        alias="quarantined",
        meaning="a made-up event",
        tone="wait",
        details="In quarantine until {to} is known",
    ),
"""


def test_an_event_added_to_the_table_works_everywhere(tmp_path: Path) -> None:
    """A copy of the package gets one more row, of a type that another event has, and
    nothing else."""
    copy = tmp_path / "flask_postal"
    shutil.copytree(Path(str(flask_postal.__file__)).parent, copy)
    table = copy / "vocabulary.py"
    place = "    # ---- statuses that no webhook reports\n"
    assert place in table.read_text()
    table.write_text(table.read_text().replace(place, ROW + place))
    done = subprocess.run(
        [
            sys.executable,
            *(TESTS / "apps" / "made_up_event.py", TESTS.parent / "docs" / "tables.py"),
        ],
        env={**os.environ, "PYTHONPATH": str(tmp_path)},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    told = done.stdout
    assert "parser: failed" in told
    assert "lookup: failed" in told
    assert "failed still means: MessageDeliveryFailed" in told
    about = "('failed', 'In quarantine until ana@example.com is known'"
    assert f"sandbox: [{about}, 'ana@example.com')] Quarantined" in told
    assert "page button: True" in told
    assert "page colour: True" in told
    assert "clicked, quarantined," in " ".join(told.split())
    assert "| `failed` | MessageQuarantined | a made-up event |" in told
    assert "CLI: MessageQuarantined about the message to ana@example.com" in told


#: Events of the table that no real Postal has been recorded with yet.
NOT_RECORDED: set[str] = set()


def test_every_event_is_recorded_from_a_real_postal() -> None:
    bodies = sorted((CAPTURES / "webhooks").glob("*.body"))
    recorded = {json.loads(path.read_bytes())["event"] for path in bodies}
    assert recorded == set(BY_NAME) - NOT_RECORDED


def test_names_statuses_and_words_are_unique() -> None:
    named = [event.name for event in EVENTS if event.name is not None]
    assert len(named) == len(set(named)) == len(BY_NAME)
    statuses = [event.status for event in EVENTS if event.status is not None]
    assert len(statuses) == len(set(statuses)) == len(BY_STATUS)
    words = [event.word for event in MESSAGE_EVENTS]
    assert len(words) == len(set(words))


@pytest.mark.parametrize("event", MESSAGE_EVENTS, ids=lambda event: event.word)
def test_an_event_is_found_by_name_type_and_alias(event: object) -> None:
    row = BY_NAME[getattr(event, "name", "")]
    for word in (str(row.name), row.word):
        assert find_event(word) is row
        assert word in known_events()
        assert str(row.name) in names_of(word)
    assert str(row.name) in names_of(str(row.event_type))
    by_type = find_event(str(row.event_type))
    assert by_type is not None
    assert by_type.event_type is row.event_type


def test_every_event_type_but_unknown_and_complained_is_one_of_postals() -> None:
    """A complaint comes as a mail."""
    assert {event.event_type for event in MESSAGE_EVENTS} == set(EventType) - {
        EventType.UNKNOWN,
        EventType.COMPLAINED,
    }


def test_scenarios_use_events_of_the_table() -> None:
    steps = [step.event for scenario in SCENARIOS.values() for step in scenario.steps]
    assert set(steps) <= set(BY_NAME)
