"""The doubtful messages of a Postal: their rows, and what is written about them."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Any

import sqlalchemy as sa

from ..sending.stored import MessageDetails
from .columns import clean, now
from .database import Database
from .deliver import gives_up
from .evidence import settle
from .known import Known, known_ids
from .mapping import LedgerModels
from .poll_times import FIRST_POLL
from .settings import LedgerSettings

__all__ = ["Doubt", "Doubts"]

#: Doubtful messages that one look is about at most.
TOGETHER = 500


@dataclass(slots=True)
class Doubt:
    """A doubtful message.

    :ivar anchor: The mail after which to look, once it is known.
    :ivar missing: Envelope -> id of the recipient's row, for those that Postal is not
        known to have taken.
    """

    mail: Any
    anchor: Known | None = None
    missing: dict[str, int] = field(default_factory=dict)

    @property
    def began_at(self) -> datetime:
        """When the attempt began, as it is stored."""
        began: datetime = self.mail.began_at or self.mail.created_at
        return began


class Doubts:
    """The doubtful messages of one Postal.

    :param server: The extension key of the Postal.
    :param accepted: Called with the id of a message that Postal is found to have
        accepted for all recipients.
    :param failed: Called with the id of a message that has been tried for too long.
    """

    def __init__(
        self,
        server: str,
        database: Database,
        models: LedgerModels,
        settings: LedgerSettings,
        accepted: Callable[[int], object],
        failed: Callable[[int], object],
    ) -> None:
        self.server = server
        self.settings = settings
        self._database = database
        self._models = models
        self._mails = models.table("mail")
        self._recipients = models.table("recipient")
        self._accepted = accepted
        self._failed = failed

    def any_due(self) -> bool:
        """Tell whether there is one that is due."""
        return bool(self._database.rows(self._due().limit(1)))

    def _due(self) -> sa.Select[Any]:
        mails = self._mails
        return (
            sa.select(mails)
            .where(mails.c.state == "doubtful", mails.c.due_at <= now())
            .where(mails.c.server == self.server)
            .order_by(mails.c.due_at, mails.c.id)
        )

    # ---- the messages

    def read(self) -> list[Doubt]:
        """Return those that are due, with the recipients that are missing."""
        recipients = self._recipients
        mails = self._database.rows(self._due().limit(TOGETHER))
        doubts = {mail.id: Doubt(mail) for mail in mails}
        for row in self._database.rows(
            sa.select(recipients).where(
                recipients.c.mail_id.in_(doubts),
                recipients.c.postal_id.is_(None),
                recipients.c.suppressed.is_(None),
            )
        ):
            doubts[row.mail_id].missing[row.envelope] = row.id
        return list(doubts.values())

    def settle(self, mail_id: int) -> bool:
        """Accept a message if all of its recipients are known to have been taken."""
        settled = self._database.run(
            lambda connection: settle(connection, self._models, mail_id)
        )
        if settled:
            self._accepted(mail_id)
        return settled

    def note_found(self, row_id: int, found: MessageDetails) -> None:
        """Note that Postal has taken a message for a recipient."""
        recipients = self._recipients
        statement = (
            sa.update(recipients)
            .where(recipients.c.id == row_id, recipients.c.postal_id.is_(None))
            .values(
                postal_id=found.id,
                token=found.token,
                told_at=now(),
                poll_at=sa.func.coalesce(recipients.c.poll_at, now() + FIRST_POLL),
            )
        )
        self._database.change(statement)

    def wait(self, doubt: Doubt, why: str, seconds: float | None = None) -> None:
        """Note what a message waits for, and when to look again."""
        seconds = self.settings.next_look if seconds is None else seconds
        self._change(
            doubt,
            waiting=clean(why),
            due_at=now() + timedelta(seconds=max(seconds, 0.0)),
        )

    def try_again(self, doubt: Doubt) -> bool:
        """Queue a message for the recipients that Postal has not taken.

        At once after the first attempt. Later ones wait: Postal may fail each time, as
        it does for a mail that is too large for its database.
        """
        mail, pause = doubt.mail, timedelta()
        if mail.attempts > 1:
            pause = timedelta(seconds=self.settings.pause(mail.attempts - 1))
        if not gives_up(mail, self.settings, pause):
            return self._change(
                doubt, state="queued", due_at=now() + pause, waiting=None
            )
        failed = self._change(
            doubt, state="failed", due_at=None, waiting=None, finished_at=now()
        )
        if failed:
            self._failed(mail.id)
        return failed

    def _change(self, doubt: Doubt, **values: Any) -> bool:
        mails = self._mails
        statement = (
            sa.update(mails)
            .where(mails.c.id == doubt.mail.id, mails.c.state == "doubtful")
            .where(mails.c.attempts == doubt.mail.attempts)
            .values(**values)
        )
        return self._database.change(statement) == 1

    def keep_anchor(self, doubt: Doubt, anchor: Known) -> None:
        """Keep an anchor that was found afterwards, for the next look."""
        self._change(doubt, anchor=[anchor.as_json()])

    # ---- the ids

    def sent_at(self, known: Known) -> datetime | None:
        """Return when the attempt with a mail of ours began; ``None`` if it isn't."""
        mails, recipients = self._mails, self._recipients
        rows = self._database.rows(
            sa.select(mails.c.began_at)
            .join(recipients, recipients.c.mail_id == mails.c.id)
            .where(recipients.c.server == self.server)
            .where(recipients.c.postal_id == known.id)
            .where(recipients.c.token == known.token, mails.c.attempts == 1)
        )
        return rows[0].began_at if rows else None

    def known(self) -> list[Known]:
        """Return the highest ids that are known."""
        return self._database.run(
            lambda connection: known_ids(connection, self._models, self.server)
        )

    def ours(self, start: int, end: int, since: datetime) -> set[int]:
        """Return the ids from ``start`` to before ``end`` that our rows have.

        :param since: Only those that Postal's API has told later: others may have been
            given by another mail server, before this one was behind the URL.
        """
        recipients = self._recipients
        rows = self._database.rows(
            sa.select(recipients.c.postal_id)
            .where(recipients.c.server == self.server, recipients.c.told_at >= since)
            .where(recipients.c.postal_id >= start, recipients.c.postal_id < end)
        )
        return {row.postal_id for row in rows}

    def counts_from(self, doubt: Doubt) -> datetime:
        """Return from when on "not found" counts."""
        ended: datetime = doubt.mail.ended_at or doubt.began_at
        return ended + timedelta(seconds=self.settings.settle)
