"""Calls the receivers of stored events: in the request, or later.

An event is stored before its receivers run, so that Postal need not send it again. From
then on it is the ledger's: a receiver that fails is called again later, with longer and
longer pauses, until the event is ``dead``.
"""

from __future__ import annotations

import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any

import sqlalchemy as sa
from flask import Flask

from ..errors import ConfigurationError, PayloadError
from ..receivers import receiver_name
from ..signals import (
    inbound_received,
    server_event_received,
    tracking_received,
    unsubscribed,
)
from ..webhooks.dispatch import (
    Called,
    Dispatched,
    Event,
    by_name,
    call_together,
    ends_process,
    signal_of,
    worst,
)
from ..webhooks.events import (
    InboundEvent,
    ServerEvent,
    TrackingEvent,
    UnsubscribeEvent,
)
from ..webhooks.handle import parse
from ..webhooks.verify import VerifiedRequest
from .columns import clean, now
from .event_store import PATIENCE, Claimed, EventStore, Stored, log_dead
from .evidence import Noted
from .failures import failure_of, line_of
from .identity import identity_of
from .receipts import Receipt, Receipts, ReceiptTakenError

__all__ = ["Processor", "Source"]

_log = logging.getLogger("flask_postal.ledger")

#: Columns of an event that hold texts of a request.
_TOKEN, _ADDRESS, _RECEIVER = 64, 255, 255


@dataclass(frozen=True, slots=True)
class Source:
    """A Postal that events come from.

    :param postal: The extension, which is passed to receivers.
    :param secrets: Returns keys and passwords that must not be stored with a traceback.
    :param note: Notes what an event tells, in a transaction of the caller's.
    :param conclude: Does what follows from it, in the same transaction, once the event
        has a number.
    :param noted: Called with it after the commit.
    """

    postal: object
    secrets: Callable[[], Sequence[str]]
    note: Callable[[sa.Connection, Event], Noted | None]
    conclude: Callable[[sa.Connection, Event, Noted | None, int], object]
    noted: Callable[[Noted | None], object]


@dataclass(slots=True)
class _Attempt:
    """What the receivers of an event have done so far."""

    outcomes: list[Dispatched]
    failures: list[dict[str, str]]
    error: str | None = None
    interrupt: BaseException | None = None

    @property
    def verdict(self) -> Dispatched:
        """What Postal is told: a failure is the ledger's own affair."""
        return worst([o for o in self.outcomes if o is not Dispatched.FAILED])


