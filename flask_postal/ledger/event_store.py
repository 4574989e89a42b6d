"""The rows of events: stored before Postal is answered, and claimed by one process.

The number of rows that a statement changed tells whether an event was still in the
state that the statement names. An attempt is identified by the ``attempts`` of the row:
a process that was stopped for longer than its lease writes nothing any more.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from .columns import now
from .content import load, owner_of_event, save
from .database import Database
from .failures import with_failures
from .mapping import LedgerModels
from .settings import LedgerSettings

__all__ = ["INLINE", "PATIENCE", "Claimed", "EventStore", "Stored", "log_dead"]

_log = logging.getLogger("flask_postal.ledger")

#: Leases that ran out and are looked at together.
EXPIRED = 100
#: Bytes of a body that is kept in the row of its event.
INLINE = 64 * 1024
#: Seconds for which storing is repeated while the database fails. Postal waits 5 s.
PATIENCE = 2.0
#: Why an attempt failed whose process did not come back.
CRASHED = "the process that was calling the receivers did not finish"


def log_dead(event_id: int) -> None:
    """Log that an event is given up."""
    _log.error(
        "event %d is dead: its receivers have failed for too long; see `flask postal"
        " events show %d`, and `retry` it once the cause is mended",
        event_id,
        event_id,
    )


@dataclass(frozen=True, slots=True)
class Claimed:
    """An event that one process calls the receivers of.

    :param attempts: The number of this attempt, from 1.
    :param tried_at: When the first one began, as it is stored.
    :param verdict: What Postal was answered with, if it was.
    :param failures: Those of earlier attempts.
    """

    id: int
    server: str
    token: str | None
    attempts: int
    tried_at: datetime
    verdict: int | None = None
    failures: Sequence[dict[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Stored:
    """A claimed event with what it was made from.

    :param row: The row as it is after the claim.
    :param body: The body of the request; ``None`` if it has been purged.
    """

    row: Any
    body: bytes | None

    @property
    def claimed(self) -> Claimed:
        """The event without its content."""
        row = self.row
        return Claimed(
            row.id,
            row.server,
            row.token,
            row.attempts,
            row.tried_at,
            row.verdict,
            row.failures,
        )


class EventStore:
    """Writes and reads the rows of events, in transactions of its own."""

    def __init__(
        self, database: Database, models: LedgerModels, settings: LedgerSettings
    ) -> None:
        self.database = database
        self.models = models
        self._events = models.table("event")
        self._content = models.table("content")
        # Built once, and given their values later: building them for each webhook would
        # take as long as the database does.
        self._insert = sa.insert(self._events)
        self._update = sa.update(self._events).where(
            self._events.c.id == sa.bindparam("its_id"),
            self._events.c.attempts == sa.bindparam("its_attempts"),
            self._events.c.state == "claimed",
        )
        self._settings = settings
        self._lease = timedelta(seconds=settings.lease)

    # ---- storing

    def insert(
        self, connection: sa.Connection, body: bytes, values: dict[str, Any]
    ) -> int:
        """Insert an event in a transaction of the caller's; return its id.

        :raises sqlalchemy.exc.IntegrityError: if it is there already.
        """
        small = len(body) <= INLINE
        done = connection.execute(
            self._insert, {"body": body if small else None, **values}
        )
        (number,) = done.inserted_primary_key or (0,)
        if not small:
            save(connection, self._content, owner_of_event(number), body)
        return int(number)

    def first_claim(self) -> dict[str, Any]:
        """Return the values of an event that is claimed as it is stored."""
        at = now()
        return {
            "state": "claimed",
            "attempts": 1,
            "tried_at": at,
            "due_at": at + self._lease,
        }

    def find(self, identity: str) -> Any:
        """Return the row of an event without its body; ``None`` if there is none."""
        return self._first(self._events.c.identity == identity)

    def get(self, event_id: int) -> Any:
        """Return a row without its body; ``None`` if there is none."""
        return self._first(self._events.c.id == event_id)

    def _first(self, condition: Any) -> Any:
        rows = self.database.rows(sa.select(*self._but_body()).where(condition))
        return rows[0] if rows else None

    def _but_body(self) -> list[Any]:
        return [column for column in self._events.c if column.name != "body"]

    # ---- queued -> claimed

    def claim(self, event_id: int, *, abandoned: bool = False) -> Stored | None:
        """Claim an event that is due.

        :param abandoned: Whether it may also be one whose lease has run out.
        :returns: ``None`` if it is not due, or somebody else has it.
        """
        events = self._events
        states = ("queued", "claimed") if abandoned else ("queued",)

        def take(connection: sa.Connection) -> Stored | None:
            at = now()
            taken = connection.execute(
                sa.update(events)
                .where(events.c.id == event_id, events.c.due_at <= at)
                .where(events.c.state.in_(states))
                # Before due_at: MariaDB computes the values one after the other.
                .ordered_values(
                    ("state", "claimed"),
                    ("attempts", events.c.attempts + 1),
                    ("tried_at", sa.func.coalesce(events.c.tried_at, at)),
                    ("due_at", at + self._lease),
                )
            )
            if taken.rowcount != 1:
                return None
            row = connection.execute(sa.select(events).where(events.c.id == event_id))
            return self._with_body(connection, row.one())

        return self.database.run(take)

    def _with_body(self, connection: sa.Connection, row: Any) -> Stored:
        if row.body is not None:
            return Stored(row, bytes(row.body))
        return Stored(row, load(connection, self._content, owner_of_event(row.id)))

    def done_receivers(self, event_id: int) -> set[str]:
        """Return the names of the receivers that have handled an event."""
        receipts = self.models.table("receipt")
        query = sa.select(receipts.c.receiver).where(receipts.c.event_id == event_id)
        return {row.receiver for row in self.database.rows(query)}

    # ---- the end of an attempt

    def finish(
        self, event: Claimed, verdict: int, failures: Sequence[dict[str, Any]] = ()
    ) -> None:
        """Note that all receivers have handled an event.

        :param failures: Of receivers that are not called again.
        """
        values: dict[str, Any] = {"state": "done", "due_at": None, "error": None}
        if failures:
            values["failures"] = with_failures(event.failures, failures)
        self._end(event, verdict=verdict, **values)

    def fail(
        self,
        event: Claimed,
        verdict: int,
        error: str,
        failures: Sequence[dict[str, Any]],
    ) -> str:
        """Note that a receiver has failed; return the state of the event then."""
        pause = timedelta(seconds=self._settings.pause(event.attempts))
        over = now() + pause > event.tried_at + self._give_up
        state = "dead" if over else "queued"
        self._end(
            event,
            state=state,
            due_at=None if over else now() + pause,
            verdict=verdict,
            error=error,
            failures=with_failures(event.failures, failures),
        )
        return state

    @property
    def _give_up(self) -> timedelta:
        return timedelta(seconds=self._settings.give_up)

    def _end(self, event: Claimed, **values: Any) -> None:
        """Write the end of an attempt, unless its lease has run out."""
        attempt = {"its_id": event.id, "its_attempts": event.attempts}
        # Written again after a lost connection, it changes nothing.
        self.database.run(
            lambda connection: connection.execute(self._update, attempt | values),
            patience=PATIENCE,
        )

    # ---- what is due

    def release_expired(self) -> int:
        """Free events whose lease has run out; return how many."""
        events = self._events
        query = sa.select(*self._but_body()).where(
            events.c.state == "claimed", events.c.due_at <= now()
        )
        rows = self.database.rows(query.limit(EXPIRED))
        return sum(self._release(row) for row in rows)

    def _release(self, row: Any) -> bool:
        """Queue an event whose process did not come back.

        At once the first time. A receiver may kill its process each time, and must not
        do so for days without a pause.
        """
        events, pause = self._events, timedelta()
        if row.attempts > 1:
            pause = timedelta(seconds=self._settings.pause(row.attempts - 1))
        over = now() + pause > row.tried_at + self._give_up
        released = self.database.change(
            sa.update(events)
            .where(events.c.id == row.id, events.c.state == "claimed")
            .where(events.c.attempts == row.attempts, events.c.due_at == row.due_at)
            .values(
                state="dead" if over else "queued",
                due_at=None if over else now() + pause,
                error=CRASHED,
            )
        )
        if released and over:
            log_dead(row.id)
        return released == 1

    def due(self, servers: Iterable[str], limit: int) -> list[int]:
        """Return the ids of events that are due, the oldest first.

        An event waits for an earlier one about the same mail, unless that one has
        failed before: order is worth nothing to an event that never succeeds.
        """
        events, at = self._events, now()
        query = (
            sa.select(events.c.id)
            .where(events.c.state == "queued", events.c.due_at <= at)
            .where(events.c.server.in_(servers), ~self._waits(events))
            .order_by(events.c.due_at, events.c.id)
            .limit(limit)
        )
        return [row.id for row in self.database.rows(query)]

    def is_blocked(self, event_id: int) -> bool:
        """Tell whether an event waits for an earlier one about the same mail."""
        events = self._events
        query = sa.select(events.c.id).where(
            events.c.id == event_id, self._waits(events)
        )
        return bool(self.database.rows(query))

    def _waits(self, events: sa.Table) -> sa.ColumnElement[bool]:
        earlier = events.alias("earlier")
        return sa.exists().where(
            earlier.c.token == events.c.token,
            earlier.c.server == events.c.server,
            earlier.c.id < events.c.id,
            earlier.c.state.in_(("queued", "claimed")),
            earlier.c.error.is_(None),
        )

    def next_of(self, event: Claimed) -> int | None:
        """Return the id of the event that has waited for this one, if any."""
        if event.token is None:
            return None
        events = self._events
        query = (
            sa.select(events.c.id)
            .where(events.c.token == event.token, events.c.server == event.server)
            .where(events.c.id > event.id, events.c.state == "queued")
            .where(events.c.due_at <= now())
            .order_by(events.c.id)
            .limit(1)
        )
        rows = self.database.rows(query)
        return rows[0].id if rows else None

    def next_due(self, servers: Iterable[str]) -> datetime | None:
        """Return when there is something to do next; ``None`` for never."""
        events = self._events
        times = []
        for state in ("queued", "claimed"):
            query = (
                sa.select(events.c.due_at)
                .where(events.c.state == state, events.c.due_at.is_not(None))
                .where(events.c.server.in_(servers))
                .order_by(events.c.due_at)
                .limit(1)
            )
            times += [row.due_at for row in self.database.rows(query)]
        return min(times, default=None)
