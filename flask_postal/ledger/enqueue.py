"""Adds messages to the caller's transaction.

Everything is written by statements on the connection of the caller's session. Added as
objects, it would be flushed together with what the caller has not finished yet.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import make_msgid
from typing import Any

import sqlalchemy as sa
from flask import Flask

from ..errors import MessageError
from ..sending.content import Content
from ..sending.message import Message
from ..sending.message_json import json_dict
from ..sending.mime import build_mime
from ..sending.payload import raw_fields
from ..sending.pipeline import SendPipeline
from .columns import now, stored
from .content import owner_of_mail, save
from .mapping import LedgerModels

__all__ = [
    "ALL_SUPPRESSED",
    "CAPABILITIES",
    "Draft",
    "find_by_key",
    "insert",
    "savepoint",
    "write_draft",
]

#: Levels of metadata.
MAX_DEPTH = 20
#: What a ledger provides beyond Postal.
CAPABILITIES = frozenset({"metadata", "send_at"})
#: Why a message is cancelled that has no recipient left.
ALL_SUPPRESSED = "all of its recipients are suppressed"


@dataclass(frozen=True, slots=True)
class Draft:
    """A message that has been rendered and checked, ready to be stored."""

    server: str
    key: str | None
    content: Content
    mime: bytes
    options: dict[str, Any]
    meta: dict[str, Any]
    due_at: datetime
    #: Whether the caller chose the Message-ID, which may then exist already.
    chosen_id: bool


def write_draft(
    app: Flask,
    pipeline: SendPipeline,
    message: Message,
    *,
    server: str,
    key: str | None,
    send_at: datetime | float | None,
) -> Draft:
    """Render, announce and check a message, and write its MIME.

    :raises MessageError: if it can't be sent, or its metadata is not JSON.
    :raises CancelSend: if a receiver of ``message_sending`` stops it.
    """
    if key is not None and not _is_key(key):
        raise MessageError(
            "key must be a string of 1 to 255 characters, without spaces around it and"
            f" without control characters; not {key!r}",
            field="key",
        )
    message = pipeline.announce(app, pipeline.complete(app, message))
    meta = _storable(message.metadata, "metadata")
    due_at = _due(message.send_at if send_at is None else send_at)
    content = pipeline.check(message, capabilities=CAPABILITIES)
    chosen_id = content.message_id is not None
    if content.message_id is None:
        content.message_id = make_msgid(domain=content.sender.domain)[1:-1]
    content.why_raw = content.why_raw or "a message of the ledger"
    return Draft(
        server=server,
        key=key,
        content=content,
        mime=build_mime(content),
        options=_storable(raw_fields(content), "esp_extra"),
        meta=meta,
        due_at=due_at,
        chosen_id=chosen_id,
    )


def _storable(value: Any, field: str) -> dict[str, Any]:
    """Return a dict that every database takes as JSON.

    :raises MessageError: if it is not JSON, or nested more than 20 deep: MariaDB takes
        32 levels.
    """
    found = json_dict(value, field)
    try:
        text = json.dumps(found, ensure_ascii=False, allow_nan=False)
        text.encode()
    except (RecursionError, TypeError, UnicodeEncodeError, ValueError):
        raise MessageError(f"{field} can't be stored as JSON", field=field) from None
    if "\\u0000" in text:
        raise MessageError(f"{field} contains a NUL character", field=field)
    if _depth(found) > MAX_DEPTH:
        raise MessageError(
            f"{field} is nested more than {MAX_DEPTH} levels deep", field=field
        )
    return found


def _depth(value: Any) -> int:
    items: Iterable[Any] = ()
    if isinstance(value, dict):
        items = value.values()
    elif isinstance(value, (list, tuple)):
        items = value
    else:
        return 0
    return 1 + max(map(_depth, items), default=0)


def _is_key(key: Any) -> bool:
    return (
        isinstance(key, str)
        and 0 < len(key) <= 255
        and key == key.strip()  # MariaDB ignores spaces at the end
        and all(character.isprintable() for character in key)
    )


def _due(send_at: Any) -> datetime:
    """Return when a message is due; the past is now."""
    if send_at is None:
        return now()
    given = send_at
    if isinstance(send_at, (int, float)) and not isinstance(send_at, bool):
        try:
            if math.isfinite(send_at):
                send_at = datetime.fromtimestamp(send_at, UTC)
        except (OverflowError, OSError, ValueError):
            send_at = None
    if not isinstance(send_at, datetime) or send_at.utcoffset() is None:
        raise MessageError(
            "send_at must be an aware datetime, such as datetime.now(UTC) +"
            f" timedelta(hours=1), or seconds since 1970; not {given!r}",
            field="send_at",
        )
    try:
        return max(stored(send_at), now())
    except (OverflowError, ValueError):
        raise MessageError(
            f"send_at: {send_at!r} is out of range", field="send_at"
        ) from None


def find_by_key(
    connection: sa.Connection, models: LedgerModels, key: str, *, lock: bool = False
) -> int | None:
    """Return the id of the message with a key.

    :param lock: Whether to read what is committed, and not what the transaction saw
        when it began, as MariaDB does otherwise. A shared lock is enough, and the
        failed INSERT has one already; callers that asked for more would wait for each
        other.
    """
    table = models.table("mail")
    query = sa.select(table.c.id).where(table.c.key == key)
    found: int | None = connection.execute(
        query.with_for_update(read=True) if lock else query
    ).scalar()
    return found


def insert(connection: sa.Connection, models: LedgerModels, draft: Draft) -> int:
    """Store a draft in the transaction of a connection.

    :returns: The id of the message; with a key that is known, of the first one.
    :raises MessageError: if the Message-ID that the caller chose is known.
    """
    if draft.key is not None:
        known = find_by_key(connection, models, draft.key)
        if known is not None:
            return known
    try:
        with savepoint(connection, models):
            return _insert(connection, models, draft)
    except sa.exc.IntegrityError:
        if draft.key is not None:
            known = find_by_key(connection, models, draft.key, lock=True)
            if known is not None:
                return known
        if not draft.chosen_id:
            raise
    raise MessageError(
        f"message_id: a message with the Message-ID {draft.content.message_id} has been"
        " stored already; choose another, or leave it out",
        field="message_id",
    )


@contextmanager
def savepoint(connection: sa.Connection, models: LedgerModels) -> Iterator[None]:
    """Undo what is done in the block if it raises, and leave the rest as it was."""
    if connection.dialect.name == "sqlite":
        # Its driver begins a transaction with the first statement that writes, and a
        # savepoint is none. Released without a transaction, it would commit.
        table = models.table("mail")
        connection.execute(sa.update(table).where(sa.false()).values(attempts=0))
    nested = connection.begin_nested()
    try:
        yield
    except BaseException as error:
        try:
            nested.rollback()
        except sa.exc.DBAPIError:
            # MariaDB has ended a deadlock by rolling all of the transaction back, the
            # savepoint too. The caller must learn about the deadlock, and not go on as
            # if its own work were still there.
            connection.get_transaction().rollback()  # type: ignore[union-attr]
            raise error from None
        raise
    nested.commit()


def _insert(connection: sa.Connection, models: LedgerModels, draft: Draft) -> int:
    content = draft.content
    values: dict[str, Any] = {"state": "queued", "due_at": draft.due_at}
    if not content.recipients:
        values = {"state": "cancelled", "error": ALL_SUPPRESSED, "finished_at": now()}
    mail, recipient = models.table("mail"), models.table("recipient")
    result = connection.execute(
        sa.insert(mail).values(
            server=draft.server,
            key=draft.key,
            message_id=content.message_id,
            sender=content.sender.addr_spec,
            subject=content.subject[:200],
            size=len(draft.mime),
            attempts=0,
            meta=draft.meta,
            options=draft.options,
            list=content.mailing_list,
            ignore_suppression=content.ignore_suppression,
            recipient_count=len(content.addresses),
            created_at=now(),
            **values,
        )
    )
    (number,) = result.inserted_primary_key or (0,)
    connection.execute(
        sa.insert(recipient),
        [
            {
                "mail_id": number,
                "server": draft.server,
                "address": written,
                "envelope": address.addr_spec,
                "suppressed": content.left_out.get(written),
            }
            for written, address in content.addresses.items()
        ],
    )
    owner = owner_of_mail(number)
    save(connection, models.table("content"), owner, draft.mime)
    return number
