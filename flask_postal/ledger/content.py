"""Stores what is larger than a database takes in one statement, in pieces."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import sqlalchemy as sa

__all__ = ["PIECE", "load", "owner_of_mail", "pieces", "save"]

#: Bytes of one piece. MariaDB takes statements of 16 MB by default, and a row of bytes
#: may double its size in one.
PIECE = 1024 * 1024


def owner_of_mail(mail_id: int) -> str:
    """Return the owner of a message's content."""
    return f"mail:{mail_id}"


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
    query = (
        sa.select(table.c.data).where(table.c.owner == owner).order_by(table.c.number)
    )
    found = [bytes(data) for (data,) in connection.execute(query)]
    return b"".join(found) if found else None
