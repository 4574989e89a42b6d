"""The ids of Postal that are known, from responses and events.

Postal numbers all mail of a mail server with one counter, incoming and outgoing alike.
Whatever an attempt stored has a higher id than any that was known when it began. The
token of the known mail tells later whether it is still the same mail server.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from .mapping import LedgerModels

__all__ = ["Known", "known_ids", "note_seen"]


@dataclass(frozen=True, slots=True)
class Known:
    """A mail of Postal: its id and its token.

    :param start: The id after which to look, if it is another one: 0 for the beginning
        of a mail server of which only a later mail is known.
    """

    id: int
    token: str | None
    start: int | None = None

    @property
    def after(self) -> int:
        """The id after which to look."""
        return self.id if self.start is None else self.start

    def as_json(self) -> dict[str, Any]:
        """Return it as it is stored in a row."""
        found = {"id": self.id, "token": self.token}
        return found if self.start is None else {**found, "start": self.start}

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> Known:
        """Read what :meth:`as_json` returned."""
        return cls(data["id"], data["token"], data.get("start"))


def known_ids(
    connection: sa.Connection, models: LedgerModels, server: str
) -> list[Known]:
    """Return the highest id of our mail and the one of a foreign mail, highest first.

    Two, because a foreign one may be of another mail server: without
    ``POSTAL_WEBHOOK_SECRET``, another tenant of the installation can send its events.
    """
    recipients = models.table("recipient")
    row = connection.execute(
        sa.select(recipients.c.postal_id, recipients.c.token)
        .where(recipients.c.server == server, recipients.c.postal_id.is_not(None))
        .where(recipients.c.token.is_not(None))
        .order_by(recipients.c.postal_id.desc())
        .limit(1)
    ).first()
    found = [] if row is None else [Known(row.postal_id, row.token)]
    seen = _seen(connection, models, server)
    if seen is not None:
        found.append(seen)
    return sorted(found, key=lambda known: known.id, reverse=True)


def note_seen(
    connection: sa.Connection, models: LedgerModels, server: str, seen: Known
) -> None:
    """Note a mail that is none of ours: incoming, or of another app.

    There is one row for each Postal. If two processes write it at the same time, one of
    them is lost, which does no harm: any known id will do.
    """
    table, owner = models.table("content"), _owner(server)
    data = json.dumps(seen.as_json()).encode()
    if _seen(connection, models, server) is None:
        try:
            with connection.begin_nested():
                connection.execute(
                    sa.insert(table).values(owner=owner, number=0, data=data)
                )
        except sa.exc.IntegrityError:
            return
    else:
        connection.execute(
            sa.update(table).where(table.c.owner == owner).values(data=data)
        )


def _seen(connection: sa.Connection, models: LedgerModels, server: str) -> Known | None:
    table = models.table("content")
    query = sa.select(table.c.data).where(table.c.owner == _owner(server))
    data = connection.scalar(query)
    return None if data is None else Known.from_json(json.loads(bytes(data)))


def _owner(server: str) -> str:
    return f"seen:{server}"
