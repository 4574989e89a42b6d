"""Delivers claimed messages: one call of the API and one result for each attempt.

The transaction that writes the result of one message marks the next one as being sent,
so that a message costs one commit. All statements are Core statements: with ORM objects
a process delivered 79 messages a second in a prototype, and 210 with these.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa
from flask import Flask

from ..errors import (
    APIError,
    ConfigurationError,
    MessageError,
    PostalError,
    SendError,
    TransportError,
)
from ..sending.message import Message
from ..sending.payload import Prepared, raw_body
from ..sending.pipeline import SendPipeline
from ..sending.result import Recipients, RecipientStatus, SendResult
from ..sending.suppression import SuppressionReason
from ..signals import message_sent, send_failed
from .claims import Attempt, Claims
from .columns import now
from .content import load, owner_of_mail
from .database import PATIENCE, Database
from .enqueue import ALL_SUPPRESSED
from .evidence import settle
from .known import Known, known_ids
from .lease import LeasedBody, LeaseExpiredError
from .mapping import LedgerModels
from .poll_times import FIRST_POLL
from .restore import restore_message
from .settings import LedgerSettings
from .suppression import Suppressions

__all__ = ["Deliverer", "gives_up", "result_of"]

_log = logging.getLogger("flask_postal.ledger")

#: Refusals that somebody can mend in Postal or in the settings: the message waits.
_MENDABLE = frozenset(
    {
        *("AccessDenied", "InvalidServerAPIKey", "ServerSuspended"),
        "UnauthenticatedFromAddress",
    }
)
#: Seconds for which the known ids are used before they are read again.
_KNOWN_FOR = 5.0
#: A message that has waited for longer is checked against suppressed addresses again.
WAITED = timedelta(minutes=1)


@dataclass(frozen=True, slots=True)
class _Verdict:
    """What an outcome means for the state of its message."""

    state: str
    error: str | None = None
    due_at: datetime | None = None


@dataclass(frozen=True, slots=True)
class _Begun:
    """An attempt that is marked as being sent, until its lease ends."""

    attempt: Attempt
    mime: bytes
    until: datetime


@dataclass(frozen=True, slots=True)
class _Result:
    """The outcome of an attempt, before it is written.

    :param recipients: The written addresses.
    :param suppressed: Whether the ids in the result are made up.
    """

    attempt: Attempt
    recipients: list[str]
    mime: bytes
    outcome: SendResult | PostalError
    verdict: _Verdict
    suppressed: bool = False


class Deliverer:
    """Delivers the stored messages of one app through one Postal.

    It can be shared between threads.

    :param server: The extension key of the Postal.
    :param pipeline: Returns the pipeline, which test helpers may exchange.
    """

    def __init__(
        self,
        app: Flask,
        server: str,
        database: Database,
        models: LedgerModels,
        claims: Claims,
        pipeline: Callable[[], SendPipeline],
        settings: LedgerSettings,
        suppressions: Suppressions,
    ) -> None:
        self._app = app
        self._server = server
        self._database = database
        self._models = models
        self._mails = models.table("mail")
        self._recipients = models.table("recipient")
        self._taken = _taken(self._recipients)
        self._claims = claims
        self._pipeline = pipeline
        self._settings = settings
        self._suppressions = suppressions
        self._known: list[Known] = []
        self._known_at = float("-inf")
        self._complaint: str | None = None

    def deliver(
        self, attempts: Sequence[Attempt], stopping: Callable[[], bool] = bool
    ) -> dict[int, str]:
        """Deliver claimed messages, one after the other.

        :param stopping: Asked before each message whether to leave the rest for later.
        :returns: The state of each message by its id.
        """
        states: dict[int, str] = {}
        result: _Result | None = None
        left = list(attempts)
        try:
            while left and not stopping():
                attempt = left.pop(0)
                if result is not None and self._is_awaited(result):
                    states |= self._exchange(result, None)[0]
                    result = None
                written, begun = self._exchange(result, attempt)
                states |= written
                result = begun if isinstance(begun, _Result) else None
                if isinstance(begun, _Begun):
                    result = self._send(begun)
            if result is not None:
                states |= self._exchange(result, None)[0]
        finally:
            self._claims.give_back(left)
        return states

    def _exchange(
        self, result: _Result | None, attempt: Attempt | None
    ) -> tuple[dict[int, str], _Begun | _Result | None]:
        """Write a result and begin another attempt, in one transaction."""

        def work(
            connection: sa.Connection,
        ) -> tuple[dict[int, str], bool, _Begun | _Result | None]:
            states, changed = {}, False
            if result is not None:
                changed, state = self._write(connection, result)
                states[result.attempt.mail.id] = state
            begun = None if attempt is None else self._begin(connection, attempt)
            return states, changed, begun

        states, changed, begun = self._database.run(work, patience=PATIENCE)
        if result is not None and changed:
            self._report(result)
        return states, begun

    # ---- before the call

    def _begin(
        self, connection: sa.Connection, attempt: Attempt
    ) -> _Begun | _Result | None:
        """Mark a message as being sent.

        :returns: A result at once, if there is nothing to send; ``None`` if the claim
            has run out.
        """
        if time.monotonic() - self._known_at > _KNOWN_FOR:
            self._known = known_ids(connection, self._models, self._server)
            self._known_at = time.monotonic()
        until = self._claims.begin(connection, attempt, self._known)
        if until is None:
            return None
        attempt = self._without_suppressed(connection, attempt)
        recipients, mime = attempt.recipients, attempt.mime
        if mime is None:
            content = self._models.table("content")
            mime = load(connection, content, owner_of_mail(attempt.mail.id))
        if not recipients and not attempt.known and attempt.left_out:
            verdict = _Verdict("cancelled", ALL_SUPPRESSED)
            return _Result(attempt, [], mime or b"", SendResult(), verdict)
        if mime is None or not (recipients or attempt.known):
            error = MessageError("its content or its recipients have been deleted")
            verdict = _Verdict("failed", str(error))
            return _Result(attempt, list(recipients), mime or b"", error, verdict)
        if not recipients:
            # Evidence has shown in the meantime that Postal has it for all of them.
            known = self._known_result(connection, attempt.mail)
            accepted = _Verdict("accepted")
            to = [a for a, r in known.recipients.items() if r.suppressed is None]
            # What is noted of its recipients is there already.
            return _Result(attempt, to, mime, known, accepted, suppressed=True)
        return _Begun(attempt, mime, until)

    def _known_result(self, connection: sa.Connection, mail: Any) -> SendResult:
        """Return the result of a message that is known to have been taken."""
        recipients = self._recipients
        rows = connection.execute(
            sa.select(recipients)
            .where(recipients.c.mail_id == mail.id)
            .order_by(recipients.c.id)
        )
        return result_of(mail.message_id, rows)

    def _without_suppressed(
        self, connection: sa.Connection, attempt: Attempt
    ) -> Attempt:
        """Leave out recipients that were suppressed while the message waited."""
        mail, suppressions = attempt.mail, self._suppressions
        waited = now() - mail.created_at > WAITED
        if not waited or mail.ignore_suppression or not suppressions.is_used:
            return attempt
        envelopes = [address.addr_spec for address in attempt.recipients.values()]
        found = suppressions.find(connection, envelopes, mail.list)
        if not found:
            return attempt
        recipients, left_out = {}, dict(attempt.left_out)
        for written, address in attempt.recipients.items():
            if (reason := found.get(address.addr_spec)) is None:
                recipients[written] = address
                continue
            left_out[written] = reason
            row = self._recipients
            connection.execute(
                sa.update(row)
                .where(row.c.mail_id == mail.id, row.c.address == written)
                .values(suppressed=str(reason))
            )
        return replace(attempt, recipients=recipients, left_out=left_out)

    def _send(self, begun: _Begun) -> _Result:
        attempt, mail = begun.attempt, begun.attempt.mail
        recipients = attempt.recipients
        envelopes = [address.addr_spec for address in recipients.values()]
        pipeline = self._pipeline()
        suppressed = pipeline.is_suppressed(self._app)
        outcome: SendResult | PostalError
        try:
            body = raw_body(mail.sender, envelopes, begun.mime, extra=mail.options)
            prepared = Prepared(
                "send/raw",
                recipients,
                {},
                mail.message_id,
                LeasedBody(body, begun.until),
                attempt.left_out,
            )
            outcome = pipeline.post(prepared, suppressed=suppressed)
        except PostalError as error:
            outcome = error
        except Exception as error:  # noqa: BLE001
            # A transport of the app's own, or a bug. Nobody knows whether it was sent,
            # and the other messages must not wait for it.
            _log.exception("sending message %d failed", mail.id)
            outcome = TransportError(
                f"{type(error).__name__}: {error}", maybe_sent=True
            )
        verdict = self._judge(attempt, outcome)
        return _Result(
            attempt, list(recipients), begun.mime, outcome, verdict, suppressed
        )

    # ---- after the call

    def _judge(self, attempt: Attempt, outcome: SendResult | PostalError) -> _Verdict:
        if isinstance(outcome, SendResult):
            self._complaint = None
            return _Verdict("accepted")
        text = str(outcome)
        if isinstance(outcome, SendError) and outcome.maybe_sent:
            return _Verdict("doubtful", text)
        if not _may_succeed_later(outcome):
            return _Verdict("failed", text)
        if _needs_somebody(outcome) and self._complaint != text:
            # Once, and not for each of the messages that wait for the same cure.
            self._complaint = text
            _log.error("messages wait until somebody acts: %s", ascii(text))
        pause = timedelta(seconds=self._settings.pause(attempt.number))
        if gives_up(attempt.mail, self._settings, pause):
            return _Verdict("failed", text)
        return _Verdict("queued", text, now() + pause)

    def _write(self, connection: sa.Connection, result: _Result) -> tuple[bool, str]:
        """Write the result of an attempt.

        :returns: Whether this has decided the state of the message, and the state.
        """
        attempt, verdict = result.attempt, result.verdict
        if isinstance(result.outcome, SendResult) and not result.suppressed:
            self._note_recipients(connection, attempt, result.outcome)
        if self._claims.finish(
            connection, attempt, verdict.state, verdict.error, due_at=verdict.due_at
        ):
            return True, verdict.state
        # The lease ran out: the message is doubtful, or somebody has settled it.
        settled = settle(connection, self._models, attempt.mail.id)
        mails = self._mails
        query = sa.select(mails.c.state).where(mails.c.id == attempt.mail.id)
        return settled, str(connection.scalar(query))

    def _note_recipients(
        self, connection: sa.Connection, attempt: Attempt, result: SendResult
    ) -> None:
        """Record ids and tokens, whatever the state of the message is by now."""
        for address, status in result.recipients.items():
            if status.id is None:
                continue
            connection.execute(
                self._taken,
                {
                    "taken_mail": attempt.mail.id,
                    "taken_address": address,
                    "taken_id": status.id,
                    "taken_token": status.token,
                    "taken_at": now(),
                    "first_poll": now() + FIRST_POLL,
                },
            )
            if not self._known or status.id > self._known[0].id:
                self._known = [Known(status.id, status.token)]

    # ---- receivers

    def _is_awaited(self, result: _Result) -> bool:
        """Tell whether receivers wait for the result, which is written first then."""
        if result.verdict.state == "accepted":
            awaited = message_sent.has_receivers_for(self._app)
            return bool(result.recipients) and awaited
        is_failed = result.verdict.state == "failed"
        return is_failed and send_failed.has_receivers_for(self._app)

    def _report(self, result: _Result) -> None:
        if self._is_awaited(result):
            self.report(
                restore_message(result.attempt.mail, result.recipients, result.mime),
                result.outcome,
            )

    def report(self, message: Message, outcome: SendResult | PostalError) -> None:
        """Emit ``message_sent`` or ``send_failed``, in an app context of its own.

        So receivers have a session of their own, and none that another one has left in
        a state that it can't be used in.
        """
        with self._app.app_context():
            self._pipeline().report(self._app, message, outcome)


def result_of(message_id: str, rows: Iterable[Any]) -> SendResult:
    """Return the result of a message, given the rows of its recipients."""
    statuses = {
        row.address: RecipientStatus(
            row.address,
            row.postal_id,
            row.token,
            row.suppressed and SuppressionReason(row.suppressed),
        )
        for row in rows
    }
    return SendResult(message_id, Recipients(statuses), "send/raw")


def _taken(recipients: sa.Table) -> sa.Update:
    """Build the update of a recipient that Postal has taken.

    An event may have come before, and have set when the next one is asked for.
    """
    poll_at = recipients.c.poll_at
    first_poll = sa.bindparam("first_poll", type_=poll_at.type)
    return (
        sa.update(recipients)
        .where(recipients.c.mail_id == sa.bindparam("taken_mail"))
        .where(recipients.c.address == sa.bindparam("taken_address"))
        .values(
            postal_id=sa.bindparam("taken_id"),
            token=sa.bindparam("taken_token"),
            told_at=sa.bindparam("taken_at"),
            poll_at=sa.func.coalesce(poll_at, first_poll),
        )
    )


def gives_up(mail: Any, settings: LedgerSettings, pause: timedelta) -> bool:
    """Tell whether a message has been tried for long enough.

    It counts from the first attempt: a message may have been stored long before.

    :param mail: The row of the message.
    :param pause: How long the next attempt would have to wait.
    """
    tried_at: datetime = mail.tried_at or now()
    return now() + pause > tried_at + timedelta(seconds=settings.give_up)


def _may_succeed_later(error: PostalError) -> bool:
    if isinstance(error, (TransportError, ConfigurationError, LeaseExpiredError)):
        return True
    return isinstance(error, APIError) and (error.retryable or _needs_somebody(error))


def _needs_somebody(error: PostalError) -> bool:
    """Tell whether an operator can mend the cause of a refusal."""
    if isinstance(error, ConfigurationError):
        return True
    if not isinstance(error, APIError):
        return False
    # Without a code, it was not Postal's API that answered: a wrong host or URL.
    return error.code in _MENDABLE or (
        error.code is None and error.http_status != 413 and not error.retryable
    )
