"""Deletes what is older than the settings keep, in small transactions.

Unfinished messages and events always stay, and so does the content of failed ones,
which can be sent again. A dead event stays whole until its row is deleted.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Any

import sqlalchemy as sa

from .columns import now
from .content import mail_of_owner, owner_of_event, owner_of_mail
from .database import Database
from .forget import delete_events
from .mapping import LedgerModels
from .settings import LedgerSettings

__all__ = ["Purged", "purge"]

#: Rows that are deleted in a transaction.
BATCH = 500
_FINISHED = ("accepted", "cancelled", "failed")
_NOT_NEEDED = ("accepted", "cancelled")


@dataclass(frozen=True, slots=True)
class Purged:
    """What a purge has deleted.

    :param contents: The number of messages whose content was deleted.
    :param mails: The number of messages that were deleted.
    :param bodies: The number of events whose body was deleted.
    :param events: The number of events that were deleted, with their receipts.
    """

    contents: int
    mails: int
    bodies: int = 0
    events: int = 0


def purge(database: Database, models: LedgerModels, settings: LedgerSettings) -> Purged:
    """Delete old messages, and the content of messages that are not as old."""
    mails = 0
    for ids in _old_mails(database, models, settings.keep_rows):
        database.run(partial(_delete, models=models, ids=ids))
        mails += len(ids)
    contents = 0
    for ids in _old_contents(database, models, settings.keep_content):
        content = models.table("content")
        owners = [owner_of_mail(number) for number in ids]
        database.change(sa.delete(content).where(content.c.owner.in_(owners)))
        contents += len(ids)
    events = 0
    for ids in _old_events(database, models, ("done", "dead"), settings.keep_rows):
        database.run(partial(delete_events, models=models, ids=ids))
        events += len(ids)
    bodies = 0
    for ids in _old_events(database, models, ("done",), settings.keep_content):
        bodies += database.run(partial(_delete_bodies, models=models, ids=ids))
    return Purged(contents, mails, bodies, events)


def _old_events(
    database: Database, models: LedgerModels, states: Sequence[str], days: float
) -> Iterator[list[int]]:
    """Iterate over the ids of events that are finished and older than some days.

    Ids grow with the time, so that it goes through them until they are not as old.
    """
    events, last = models.table("event"), 0
    before = now() - timedelta(days=days)
    while True:
        rows = database.rows(
            sa.select(events.c.id, events.c.state, events.c.created_at)
            .where(events.c.id > last)
            .order_by(events.c.id)
            .limit(BATCH)
        )
        old = [row for row in rows if row.created_at < before]
        if not old:
            return
        last = rows[-1].id
        if ids := [row.id for row in old if row.state in states]:
            yield ids


def _delete_bodies(
    connection: sa.Connection, models: LedgerModels, ids: Sequence[int]
) -> int:
    """Delete the bodies of events; return how many events had one."""
    events, content = models.table("event"), models.table("content")
    owners = [owner_of_event(number) for number in ids]
    query = sa.select(content.c.owner).where(content.c.owner.in_(owners)).distinct()
    large = len(connection.execute(query).all())
    connection.execute(sa.delete(content).where(content.c.owner.in_(owners)))
    inline = sa.update(events).where(events.c.id.in_(ids), events.c.body.is_not(None))
    return large + connection.execute(inline.values(body=None)).rowcount


def _old_mails(
    database: Database, models: LedgerModels, days: float
) -> Iterator[list[int]]:
    """Iterate over the ids of finished messages that are older than some days."""
    mails, last = models.table("mail"), 0
    while True:
        query = _finished(mails, _FINISHED, days).where(mails.c.id > last)
        rows = database.rows(query.order_by(mails.c.id).limit(BATCH))
        if not rows:
            return
        last = rows[-1].id
        yield [row.id for row in rows]


def _old_contents(
    database: Database, models: LedgerModels, days: float
) -> Iterator[list[int]]:
    """Iterate over the ids of messages whose content is not needed any more.

    It goes through the contents, of which there are fewer than messages.
    """
    mails, content, last = models.table("mail"), models.table("content"), 0
    while True:
        rows = database.rows(
            sa.select(content.c.id, content.c.owner)
            .where(content.c.id > last, content.c.number == 0)
            .order_by(content.c.id)
            .limit(BATCH)
        )
        if not rows:
            return
        last = rows[-1].id
        ids = [number for row in rows if (number := mail_of_owner(row.owner))]
        old = _finished(mails, _NOT_NEEDED, days).where(mails.c.id.in_(ids))
        if found := [row.id for row in database.rows(old)]:
            yield found


def _finished(mails: sa.Table, states: Sequence[str], days: float) -> sa.Select[Any]:
    before: datetime = now() - timedelta(days=days)
    return (
        sa.select(mails.c.id)
        .where(mails.c.state.in_(states))
        .where(mails.c.finished_at < before)
    )


def _delete(
    connection: sa.Connection, models: LedgerModels, ids: Sequence[int]
) -> None:
    """Delete messages. SQLite does not follow foreign keys unless it is told to."""
    tables = {name: models.table(name) for name in ("mail", "recipient", "event")}
    content = models.table("content")
    recipients = sa.select(tables["recipient"].c.id).where(
        tables["recipient"].c.mail_id.in_(ids)
    )
    events = tables["event"]
    connection.execute(
        sa.update(events)
        .where(events.c.recipient_id.in_(recipients))
        .values(recipient_id=None)
    )
    owners = [owner_of_mail(number) for number in ids]
    connection.execute(sa.delete(content).where(content.c.owner.in_(owners)))
    for name, column in (("recipient", "mail_id"), ("mail", "id")):
        table = tables[name]
        connection.execute(sa.delete(table).where(table.c[column].in_(ids)))
