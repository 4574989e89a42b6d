"""What tracking events tell about stored messages.

An event proves that Postal has taken the message for its recipient: Postal reports the
Message-ID, which the ledger chose, and the recipient. That may settle a message whose
response was lost. Events come in any order, and the first may come before the response.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa

from ..vocabulary import EventType
from ..webhooks.events import TrackingEvent, UnsubscribeEvent
from .columns import now, stored
from .mapping import LedgerModels
from .poll_times import pause_before_poll

__all__ = ["Evidence", "Noted", "same_mailbox", "settle"]

AboutMessage = TrackingEvent | UnsubscribeEvent

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
    EventType.COMPLAINED: 6,
}


@dataclass(frozen=True, slots=True)
class Noted:
    """The message that an event is about.

    :param envelope: The recipient, as the message was sent to it.
    :param postal_id: Postal's id of the mail, if it is known.
    :param list: The list that the message belongs to, if any.
    :param proven: Whether the event has the token that Postal's API has told, which
        no other mail server of the installation knows.
    :param settled: Whether the event has settled that Postal has accepted it.
    """

    mail_id: int
    recipient_id: int
    envelope: str
    postal_id: int | None
    meta: dict[str, Any]
    list: str | None
    settled: bool = False
    proven: bool = False


class Evidence:
    """Finds the messages of events, and writes what the events tell."""

    def __init__(self, models: LedgerModels) -> None:
        self._models = models
        self._mails = mails = models.table("mail")
        self._recipients = recipients = models.table("recipient")
        # Built once: for each webhook, building them would take as long as INSERT.
        param, columns = sa.bindparam, recipients.c
        known = (
            *(columns.id, columns.mail_id, columns.envelope, columns.postal_id),
            *(columns.token, columns.told_at, columns.status, columns.status_at),
        )
        self._by_id = sa.select(*known).where(
            recipients.c.server == param("server"),
            recipients.c.postal_id == param("id"),
            recipients.c.token == param("token"),
        )
        self._by_message = (
            sa.select(*known, mails.c.recipient_count)
            .join(mails, mails.c.id == recipients.c.mail_id)
            .where(mails.c.message_id == param("message_id"))
            .where(mails.c.server == param("server"))
            .order_by(recipients.c.id)
        )
        self._mail = sa.select(mails.c.meta, mails.c.list, mails.c.state).where(
            mails.c.id == param("id")
        )

    def note(
        self, connection: sa.Connection, event: AboutMessage, server: str
    ) -> Noted | None:
        """Note an event, in a transaction of the caller's.

        :param server: The extension key of the Postal that it came from.
        :returns: What is known of its message; ``None`` if it is about none of ours.
        """
        found = self.find(connection, event, server)
        if found is None:
            return None
        if isinstance(event, TrackingEvent):
            self._update(connection, found, event)
        mail = connection.execute(self._mail, {"id": found.mail_id}).one()
        settled = mail.state == "doubtful" and settle(
            connection, self._models, found.mail_id
        )
        return Noted(
            found.mail_id,
            found.id,
            found.envelope,
            found.postal_id,
            mail.meta,
            mail.list,
            settled,
            found.told_at is not None and found.token == event.token,
        )

    def find(self, connection: sa.Connection, event: AboutMessage, server: str) -> Any:
        """Find the row of an event's recipient, by Postal's id and token or Message-ID.

        The token must fit: an id is unique within one mail server only, and another one
        may have been behind the URL before.
        """
        message = {"server": server, "message_id": event.message_id}
        if isinstance(event, UnsubscribeEvent) or event.source == "report":
            return _reported(event, connection.execute(self._by_message, message).all())
        if event.id is not None and event.token is not None:
            ids = {"server": server, "id": event.id, "token": event.token}
            if (found := connection.execute(self._by_id, ids).first()) is not None:
                return found
        if event.message_id is None or event.recipient is None:
            return None
        for candidate in connection.execute(self._by_message, message).all():
            if same_mailbox(candidate.envelope, event.recipient):
                return candidate
        return None

    def _update(self, connection: sa.Connection, found: Any, event: Any) -> None:
        recipients = self._recipients
        values: dict[str, Any] = {}
        if found.postal_id is None and _is_id(event):
            values |= {"postal_id": event.id, "token": event.token}
        at = stored(event.timestamp or datetime.now(UTC))
        if _wins(event.event_type, at, found.status, found.status_at):
            reason = event.reject_reason or event.hold_reason
            values |= {
                "status": str(event.event_type),
                "status_at": at,
                "reason": None if reason is None else str(reason),
                "bounce_type": None,
            }
            if event.event_type is EventType.FAILED and event.bounce_type is not None:
                values["bounce_type"] = str(event.bounce_type)
            values |= _next_poll(found.status, str(event.event_type))
        if values:
            connection.execute(
                sa.update(recipients)
                .where(recipients.c.id == found.id)
                .values(**values)
            )
        if "postal_id" in values:
            # After the recipient, as when the result of an attempt is written. In
            # another order, the two transactions could wait for each other.
            self._take_claim_away(connection, found.mail_id)

    def _take_claim_away(self, connection: sa.Connection, mail_id: int) -> None:
        """Have a message that is claimed, but not being sent yet, claimed again.

        Whoever has claimed it would send it to a recipient that is known by now.
        """
        mails = self._mails
        connection.execute(
            sa.update(mails)
            .where(mails.c.id == mail_id, mails.c.state == "claimed")
            .values(state="queued", due_at=now())
        )


def settle(connection: sa.Connection, models: LedgerModels, mail_id: int) -> bool:
    """Accept a doubtful message once every recipient is known to have been taken.

    Only then: the others may still have to be sent.

    :returns: Whether it is accepted now.
    """
    mails, recipients = models.table("mail"), models.table("recipient")
    missing = sa.exists().where(
        recipients.c.mail_id == mail_id,
        recipients.c.postal_id.is_(None),
        recipients.c.suppressed.is_(None),
    )
    settled = connection.execute(
        sa.update(mails)
        .where(mails.c.id == mail_id, mails.c.state == "doubtful", ~missing)
        .values(
            state="accepted",
            due_at=None,
            error=None,
            waiting=None,
            finished_at=now(),
        )
    )
    return settled.rowcount == 1


def _reported(event: AboutMessage, candidates: Sequence[Any]) -> Any:
    """Find the recipient who sent a feedback report, which anybody can write.

    Whoever has the mail knows its Message-ID, and each recipient knows Postal's token
    of the own copy. So a report without the token proves the recipient of a mail that
    never had another one.
    """
    if event.token is not None and any(row.token is not None for row in candidates):
        return next((row for row in candidates if row.token == event.token), None)
    alone = len(candidates) == 1 and candidates[0].recipient_count == 1
    return candidates[0] if alone else None


def _is_id(event: TrackingEvent) -> bool:
    """Tell whether an event has an id and a token as Postal makes them."""
    return event.id is not None and event.id >= 0 and len(event.token or "") <= 64


def _wins(
    new: EventType, at: datetime, old: str | None, old_at: datetime | None
) -> bool:
    if new not in _RANKS:
        return False
    if old is None or old_at is None:
        return True
    before, after = _RANKS[EventType(old)], _RANKS[new]
    return after > before or (after == before and at >= old_at)


def _next_poll(before: str | None, status: str) -> dict[str, Any]:
    """Return when Postal's API is asked whether an event is missing, and how often."""
    pause = pause_before_poll(status)
    if pause is None or pause == pause_before_poll(before):
        return {"polls": 0}
    return {"polls": 0, "poll_at": now() + pause}


def same_mailbox(one: str, other: str) -> bool:
    """Compare two addresses; only domains are the same in upper and lower case."""
    return _mailbox(one) == _mailbox(other)


def _mailbox(address: str) -> tuple[str, str]:
    local, _, domain = address.rpartition("@")
    return local, domain.lower()
