"""Commits "this receiver has handled this event" together with the receiver's work.

A receipt is inserted right before the outermost commit of the receiver's session,
whoever calls that: the receiver itself, a ``with db.session.begin()`` of it, or, once
it has returned, this module. After a rollback it is inserted again before the next
commit. Inserted earlier, it would hold locks while the receiver runs, and a receiver
that rolls back and goes on would lose it.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import sqlalchemy as sa
from flask import g, has_app_context

from ..errors import RejectMail
from .columns import now
from .mapping import LedgerModels

__all__ = ["Receipt", "ReceiptTakenError", "Receipts"]

_KEY = "_flask_postal_receipt"


class ReceiptTakenError(Exception):
    """The receipt can't be inserted: probably somebody else has handled the event.

    It is raised out of the commit of the receiver, whose work is rolled back.
    """


class Receipt:
    """A receipt that is not committed yet.

    :ivar kept: Whether it is committed.
    """

    __slots__ = ("event_id", "kept", "receiver")

    def __init__(self, event_id: int, receiver: str | None) -> None:
        self.event_id: int = event_id
        self.receiver: str | None = receiver
        self.kept: bool = False


class Receipts:
    """The receipts of a ledger.

    :param db: The app's Flask-SQLAlchemy object.
    """

    def __init__(self, db: Any, models: LedgerModels) -> None:
        self._db = db
        self._models = models
        self._insert = sa.insert(models.table("receipt"))

    @contextmanager
    def around(
        self, receipt: Receipt, *, needed: bool, may_reject: bool
    ) -> Iterator[None]:
        """Call receivers in the block, and commit their work with the receipt.

        It must be entered in the receivers' own app context. What they have not
        committed is rolled back if they raise.

        :param needed: Whether the receipt is also committed if they have not used the
            session, because another receiver may make the event be handled again.
        :param may_reject: Whether RejectMail decides about a mail.
        """
        self._listen()
        setattr(g, _KEY, (self, receipt))
        session = self._db.session
        try:
            yield
        except RejectMail as rejection:
            session.rollback()
            if may_reject:
                # It has decided about the mail: that must not be asked again.
                self._note_verdict(receipt, 406 if rejection.bounce else 429)
                self._commit()
            raise
        except BaseException:
            session.rollback()
            raise
        if session().in_transaction() or (needed and not receipt.kept):
            self._commit()

    def _note_verdict(self, receipt: Receipt, verdict: int) -> None:
        """Note what Postal is answered, in case that this process dies before."""
        events = self._models.table("event")
        mapper = {"mapper": self._models.receipt}
        self._db.session.connection(bind_arguments=mapper).execute(
            sa.update(events)
            .where(events.c.id == receipt.event_id, events.c.verdict.is_(None))
            .values(verdict=verdict)
        )

    def _commit(self) -> None:
        try:
            self._db.session.commit()
        except BaseException:
            self._db.session.rollback()
            raise

    def _listen(self) -> None:
        """Listen to the sessions; an app may exchange ``db.session`` at any time."""
        target = self._db.session
        if not sa.event.contains(target, "before_commit", self._before_commit):
            sa.event.listen(target, "before_commit", self._before_commit)
            sa.event.listen(target, "after_commit", self._after_commit)

    def _pending(self, session: Any) -> Receipt | None:
        """Return the receipt that belongs to the outermost transaction of a session."""
        owner, receipt = (
            g.get(_KEY, (None, None)) if has_app_context() else (None, None)
        )
        if owner is not self or receipt is None or receipt.kept:
            return None
        if session.in_nested_transaction() or self._db.session() is not session:
            return None
        found: Receipt = receipt
        return found

    def _before_commit(self, session: Any) -> None:
        receipt = self._pending(session)
        if receipt is None or receipt.receiver is None:
            return
        connection = session.connection(bind_arguments={"mapper": self._models.receipt})
        values = {
            "event_id": receipt.event_id,
            "receiver": receipt.receiver,
            "created_at": now(),
        }
        try:
            connection.execute(self._insert, values)
        except sa.exc.IntegrityError as error:
            raise ReceiptTakenError(
                "this receiver has handled the event already, in another process; its"
                " work here is rolled back"
            ) from error

    def _after_commit(self, session: Any) -> None:
        receipt = self._pending(session)
        if receipt is not None:
            receipt.kept = True
