"""Suppressed addresses: look them up, and add them after bounces and complaints."""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..address import is_sendable, parse_address
from ..errors import ConfigurationError
from ..outcome import BounceType
from ..sending.suppression import SuppressionReason
from ..text import list_name
from ..values import as_line
from ..vocabulary import EventType
from ..webhooks.events import TrackingEvent, UnsubscribeEvent
from .columns import clean, now, stored
from .enqueue import savepoint
from .mapping import LedgerModels

__all__ = ["Suppressions", "checked", "suppression_key"]

#: Addresses that are looked for in one statement.
BATCH = 500
#: Failed mails in a row, and the time between the first and the last of them, after
#: which an address is left alone, and for how long.
FAILURES = 5
FAILURES_WITHIN = timedelta(days=3)
PAUSE = timedelta(days=30)
_FAILED = (str(EventType.FAILED), str(EventType.BOUNCED))
_ARRIVED = tuple(
    map(
        str,
        (
            *(EventType.DELIVERED, EventType.OPENED, EventType.CLICKED),
            EventType.COMPLAINED,
        ),
    )
)


def suppression_key(address: str) -> str:
    """Return an address as the table has it: in lower case, and cut at 255.

    Local parts may differ in case alone, but hardly any server tells them apart, and
    people don't either.
    """
    return clean(address, 10_000).lower()[:255].rstrip()


