"""Public interface to the suppressed addresses: look up, add and remove."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from typing import Any

import sqlalchemy as sa

from ..sending.suppression import SuppressionReason
from .app_ledger import AppLedger
from .columns import stored
from .mapping import LedgerModels
from .suppression import Suppressions, checked

__all__ = ["SuppressionList"]

_log = logging.getLogger("flask_postal.ledger")


class SuppressionList:
    """The addresses that nothing is sent to: :attr:`.Ledger.suppressions`.

    Its methods work in the current session, and the caller commits.

    :param current: Returns the part of the current app.
    """

    def __init__(
        self, db: Any, models: LedgerModels, current: Callable[[], AppLedger]
    ) -> None:
        self._db = db
        self._models = models
        self._current = current

    def add(
        self,
        address: Any,
        reason: SuppressionReason | str = SuppressionReason.MANUAL,
        *,
        list: str | None = None,
        detail: str | None = None,
        since: datetime | None = None,
        until: datetime | None = None,
    ) -> bool:
        """Suppress an address.

        :param list: Only mail of this list; all mail if not given.
        :param detail: A note for people.
        :param since: An aware datetime; now if not given.
        :param until: An aware datetime; for ever if not given.
        :returns: ``False`` if it is suppressed for this reason already.
        :raises MessageError: for an invalid address or list.
        :raises ValueError: for an unknown reason, or a time that is not aware.
        """
        key, name = checked(address, list)
        return self._suppressions.add(
            self._connection(),
            key,
            SuppressionReason(reason),
            mailing_list=name,
            detail=detail,
            since=_stored(since),
            until=_stored(until),
        )

    def remove(
        self,
        address: str,
        *,
        list: str | None = None,
        reason: SuppressionReason | str | None = None,
    ) -> int:
        """Write to an address again.

        :param list: Only mail of this list; ``""`` for what holds for all mail.
        :param reason: Only this reason.
        :returns: How many reasons there were.
        :raises ValueError: for an unknown reason.
        """
        return self._suppressions.remove(
            self._connection(),
            address,
            mailing_list=list,
            reason=None if reason is None else SuppressionReason(reason),
        )

    def find(
        self,
        address: str | None = None,
        *,
        reason: SuppressionReason | str | None = None,
        limit: int | None = 50,
    ) -> Sequence[Any]:
        """Return records, the newest first, also those that have ended.

        They have ``.address``, ``.list``, ``.reason``, ``.detail``, ``.event_id``,
        ``.since`` and ``.until``.

        :param limit: How many at most; ``None`` for all.
        :raises ValueError: for an unknown reason.
        """
        rows = self._suppressions.rows(
            address, None if reason is None else SuppressionReason(reason)
        )
        found: Sequence[Any] = self._db.session.scalars(rows.limit(limit)).all()
        return found

    def held_by_postal(
        self, address: str | None = None, *, limit: int = 50
    ) -> Sequence[str]:
        """Return addresses that are on Postal's own list, as the last events say.

        Postal takes messages to them, and holds them.

        :param address: Only this one.
        """
        return self._suppressions.held_by_postal(self._connection(), address, limit)

    def among(
        self, envelopes: Sequence[str], mailing_list: str | None = None
    ) -> Mapping[str, SuppressionReason]:
        """Return the reason for those of some addresses that are suppressed."""
        ledger = self._current()
        suppressions, session = ledger.suppressions, self._db.session()
        if not suppressions.is_used:
            return {}

        def find(connection: sa.Connection) -> Mapping[str, SuppressionReason]:
            return suppressions.find(connection, envelopes, mailing_list)

        if not (session.in_transaction() and session.is_active):
            return ledger.database.look(find)
        # What the caller has just changed counts, and a second connection might have to
        # wait for the first one.
        connection = self._connection()
        if connection.dialect.name != "postgresql":
            return find(connection)
        with connection.begin_nested():  # an error would end the caller's transaction
            return find(connection)

    def among_recipients(
        self, envelopes: Sequence[str], mailing_list: str | None
    ) -> Mapping[str, SuppressionReason]:
        """As :meth:`among`, for a message that is about to be sent.

        If the database fails, the message is sent to all recipients, because one mail
        too many does less harm than a lost one. Messages of a list are not sent then.
        """
        try:
            return self.among(envelopes, mailing_list)
        except sa.exc.SQLAlchemyError as error:
            if mailing_list is not None:
                raise
            cause = getattr(error, "orig", None) or type(error).__name__
            _log.error(
                "suppressed addresses can't be looked up, and the message is sent to"
                " all: %s. Have the ledger's tables been created, by `flask db upgrade`"
                " or db.create_all()?",
                ascii(str(cause)),
            )
            return {}

    @property
    def _suppressions(self) -> Suppressions:
        return self._current().suppressions

    def _connection(self) -> sa.Connection:
        self._current().database.bind()  # before a savepoint begins on it
        connection: sa.Connection = self._db.session().connection(
            bind_arguments={"mapper": self._models.mail}
        )
        return connection


def _stored(time: datetime | None) -> datetime | None:
    if time is None:
        return None
    if time.utcoffset() is None:
        raise ValueError("a time must be an aware datetime")
    try:
        return stored(time)
    except OverflowError:
        raise ValueError(f"{time!r} is out of range") from None
