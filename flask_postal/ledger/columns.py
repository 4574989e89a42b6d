"""Column types of the ledger, for each database that it supports.

They are SQLAlchemy's own types with variants, and no type decorators: Alembic writes
those into migrations as names of this package, which a migration does not import.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import mysql

__all__ = [
    "aware",
    "binary",
    "clean",
    "exact",
    "now",
    "number",
    "stored",
    "text",
    "time",
]


def number() -> Any:
    """A 64-bit integer. SQLite numbers rows by itself only for the type INTEGER."""
    return sa.BigInteger().with_variant(sa.Integer(), "sqlite")


def time() -> Any:
    """A time in UTC, to the microsecond; see :func:`stored` and :func:`aware`.

    MariaDB's DATETIME has seconds only unless it is told otherwise.
    """
    return sa.DateTime().with_variant(mysql.DATETIME(fsp=6), "mysql", "mariadb")


def exact(length: int) -> Any:
    """Text that is compared byte for byte.

    MariaDB's default collation takes ``A`` and ``a`` for the same. With this one it
    still takes ``"a"`` and ``"a "`` for the same, so that no such text may end in a
    space.
    """
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4", collation="utf8mb4_bin"),
        "mysql",
        "mariadb",
    )


def text(length: int | None = None) -> Any:
    """Text of any characters, whatever character set the database has.

    :param length: ``None`` for up to 64 kB.
    """
    if length is None:
        return sa.Text().with_variant(mysql.TEXT(charset="utf8mb4"), "mysql", "mariadb")
    return sa.String(length).with_variant(
        mysql.VARCHAR(length, charset="utf8mb4"), "mysql", "mariadb"
    )


def binary() -> Any:
    """Bytes. MariaDB's BLOB takes 64 kB."""
    return sa.LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


def clean(text: str, length: int = 2000) -> str:
    """Make a text storable everywhere, such as one that comes from a server.

    PostgreSQL takes no NUL, no driver takes lone surrogates, and MariaDB's TEXT has
    64 kB.
    """
    text = text.replace("\0", "").encode("utf-8", "replace").decode()
    return text if len(text) <= length else f"{text[:length]} ..."


def now() -> datetime:
    """Return the current time as it is stored."""
    return stored(datetime.now(UTC))


def stored(time: datetime) -> datetime:
    """Turn an aware time into what a :func:`time` column takes: naive, in UTC."""
    return time.astimezone(UTC).replace(tzinfo=None)


def aware(time: datetime | None) -> datetime | None:
    """Turn what a :func:`time` column holds into an aware time."""
    return None if time is None else time.replace(tzinfo=UTC)
