"""Stores what is larger than a database takes in one statement, in pieces."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any

import sqlalchemy as sa

__all__ = [
    "PIECE",
    "load",
    "load_mails",
    "mail_of_owner",
    "owner_of_event",
    "owner_of_mail",
    "pieces",
    "save",
]

#: Bytes of one piece. MariaDB takes statements of 16 MB by default, and a row of bytes
#: may double its size in one.
PIECE = 1024 * 1024


def owner_of_mail(mail_id: int) -> str:
    """Return the owner of a message's content."""
    return f"mail:{mail_id}"


def owner_of_event(event_id: int) -> str:
    """Return the owner of an event's body."""
    return f"event:{event_id}"


def mail_of_owner(owner: str) -> int | None:
    """Return the id of the message that a content belongs to; ``None`` if to none."""
    kind, _, number = owner.partition(":")
    return int(number) if kind == "mail" else None


def pieces(data: bytes) -> Iterator[bytes]:
    """Divide bytes into pieces; there is one at least, so that none means gone."""
    for start in range(0, max(len(data), 1), PIECE):
        yield data[start : start + PIECE]


def save(connection: sa.Connection, table: sa.Table, owner: str, data: bytes) -> None:
    """Store bytes, one statement for each piece."""
    for number, piece in enumerate(pieces(data)):
        connection.execute(
            sa.insert(table).values(owner=owner, number=number, data=piece)
        )


def load(connection: Any, table: sa.Table, owner: str) -> bytes | None:
    """Read what :func:`save` stored; ``None`` if there is nothing.

    :param connection: A connection or a session.
    """
    rows = connection.execute(_pieces_of(table), {"content_owner": owner})
    found = [bytes(data) for (data,) in rows]
    return b"".join(found) if found else None


def load_mails(
    connection: sa.Connection, table: sa.Table, mail_ids: Sequence[int]
) -> dict[int, bytes]:
    """Read several messages at once; those whose content is gone are missing."""
    owners = [owner_of_mail(number) for number in mail_ids]
    found: dict[int, bytes] = {}
    for owner, data in connection.execute(_contents_of(table), {"owners": owners}):
        number = mail_of_owner(owner)
        if number is not None:
            found[number] = found.get(number, b"") + bytes(data)
    return found


@lru_cache(maxsize=8)
def _contents_of(table: sa.Table) -> sa.Select[Any]:
    """Build the query of several owners' pieces."""
    return (
        sa.select(table.c.owner, table.c.data)
        .where(table.c.owner.in_(sa.bindparam("owners", expanding=True)))
        .order_by(table.c.owner, table.c.number)
    )


@lru_cache(maxsize=8)
def _pieces_of(table: sa.Table) -> sa.Select[Any]:
    """Build the query of an owner's pieces."""
    return (
        sa.select(table.c.data)
        .where(table.c.owner == sa.bindparam("content_owner"))
        .order_by(table.c.number)
    )
