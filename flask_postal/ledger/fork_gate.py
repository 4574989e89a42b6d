"""Keeps the process from forking in the middle of a transaction of the ledger.

A forked process has a copy of the memory, but not of the other threads. What one of
them has locked stays locked there for ever: SQLAlchemy's pool, a module that is being
imported, or SQLite's notes about who has locked the file.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager

__all__ = ["no_fork"]

#: Seconds that a fork waits for transactions that are under way. The thread that forks
#: may have one itself.
PATIENCE = 10.0


class _Gate:
    def __init__(self) -> None:
        self.condition = threading.Condition()
        self.inside = 0


_gate = _Gate()


@contextmanager
def no_fork() -> Iterator[None]:
    """Let a fork of this process wait until the end of the block."""
    gate = _gate
    with gate.condition:
        gate.inside += 1
    try:
        yield
    finally:
        with gate.condition:
            gate.inside -= 1
            gate.condition.notify_all()


def _before() -> None:
    _gate.condition.acquire()
    _gate.condition.wait_for(lambda: _gate.inside == 0, PATIENCE)


def _in_parent() -> None:
    _gate.condition.release()


def _in_child() -> None:
    global _gate
    _gate = _Gate()


os.register_at_fork(
    before=_before, after_in_parent=_in_parent, after_in_child=_in_child
)
