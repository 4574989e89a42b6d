"""Moves messages from state to state, by statements that name the state before.

The number of rows that a statement changed tells whether the message was still in that
state. An attempt is identified by the ``attempts`` of the row: a process that was
stopped for longer than its lease changes nothing any more, because the next attempt has
another number.

A message is ``claimed`` first, which only reserves it: if its lease runs out, it is
``queued`` again. It is marked ``sending`` in a committed transaction before the first
byte leaves, so that whoever finds it after a crash knows that it may have been sent.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..address import Address
from .columns import clean, now
from .content import load_mails
from .database import Database
from .known import Known
from .mapping import LedgerModels
from .settings import LedgerSettings

__all__ = ["Attempt", "Claims"]

#: Seconds for which a claim is repeated if others are in its way.
CONTENTION = 5.0
#: Bytes of the messages that are loaded together when they are claimed.
TOGETHER = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to send a message.

    :param mail: The row of the message.
    :param number: The attempt's number, from 1.
    :param recipients: Written address -> address, for the recipients that Postal is not
        known to have taken. If an event proves one after this, it also takes the claim
        away.
    :param known: The number of the other recipients.
    :param mime: The message, unless it is large, or gone.
    :param left_out: Written address -> the reason why nothing is sent to it.
    """

    mail: Any
    number: int
    recipients: dict[str, Address]
    known: int
    mime: bytes | None
    left_out: dict[str, str] = field(default_factory=dict)


class _ContendedError(Exception):
    """Somebody else has claimed one of the messages in the meantime."""


class Claims:
    """The states of stored messages."""

    def __init__(
        self, database: Database, models: LedgerModels, settings: LedgerSettings
    ) -> None:
        self._database = database
        self._mails = models.table("mail")
        self._recipients = models.table("recipient")
        self._content = models.table("content")
        self._lease = timedelta(seconds=settings.lease)
        self._first_look = timedelta(seconds=settings.first_look)
        # Built once, because building a statement takes longer than running it from
        # SQLAlchemy's cache.
        self._is_due = _due(self._mails)
        self._is_due_and_free = self._is_due.with_for_update(skip_locked=True)
        self._claim = _claim(self._mails)
        self._mails_of = _mails_of(self._mails)
        self._recipients_of = _recipients_of(self._recipients)
        self._if_claimed = self._update("claimed")
        self._if_owned = self._update("claimed", "sending")

    # ---- queued -> claimed

    def claim(self, server: str, limit: int) -> list[Attempt]:
        """Claim messages of a Postal that are due, the oldest first.

        :param limit: The number of messages at most.
        """
        due = self._due(server, limit)

        def take(connection: sa.Connection) -> list[Attempt]:
            skips = _skips_locked(connection.dialect)
            query = self._is_due_and_free if skips else self._is_due
            numbers = list(connection.scalars(query, due))
            if not numbers:
                return []
            if self._take(connection, numbers) != len(numbers):
                raise _ContendedError
            return self._load(connection, numbers)

        try:
            # MariaDB ends deadlocks between several claims by rolling one back.
            return self._database.run(take, patience=CONTENTION)
        except _ContendedError:
            found = [row.id for row in self._database.rows(self._is_due, due)]
            return [attempt for number in found for attempt in self.claim_one(number)]

    def claim_one(self, mail_id: int) -> list[Attempt]:
        """Claim a message; the list is empty if it is not due, or claimed already."""

        def take(connection: sa.Connection) -> list[Attempt]:
            if self._take(connection, [mail_id]) != 1:
                return []
            return self._load(connection, [mail_id])

        return self._database.run(take, patience=CONTENTION)

    def _due(self, server: str, limit: int) -> dict[str, Any]:
        """Return the parameters of the query of due messages."""
        return {"due_server": server, "due_now": now(), "due_limit": limit}

    def _take(self, connection: sa.Connection, numbers: Sequence[int]) -> int:
        at = now()
        return connection.execute(
            self._claim,
            {"claimed": numbers, "claim_now": at, "claim_until": at + self._lease},
        ).rowcount

    def _load(self, connection: sa.Connection, numbers: Sequence[int]) -> list[Attempt]:
        claimed = {"claimed": numbers}
        mails = {row.id: row for row in connection.execute(self._mails_of, claimed)}
        missing: dict[int, dict[str, Address]] = {number: {} for number in numbers}
        left_out: dict[int, dict[str, str]] = {number: {} for number in numbers}
        known = dict.fromkeys(numbers, 0)
        for row in connection.execute(self._recipients_of, claimed):
            if row.suppressed is not None:
                left_out[row.mail_id][row.address] = row.suppressed
            elif row.postal_id is None:
                missing[row.mail_id][row.address] = Address(row.envelope)
            else:
                known[row.mail_id] += 1
        contents = self._load_contents(connection, [mails[n] for n in numbers])
        return [
            Attempt(
                mails[number],
                mails[number].attempts,
                missing[number],
                known[number],
                contents.get(number),
                left_out[number],
            )
            for number in numbers
        ]

    def _load_contents(
        self, connection: sa.Connection, mails: Sequence[Any]
    ) -> dict[int, bytes]:
        """Load small messages together; large ones are loaded when they are sent."""
        small: list[int] = []
        size = 0
        for mail in mails:
            size += mail.size
            if size > TOGETHER:
                break
            small.append(mail.id)
        return load_mails(connection, self._content, small) if small else {}

    def give_back(self, attempts: Iterable[Attempt]) -> None:
        """Queue claimed messages again that no attempt was begun for."""
        for attempt in attempts:
            values = {
                "state": "queued",
                "due_at": attempt.mail.due_at - self._lease,
                "attempts": attempt.number - 1,
            }
            self._database.change(self._if_claimed, self._set(attempt, values))

    # ---- claimed -> sending

    def begin(
        self, connection: sa.Connection, attempt: Attempt, anchors: Sequence[Known]
    ) -> datetime | None:
        """Mark a message as being sent.

        It may have been marked by this attempt before, in a transaction of which the
        connection was lost.

        :param anchors: Mails that Postal is known to have at this time.
        :returns: When the lease ends; ``None`` if the claim has run out.
        """
        until = now() + self._lease
        begun = connection.execute(
            self._if_owned,
            self._set(
                attempt,
                {
                    "state": "sending",
                    "due_at": until,
                    "tried_at": attempt.mail.tried_at or now(),
                    "began_at": now(),
                    "ended_at": None,
                    "waiting": None,
                    "anchor": [known.as_json() for known in anchors] or None,
                },
            ),
        )
        return until if begun.rowcount == 1 else None

    # ---- the end of an attempt

    def finish(
        self,
        connection: sa.Connection,
        attempt: Attempt,
        state: str,
        error: str | None = None,
        *,
        due_at: datetime | None = None,
    ) -> bool:
        """Set the state of a message, if this attempt still owns it.

        :param due_at: When there is something to do again; ``None`` for never.
        :returns: Whether it does.
        """
        values: dict[str, Any] = {"state": state, "error": error, "due_at": due_at}
        if error is not None:
            values["error"] = clean(error)
        if state == "doubtful":
            values |= {"ended_at": now(), "due_at": now() + self._first_look}
        elif due_at is None:
            values["finished_at"] = now()
        written = connection.execute(self._if_owned, self._set(attempt, values))
        return written.rowcount == 1

    def _update(self, *states: str) -> sa.Update:
        """Build an update of an attempt that is in one of some states.

        It sets the columns that are among the parameters; see :meth:`_set`.
        """
        mails = self._mails
        return sa.update(mails).where(
            mails.c.id == sa.bindparam("attempt_mail"),
            mails.c.attempts == sa.bindparam("attempt_number"),
            sa.or_(*(mails.c.state == state for state in states)),
        )

    @staticmethod
    def _set(attempt: Attempt, values: dict[str, Any]) -> dict[str, Any]:
        """Return the parameters with which an update sets columns."""
        return {
            "attempt_mail": attempt.mail.id,
            "attempt_number": attempt.number,
            **values,
        }

    # ---- leases that ran out

    def release_expired(self) -> int:
        """Free messages whose lease has run out; return how many.

        A message that was only claimed has not been sent and is queued again. One that
        was being sent may have been: it is doubtful.
        """
        mails = self._mails
        # In this order: MariaDB computes the values of a SET one after the other, and
        # would take the new due_at for ended_at.
        not_sent = (("state", "queued"), ("due_at", now()))
        maybe_sent = (
            ("ended_at", mails.c.due_at),
            ("due_at", now() + self._first_look),
            ("state", "doubtful"),
            ("error", "the process that was sending it did not finish"),
        )
        released = 0
        for before, values in (("claimed", not_sent), ("sending", maybe_sent)):
            expired = (mails.c.state == before, mails.c.due_at <= now())
            if self._database.rows(sa.select(mails.c.id).where(*expired).limit(1)):
                statement = sa.update(mails).where(*expired).ordered_values(*values)
                released += self._database.change(statement)
        return released


