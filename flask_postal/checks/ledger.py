"""Checks of the ledger: its tables, the database's limits, clocks, and what waits."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from typing import TYPE_CHECKING, Any

from flask import Flask

from ..interface import PostalInterface
from .finding import Finding

if TYPE_CHECKING:
    from ..ledger.database import Database
    from ..ledger.mapping import LedgerModels

__all__ = ["check_ledger"]

#: Bytes that a statement with a piece of 1 MB may have, with every byte escaped.
LEAST_PACKET = 3 * 1024 * 1024
#: How far the clocks of this machine and of the database may differ.
CLOCKS = timedelta(seconds=10)
#: How long a message may have been due before somebody should look.
OVERDUE = timedelta(minutes=5)
_TIMES = {
    "postgresql": "SELECT now() AT TIME ZONE 'UTC'",
    "mysql": "SELECT UTC_TIMESTAMP(6)",
    "mariadb": "SELECT UTC_TIMESTAMP(6)",
}


def check_ledger(postal: PostalInterface, app: Flask) -> Iterator[Finding]:
    """Check the ledger, if the app has one."""
    if postal.ledger is None:
        return
    # They need SQLAlchemy, which is an extra.
    from sqlalchemy.exc import SQLAlchemyError

    database, models = postal.ledger.of(app).database, postal.ledger.models
    try:
        missing = list(_check_tables(database, models))
        yield from missing
        if not missing:
            yield Finding("ok", "the ledger's tables and indexes exist")
            yield from _check_waiting(database, models)
        yield from _check_packets(database)
        yield from _check_clock(database)
    except SQLAlchemyError as error:
        cause = getattr(error, "orig", None) or type(error).__name__
        yield Finding(
            "error",
            f"the ledger's database fails: {cause}",
            "check SQLALCHEMY_DATABASE_URI, and that the database runs",
        )


def _check_tables(database: Database, models: LedgerModels) -> Iterator[Finding]:
    import sqlalchemy as sa

    cure = "run `flask db migrate` and `flask db upgrade`, or db.create_all()"
    inspector = sa.inspect(database.bind())
    there = set(inspector.get_table_names())
    for name in models.given():
        table = models.table(name)
        if table.name not in there:
            yield Finding("error", f"the table {table.name} is missing", cure)
            continue
        columns = {column["name"] for column in inspector.get_columns(table.name)}
        for column in table.columns:
            if column.name not in columns:
                text = f"the column {table.name}.{column.name} is missing"
                yield Finding("error", text, cure)
        indexed = [index["column_names"] for index in inspector.get_indexes(table.name)]
        for index in table.indexes:
            names = [column.name for column in index.columns]
            if names not in indexed:
                text = f"{table.name} has no index on {', '.join(names)}"
                yield Finding("warning", text, cure)


def _check_packets(database: Database) -> Iterator[Finding]:
    import sqlalchemy as sa

    if database.bind().dialect.name not in ("mysql", "mariadb"):
        return
    ((size,),) = database.rows(sa.text("SELECT @@max_allowed_packet"))
    if size < LEAST_PACKET:
        yield Finding(
            "error",
            f"the database takes statements of {size} bytes only, and a piece of a"
            " message may need more",
            f"set max_allowed_packet to {LEAST_PACKET} or more; MariaDB's default is"
            " 16 MB",
        )


def _check_clock(database: Database) -> Iterator[Finding]:
    import sqlalchemy as sa

    from ..ledger.columns import now

    query = _TIMES.get(database.bind().dialect.name)
    if query is None:  # SQLite is on this machine
        return
    ((theirs,),) = database.rows(sa.text(query))
    difference = abs(now() - theirs)
    if difference > CLOCKS:
        yield Finding(
            "warning",
            f"the clocks of this machine and of the database differ by"
            f" {difference.total_seconds():.0f} seconds",
            "keep the clocks of all machines right with NTP: leases are compared with"
            " them",
        )


def _check_waiting(database: Database, models: LedgerModels) -> Iterator[Finding]:
    import sqlalchemy as sa

    from ..ledger.columns import now

    mails: Any = models.table("mail")
    for state in ("queued", "claimed", "sending", "doubtful"):
        due = sa.select(mails.c.due_at).where(mails.c.state == state)
        rows = database.rows(due.order_by(mails.c.due_at).limit(1))
        late = now() - rows[0].due_at if rows and rows[0].due_at else timedelta()
        if late > OVERDUE:
            yield Finding(
                "warning",
                f"a message that is {state} has been due for"
                f" {late.total_seconds() / 60:.0f} minutes",
                "does `flask postal relay` run, or a process of the app with"
                ' POSTAL_RELAY = "thread"?',
            )
