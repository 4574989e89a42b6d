"""Short transactions on the database of the ledger."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

import sqlalchemy as sa

from .fork_gate import no_fork

__all__ = ["Database"]

T = TypeVar("T")

#: Seconds for which a transaction is repeated while the database fails.
PATIENCE = 30.0
_sleep = time.sleep


class Database:
    """Runs functions in transactions of their own.

    :param bind: Returns the engine of the ledger's tables, or the connection that a
        test has put in its place.
    """

    def __init__(self, bind: Callable[[], sa.Engine | sa.Connection]) -> None:
        self._bind = bind
        self._looking: sa.Connection | None = None

    @contextmanager
    def begin(self) -> Iterator[sa.Connection]:
        """Open a transaction; on a connection that is in one already, a savepoint."""
        bind = self._bind()
        if isinstance(bind, sa.Engine):
            with no_fork(), bind.begin() as connection:
                yield connection
        else:
            with bind.begin_nested() if bind.in_transaction() else bind.begin():
                yield bind

    def run(self, work: Callable[[sa.Connection], T], *, patience: float = 0.0) -> T:
        """Run a function in a transaction, and return what it returns.

        :param patience: Seconds for which it is run again while the database fails,
            restarts or has a deadlock. It must not matter then whether an earlier run
            was committed, because a lost connection does not tell.
        """
        deadline, pause = time.monotonic() + patience, 0.05
        while True:
            try:
                with self.begin() as connection:
                    return work(connection)
            except (sa.exc.DBAPIError, sa.exc.TimeoutError) as error:
                if not _may_pass(error) or time.monotonic() + pause > deadline:
                    raise
            _sleep(pause)
            pause = min(pause * 2, 2.0)

    def look(self, work: Callable[[sa.Connection], T]) -> T:
        """Run a function that reads only, and ends nobody's transaction.

        An SQLite in memory has one connection, which somebody else may have written
        on. Neither committing nor closing ours would leave that alone: it stays open.
        """
        bind = self._bind()
        if not (isinstance(bind, sa.Engine) and isinstance(bind.pool, sa.StaticPool)):
            return self.run(work)
        if self._looking is None or self._looking.engine is not bind:
            self._looking = bind.connect()
        return work(self._looking)

    def bind(self) -> sa.Engine | sa.Connection:
        """Return the engine, or the connection in its place."""
        return self._bind()

    def abandon(self) -> None:
        """Leave the pooled connections to the parent of a forked process."""
        bind = self._bind()
        if isinstance(bind, sa.Engine):
            bind.dispose(close=False)

    def rows(self, query: Any, parameters: dict[str, Any] | None = None) -> list[Any]:
        """Return the rows of a query."""
        return self.run(lambda connection: list(connection.execute(query, parameters)))

    def change(self, statement: Any, parameters: dict[str, Any] | None = None) -> int:
        """Run a statement, and return the number of rows that it has changed."""
        return self.run(
            lambda connection: connection.execute(statement, parameters).rowcount
        )


def _may_pass(error: sa.exc.SQLAlchemyError) -> bool:
    """Tell whether the same transaction may succeed later.

    A TimeoutError says that all connections of the pool are in use, and InternalError
    that a server accepts no writes, as PostgreSQL's do during a failover.
    """
    if isinstance(error, sa.exc.DBAPIError) and error.connection_invalidated:
        return True
    return isinstance(
        error,
        (
            sa.exc.InterfaceError,
            sa.exc.InternalError,
            sa.exc.OperationalError,
            sa.exc.TimeoutError,
        ),
    )
