"""Erases what is kept about an address."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple

import sqlalchemy as sa

from ..address import parse_address
from ..errors import MessageError
from ..webhooks.inbound import parse_inbound
from .columns import now
from .content import load, owner_of_event, owner_of_mail
from .database import Database
from .mapping import LedgerModels
from .process import short

__all__ = ["Forgotten", "forget"]

#: Rows that are erased in a transaction.
BATCH = 200
_OVER = ("accepted", "cancelled")
_NOT_SENT = ("queued", "claimed", "doubtful", "failed")


class Forgotten(NamedTuple):
    """What :meth:`.Ledger.forget` has erased.

    :param recipients: Rows of the address as a recipient.
    :param mails: Messages whose content, subject and metadata are gone.
    :param events: Events, with their bodies and receipts.
    :param waiting: Messages that are still to be sent to other recipients. Their
        content stays until they have been sent, and until :meth:`.Ledger.purge`.
    """

    recipients: int
    mails: int
    events: int
    waiting: int


def forget(database: Database, models: LedgerModels, address: str) -> Forgotten:
    """Erase what is kept about an address; see :meth:`.Ledger.forget`."""
    spellings = _spellings(address)
    events = 0
    for ids in _events(database, models, spellings):
        database.run(partial(delete_events, models=models, ids=ids))
        events += len(ids)
    recipients = mails = waiting = 0
    for rows in _recipients(database, models, spellings):
        erased, left = database.run(partial(_erase, models=models, rows=rows))
        recipients += len(rows)
        mails += erased
        waiting += left
    if models.suppression is not None:
        table = models.table("suppression")
        database.change(sa.delete(table).where(table.c.address.in_(spellings)))
    return Forgotten(recipients, mails, events, waiting)


def _spellings(address: str) -> set[str]:
    """Return an address as it may be stored, in lower case."""
    found = {short(address.strip())}
    with suppress(MessageError):  # an event may have told any text
        parsed, written = parse_address(address, "address")
        found |= {short(parsed.addr_spec), short(written)}
    return found


# ---- recipients


def _recipients(
    database: Database, models: LedgerModels, spellings: set[str]
) -> Iterator[list[Any]]:
    recipients = models.table("recipient")
    ours = sa.or_(
        sa.func.lower(recipients.c.envelope).in_(spellings),
        sa.func.lower(recipients.c.address).in_(spellings),
    )
    query = sa.select(recipients.c.id, recipients.c.mail_id).where(ours).limit(BATCH)
    while rows := database.rows(query):
        yield rows


def _erase(
    connection: sa.Connection, models: LedgerModels, rows: Sequence[Any]
) -> tuple[int, int]:
    """Erase recipients, and the content of messages that nobody else waits for.

    :returns: The number of messages whose content was erased, and of the others.
    """
    mails, recipients = models.table("mail"), models.table("recipient")
    content, events = models.table("content"), models.table("event")
    of_mails = {row.mail_id for row in rows}
    of_recipients = [row.id for row in rows]
    connection.execute(
        sa.update(events)
        .where(events.c.recipient_id.in_(of_recipients))
        .values(recipient_id=None)
    )
    connection.execute(sa.delete(recipients).where(recipients.c.id.in_(of_recipients)))
    waiting = set(
        connection.scalars(
            sa.select(recipients.c.mail_id)
            .join(mails, mails.c.id == recipients.c.mail_id)
            .where(mails.c.id.in_(of_mails), mails.c.state.not_in(_OVER))
            .where(recipients.c.postal_id.is_(None))
            .where(recipients.c.suppressed.is_(None))
        )
    )
    ids = sorted(of_mails - waiting)
    owners = [owner_of_mail(number) for number in ids]
    connection.execute(sa.delete(content).where(content.c.owner.in_(owners)))
    connection.execute(
        sa.update(mails)
        .where(mails.c.id.in_(ids), mails.c.state.in_(_NOT_SENT))
        .values(state="cancelled", due_at=None, waiting=None, finished_at=now())
    )
    connection.execute(
        sa.update(mails)
        .where(mails.c.id.in_(ids))
        .values(subject="", meta={}, options={}, error=None)
    )
    return len(ids), len(waiting)


# ---- events


def _events(
    database: Database, models: LedgerModels, spellings: set[str]
) -> Iterator[list[int]]:
    """Iterate over the ids of events that an address has received or sent."""
    events = models.table("event")
    # One that is being handled stays: its receivers would work for another event.
    free = events.c.state != "claimed"
    query = sa.select(events.c.id).where(events.c.address.in_(spellings), free)
    query = query.limit(BATCH)
    while rows := database.rows(query):
        yield [row.id for row in rows]
    # Mail names its author in the headers too, and these are in the body only.
    last = 0
    query = (
        sa.select(events.c.id, events.c.body, events.c.media_type)
        .where(events.c.kind.in_(("inbound", "report")), free)
        .order_by(events.c.id)
        .limit(1)
    )
    while rows := database.rows(query.where(events.c.id > last)):
        last = rows[0].id
        if _names(database, models, rows[0]) & spellings:
            yield [last]


def _names(database: Database, models: LedgerModels, row: Any) -> set[str]:
    """Return the addresses in the headers of a mail whose body is still there."""
    body = row.body
    if body is None:
        content = models.table("content")
        owner = owner_of_event(row.id)
        body = database.run(lambda connection: load(connection, content, owner))
    if body is None:
        return set()
    mail = parse_inbound(bytes(body), row.media_type).message
    named = [mail.from_email, *mail.to, *mail.cc, *mail.reply_to]
    return {short(address.addr_spec) for address in named if address is not None}


def delete_events(
    connection: sa.Connection, models: LedgerModels, ids: Sequence[int]
) -> None:
    """Delete events with their bodies and receipts."""
    events, receipts = models.table("event"), models.table("receipt")
    content = models.table("content")
    owners = [owner_of_event(number) for number in ids]
    connection.execute(sa.delete(content).where(content.c.owner.in_(owners)))
    connection.execute(sa.delete(receipts).where(receipts.c.event_id.in_(ids)))
    connection.execute(sa.delete(events).where(events.c.id.in_(ids)))
