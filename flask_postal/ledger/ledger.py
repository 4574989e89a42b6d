"""The ledger object: joins the models with the apps' database sessions."""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Sequence
from contextlib import nullcontext
from datetime import datetime
from functools import partial
from typing import Any, NamedTuple, Protocol

import sqlalchemy as sa
from flask import Flask, current_app, request_started

from ..errors import CancelSend, ConfigurationError
from ..sending.message import Message
from ..sending.pipeline import SendPipeline
from ..settings import Settings
from ..webhooks.dispatch import Dispatched, Event
from ..webhooks.events import TrackingEvent
from ..webhooks.verify import VerifiedRequest
from .app_ledger import AppLedger
from .bind import Bind
from .columns import now, stored
from .commits import after_commit
from .enqueue import Draft, insert, savepoint, write_draft
from .evidence import Evidence
from .forget import Forgotten, forget
from .health import health_of
from .mapping import LedgerModels, default_models, join
from .purge import Purged, purge
from .receipts import Receipts
from .suppression_list import SuppressionList
from .wake import Wake, wake_of

__all__ = ["Ledger", "Reconciled"]

_log = logging.getLogger("flask_postal.ledger")

#: Where an app keeps what its ledgers need: ledger -> state.
_EXTENSION = "flask_postal_ledgers"


class Reconciled(NamedTuple):
    """What :meth:`.Ledger.reconcile` has done.

    :param recipients: How many recipients Postal was asked about.
    :param missed: How many events had never come.
    """

    recipients: int
    missed: int


class PostalServer(Protocol):
    """A :class:`.Postal`, as far as a ledger needs it."""

    key: str


class _AppState:
    """What the ledger keeps for one app.

    :param wake: Called with ``"mail"`` or ``"event"`` and the ids of what was
        committed, and somebody has to see to.
    """

    def __init__(self, ledger: AppLedger, wake: Wake, bind: Bind) -> None:
        self.ledger = ledger
        self.wake = wake
        #: Called with the ids of messages that were committed. It is one object, by
        #: which a session collects them.
        self.committed: Callable[[Sequence[int]], object] = partial(wake, "mail")
        #: The same for events.
        self.committed_events: Callable[[Sequence[int]], object] = partial(
            wake, "event"
        )
        self._bind = bind
        self._begun_in: int | None = None  # process

    def begin(self, app: Flask, **extra: Any) -> None:
        """Look for what an earlier process has left, with the first request.

        Without it, what waits for a retry would wait until there is something else to
        do.
        """
        if self._begun_in == os.getpid():
            return
        self._begun_in = os.getpid()
        try:
            self._bind()
            self.committed([])
        except Exception:  # noqa: BLE001
            _log.exception("the ledger could not begin to work; the next commit tries")