class Suppressions:
    """The suppressed addresses of a ledger.

    Its methods work in a transaction of the caller's.

    :param reasons: Those that count.
    """

    def __init__(
        self, models: LedgerModels, reasons: Collection[SuppressionReason]
    ) -> None:
        self._models = models
        self._recipients = models.table("recipient")
        self._reasons = list(reasons)
        self._table: sa.Table | None = None
        if models.suppression is not None:
            self._table = table = models.table("suppression")
            # Built once: it is asked for each message.
            self._found = (
                sa.select(table.c.address, table.c.reason)
                .where(table.c.address.in_(sa.bindparam("keys", expanding=True)))
                .where(table.c.list.in_(sa.bindparam("lists", expanding=True)))
                .where(table.c.reason.in_([str(reason) for reason in self._reasons]))
                .where(
                    sa.or_(
                        table.c.until.is_(None),
                        table.c.until > sa.bindparam("now", type_=table.c.until.type),
                    )
                )
                .order_by(table.c.id.desc())
            )

    @property
    def is_used(self) -> bool:
        """Whether anything can be suppressed."""
        return self._table is not None and bool(self._reasons)

    @property
    def table(self) -> sa.Table:
        """The table.

        :raises ConfigurationError: if the ledger has none.
        """
        if self._table is None:
            raise ConfigurationError(
                "this ledger has no table of suppressed addresses; add suppression= to"
                " its LedgerModels, with a model derived from SuppressionMixin"
            )
        return self._table

    # ---- looking up

    def find(
        self,
        connection: sa.Connection,
        envelopes: Sequence[str],
        mailing_list: str | None = None,
    ) -> Mapping[str, SuppressionReason]:
        """Return the reason for those of some addresses that are suppressed.

        :param envelopes: Addresses as they are sent.
        :param mailing_list: The list that the message belongs to.
        """
        keys: dict[str, list[str]] = {}
        for envelope in envelopes:
            keys.setdefault(suppression_key(envelope), []).append(envelope)
        found: dict[str, SuppressionReason] = {}
        wanted, lists = list(keys), sorted({"", mailing_list or ""})
        for start in range(0, len(wanted), BATCH):
            some = wanted[start : start + BATCH]
            asked = {"keys": some, "lists": lists, "now": now()}
            for row in connection.execute(self._found, asked):
                reason = SuppressionReason(row.reason)
                found |= dict.fromkeys(keys[row.address], reason)
        return found

    # ---- changing

    def add(
        self,
        connection: sa.Connection,
        address: str,
        reason: SuppressionReason,
        *,
        mailing_list: str = "",
        detail: str | None = None,
        event_id: int | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> bool:
        """Suppress an address; one that is suppressed for this reason stays as it is.

        If it has ended, it begins anew.

        :param since: As it is stored; now if not given.
        :param until: As it is stored; never if not given.
        :returns: Whether anything has changed.
        """
        table, key = self.table, suppression_key(address)
        mine = (
            table.c.address == key,
            table.c.list == mailing_list,
            table.c.reason == str(reason),
        )
        values = {
            "detail": None if detail is None else clean(as_line(detail) or "", 500),
            "event_id": event_id,
            "since": since or now(),
            "until": until,
        }
        known = connection.execute(sa.select(table.c.until).where(*mine)).first()
        if known is not None:
            if known.until is None or (until is not None and known.until >= until):
                return False
            connection.execute(sa.update(table).where(*mine).values(**values))
            return True
        names = {"address": key, "list": mailing_list, "reason": str(reason)}
        try:
            with savepoint(connection, self._models):
                connection.execute(sa.insert(table).values(**names, **values))
        except sa.exc.IntegrityError:  # somebody else has just added it
            return False
        return True

    def remove(
        self,
        connection: sa.Connection,
        address: str,
        *,
        mailing_list: str | None = None,
        reason: SuppressionReason | None = None,
    ) -> int:
        """Delete the rows of an address.

        :param mailing_list: Only this list; ``""`` for what holds for all mail.
        :param reason: Only this reason.
        :returns: How many there were.
        """
        table = self.table
        rows = sa.delete(table).where(table.c.address.in_(_spellings(address)))
        if mailing_list is not None:
            rows = rows.where(table.c.list == mailing_list)
        if reason is not None:
            rows = rows.where(table.c.reason == str(reason))
        return connection.execute(rows).rowcount

    # ---- events

    def note_tracking(
        self,
        connection: sa.Connection,
        event: TrackingEvent,
        envelope: str,
        event_id: int | None,
    ) -> None:
        """Note what an event tells about an address.

        :param envelope: The address that the mail was sent to.
        """
        if self._table is None or not is_sendable(envelope):
            return
        if event.event_type is EventType.COMPLAINED:
            self.add(
                connection, envelope, SuppressionReason.COMPLAINT, event_id=event_id
            )
        elif event.event_type is EventType.FAILED:
            self.note_failure(
                connection,
                envelope,
                event.bounce_type,
                event_id=event_id,
                detail=f"{event.bounce_rule}: {event.mta_response or ''}",
            )

    def note_failure(
        self,
        connection: sa.Connection,
        envelope: str,
        bounce_type: BounceType | None,
        *,
        event_id: int | None,
        detail: str,
    ) -> None:
        """Note that a mail to an address has failed or bounced."""
        if self._table is None:
            return
        if bounce_type is BounceType.PERMANENT:
            self.add(
                connection,
                envelope,
                SuppressionReason.BOUNCE,
                event_id=event_id,
                detail=detail,
            )
        elif self._has_failed_for_long(connection, envelope):
            self.add(
                connection,
                envelope,
                SuppressionReason.FAILURES,
                event_id=event_id,
                detail=detail,
                until=now() + PAUSE,
            )

    def _has_failed_for_long(self, connection: sa.Connection, envelope: str) -> bool:
        """Tell whether the last mails to an address have failed, for days.

        After a pause that has ended, those before it count no more.
        """
        recipients, table = self._recipients, self.table
        ended = connection.scalar(
            sa.select(table.c.until).where(
                table.c.address == suppression_key(envelope),
                table.c.list == "",
                table.c.reason == str(SuppressionReason.FAILURES),
            )
        )
        rows = connection.execute(
            sa.select(recipients.c.status, recipients.c.status_at)
            .where(recipients.c.envelope.in_({envelope, envelope.lower()}))
            .where(recipients.c.status.in_(_FAILED + _ARRIVED))
            .order_by(recipients.c.status_at.desc(), recipients.c.id.desc())
            .limit(1000)
        )
        failed_at: list[datetime] = []
        for row in rows:
            if row.status in _ARRIVED or (ended and row.status_at <= ended):
                break
            failed_at.append(row.status_at)
            if len(failed_at) >= FAILURES and (
                failed_at[0] - failed_at[-1] >= FAILURES_WITHIN
            ):
                return True
        return False

    def note_unsubscribed(
        self, connection: sa.Connection, event: UnsubscribeEvent, event_id: int
    ) -> None:
        """Suppress an address for the list that it has left."""
        if self._table is None or event.recipient is None or event.list is None:
            return
        self.add(
            connection,
            event.recipient,
            SuppressionReason.UNSUBSCRIBE,
            mailing_list=event.list,
            event_id=event_id,
            since=None if event.timestamp is None else stored(event.timestamp),
        )

    # ---- by hand

    def rows(
        self, address: str | None = None, reason: SuppressionReason | None = None
    ) -> sa.Select[Any]:
        """Return the query of the records, the newest first."""
        table, model = self.table, self._models.suppression
        query = sa.select(model).order_by(model.id.desc())
        if address is not None:
            query = query.where(table.c.address.in_(_spellings(address)))
        return query if reason is None else query.where(model.reason == str(reason))

    def held_by_postal(
        self, connection: sa.Connection, address: str | None, limit: int
    ) -> list[str]:
        """Return addresses that are on Postal's own list, as the last events say."""
        recipients = self._recipients
        later = recipients.alias("later")
        query = (
            sa.select(recipients.c.envelope)
            .where(recipients.c.status == str(EventType.QUEUED))
            .where(recipients.c.reason == "suppressed")
            .where(
                ~sa.exists().where(
                    later.c.envelope == recipients.c.envelope,
                    later.c.id > recipients.c.id,
                    later.c.status.is_not(None),
                )
            )
            .order_by(recipients.c.id.desc())
            .limit(limit)
        )
        if address is not None:
            lower = sa.func.lower(recipients.c.envelope)
            query = query.where(lower.in_(_spellings(address)))
        return [row.envelope for row in connection.execute(query)]


def checked(address: Any, mailing_list: str | None) -> tuple[str, str]:
    """Return an address and a list as the table has them.

    :raises MessageError: if one of them can't be used.
    """
    parsed, _ = parse_address(address, "address")
    key = suppression_key(parsed.addr_spec)
    return key, "" if mailing_list is None else list_name(mailing_list, "list")


def _spellings(address: str) -> Iterable[str]:
    """Return an address as it may be stored, which need not be a valid one."""
    found = {suppression_key(address.strip())}
    with suppress(ValueError):  # MessageError
        found.add(suppression_key(parse_address(address, "address")[0].addr_spec))
    return found
