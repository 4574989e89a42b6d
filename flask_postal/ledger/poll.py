"""Asks Postal's API for events whose webhook never came.

Postal sends a webhook for 36 minutes, and forgets it. What an app misses while it is
down, or while the webhook in Postal is wrong, can still be read from the API, except
for opens and clicks.

One process asks at a time. The calls in a minute are bounded: Postal's web process has
few threads, and shares them with those who send.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..errors import APIError, PostalError
from ..sending.stored import MessageDetails, fetch_deliveries, fetch_message
from ..sending.transport import Transport
from .columns import now
from .database import Database
from .mapping import LedgerModels
from .missed import MissedEvent, events_of, webhook_body
from .poll_times import FIRST_POLL, pause_before_poll
from .settings import LedgerSettings
from .turn import Turn

__all__ = ["Poll"]

_log = logging.getLogger("flask_postal.ledger")

#: Calls of the API in a minute.
PER_MINUTE = 120
MINUTE = timedelta(minutes=1)
#: Calls that one mail may need: its deliveries, itself, a bounce.
PER_MAIL = 3
#: Mails that are read from the table together.
BATCH = 50
#: Mails without any event that make an alarm.
SILENT = 3
#: Between two alarms, and between two looks at all mails that wait for an event.
HOUR = timedelta(hours=1)
#: How far the clocks of Postal and the database may differ.
CLOCKS = timedelta(hours=1)

#: Stores an event with its identity, for receivers; ``False`` if it is there already.
Store = Callable[[bytes, str], bool]


class Poll:
    """The events of one Postal that never came.

    :param server: Its extension key.
    :param turn: Has one process ask at a time.
    :param store: Stores what was missed.
    :param receives: Tells whether the app has the webhooks of this Postal.
    """

    def __init__(
        self,
        server: str,
        database: Database,
        models: LedgerModels,
        settings: LedgerSettings,
        turn: Callable[[], Turn],
        store: Store,
        receives: Callable[[], bool],
    ) -> None:
        self.server = server
        self.database = database
        self._models = models
        self._settings = settings
        self._recipients = models.table("recipient")
        self._turn = turn
        self._store = store
        self._receives = receives
        self._not_before: datetime | None = None

    # ---- when

    def _waiting(self) -> tuple[Any, ...]:
        recipients = self._recipients
        return (
            recipients.c.server == self.server,
            recipients.c.poll_at.is_not(None),
            recipients.c.postal_id.is_not(None),
            recipients.c.token.is_not(None),
        )

    def next_due(self) -> datetime | None:
        """Return when to ask next; ``None`` for never."""
        recipients = self._recipients
        query = sa.select(recipients.c.poll_at).where(*self._waiting())
        rows = self.database.rows(query.order_by(recipients.c.poll_at).limit(1))
        if not rows:
            return None
        due: datetime = rows[0].poll_at
        return due if self._not_before is None else max(due, self._not_before)

    def ask_since(self, since: datetime, at: datetime) -> int:
        """Have the mails that were stored since a time asked for.

        :param at: When, now or before.
        :returns: How many recipients that is.
        """
        mails, recipients = self._models.table("mail"), self._recipients
        ours = sa.select(mails.c.id).where(
            mails.c.server == self.server, mails.c.created_at >= since
        )
        return self.database.change(
            sa.update(recipients)
            .where(recipients.c.mail_id.in_(ours), recipients.c.token.is_not(None))
            .values(poll_at=at, polls=0)
        )

    def due(self, before: datetime) -> int:
        """Return how many recipients were due at a time."""
        recipients = self._recipients
        query = sa.select(sa.func.count()).select_from(recipients)
        rows = self.database.rows(
            query.where(*self._waiting(), recipients.c.poll_at <= before)
        )
        return int(rows[0][0])

    # ---- asking

    def run(
        self,
        transport: Transport,
        stopping: Callable[[], bool] = bool,
        *,
        patient: bool = True,
    ) -> int:
        """Ask for the mails that are due, if nobody else does.

        :param stopping: Asked before each mail whether to go on another time.
        :param patient: Whether to ask again in a minute where Postal can't be asked.
        :returns: The number of events that were missed.
        :raises PostalError: if it can't be asked, unless ``patient``.
        """
        due_at = self.next_due()
        if due_at is None or due_at > now():
            return 0
        turn = self._turn()
        if not turn.take():
            self._not_before = now() + timedelta(seconds=5)
            return 0
        round_ = _Round(self, transport, turn, patient=patient)
        try:
            return round_.run(stopping)
        finally:
            self._not_before = round_.not_before
            turn.end(**round_.state)

    def read_due(self) -> list[Any]:
        """Return the recipients that are due, the oldest first."""
        recipients = self._recipients
        return self.database.rows(
            sa.select(recipients)
            .where(*self._waiting(), recipients.c.poll_at <= now())
            .order_by(recipients.c.poll_at, recipients.c.id)
            .limit(BATCH)
        )

    def missing(self, row: Any, transport: Transport) -> list[MissedEvent]:
        """Return the events of a mail that are not stored.

        Those that may have been stored, and deleted since, are left out.
        """
        deliveries = fetch_deliveries(transport, row.postal_id)
        oldest = now() - timedelta(days=self._settings.keep_rows) + CLOCKS
        found = [
            event
            for event in events_of(self.server, row.token, deliveries)
            if _time_of(event) > oldest
        ]
        events = self._models.table("event")
        identities = [one for event in found for one in event.identities]
        if not identities:
            return []
        query = sa.select(events.c.identity).where(events.c.identity.in_(identities))
        stored = {known.identity for known in self.database.rows(query)}
        return [event for event in found if stored.isdisjoint(event.identities)]

    def store(self, event: MissedEvent, body: bytes) -> bool:
        """Store an event, for receivers; ``False`` if its webhook has come now."""
        return self._store(body, event.identities[0])

    def put_off(self, row: Any, *, found: bool) -> None:
        """Note when to ask about a mail again.

        :param found: Whether something was missed, so that the count begins anew.
        """
        recipients = self._recipients
        polls = 0 if found else row.polls + 1
        query = sa.select(recipients.c.status).where(recipients.c.id == row.id)
        rows = self.database.rows(query)
        pause = pause_before_poll(rows[0].status if rows else None, polls)
        self._set(row, None if pause is None else now() + pause, polls)

    def ask_later(self, row: Any) -> None:
        """Ask about a mail again later, because Postal could not be asked."""
        self._set(row, now() + FIRST_POLL, row.polls)

    def stop(self, row: Any) -> None:
        """Never ask about a mail again: Postal does not have it any more."""
        self._set(row, None, row.polls)

    def _set(self, row: Any, poll_at: datetime | None, polls: int) -> None:
        recipients = self._recipients
        self.database.change(
            sa.update(recipients)
            .where(recipients.c.id == row.id)
            .values(poll_at=poll_at, polls=polls)
        )

    def ask_for_all_that_wait(self) -> None:
        """Ask now for all mails whose last event may have been missed too."""
        recipients, at = self._recipients, now()
        is_open = sa.or_(
            recipients.c.status.is_(None),
            recipients.c.status.in_(("queued", "deferred")),
        )
        self.database.change(
            sa.update(recipients)
            .where(*self._waiting(), recipients.c.poll_at > at, is_open)
            .where(recipients.c.told_at < at - FIRST_POLL)
            .values(poll_at=at)
        )

    def expects_webhooks(self) -> bool:
        """Tell whether the app has webhooks; one that only sends needs no alarm."""
        return self._receives() or self.last_webhook() is not None

    def last_webhook(self) -> datetime | None:
        """Return when the last webhook was stored; ``None`` if none ever was."""
        events = self._models.table("event")
        rows = self.database.rows(
            sa.select(events.c.created_at)
            .where(events.c.server == self.server, events.c.source == "webhook")
            .order_by(events.c.id.desc())
            .limit(1)
        )
        return rows[0].created_at if rows else None


class _Round:
    """The calls of one turn.

    :ivar state: What the next turn needs to know: calls, alarms, looks at all mails.
    :ivar not_before: When there may be calls again.
    """

    def __init__(
        self, poll: Poll, transport: Transport, turn: Turn, *, patient: bool
    ) -> None:
        self._poll = poll
        self._patient = patient
        self._transport = transport
        self._turn = turn
        self.state: dict[str, Any] = dict(turn.state)
        self.not_before: datetime | None = None

    def run(self, stopping: Callable[[], bool]) -> int:
        missed = 0
        while rows := self._poll.read_due():
            for row in rows:
                if stopping() or not self._may_call():
                    return missed
                try:
                    missed += self._ask(row)
                except PostalError as error:
                    # The others must not wait for one that always fails.
                    self._poll.ask_later(row)
                    if not self._patient:
                        raise
                    self.not_before = now() + MINUTE
                    _log.warning(
                        "Postal can't be asked for missing events at the moment: %s",
                        ascii(str(error)),
                    )
                    return missed
            if not self._turn.save(**self.state):
                return missed
        return missed

    def _ask(self, row: Any) -> int:
        """Ask about one mail; return the number of events that were missed."""
        try:
            self._count()
            missing = self._poll.missing(row, self._transport)
            mail = self._details(row.postal_id) if missing else None
        except APIError as error:
            if error.code != "MessageNotFound":
                raise
            self._poll.stop(row)
            return 0
        if mail is None:
            self._poll.put_off(row, found=False)
            return 0
        if mail.token != row.token:  # another mail server is behind the URL
            self._poll.stop(row)
            return 0
        stored = [
            self._poll.store(event, webhook_body(event, mail, self._bounce(event)))
            for event in missing
        ]
        self._poll.put_off(row, found=True)
        if any(stored):
            self._note_silence(row)
            if self._is_over("looked_at", HOUR):
                self._poll.ask_for_all_that_wait()
        return sum(stored)

    def _bounce(self, event: MissedEvent) -> MessageDetails | None:
        if event.bounce_id is None:
            return None
        try:
            return self._details(event.bounce_id)
        except APIError as error:
            if error.code != "MessageNotFound":
                raise
            return None

    def _details(self, number: int) -> MessageDetails:
        self._count()
        return fetch_message(self._transport, number, ("details", "inspection"))

    # ---- calls in a minute

    def _may_call(self) -> bool:
        began = self._time("minute")
        if began is None or not timedelta() <= now() - began < MINUTE:
            self.state |= {"minute": now().isoformat(), "calls": 0}
            return True
        if self.state["calls"] + PER_MAIL <= PER_MINUTE:
            return True
        self.not_before = began + MINUTE
        return False

    def _count(self) -> None:
        self.state["calls"] = self.state.get("calls", 0) + 1

    # ---- the alarm

    def _note_silence(self, row: Any) -> None:
        """Log an error once several mails have had no event at all."""
        if row.status is not None or row.told_at is None:
            return
        if not self._poll.expects_webhooks():
            return
        if row.told_at > now() - FIRST_POLL:
            return
        began = self._time("silent_since")
        last = self._poll.last_webhook()
        if began is None or (last is not None and last > began):
            self.state |= {"silent_since": now().isoformat(), "silent": []}
        silent: list[int] = self.state["silent"]
        if row.mail_id not in silent:
            silent.append(row.mail_id)
        if len(silent) < SILENT:
            return
        self.state["silent"] = silent[-SILENT:]
        if self._is_over("alarmed_at", HOUR):
            _log.error(
                "webhooks of %s don't arrive: Postal has tried to deliver messages over"
                " ten minutes ago, and no event has come for them. The last one came"
                " %s. Their events are read from the API, but opens and clicks are"
                " lost. Check that the app was up; that the webhook in Postal is"
                " enabled and has the URL that `flask postal check` shows; that"
                " POSTAL_WEBHOOK_KEY is Postal's key; that POSTAL_WEBHOOK_SECRET is the"
                " user:password in the URL; and Postal's own list of webhook requests,"
                " which shows what it was answered",
                self._poll.server,
                "never" if last is None else f"at {last:%Y-%m-%d %H:%M:%S} UTC",
            )

    def _is_over(self, name: str, pause: timedelta) -> bool:
        """Tell whether something was done long enough ago, and note that it is now."""
        at = self._time(name)
        if at is not None and now() - at < pause:
            return False
        self.state[name] = now().isoformat()
        return True

    def _time(self, name: str) -> datetime | None:
        text = self.state.get(name)
        return None if text is None else datetime.fromisoformat(text)


def _time_of(event: MissedEvent) -> datetime:
    return datetime(1970, 1, 1) + timedelta(microseconds=event.micros)
