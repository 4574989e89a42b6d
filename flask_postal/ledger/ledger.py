"""The ledger object: joins the models with an app's database sessions."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from datetime import datetime
from typing import Any
from weakref import WeakKeyDictionary

import sqlalchemy as sa
from flask import Flask, current_app

from ..errors import CancelSend, ConfigurationError
from ..sending.message import Message
from ..sending.pipeline import SendPipeline
from ..webhooks.dispatch import Event
from ..webhooks.events import TrackingEvent
from .columns import now
from .deliver import Deliverer
from .enqueue import Draft, insert, write_draft
from .evidence import Evidence, find_recipient
from .mapping import LedgerModels, default_models, join
from .settings import LedgerSettings

__all__ = ["Ledger"]


@dataclass(frozen=True, slots=True)
class _AppState:
    """What the ledger knows of one app."""

    settings: LedgerSettings
    pipelines: dict[str, Callable[[Flask], SendPipeline]]


class Ledger:
    """Stores messages in the app's own database.

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
        self._apps: WeakKeyDictionary[Flask, _AppState] = WeakKeyDictionary()

    def register(
        self, app: Flask, server: str, pipeline_of: Callable[[Flask], SendPipeline]
    ) -> None:
        """Note a Postal of an app; :meth:`.Postal.init_app` calls this.

        :param server: The extension key of the Postal.
        :param pipeline_of: Returns its pipeline, which test helpers may exchange.
        :raises ConfigurationError: for a setting that can't be used.
        """
        state = self._apps.get(app)
        if state is None:
            state = _AppState(LedgerSettings.from_config(app.config), {})
            self._apps[app] = state
        state.pipelines[server] = pipeline_of

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
        session = self.db.session()
        connection = session.connection(bind_arguments={"mapper": self.models.mail})
        records = []
        for found in drafts:
            if found is None:
                records.append(self._cancelled())
                continue
            number = insert(connection, self.models, found)
            records.append(self._record(session, number))
        return records

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

    def deliver(self, mail_id: int) -> str | None:
        """Deliver a message of the current app, if it is due.

        :returns: Its state then; ``None`` if it is not due, or somebody else has it.
        """
        app = current_app._get_current_object()  # type: ignore[attr-defined]
        mails = self.models.table("mail")
        with self._engine().connect() as connection:
            query = sa.select(mails.c.server).where(mails.c.id == mail_id)
            server = connection.scalar(query)
        if server is None:
            return None
        return self._deliverer(app, server).deliver(mail_id)

    def drain(self, stopping: Callable[[], bool] = bool) -> int:
        """Deliver every message that is due now, in the calling thread.

        Nothing is written where nothing is due.

        :param stopping: Asked before each message whether to leave the rest for later.
        :returns: The number of messages that an attempt was made for.
        """
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        self._engine()
        attempts = 0
        for server in self._apps[app].pipelines:
            deliverer = self._deliverer(app, server)
            deliverer.release_expired()
            while due := deliverer.due(server):
                done = 0
                for number in due:
                    if stopping():
                        return attempts + done
                    done += deliverer.deliver(number) is not None
                attempts += done
                if not done:  # others have them
                    break
        return attempts

    # ---- events

    def enrich(self, server: str, app: Flask, event: Event) -> Event:
        """Note a tracking event, and return it with the metadata of its message.

        :param server: The extension key of the Postal that it came from.
        """
        if not isinstance(event, TrackingEvent):
            return event
        with app.app_context():
            meta = Evidence(self._engine(), self.models).note(event, server)
        return event if meta is None else replace(event, metadata=meta)

    def mail_of(self, server: str, event: TrackingEvent) -> Any:
        """Return the record of an event's message; see :meth:`.Postal.mail_of`."""
        session = self.db.session()
        connection = session.connection(bind_arguments={"mapper": self.models.mail})
        found = find_recipient(connection, self.models, event, server)
        return None if found is None else self._record(session, found.mail_id)

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

    def retry(self, record: Any) -> None:
        """Queue a failed or doubtful message again, in a transaction of its own.

        A doubtful message may have been sent: recipients that Postal is not known to
        have taken get it, perhaps for the second time.

        :raises ValueError: if the message is in another state.
        """
        self._move(record, ("failed", "doubtful"), "queued", due_at=now())

    def cancel(self, record: Any) -> None:
        """Cancel a message that is queued, in a transaction of its own.

        :raises ValueError: if it is in another state; it may have been sent.
        """
        self._move(record, ("queued",), "cancelled", due_at=None)

    def _move(
        self,
        record: Any,
        before: tuple[str, ...],
        state: str,
        *,
        due_at: datetime | None,
    ) -> None:
        mails, number = self.models.table("mail"), record.id
        # The caller's session has read the record, and must not hold SQLite's lock.
        self.db.session.rollback()
        with self._engine().begin() as connection:
            moved = connection.execute(
                sa.update(mails)
                .where(mails.c.id == number, mails.c.state.in_(before))
                .values(
                    state=state,
                    due_at=due_at,
                    finished_at=None if due_at is not None else now(),
                )
            )
        if moved.rowcount != 1:
            raise ValueError(
                f"message {number} is not {' or '.join(before)}, and stays as it is"
            )

    def _deliverer(self, app: Flask, server: str) -> Deliverer:
        state = self._apps[app]
        try:
            pipeline = state.pipelines[server](app)
        except KeyError:
            raise ConfigurationError(
                f"a message was enqueued with the Postal {server!r}, which this app"
                " does not have any more"
            ) from None
        return Deliverer(app, self._engine(), self.models, pipeline, state.settings)

    def _engine(self) -> sa.Engine:
        bind_key = self.models.table("mail").metadata.info.get("bind_key")
        engine: sa.Engine = self.db.engines[bind_key]
        if (
            isinstance(engine.pool, sa.StaticPool)
            and self.db.session().in_transaction()
        ):
            # All share one connection here: a commit of ours would be the caller's.
            raise ConfigurationError(
                "an SQLite in memory has one connection, and the current session has a"
                " transaction open on it; commit or roll back before messages are"
                " delivered"
            )
        return engine

    def _cancelled(self) -> Any:
        """Return a record of a message that a receiver stopped; it is not stored."""
        return self.models.mail(state="cancelled", meta={}, options={})