class Processor:
    """Handles the events of one app.

    :param later: Whether receivers are left to :meth:`process`.
    :param wake: Called with the ids of events that somebody has to process.
    """

    def __init__(
        self,
        app: Flask,
        store: EventStore,
        receipts: Receipts,
        *,
        later: bool,
        wake: Callable[[Sequence[int]], object],
    ) -> None:
        self._app = app
        self.store = store
        self._receipts = receipts
        self._later = later
        self._wake = wake
        self._sources: dict[str, Source] = {}

    def add(self, server: str, source: Source) -> None:
        """Add a Postal of the app.

        :param server: Its extension key.
        """
        self._sources[server] = source

    # ---- in the request

    def receive(
        self, server: str, request: VerifiedRequest, event: Event
    ) -> Dispatched:
        """Store a request, and call the receivers of its event.

        :param server: The extension key of the Postal that it came from.
        :returns: What Postal is answered with.
        """
        receivers = self._receivers(event)
        if isinstance(event, InboundEvent) and not receivers:
            return Dispatched.NO_RECEIVER
        identity = identity_of(server, event, request.body)
        state: dict[str, Any]
        if self._later:
            # With a verdict, nobody here wants the event; the relay may still know who.
            verdict = None if receivers else Dispatched.HANDLED.value
            state = {"state": "queued", "due_at": now(), "verdict": verdict}
        elif receivers:
            state = self.store.first_claim()
        else:
            state = {"state": "done", "verdict": Dispatched.HANDLED.value}
        try:
            number, noted = self._store(server, request, event, identity, state)
        except sa.exc.IntegrityError:
            row = self.store.find(identity)
            if row is None:
                raise
            return self._duplicate(row)
        except sa.exc.SQLAlchemyError as error:
            # Not the whole error: it has the statement's values in it.
            cause = getattr(error, "orig", None) or type(error).__name__
            raise RuntimeError(f"the event can't be stored: {cause}") from None
        self._sources[server].noted(noted)
        if self._later:
            self._wake([number])
            return Dispatched.HANDLED
        if not receivers:
            return Dispatched.NO_RECEIVER
        claimed = Claimed(number, server, event.token, 1, state["tried_at"])
        attempt = self._call(claimed, _with(event, noted), receivers)
        self._end(claimed, attempt)
        if attempt.interrupt is not None:
            raise attempt.interrupt
        return attempt.verdict

    def _store(
        self,
        server: str,
        request: VerifiedRequest,
        event: Event,
        identity: str,
        state: dict[str, Any],
    ) -> tuple[int, Noted | None]:
        values = {
            "identity": identity,
            "server": server,
            "source": getattr(event, "source", "webhook"),
            "kind": request.hook,
            "media_type": request.media_type,
            "created_at": now(),
            **_about(event),
            **state,
        }
        source = self._sources[server]

        def work(connection: sa.Connection) -> tuple[int, Noted | None]:
            # The recipient is written first, and by everybody: in another order two
            # transactions could wait for each other.
            noted = source.note(connection, event)
            found: dict[str, Any] = {"recipient_id": None}
            if noted is not None:
                found = {"recipient_id": noted.recipient_id}
                if values["address"] is None:
                    found["address"] = short(noted.envelope)
            number = self.store.insert(connection, request.body, values | found)
            source.conclude(connection, event, noted, number)
            return number, noted

        return self.store.database.run(work, patience=PATIENCE)

    def _duplicate(self, row: Any) -> Dispatched:
        """Return the answer to a request that was stored before."""
        if self._later:
            return Dispatched.HANDLED
        if row.verdict is not None:
            return Dispatched(row.verdict)
        # Its process did not come back: Postal has not been told yet.
        stored = self.store.claim(row.id, abandoned=True)
        if stored is None:
            return Dispatched.HANDLED if row.state == "dead" else Dispatched.BUSY
        attempt = self._handle(stored)
        if attempt.interrupt is not None:
            raise attempt.interrupt
        known = stored.claimed.verdict
        return attempt.verdict if known is None else Dispatched(known)

    # ---- what never came

    def store_missed(self, server: str, body: bytes, identity: str) -> bool:
        """Store an event that was read from Postal's API, for receivers.

        :param body: The body that its webhook would have had.
        :returns: ``False`` if it is there already.
        """
        request = VerifiedRequest("tracking", body)
        event = _polled(parse(request))
        state: dict[str, Any] = {"state": "queued", "due_at": now()}
        if not self._receivers(event):
            state = {"state": "done", "verdict": Dispatched.HANDLED.value}
        try:
            number, noted = self._store(server, request, event, identity, state)
        except sa.exc.IntegrityError:
            if self.store.find(identity) is None:
                raise
            return False
        self._sources[server].noted(noted)
        self._wake([number])
        return True

    # ---- later

    def process(self, event_id: int) -> str | None:
        """Call the receivers of a stored event; see :meth:`.Ledger.process`."""
        row = self.store.get(event_id)
        if row is None or self.store.is_blocked(event_id):
            return None
        if row.server not in self._sources:
            raise ConfigurationError(
                f"event {event_id} came from the Postal {row.server!r}, which this app"
                " does not have any more"
            )
        stored = self.store.claim(event_id)
        if stored is None:
            return None
        attempt = self._handle(stored)
        following = self.store.next_of(stored.claimed)
        if following is not None:
            self._wake([following])
        if attempt.interrupt is not None and _ends_here(attempt.interrupt):
            raise attempt.interrupt
        return "done" if attempt.error is None else self._state_of(event_id)

    def _state_of(self, event_id: int) -> str | None:
        row = self.store.get(event_id)
        return None if row is None else str(row.state)

    def process_due(
        self, stopping: Callable[[], bool] = bool, *, most: int | None = None
    ) -> int:
        """Process events that are due; return the number of attempts.

        :param stopping: Asked before each event whether to leave the rest for later.
        :param most: The number of events at most; all that are due if not given.
        """
        done = 0
        while not stopping() and (most is None or done < most):
            ids = self.due(100 if most is None else min(100, most - done))
            before = done
            for number in ids:
                if stopping():
                    return done
                done += self.process(number) is not None
            if done == before:  # others have them
                break
        return done

    def due(self, limit: int) -> list[int]:
        """Return the ids of events that are due, the oldest first."""
        return self.store.due(self._sources, limit)

    def _handle(self, stored: Stored) -> _Attempt:
        """Call the receivers of a claimed event, and write what became of it."""
        row, claimed, attempt = stored.row, stored.claimed, _Attempt([], [])
        event = self._event_of(stored, attempt)
        if event is not None:
            receivers = self._receivers(event)
            if receivers:
                attempt = self._call(claimed, event, receivers)
            elif row.error is None and (
                row.verdict is not None or self._has_receivers()
            ):
                # Receivers are connected here, and this event has none.
                attempt.outcomes.append(Dispatched.HANDLED)
            else:
                attempt.outcomes.append(Dispatched.FAILED)
                attempt.error = "no receiver is connected in the process that tried"
        self._end(claimed, attempt)
        return attempt

    def _event_of(self, stored: Stored, attempt: _Attempt) -> Event | None:
        row = stored.row
        try:
            if stored.body is None:
                raise PayloadError("its body has been deleted")
            event = parse(VerifiedRequest(row.kind, stored.body, row.media_type))
        except PayloadError as error:
            attempt.outcomes.append(Dispatched.FAILED)
            attempt.error = line_of(error, ())
            return None
        known = self._known_of(row) if row.recipient_id is not None else None
        if isinstance(event, TrackingEvent):
            event = replace(event, source=row.source)
        return _with(event, known)

    def _known_of(self, row: Any) -> Noted | None:
        """Return what is known of the message that a stored event is about."""
        models = self.store.models
        mails, recipients = models.table("mail"), models.table("recipient")
        query = (
            sa.select(mails.c.meta, mails.c.list, recipients)
            .join(recipients, recipients.c.mail_id == mails.c.id)
            .where(recipients.c.id == row.recipient_id)
        )
        for found in self.store.database.rows(query):
            return Noted(
                found.mail_id,
                row.recipient_id,
                found.envelope,
                found.postal_id,
                found.meta,
                found.list,
            )
        return None

    # ---- receivers

    def _has_receivers(self) -> bool:
        """Tell whether a receiver of any kind of event is connected."""
        signals = (
            *(tracking_received, inbound_received, server_event_received),
            unsubscribed,
        )
        return any(signal.has_receivers_for(self._app) for signal in signals)

    def _receivers(self, event: Event) -> list[Callable[..., Any]]:
        return list(signal_of(event).receivers_for(self._app))

    def _call(
        self, claimed: Claimed, event: Event, receivers: Sequence[Callable[..., Any]]
    ) -> _Attempt:
        """Call the receivers that have not handled the event before.

        Those that share a name share a session and a receipt: their work is committed
        together, or not at all.
        """
        attempt = _Attempt([], [])
        named = by_name(receivers)
        # Those without a name share nothing.
        groups: list[tuple[str | None, list[Callable[..., Any]]]] = [
            (None, [receiver]) for receiver in named.pop(None, [])
        ]
        groups += named.items()
        done: set[str] = set()
        if claimed.attempts > 1:
            done = self.store.done_receivers(claimed.id)
        for name, group in groups:
            known_as = None if name is None else _stored_name(name)
            if known_as is not None and known_as in done:
                attempt.outcomes.append(Dispatched.HANDLED)
                continue
            self._call_group(claimed, event, group, known_as, attempt, len(groups))
        return attempt

    def _call_group(
        self,
        claimed: Claimed,
        event: Event,
        group: Sequence[Callable[..., Any]],
        known_as: str | None,
        attempt: _Attempt,
        groups: int,
    ) -> None:
        receipt = Receipt(claimed.id, known_as)
        source = self._sources[claimed.server]
        called = call_together(
            self._app,
            event,
            group,
            postal=source.postal,
            around=self._receipts.around(
                receipt,
                needed=groups > 1,
                may_reject=isinstance(event, InboundEvent),
            ),
            awaited=claimed.attempts == 1 and not self._later,
        )
        outcome, error = self._judged(claimed, called, receipt)
        attempt.outcomes.append(outcome)
        if called.error is not None and ends_process(called.error):
            attempt.interrupt = attempt.interrupt or called.error
        if error is not None:
            label = receiver_name(group[0]) or type(group[0]).__name__
            secrets = source.secrets()
            attempt.failures.append(failure_of(label, error, secrets))
            if outcome is Dispatched.FAILED:
                attempt.error = line_of(error, secrets)

    def _judged(
        self, claimed: Claimed, called: Called, receipt: Receipt
    ) -> tuple[Dispatched, BaseException | None]:
        """Return what a call means for the event, and the error that is kept with it.

        What a receiver has committed stands together with its receipt: whatever it
        raises after that, it is not called again.
        """
        if called.error is None:
            return called.outcome, None
        if isinstance(called.error, ReceiptTakenError) and (
            receipt.receiver in self.store.done_receivers(claimed.id)
        ):
            return Dispatched.HANDLED, None
        if receipt.kept:
            _log.error(
                "a receiver of event %d failed after it had committed, and is not"
                " called again: %s",
                claimed.id,
                receipt.receiver,
            )
            return Dispatched.HANDLED, called.error
        return Dispatched.FAILED, called.error

    def _end(self, claimed: Claimed, attempt: _Attempt) -> None:
        verdict = (
            claimed.verdict if claimed.verdict is not None else attempt.verdict.value
        )
        if attempt.error is None:
            self.store.finish(claimed, verdict, attempt.failures)
            return
        state = self.store.fail(claimed, verdict, attempt.error, attempt.failures)
        if state == "dead":
            log_dead(claimed.id)
        else:
            self._wake([])