class Ledger:
    """Stores messages in the app's own database, and delivers them.

    :param db: The app's Flask-SQLAlchemy object. It must be initialised with every app
        that enqueues messages.
    :param models: Models of the app's own; default ones are created if not given.
    :raises ConfigurationError: if the models can't be used together.
    """

    def __init__(self, db: Any, *, models: LedgerModels | None = None) -> None:
        self.db = db
        self.models: LedgerModels = models or default_models(db)
        join(self.models)
        self.models.mail.ledger_models = self.models
        self.models.event.ledger_models = self.models
        self._receipts = Receipts(db, self.models)
        self._evidence = Evidence(self.models)
        #: The addresses that nothing is sent to.
        self.suppressions: SuppressionList = SuppressionList(
            db, self.models, lambda: self._state(_current()).ledger
        )

    def register(
        self,
        app: Flask,
        postal: PostalServer,
        pipeline_of: Callable[[Flask], SendPipeline],
        settings_of: Callable[[Flask], Settings],
        longest_call: float,
    ) -> None:
        """Note a Postal of an app; :meth:`.Postal.init_app` calls this.

        :param postal: The extension.
        :param pipeline_of: Returns its pipeline, which test helpers may exchange.
        :param settings_of: Returns its settings, which they exchange too.
        :param longest_call: Seconds that a call of its API may take.
        :raises ConfigurationError: for a setting that can't be used.
        """
        # The app keeps it, so that it ends with the app.
        states = app.extensions.setdefault(_EXTENSION, {})
        if self not in states:
            bind = Bind(self.db, app, self.models)
            ledger = AppLedger(app, bind, self.models, self._receipts)
            if ledger.settings.lease <= longest_call:
                raise ConfigurationError(
                    f"POSTAL_LEASE is {ledger.settings.lease:g} seconds, and a call of"
                    f" Postal may take {longest_call:g}; set POSTAL_LEASE to more than"
                    " the sum of the time-outs in POSTAL_TIMEOUT",
                    key="POSTAL_LEASE",
                )
            ledger.wake = wake_of(ledger, longest_call)
            states[self] = made = _AppState(ledger, ledger.wake, bind)
            request_started.connect(made.begin, app)
        state: _AppState = states[self]
        state.ledger.add(
            postal.key,
            partial(pipeline_of, app),
            postal,
            lambda: settings_of(app).secrets,
            lambda: bool(settings_of(app).webhook_secrets),
        )

    def enqueue(
        self,
        app: Flask,
        pipeline: SendPipeline,
        message: Message,
        *,
        server: str,
        key: str | None = None,
        send_at: datetime | float | None = None,
    ) -> Any:
        """Add a message to the caller's transaction; see :meth:`.Postal.enqueue`."""
        return self.enqueue_many(
            app, pipeline, [(message, key, send_at)], server=server
        )[0]

    def enqueue_many(
        self,
        app: Flask,
        pipeline: SendPipeline,
        messages: Iterable[tuple[Message, str | None, datetime | float | None]],
        *,
        server: str,
    ) -> list[Any]:
        """Add messages to the caller's transaction: all of them, or none.

        :param messages: Messages with their keys and times.
        """
        drafts: list[Draft | None] = []
        for message, key, send_at in messages:
            try:
                draft = write_draft(
                    app, pipeline, message, server=server, key=key, send_at=send_at
                )
            except CancelSend:
                drafts.append(None)
            else:
                drafts.append(draft)
        if not any(drafts):
            return [self._cancelled() for _ in drafts]
        state = self._state(app)
        state.ledger.database.bind()  # while there is an app context
        session = self.db.session()
        connection = session.connection(bind_arguments={"mapper": self.models.mail})
        several = len(drafts) > 1
        with savepoint(connection, self.models) if several else nullcontext():
            ids = [
                None if draft is None else insert(connection, self.models, draft)
                for draft in drafts
            ]
        for number in ids:
            if number is not None:
                after_commit(session, state.committed, number)
        return [
            self._cancelled() if number is None else self._record(session, number)
            for number in ids
        ]

    def _record(self, session: Any, number: int) -> Any:
        """Load a record without flushing what the caller has not finished."""
        with session.no_autoflush:
            found = session.get(self.models.mail, number)
            if found is None:
                # MariaDB reads what was there when the transaction began, and another
                # one has committed the message with this key since: read with a lock.
                found = session.get(
                    self.models.mail, number, with_for_update={"read": True}
                )
        return found

    # ---- delivering

    def deliver(self, mail_id: int) -> str | None:
        """Deliver a message of the current app, if it is due.

        :returns: Its state then; ``None`` if it is not due, or somebody else has it.
        """
        return self._usable().deliver(mail_id)

    def process(self, event_id: int) -> str | None:
        """Call the receivers of a stored event of the current app, if it is due.

        It waits for an earlier event about the same mail, unless that one has failed.

        :returns: Its state then: ``done``, ``queued`` or ``dead``; ``None`` if it is
            not due, or somebody else has it.
        """
        return self._usable().process(event_id)

    def sweep(self, limit: int = 1000) -> list[tuple[str, int]]:
        """Free what has a lease that ran out, and return what is due now.

        For a queue's scheduled job, which finds what the queue has lost, and should
        call :meth:`settle` too.

        :returns: Pairs of ``"mail"`` and an id, for :meth:`deliver`, and of ``"event"``
            and an id, for :meth:`process`.
        """
        ledger = self._usable()
        ledger.release_expired()
        return ledger.due(limit)

    def settle(self) -> int:
        """Ask Postal about doubtful messages, missing events and bounces that are due.

        The relay, the thread and :meth:`drain` do it by themselves. One process does it
        at a time.

        :returns: The number of messages that are settled, of events that were missed
            and of bounce mails that were read.
        """
        ledger = self._usable()
        return ledger.settle() + ledger.poll() + ledger.read_bounces()

    def drain(self, stopping: Callable[[], bool] = bool) -> int:
        """Do all that is due now, in the calling thread.

        Messages are delivered, receivers called, and doubtful messages looked for.
        Nothing is written where nothing is due.

        :param stopping: Asked before each message whether to leave the rest for later.
        :returns: The number of messages and events that an attempt was made for.
        """
        return self._usable().drain(stopping)

    def of(self, app: Flask) -> AppLedger:
        """Return the part of an app, for a process that delivers."""
        return self._state(app).ledger

    def _usable(self) -> AppLedger:
        """Return the current app's part, unless its database can't be used now."""
        ledger = self._state(_current()).ledger
        bind = ledger.database.bind()
        if isinstance(bind, sa.Engine) and isinstance(bind.pool, sa.StaticPool):
            self._check_shared()
        return ledger

    def _check_shared(self) -> None:
        """Refuse to work on the one connection while the caller has written on it.

        A commit of ours would be the caller's too.
        """
        session = self.db.session()
        if not session.in_transaction():
            return
        connection = session.connection(bind_arguments={"mapper": self.models.mail})
        # SQLite's driver begins a transaction with the first write only.
        written = connection.connection.dbapi_connection.in_transaction
        if written:
            raise ConfigurationError(
                "an SQLite in memory has one connection, and the current session has a"
                " transaction open on it; commit or roll back before messages are"
                " delivered"
            )

    def _state(self, app: Flask) -> _AppState:
        state: _AppState | None = app.extensions.get(_EXTENSION, {}).get(self)
        if state is None:
            raise ConfigurationError(
                "the current app has no Postal with this ledger; call"
                " 'postal.init_app(app)'"
            )
        return state

    # ---- events

    def receive(
        self, postal: PostalServer, app: Flask, request: VerifiedRequest, event: Event
    ) -> Dispatched:
        """Store a request and call the receivers of its event.

        It is the handler of :class:`.Webhooks`.

        :param postal: The Postal that the request came from.
        :returns: What Postal is answered with.
        """
        return self._state(app).ledger.receive(postal.key, request, event)

    def mail_of(self, server: str, event: TrackingEvent) -> Any:
        """Return the record of an event's message; see :meth:`.Postal.mail_of`."""
        session = self.db.session()
        connection = session.connection(bind_arguments={"mapper": self.models.mail})
        found = self._evidence.find(connection, event, server)
        return None if found is None else self._record(session, found.mail_id)

    def reconcile(self, since: datetime) -> Reconciled:
        """Ask Postal for events of the current app's messages that never came.

        The thread and the relay do it by themselves, for each message in its time; see
        the page "After an outage". Receivers get the events as if their webhooks had
        come, with ``source="poll"``.

        :param since: An aware datetime: messages that were enqueued earlier are left
            out.
        :raises PostalError: if Postal can't be asked.
        :raises ValueError: if the datetime is not aware.
        """
        if since.tzinfo is None:
            raise ValueError("since must be an aware datetime")
        return Reconciled(*self._usable().reconcile(stored(since)))

    def health(self, server: str) -> dict[str, float | int | None]:
        """Return numbers about a Postal's messages; see :meth:`.Postal.health`."""
        return health_of(self._usable().database, self.models, server)

    # ---- by hand

    def get(self, mail_id: int) -> Any:
        """Return a record in the current session.

        :raises ValueError: if there is no such message.
        """
        record = self.db.session.get(self.models.mail, mail_id)
        if record is None:
            raise ValueError(f"there is no message {mail_id}")
        return record

    def find(
        self,
        *,
        state: str | None = None,
        recipient: str | None = None,
        limit: int = 50,
    ) -> list[Any]:
        """Return records, the newest first.

        :param recipient: An address as it is sent, its domain in A-label form.
        """
        mail, address = self.models.mail, self.models.recipient
        query = sa.select(mail).order_by(mail.id.desc()).limit(limit)
        if state is not None:
            query = query.where(mail.state == state)
        if recipient is not None:
            to = sa.select(address.mail_id).where(address.envelope == recipient)
            query = query.where(mail.id.in_(to))
        return list(self.db.session.scalars(query))

    def get_event(self, event_id: int) -> Any:
        """Return the record of an event in the current session.

        :raises ValueError: if there is no such event.
        """
        record = self.db.session.get(self.models.event, event_id)
        if record is None:
            raise ValueError(f"there is no event {event_id}")
        return record

    def find_events(self, *, state: str | None = None, limit: int = 50) -> list[Any]:
        """Return records of events, the newest first.

        :param state: ``queued``, ``claimed``, ``done`` or ``dead``; by default those
            that are not done.
        """
        event = self.models.event
        query = sa.select(event).order_by(event.id.desc()).limit(limit)
        wanted = ("queued", "claimed", "dead") if state is None else (state,)
        return list(self.db.session.scalars(query.where(event.state.in_(wanted))))

    def receivers_of(self, record: Any) -> list[str]:
        """Return the names of the receivers that have handled an event."""
        receipt = self.models.receipt
        query = sa.select(receipt.receiver).where(receipt.event_id == record.id)
        return sorted(self.db.session.scalars(query))

    def retry(self, record: Any) -> None:
        """Queue a failed or doubtful message again, in the caller's transaction.

        A doubtful message may have been sent: recipients that Postal is not known to
        have taken get it, perhaps for the second time. As with :meth:`.Postal.enqueue`,
        nothing is sent before the commit.

        The record may also be one of an event that is dead or waits for its next
        attempt: receivers that have not handled it are called, after the commit.

        :raises ValueError: if the message or event is in another state.
        """
        before = ("failed", "doubtful")
        if isinstance(record, self.models.event):
            before = ("dead", "queued")
        self._move(record, before, state="queued", due_at=now(), tried_at=None)

    def cancel(self, record: Any) -> None:
        """Cancel a queued or doubtful message, in the caller's transaction.

        A doubtful message may have been sent. It is not sent any more then to
        recipients that have not got it.

        :raises ValueError: if the message is in another state.
        """
        if isinstance(record, self.models.event):
            raise ValueError("an event can't be cancelled")
        self._move(
            record,
            ("queued", "doubtful"),
            state="cancelled",
            due_at=None,
            finished_at=now(),
        )

    def purge(self) -> Purged:
        """Delete what is older than the settings keep, in small transactions.

        That is the content of accepted and cancelled messages, and the bodies of
        events that are done, after :data:`POSTAL_KEEP_CONTENT` days; and finished
        messages, and events with their receipts, after :data:`POSTAL_KEEP_ROWS` days.
        What is not finished stays.
        """
        ledger = self._usable()
        return purge(ledger.database, self.models, ledger.settings)

    def forget(self, address: str) -> Forgotten:
        """Erase what is kept about an address, in small transactions.

        Its rows as a recipient, the content of messages to it, with their subject and
        metadata, and the events about mail that it received or sent. A message that is
        not sent yet is cancelled; if it has other recipients, they still get it. An
        event whose receivers are running stays: a receiver can't forget its own.

        :param address: The address, in any spelling of upper and lower case.
        :returns: What was erased.
        """
        return forget(self._usable().database, self.models, address)

    def _move(self, record: Any, before: tuple[str, ...], **values: Any) -> None:
        """Set the state of a message or an event, in the caller's transaction."""
        state, number = self._state(_current()), record.id
        if isinstance(record, self.models.event):
            kind, what, committed = "event", "event", state.committed_events
        else:
            kind, what, committed = "mail", "message", state.committed
            values = {"waiting": None, "finished_at": None, **values}
        table = self.models.table(kind)
        session = self.db.session()
        connection = session.connection(bind_arguments={"mapper": self.models.mail})
        moved = connection.execute(
            sa.update(table)
            .where(table.c.id == number, table.c.state.in_(before))
            .values(**values)
        )
        if moved.rowcount != 1:
            raise ValueError(
                f"{what} {number} is not {' or '.join(before)}, and stays as it is"
            )
        if record in session:
            session.expire(record)
        after_commit(session, committed, number)

    def _cancelled(self) -> Any:
        """Return a record of a message that a receiver stopped; it is not stored."""
        return self.models.mail(state="cancelled", meta={}, options={})


def _current() -> Flask:
    return current_app._get_current_object()  # type: ignore[attr-defined,no-any-return]
