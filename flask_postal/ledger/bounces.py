"""Fetch bounce mails from Postal's API, and suppress addresses that are dead.

A ``bounced`` event says that a mail came back, but not why; the bounce mail does. It is
fetched in the background, not while Postal waits for the response to the event.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..errors import APIError, PostalError
from ..outcome import BounceType
from ..sending.stored import fetch_message
from ..sending.transport import Transport
from ..webhooks.mail.bounce_report import BounceRecipient, BounceReport, read_bounce
from .columns import now
from .database import Database
from .mapping import LedgerModels
from .suppression import Suppressions

__all__ = ["Bounces"]

_log = logging.getLogger("flask_postal.ledger")

#: Bounce mails that are fetched in a row.
BATCH = 20
#: While one process reads a bounce mail, others leave it alone.
LEASE = timedelta(minutes=2)
#: Before another try, and after which there is none.
PAUSE, GIVE_UP = timedelta(minutes=10), timedelta(days=3)


class Bounces:
    """The bounce mails of one Postal that are still to be read.

    :param server: Its extension key.
    """

    def __init__(
        self,
        server: str,
        database: Database,
        models: LedgerModels,
        suppressions: Suppressions,
    ) -> None:
        self._server = server
        self._database = database
        self._recipients = models.table("recipient")
        self._events = models.table("event")
        self._suppressions = suppressions

    def plan(
        self, connection: sa.Connection, recipient_id: int, bounce_id: object
    ) -> None:
        """Have the bounce mail of a message fetched by the next :meth:`run`.

        :param bounce_id: Its id, as the event has it; ignored if it is none.
        """
        if type(bounce_id) is int and 0 <= bounce_id < 2**63:
            recipients = self._recipients
            connection.execute(
                sa.update(recipients)
                .where(recipients.c.id == recipient_id)
                .values(bounce_id=bounce_id, bounce_at=now(), bounce_type=None)
            )

    def next_due(self) -> datetime | None:
        """Return when there is one to read; ``None`` for never."""
        recipients = self._recipients
        rows = self._database.rows(
            sa.select(recipients.c.bounce_at)
            .where(recipients.c.bounce_at.is_not(None))
            .where(recipients.c.server == self._server)
            .order_by(recipients.c.bounce_at)
            .limit(1)
        )
        return rows[0].bounce_at if rows else None

    def run(self, transport: Transport, stopping: Callable[[], bool] = bool) -> int:
        """Read the bounce mails that are due; return how many were read.

        :param stopping: Asked before each call whether to go on another time.
        """
        recipients, done = self._recipients, 0
        due = (
            sa.select(recipients)
            .where(recipients.c.bounce_at <= now())
            .where(recipients.c.server == self._server)
            .order_by(recipients.c.bounce_at)
            .limit(BATCH)
        )
        for row in self._database.rows(due):
            if stopping():
                break
            if self._take(row):
                done += self._read(row, transport)
        return done

    def _take(self, row: Any) -> bool:
        recipients = self._recipients
        taken = (
            sa.update(recipients)
            .where(recipients.c.id == row.id, recipients.c.bounce_at == row.bounce_at)
            .values(bounce_at=now() + LEASE)
        )
        return self._database.change(taken) == 1

    def _read(self, row: Any, transport: Transport) -> bool:
        try:
            mail = fetch_message(transport, row.bounce_id, ("details", "raw_message"))
            # The id in an event could be that of any mail.
            raw = mail.raw if mail.bounce_for_id == row.postal_id else None
        except PostalError as error:
            gone = isinstance(error, APIError) and error.code == "MessageNotFound"
            if not gone and now() < (row.status_at or now()) + GIVE_UP:
                self._set(row, bounce_at=now() + PAUSE)
                _log.warning(
                    "a bounce mail can't be fetched at the moment: %s",
                    ascii(str(error)),
                )
                return False
            raw = None
        about = None if raw is None else _about(read_bounce(raw), row.envelope)
        kind = BounceType.UNKNOWN if about is None else about.bounce_type

        def conclude(connection: sa.Connection) -> None:
            known = self._set(row, connection, bounce_at=None, bounce_type=str(kind))
            if not known:  # the address has been forgotten
                return
            event = sa.select(sa.func.max(self._events.c.id)).where(
                self._events.c.recipient_id == row.id,
                self._events.c.event_type == "bounced",
            )
            self._suppressions.note_failure(
                connection,
                row.envelope,
                kind,
                event_id=connection.scalar(event),
                detail=_detail(about),
            )

        self._database.run(conclude)
        return True

    def _set(
        self, row: Any, connection: sa.Connection | None = None, **values: Any
    ) -> bool:
        recipients = self._recipients
        statement = (
            sa.update(recipients).where(recipients.c.id == row.id).values(**values)
        )
        if connection is None:
            return self._database.change(statement) == 1
        return connection.execute(statement).rowcount == 1


def _about(report: BounceReport, envelope: str) -> BounceRecipient | None:
    """Return what a report says about a recipient.

    A mail that was forwarded bounces with another address; then it must be the only
    one.
    """
    for recipient in report.recipients:
        if (recipient.address or "").lower() == envelope.lower():
            return recipient
    return report.recipients[0] if len(report.recipients) == 1 else None


def _detail(about: BounceRecipient | None) -> str:
    if about is None:
        return "the bounce mail does not say"
    return f"{about.bounce_rule}: {about.diagnostic or ''}"