def _polled(event: Event) -> Event:
    return replace(event, source="poll") if isinstance(event, TrackingEvent) else event


def _ends_here(error: BaseException) -> bool:
    """Tell whether what a receiver raised ends this process.

    In another thread than the main one it would end nothing but the thread, which would
    handle no event any more.
    """
    in_main = threading.current_thread() is threading.main_thread()
    return in_main and isinstance(error, (KeyboardInterrupt, SystemExit))


def _with(event: Event, known: Noted | None) -> Event:
    """Add what is known of the message that an event is about.

    A report names no recipient that could be trusted; the ledger can tell.
    """
    if known is None:
        return event
    if isinstance(event, UnsubscribeEvent) and event.source == "report":
        return replace(event, recipient=known.envelope, list=known.list)
    if not isinstance(event, TrackingEvent):
        return event
    if event.source == "report":
        event = replace(event, recipient=known.envelope, id=known.postal_id)
    return replace(event, metadata=known.meta)


def _about(event: Event) -> dict[str, Any]:
    """Return the columns that say what an event is about."""
    if isinstance(event, InboundEvent):
        kind, address = "inbound", event.message.envelope_sender
    elif isinstance(event, ServerEvent):
        # About incoming mail too: its author is the stranger.
        kind, address = "server", event.sender or event.recipient
    elif isinstance(event, UnsubscribeEvent):
        kind, address = "unsubscribed", event.recipient
    else:
        kind, address = str(event.event_type), event.recipient
    token = event.token
    if token is None or clean(token, _TOKEN) != token:
        token = None
    return {
        "event_type": kind,
        "token": token,
        "address": None if address is None else short(address),
    }


def short(address: str) -> str:
    """Return an address as it is stored and looked for: in lower case, and cut."""
    return clean(address, 10_000).lower()[:_ADDRESS].rstrip()


def _stored_name(name: str) -> str:
    """Return the name of a receiver as it fits into a receipt."""
    return name if len(name) <= _RECEIVER else f"...{name[3 - _RECEIVER :]}"
