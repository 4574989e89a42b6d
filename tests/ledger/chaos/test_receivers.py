"""Workers die in the middle of receivers: each receiver takes effect once.

The seed is printed. To repeat a run, set FLASK_POSTAL_CHAOS_SEED. When the processes
get to work is not repeated, only in which order they receive the events.
"""

from __future__ import annotations

import os
import random
import subprocess
import sys
from collections import Counter
from pathlib import Path

import pytest
import sqlalchemy as sa

from ...apps import receiving

EVENTS = 300
#: What receivers have rolled back must not be there.
ONCE = {receiver.__name__ for receiver in receiving.RECEIVERS} - {"two_commits"}


@pytest.mark.slow
def test_each_receiver_takes_effect_once(database_url: str, tmp_path: Path) -> None:
    seed = int(os.environ.get("FLASK_POSTAL_CHAOS_SEED", random.randrange(10**6)))
    sys.stderr.write(f"FLASK_POSTAL_CHAOS_SEED={seed}\n")
    app = receiving.make_app(database_url)
    with app.app_context():
        receiving.db.create_all()
        receiving.db.engine.dispose()
    done = subprocess.run(
        [
            *(sys.executable, "-m", "tests.apps.receiving", database_url),
            *(str(seed), str(EVENTS), str(tmp_path)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    assert int(done.stdout) >= EVENTS // 10
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
    sys.stderr.write(f"{done.stdout.strip()} deaths, {attempts} attempts\n")