def _due(mails: sa.Table) -> sa.Select[Any]:
    """Build the query of messages that are due, the oldest first."""
    return (
        sa.select(mails.c.id)
        .where(mails.c.state == "queued", mails.c.due_at <= sa.bindparam("due_now"))
        .where(mails.c.server == sa.bindparam("due_server"))
        .order_by(mails.c.due_at)
        .limit(sa.bindparam("due_limit", type_=sa.Integer()))
    )


def _claim(mails: sa.Table) -> sa.Update:
    """Build the update that claims messages."""
    return (
        sa.update(mails)
        .where(mails.c.id.in_(sa.bindparam("claimed", expanding=True)))
        .where(mails.c.state == "queued", mails.c.due_at <= sa.bindparam("claim_now"))
        .values(
            state="claimed",
            due_at=sa.bindparam("claim_until"),
            attempts=mails.c.attempts + 1,
        )
    )


def _mails_of(mails: sa.Table) -> sa.Select[Any]:
    """Build the query of claimed messages."""
    return sa.select(mails).where(
        mails.c.id.in_(sa.bindparam("claimed", expanding=True))
    )


def _recipients_of(recipients: sa.Table) -> sa.Select[Any]:
    """Build the query of the recipients of claimed messages."""
    return (
        sa.select(
            recipients.c.mail_id,
            recipients.c.address,
            recipients.c.envelope,
            recipients.c.postal_id,
            recipients.c.suppressed,
        )
        .where(recipients.c.mail_id.in_(sa.bindparam("claimed", expanding=True)))
        .order_by(recipients.c.id)
    )


def _skips_locked(dialect: sa.Dialect) -> bool:
    """Tell whether SKIP LOCKED works. It only keeps workers from the same rows."""
    version = getattr(dialect, "server_version_info", None) or ()
    if dialect.name == "postgresql":
        return True
    if getattr(dialect, "is_mariadb", False):
        return version >= (10, 6)
    return dialect.name == "mysql" and version >= (8,)
