"""Mends savepoints of SQLite's driver."""

from __future__ import annotations

from typing import Any

import sqlalchemy as sa

__all__ = ["mend_savepoints"]


def mend_savepoints(engine: sa.Engine | sa.Connection) -> None:
    """Have a transaction begin before a savepoint.

    SQLite's driver begins a transaction with the first statement that writes, and a
    savepoint is none. Releasing a savepoint without a transaction commits, so that
    ``with db.session.begin_nested(): postal.enqueue(...)`` would send a message that is
    rolled back afterwards.

    :param engine: Nothing is done for other databases.
    """
    if engine.dialect.name != "sqlite" or not isinstance(engine, sa.Engine):
        return
    if not sa.event.contains(engine, "savepoint", _begin):
        sa.event.listen(engine, "savepoint", _begin)


def _begin(connection: sa.Connection, name: str) -> None:
    driver: Any = connection.connection.dbapi_connection
    if not driver.in_transaction:
        connection.exec_driver_sql("BEGIN")
