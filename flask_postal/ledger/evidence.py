"""What tracking events tell about stored messages.

An event proves that Postal has taken the message for its recipient: Postal reports the
Message-ID, which the ledger chose, and the recipient. That may settle a message whose
response was lost. Events come in any order, and the first may come before the response.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ..vocabulary import EventType
from ..webhooks.events import TrackingEvent
from .columns import now, stored
from .mapping import LedgerModels

__all__ = ["Evidence", "find_recipient"]

#: Statuses of a recipient, from weak to strong: a later one never gives way to an
#: earlier one, whatever the order in which events arrive.
_RANKS = {
    EventType.QUEUED: 0,
    EventType.DEFERRED: 1,
    EventType.DELIVERED: 2,
    EventType.OPENED: 3,
    EventType.CLICKED: 4,
    EventType.FAILED: 5,
    EventType.BOUNCED: 5,
}


class Evidence:
    """Writes what events tell into the tables, in transactions of its own."""

    def __init__(self, engine: sa.Engine, models: LedgerModels) -> None:
        self._engine = engine
        self._models = models
        self._mails = models.table("mail")
        self._recipients = models.table("recipient")

    def note(self, event: TrackingEvent, server: str) -> dict[str, Any] | None:
        """Note an event.

        :param server: The extension key of the Postal that it came from.
        :returns: The metadata of its message; ``None`` if it is about none of ours.
        """
        with self._engine.begin() as connection:
            found = find_recipient(connection, self._models, event, server)
            if found is None:
                return None
            self._update(connection, found, event)
            self._settle(connection, found.mail_id)
            query = sa.select(self._mails.c.meta).where(
                self._mails.c.id == found.mail_id
            )
            meta: dict[str, Any] = connection.execute(query).scalar_one()
        return meta

    def _update(self, connection: sa.Connection, found: Any, event: Any) -> None:
        recipients = self._recipients
        values: dict[str, Any] = {}
        if found.postal_id is None and event.id is not None:
            values |= {"postal_id": event.id, "token": event.token}
        at = stored(event.timestamp or datetime.now(UTC))
        if _wins(event.event_type, at, found.status, found.status_at):
            reason = event.reject_reason or event.hold_reason
            values |= {
                "status": str(event.event_type),
                "status_at": at,
                "reason": None if reason is None else str(reason),
            }
        if values:
            connection.execute(
                sa.update(recipients)
                .where(recipients.c.id == found.id)
                .values(**values)
            )

    def _settle(self, connection: sa.Connection, mail_id: int) -> None:
        """Accept a doubtful message once every recipient is known to have been taken.

        Only then: the others may still have to be sent.
        """
        mails, recipients = self._mails, self._recipients
        missing = sa.exists().where(
            recipients.c.mail_id == mail_id, recipients.c.postal_id.is_(None)
        )
        connection.execute(
            sa.update(mails)
            .where(mails.c.id == mail_id, mails.c.state == "doubtful", ~missing)
            .values(state="accepted", due_at=None, error=None, finished_at=now())
        )


def find_recipient(
    connection: sa.Connection, models: LedgerModels, event: TrackingEvent, server: str
) -> Any:
    """Find the row of an event's recipient, by Postal's id and token or by Message-ID.

    The token must fit: an id is unique within one mail server only, and another one may
    have been behind the URL before.
    """
    mails, recipients = models.table("mail"), models.table("recipient")
    if event.id is not None and event.token is not None:
        by_id = sa.select(recipients).where(
            recipients.c.server == server,
            recipients.c.postal_id == event.id,
            recipients.c.token == event.token,
        )
        if (found := connection.execute(by_id).first()) is not None:
            return found
    if event.message_id is None or event.recipient is None:
        return None
    by_message = (
        sa.select(recipients)
        .join(mails, mails.c.id == recipients.c.mail_id)
        .where(mails.c.message_id == event.message_id)
        .where(mails.c.server == server)
        .order_by(recipients.c.id)
    )
    wanted = _mailbox(event.recipient)
    for candidate in connection.execute(by_message).all():
        if _mailbox(candidate.envelope) == wanted:
            return candidate
    return None


def _wins(
    new: EventType, at: datetime, old: str | None, old_at: datetime | None
) -> bool:
    if new not in _RANKS:
        return False
    if old is None or old_at is None:
        return True
    before, after = _RANKS[EventType(old)], _RANKS[new]
    return after > before or (after == before and at >= old_at)


def _mailbox(address: str) -> tuple[str, str]:
    local, _, domain = address.rpartition("@")
    return local, domain.lower()
