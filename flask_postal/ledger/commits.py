"""Learns when the caller's session has committed what it enqueued.

A commit is only a sign to look: SQLAlchemy reports it for savepoints too, and for
sessions that a test has joined into a transaction which it rolls back. What is
committed is known by the rows that another connection sees.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

import sqlalchemy as sa

__all__ = ["after_commit"]

_log = logging.getLogger("flask_postal.ledger")

_KEY = "flask_postal_enqueued"

#: Called with the ids of messages, outside of the caller's transaction.
Committed = Callable[[Sequence[int]], object]


def after_commit(session: Any, committed: Committed, mail_id: int) -> None:
    """Have a function called when a session commits.

    :param committed: Called once for a commit, with all the ids that were given since
        the last one.
    :param mail_id: The id of a message that was added to the session's transaction.
    """
    waiting: dict[Committed, list[int]] | None = session.info.get(_KEY)
    if waiting is None:
        waiting = session.info[_KEY] = {}
        sa.event.listen(session, "after_commit", _committed)
        sa.event.listen(session, "after_transaction_end", _ended)
    waiting.setdefault(committed, []).append(mail_id)


def _committed(session: Any) -> None:
    if session.in_nested_transaction():
        return
    waiting = session.info[_KEY]
    calls = list(waiting.items())
    waiting.clear()
    for committed, ids in calls:
        try:
            committed(ids)
        except BaseException:  # noqa: BLE001
            # The transaction is committed, and must not seem to have failed, even for
            # gevent's Timeout: the caller would do everything again. The messages are
            # found by the next look at the database.
            _log.exception("what follows a commit failed for messages %s", ids)


def _ended(session: Any, transaction: Any) -> None:
    """Forget what was rolled back, or not committed before the session was closed."""
    if transaction.parent is None:
        session.info[_KEY].clear()
