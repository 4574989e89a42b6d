"""A few numbers about the ledger, cheap enough for a health endpoint."""

from __future__ import annotations

from datetime import datetime
from typing import Any

import sqlalchemy as sa

from .columns import now
from .database import Database
from .mapping import LedgerModels

__all__ = ["MOST", "health_of"]

#: What is counted at most: whether it is 1,000 or more makes no difference.
MOST = 1000


def health_of(
    database: Database, models: LedgerModels, server: str
) -> dict[str, float | int | None]:
    """Return ages in seconds and bounded counts; see :meth:`.Postal.health`.

    Each query reads a few rows by an index.
    """
    mails, events = models.table("mail"), models.table("event")

    def read(connection: sa.Connection) -> dict[str, float | int | None]:
        def newest(table: sa.Table, column: str, *conditions: Any) -> float | None:
            query = sa.select(table.c[column]).where(
                table.c.server == server, *conditions
            )
            return _age(connection.scalar(query.order_by(table.c.id.desc()).limit(1)))

        def oldest_due(table: sa.Table) -> float | None:
            query = sa.select(table.c.due_at).where(
                table.c.server == server,
                table.c.state == "queued",
                table.c.due_at <= now(),
            )
            return _age(connection.scalar(query.order_by(table.c.due_at).limit(1)))

        def count(table: sa.Table, state: str) -> int:
            some = (
                sa.select(table.c.id)
                .where(table.c.server == server, table.c.state == state)
                .limit(MOST)
                .subquery()
            )
            query = sa.select(sa.func.count()).select_from(some)
            return int(connection.execute(query).scalar_one())

        return {
            "seconds_since_event": newest(
                events, "created_at", events.c.source == "webhook"
            ),
            "seconds_since_accepted": newest(
                mails, "finished_at", mails.c.state == "accepted"
            ),
            "oldest_due_mail": oldest_due(mails),
            "oldest_due_event": oldest_due(events),
            "doubtful_mails": count(mails, "doubtful"),
            "dead_events": count(events, "dead"),
        }

    return database.run(read)


def _age(time: datetime | None) -> float | None:
    return None if time is None else max(0.0, (now() - time).total_seconds())
