"""The ledger of one app: everything that works on its rows, joined.

:class:`.Ledger` is one object for all apps; it keeps one of these for each.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import replace
from datetime import datetime, timedelta
from functools import partial
from typing import Any, TypeVar

import sqlalchemy as sa
from flask import Flask

from ..errors import ConfigurationError, TransportError
from ..sending.message import Message
from ..sending.pipeline import SendPipeline
from ..sending.transport import Transport
from ..signals import message_sent, send_failed
from ..vocabulary import EventType
from ..webhooks.dispatch import Dispatched, Event
from ..webhooks.events import TrackingEvent, UnsubscribeEvent
from ..webhooks.verify import VerifiedRequest
from .bounces import Bounces
from .claims import Claims
from .columns import now
from .content import load, owner_of_mail
from .database import Database
from .deliver import Deliverer, result_of
from .doubts import Doubts
from .event_store import EventStore
from .evidence import Evidence, Noted
from .known import Known, note_seen
from .mapping import LedgerModels
from .poll import Poll
from .process import Processor, Source
from .receipts import Receipts
from .restore import restore_message
from .scan import Scan
from .settings import LedgerSettings
from .suppression import Suppressions
from .turn import Turn

__all__ = ["AppLedger"]

T = TypeVar("T")

#: Messages that a worker claims at a time. More would save little, and would wait for
#: it while other workers have nothing to do.
BATCH = 20
#: Messages that are sent before doubtful ones are looked for.
MOST_BEFORE_SETTLING = 100
#: Seconds between two notes of foreign mail.
_SEEN_EVERY = timedelta(seconds=10)
_sleep = time.sleep
_UNFINISHED = ("queued", "claimed", "sending", "doubtful")


class AppLedger:
    """Delivers and settles the messages of one app, and handles its events.

    Its methods need no app context, and can be called from any thread.

    :param app: The app.
    :param bind: Returns the engine of the tables, or a connection.
    :param receipts: Those of the ledger.
    :ivar wake: Called with ``"mail"`` or ``"event"`` and ids that somebody has to see
        to. :class:`.Ledger` sets it.
    :raises ConfigurationError: for a setting that can't be used.
    """

    def __init__(
        self,
        app: Flask,
        bind: Callable[[], sa.Engine | sa.Connection],
        models: LedgerModels,
        receipts: Receipts,
    ) -> None:
        self.app = app
        self.wake: Callable[[str, Sequence[int]], object] = lambda kind, ids: None
        self.settings: LedgerSettings = LedgerSettings.from_config(app.config)
        self.database: Database = Database(bind)
        self._models = models
        self._mails = models.table("mail")
        self._claims = Claims(self.database, models, self.settings)
        self._evidence = Evidence(models)
        self.suppressions: Suppressions = Suppressions(
            models, self.settings.suppression
        )
        self._events = Processor(
            app,
            EventStore(self.database, models, self.settings),
            receipts,
            later=self.settings.events == "later",
            wake=lambda ids: self.wake("event", ids),
        )
        self._pipelines: dict[str, Callable[[], SendPipeline]] = {}
        self._deliverers: dict[str, Deliverer] = {}
        self._scans: dict[str, Scan] = {}
        self._polls: dict[str, Poll] = {}
        self._bounces: dict[str, Bounces] = {}
        self._seen_at: dict[str, datetime] = {}

    def add(
        self,
        server: str,
        pipeline: Callable[[], SendPipeline],
        postal: object,
        secrets: Callable[[], Sequence[str]],
        only_ours: Callable[[], bool],
    ) -> None:
        """Add a Postal of the app.

        :param server: Its extension key.
        :param pipeline: Returns its pipeline, which test helpers may exchange.
        :param postal: The extension, which is passed to receivers.
        :param secrets: Returns keys and passwords that must not be stored.
        :param only_ours: Tells whether requests come from our mail server alone, and
            not from others of the same installation.
        """
        self._pipelines[server] = pipeline
        self._deliverers[server] = Deliverer(
            self.app,
            server,
            self.database,
            self._models,
            self._claims,
            pipeline,
            self.settings,
            self.suppressions,
        )
        doubts = Doubts(
            server,
            self.database,
            self._models,
            self.settings,
            accepted=self._announce_accepted,
            failed=self._announce_failed,
        )
        self._scans[server] = Scan(doubts, partial(self._turn, f"scan:{server}"))
        self._polls[server] = Poll(
            server,
            self.database,
            self._models,
            self.settings,
            partial(self._turn, f"poll:{server}"),
            partial(self._events.store_missed, server),
            receives=lambda: server in self.app.blueprints,
        )
        self._bounces[server] = Bounces(
            server, self.database, self._models, self.suppressions
        )
        self._events.add(
            server,
            Source(
                postal,
                secrets,
                note=partial(self.note, server=server),
                conclude=partial(self._conclude, server=server, only_ours=only_ours),
                noted=self.noted,
            ),
        )

    def _turn(self, job: str) -> Turn:
        content = self._models.table("content")
        return Turn(self.database, content, job, self.settings.lease)

    # ---- delivering

    def deliver(self, mail_id: int) -> str | None:
        """Deliver a message; see :meth:`.Ledger.deliver`."""
        query = sa.select(self._mails.c.server).where(self._mails.c.id == mail_id)
        rows = self.database.rows(query)
        if not rows:
            return None
        server: str = rows[0].server
        if server not in self._deliverers:
            raise ConfigurationError(
                f"a message was enqueued with the Postal {server!r}, which this app"
                " does not have any more"
            )
        attempts = self._claims.claim_one(mail_id)
        return self._deliverers[server].deliver(attempts).get(mail_id)

    def send_due(
        self, stopping: Callable[[], bool] = bool, *, most: int | None = None
    ) -> int:
        """Deliver messages that are due; return the number of attempts.

        :param stopping: Asked before each message whether to leave the rest for later.
        :param most: The number of messages at most; all that are due if not given.
        """
        done = 0
        left = dict(self._deliverers)
        while left:
            # One batch of each Postal in turn: one that many messages wait for, or that
            # does not answer, must not hold the others up.
            for server in list(left):
                if stopping() or (most is not None and done >= most):
                    return done
                limit = BATCH if most is None else min(BATCH, most - done)
                attempts = self._claims.claim(server, limit)
                if attempts:
                    done += len(left[server].deliver(attempts, stopping))
                else:
                    del left[server]
        return done

    def release_expired(self) -> int:
        """Free messages and events whose lease has run out."""
        return self._claims.release_expired() + self._events.store.release_expired()

    def settle(
        self,
        stopping: Callable[[], bool] = bool,
        yielding: Callable[[], bool] = bool,
    ) -> int:
        """Look in Postal for doubtful messages that are due; return how many settled.

        Nothing is looked up while sending is suppressed.

        :param stopping: Asked before each call whether to go on another time.
        :param yielding: Asked, after some calls, whether there is something else to do.
        """
        return sum(
            scan.run(transport, stopping, yielding)
            for scan, transport in self._asking(self._scans, stopping)
        )

    def poll(self, stopping: Callable[[], bool] = bool) -> int:
        """Ask Postal for events that never came; return how many were missed.

        Postal is not asked while sending is suppressed.

        :param stopping: Asked before each mail whether to go on another time.
        """
        return sum(
            poll.run(transport, stopping)
            for poll, transport in self._asking(self._polls, stopping)
        )

    def read_bounces(self, stopping: Callable[[], bool] = bool) -> int:
        """Fetch bounce mails that are due, and return how many were read.

        :param stopping: Asked before each call whether to go on another time.
        """
        return sum(
            bounces.run(transport, stopping)
            for bounces, transport in self._asking(self._bounces, stopping)
        )

    def _asking(
        self, jobs: Mapping[str, T], stopping: Callable[[], bool] = bool
    ) -> Iterator[tuple[T, Transport]]:
        """Iterate over the jobs of the Postals that may be asked now."""
        for server, job in jobs.items():
            pipeline = self._pipelines[server]()
            if not stopping() and not pipeline.is_suppressed(self.app):
                yield job, pipeline.transport

    def reconcile(self, since: datetime) -> tuple[int, int]:
        """Ask Postal now for the events of all messages since a time.

        It takes as long as the bound on calls in a minute lets it.

        :param since: When the first of them was stored, as it is stored.
        :returns: The number of recipients that were asked for, and of missed events.
        """
        asked = missed = 0
        for server, poll in self._polls.items():
            began, transport = now(), self._pipelines[server]().transport
            asked += poll.ask_since(since, began)
            while poll.due(began):
                missed += poll.run(transport, patient=False)
                if poll.due(began):
                    _sleep(1.0)
        return asked, missed

    def drain(
        self,
        stopping: Callable[[], bool] = bool,
        yielding: Callable[[], bool] = bool,
    ) -> int:
        """Do all that is due; see :meth:`.Ledger.drain` and :meth:`settle`."""
        done = 0
        while not stopping():
            # Doubtful messages don't wait until the last of a long queue is sent.
            self.release_expired()
            sent = self.send_due(stopping, most=MOST_BEFORE_SETTLING)
            handled = self.process_due(stopping, most=MOST_BEFORE_SETTLING)
            done += sent + handled
            settled = self.settle(stopping, yielding)
            settled += self.poll(lambda: stopping() or yielding())
            settled += self.read_bounces(lambda: stopping() or yielding())
            if not (settled or sent or handled):
                break
        return done

    def due(self, limit: int) -> list[tuple[str, int]]:
        """Return kinds and ids of what is due: events first, the oldest first.

        Neither keeps the other out: each gets half of the limit if both need it.
        """
        events, mails = self._events.due(limit), self._due_mails(limit)
        mails = mails[: max(limit - len(events), limit // 2)]
        events = events[: limit - len(mails)]
        return [*(("event", n) for n in events), *(("mail", n) for n in mails)]

    def any_mail_due(self) -> bool:
        """Tell whether a message is due."""
        return bool(self._due_mails(1))

    def _due_mails(self, limit: int) -> list[int]:
        mails = self._mails
        query = (
            sa.select(mails.c.id)
            .where(mails.c.state == "queued", mails.c.due_at <= now())
            .where(mails.c.server.in_(self._pipelines))
            .order_by(mails.c.due_at)
            .limit(limit)
        )
        return [row.id for row in self.database.rows(query)]

    def next_due(self) -> datetime | None:
        """Return when there is something to do next; ``None`` if all is finished."""
        mails = self._mails
        times = []
        for state in _UNFINISHED:
            query = (
                sa.select(mails.c.due_at)
                .where(mails.c.state == state, mails.c.due_at.is_not(None))
                .where(mails.c.server.in_(self._pipelines))
                .order_by(mails.c.due_at)
                .limit(1)
            )
            times += [row.due_at for row in self.database.rows(query)]
        asked = [
            *(poll.next_due() for poll, _ in self._asking(self._polls)),
            *(bounces.next_due() for bounces, _ in self._asking(self._bounces)),
        ]
        for due_at in (self._events.store.next_due(self._pipelines), *asked):
            times += [] if due_at is None else [due_at]
        return min(times, default=None)

    # ---- events

    def receive(
        self, server: str, request: VerifiedRequest, event: Event
    ) -> Dispatched:
        """Store a request of a Postal, and call the receivers of its event."""
        return self._events.receive(server, request, event)

    def process(self, event_id: int) -> str | None:
        """Call the receivers of an event; see :meth:`.Ledger.process`."""
        return self._events.process(event_id)

    def process_due(
        self, stopping: Callable[[], bool] = bool, *, most: int | None = None
    ) -> int:
        """Process events that are due; return the number of attempts.

        :param stopping: Asked before each event whether to leave the rest for later.
        :param most: The number of events at most; all that are due if not given.
        """
        return self._events.process_due(stopping, most=most)

    def note(
        self, connection: sa.Connection, event: Event, *, server: str
    ) -> Noted | None:
        """Note what an event tells, in a transaction of the caller's.

        :returns: ``None`` if it is about none of our messages.
        """
        noted = None
        if isinstance(event, (TrackingEvent, UnsubscribeEvent)):
            noted = self._evidence.note(connection, event, server)
        if noted is None:
            self._note_foreign(connection, server, event)
        return noted

    def _conclude(
        self,
        connection: sa.Connection,
        event: Event,
        noted: Noted | None,
        number: int,
        *,
        server: str,
        only_ours: Callable[[], bool],
    ) -> None:
        """Suppress an address that an event tells not to write to.

        Others of the same Postal installation can sign events too. An event without
        the token that only we know counts if they can't reach this app.
        """
        if isinstance(event, UnsubscribeEvent):
            if noted is not None:
                event = replace(event, recipient=noted.envelope, list=noted.list)
            self.suppressions.note_unsubscribed(connection, event, number)
        elif isinstance(event, TrackingEvent):
            is_webhook = event.source == "webhook"
            if noted is None:
                trusted = is_webhook and only_ours()
            else:
                # A report is proven by how its message was found, and what was polled
                # comes from our own server.
                trusted = not is_webhook or noted.proven or only_ours()
            envelope = event.recipient if noted is None else noted.envelope
            if not trusted or envelope is None:
                return
            self.suppressions.note_tracking(connection, event, envelope, number)
            if noted is not None and event.event_type is EventType.BOUNCED:
                bounce_id = (event.bounce or {}).get("id")
                self._bounces[server].plan(connection, noted.recipient_id, bounce_id)

    def noted(self, noted: Noted | None) -> None:
        """Tell receivers of what an event has settled, after the commit."""
        if noted is not None and noted.settled:
            self._announce_accepted(noted.mail_id)

    def _note_foreign(
        self, connection: sa.Connection, server: str, event: Event
    ) -> None:
        """Note the id of mail that is none of ours: Postal has one counter for all."""
        number, token = getattr(event, "id", None), getattr(event, "token", None)
        if number is None or token is None:
            return
        at, seen_at = now(), self._seen_at.get(server)
        if seen_at is None or at - seen_at >= _SEEN_EVERY:
            self._seen_at[server] = at
            note_seen(connection, self._models, server, Known(number, token))

    # ---- receivers

    def _announce_accepted(self, mail_id: int) -> None:
        """Tell receivers of a message that evidence has shown to be accepted."""
        if message_sent.has_receivers_for(self.app):
            mail, rows, message = self._restored(mail_id)
            result = result_of(mail.message_id, rows)
            self._deliverers[mail.server].report(message, result)

    def _announce_failed(self, mail_id: int) -> None:
        """Tell receivers of a message that was tried again and again."""
        if send_failed.has_receivers_for(self.app):
            mail, _, message = self._restored(mail_id)
            error = TransportError(str(mail.error), maybe_sent=False)
            self._deliverers[mail.server].report(message, error)

    def _restored(self, mail_id: int) -> tuple[Any, list[Any], Message]:
        """Read a message with the rows of its recipients."""
        mails, recipients = self._mails, self._models.table("recipient")
        content = self._models.table("content")

        def read(connection: sa.Connection) -> tuple[Any, list[Any], bytes | None]:
            mail = connection.execute(sa.select(mails).where(mails.c.id == mail_id))
            rows = connection.execute(
                sa.select(recipients)
                .where(recipients.c.mail_id == mail_id)
                .order_by(recipients.c.id)
            )
            mime = load(connection, content, owner_of_mail(mail_id))
            return mail.one(), list(rows), mime

        mail, rows, mime = self.database.run(read)
        to = [row.address for row in rows if row.suppressed is None]
        return mail, rows, restore_message(mail, to, mime or b"")
