"""A job of which one is done at a time, by whichever process, and that goes on.

The row of a job has a version, which each taker increments: whoever was stopped for
longer than the lease finds another version, and writes nothing.
"""

from __future__ import annotations

import json
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .columns import now
from .database import Database

__all__ = ["Turn"]


class Turn:
    """A lease on a job.

    :param table: The table of contents, which keeps the row.
    :param owner: The name of the job.
    :param lease: Seconds for which it is taken, and again with each :meth:`save`.
    """

    def __init__(
        self, database: Database, table: sa.Table, owner: str, lease: float
    ) -> None:
        self._database = database
        self._table = table
        self._owner = owner
        self._lease = timedelta(seconds=lease)
        self._version = 0
        #: What the last turn has left.
        self.state: dict[str, Any] = {}

    def take(self) -> bool:
        """Take the turn; ``False`` if somebody else has it."""
        return self._database.run(self._take)

    def save(self, **state: Any) -> bool:
        """Write how far the job is; ``False`` if the lease has run out.

        :param state: Values that JSON can hold.
        """
        return self._write(self._version, now() + self._lease, state)

    def end(self, **state: Any) -> None:
        """Let another process take the next turn."""
        self._write(self._version, None, state)

    def _take(self, connection: sa.Connection) -> bool:
        table = self._table
        row = connection.execute(
            sa.select(table.c.number, table.c.data).where(table.c.owner == self._owner)
        ).first()
        until = now() + self._lease
        if row is None:
            try:
                with connection.begin_nested():
                    connection.execute(
                        sa.insert(table).values(
                            owner=self._owner, number=0, data=_packed(until, {})
                        )
                    )
            except sa.exc.IntegrityError:
                return False
            return True
        left = json.loads(bytes(row.data))
        if left["until"] is not None and datetime.fromisoformat(left["until"]) > now():
            return False
        taken = connection.execute(
            sa.update(table)
            .where(table.c.owner == self._owner, table.c.number == row.number)
            .values(number=row.number + 1, data=_packed(until, left["state"]))
        )
        self._version, self.state = row.number + 1, left["state"]
        return taken.rowcount == 1

    def _write(
        self, version: int, until: datetime | None, state: dict[str, Any]
    ) -> bool:
        table = self._table
        statement = (
            sa.update(table)
            .where(table.c.owner == self._owner, table.c.number == version)
            .values(data=_packed(until, state))
        )
        return self._database.change(statement) == 1


def _packed(until: datetime | None, state: dict[str, Any]) -> bytes:
    ends = None if until is None else until.isoformat()
    return json.dumps({"until": ends, "state": state}).encode()
