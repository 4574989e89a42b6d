"""Runs an app of tests/apps whose workers die again and again."""

from __future__ import annotations

import os
import random
import subprocess
import sys
from pathlib import Path

__all__ = ["EVENTS", "run_dying"]

EVENTS = 300


def run_dying(module: str, url: str, folder: Path) -> int:
    """Run it until all events are handled; return how often a worker has died.

    The seed is printed. To repeat a run, set FLASK_POSTAL_CHAOS_SEED. When the
    processes get to work is not repeated, only in which order they receive the events.
    """
    seed = int(os.environ.get("FLASK_POSTAL_CHAOS_SEED", random.randrange(10**6)))
    sys.stderr.write(f"FLASK_POSTAL_CHAOS_SEED={seed}\n")
    done = subprocess.run(
        [
            *(sys.executable, "-m", f"tests.apps.{module}", url),
            *(str(seed), str(EVENTS), str(folder)),
        ],
        check=False,
        capture_output=True,
        text=True,
        timeout=170,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    deaths = int(done.stdout)
    assert deaths >= EVENTS // 10
    return deaths
