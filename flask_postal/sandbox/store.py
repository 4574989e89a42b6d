"""Database of the sandbox: messages, deliveries, requests, jobs and notes.

It is SQLite, in a file or in memory. Postal's rules are elsewhere, in :mod:`.mailbox`
and :mod:`.webhooks`.
"""

from __future__ import annotations

import json
import re
import sqlite3
import threading
import weakref
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from .records import Attempt, Job, Mail, WebhookRequest

__all__ = ["Store"]

#: Number of messages that are kept. Older ones are deleted with all that belongs to
#: them.
MAX_MAILS = 500
#: Total size in bytes of messages and requests above which the oldest are deleted.
MAX_BYTES = 256 * 1024 * 1024
#: Number of requests that are kept per message: each open and click causes one.
MAX_REQUESTS = 200

_SCHEMA = """
CREATE TABLE IF NOT EXISTS mails (
    id INTEGER PRIMARY KEY AUTOINCREMENT, token TEXT, direction TEXT, message_id TEXT,
    recipient TEXT, sender TEXT, subject TEXT, timestamp REAL, tag TEXT, bounce INTEGER,
    bounce_for_id INTEGER, status TEXT, last_attempt REAL, raw BLOB, delivered BLOB);
CREATE TABLE IF NOT EXISTS deliveries (
    id INTEGER PRIMARY KEY AUTOINCREMENT, mail_id INTEGER, status TEXT, details TEXT,
    output TEXT, sent_with_ssl INTEGER, log_id TEXT, time REAL, timestamp REAL);
CREATE TABLE IF NOT EXISTS links (token TEXT PRIMARY KEY, mail_id INTEGER, url TEXT);
CREATE TABLE IF NOT EXISTS activity (
    id INTEGER PRIMARY KEY AUTOINCREMENT, mail_id INTEGER, kind TEXT, url TEXT,
    ip_address TEXT, user_agent TEXT, timestamp REAL);
CREATE TABLE IF NOT EXISTS requests (
    id INTEGER PRIMARY KEY AUTOINCREMENT, mail_id INTEGER, hook TEXT, event TEXT,
    content_type TEXT, body BLOB, created REAL, state TEXT, secret INTEGER,
    url TEXT);
CREATE TABLE IF NOT EXISTS attempts (
    id INTEGER PRIMARY KEY AUTOINCREMENT, request_id INTEGER, timestamp REAL, url TEXT,
    status INTEGER, answer TEXT, verdict TEXT);
CREATE TABLE IF NOT EXISTS jobs (
    id INTEGER PRIMARY KEY AUTOINCREMENT, due REAL, name TEXT, arguments TEXT);
CREATE INDEX IF NOT EXISTS jobs_due ON jobs (due, id);
CREATE TABLE IF NOT EXISTS notes (name TEXT PRIMARY KEY, content TEXT);
"""


class Store:
    """Database of one sandbox; thread-safe.

    :param path: The database file; ``None`` keeps everything in memory.
    """

    def __init__(self, path: Path | None = None) -> None:
        self._lock = threading.RLock()
        self._connection = sqlite3.connect(
            ":memory:" if path is None else path,
            check_same_thread=False,
            isolation_level=None,
        )
        weakref.finalize(self, self._connection.close)
        self._connection.row_factory = sqlite3.Row
        self._connection.executescript(_SCHEMA)

    def clear(self) -> None:
        """Delete all messages, requests and jobs. New ones get new ids."""
        with self._lock:
            for table in (
                *("mails", "deliveries", "links", "activity"),
                *("requests", "attempts", "jobs"),
            ):
                self._connection.execute(f"DELETE FROM {table}")  # noqa: S608

    # ---- messages

    def add_mail(self, **values: Any) -> Mail:
        """Store a message, and delete the oldest if there are too many."""
        with self._lock:
            number = self._insert("mails", values)
            for (old,) in self._connection.execute(
                "SELECT id FROM mails ORDER BY id DESC LIMIT -1 OFFSET ?", (MAX_MAILS,)
            ).fetchall():
                self._forget(old)
            self._make_room(number)
            (row,) = self._all("SELECT * FROM mails WHERE id = ?", number)
        return _mail(row)

    def _make_room(self, kept: int | None) -> None:
        """Delete the oldest messages until the total size is within :data:`MAX_BYTES`.

        Requests that are not about a message are deleted first.

        :param kept: The id of a message to keep; ``None`` to keep the requests that are
            not about a message.
        """
        sizes = self._all(
            "SELECT id, LENGTH(raw) + COALESCE(LENGTH(delivered), 0) FROM mails"
            " UNION ALL SELECT mail_id, LENGTH(body) FROM requests"
        )
        total = sum(size or 0 for _, size in sizes)
        if total <= MAX_BYTES:
            return
        for old in sorted({number or 0 for number, _ in sizes} - {kept or 0}):
            if old:
                self._forget(old)
            else:
                self._connection.execute("DELETE FROM requests WHERE mail_id IS NULL")
            total -= sum(size or 0 for number, size in sizes if (number or 0) == old)
            if total <= MAX_BYTES:
                return

    def mail(self, number: int) -> Mail | None:
        """Return the message with an id."""
        rows = self._all("SELECT * FROM mails WHERE id = ?", number)
        return _mail(rows[0]) if rows else None

    def mails(self) -> list[Mail]:
        """Return all messages, oldest first."""
        return [_mail(row) for row in self._all("SELECT * FROM mails ORDER BY id")]

    def list_mails(self, query: str = "") -> list[Mail]:
        """Return all messages, newest first, without their content.

        :param query: Text that the subject, an address, the tag or the content has to
            contain.
        """
        columns = (
            "id, token, direction, message_id, recipient, sender, subject, timestamp,"
            " tag, bounce, bounce_for_id, status, last_attempt, x'' AS raw,"
            " NULL AS delivered"
        )
        found, values = "1", []
        if query:
            escaped = re.sub(r"([%_\\])", r"\\\1", query)
            names = ("subject", "recipient", "sender", "tag", "CAST(raw AS TEXT)")
            found = " OR ".join(f"{name} LIKE ? ESCAPE '\\'" for name in names)
            values = [f"%{escaped}%"] * len(names)
        rows = self._all(
            f"SELECT {columns} FROM mails WHERE {found} ORDER BY id DESC",  # noqa: S608
            *values,
        )
        return [_mail(row) for row in rows]

    def update_mail(self, number: int, **values: Any) -> None:
        """Change columns of a message."""
        names = ", ".join(f"{name} = ?" for name in values)
        self._all(f"UPDATE mails SET {names} WHERE id = ?", *values.values(), number)  # noqa: S608

    def _forget(self, number: int) -> None:
        self._connection.execute("DELETE FROM mails WHERE id = ?", (number,))
        for table in ("deliveries", "links", "activity"):
            self._connection.execute(
                f"DELETE FROM {table} WHERE mail_id = ?",  # noqa: S608
                (number,),
            )
        self._connection.execute(
            "DELETE FROM attempts WHERE request_id IN"
            " (SELECT id FROM requests WHERE mail_id = ?)",
            (number,),
        )
        self._connection.execute("DELETE FROM requests WHERE mail_id = ?", (number,))

    # ---- deliveries, links, opens and clicks

    def add_delivery(self, **values: Any) -> None:
        """Store an attempt to deliver a message."""
        self._insert("deliveries", values)

    def deliveries(self, mail_id: int) -> list[dict[str, Any]]:
        """Return the attempts to deliver a message, oldest first."""
        query = "SELECT * FROM deliveries WHERE mail_id = ? ORDER BY id"
        return [dict(row) for row in self._all(query, mail_id)]

    def add_link(self, token: str, mail_id: int, url: str) -> None:
        """Store the original URL of a tracked link."""
        self._insert("links", {"token": token, "mail_id": mail_id, "url": url})

    def link(self, token: str) -> tuple[int, str] | None:
        """Return the message id and the original URL of a tracked link."""
        rows = self._all("SELECT mail_id, url FROM links WHERE token = ?", token)
        return (rows[0]["mail_id"], rows[0]["url"]) if rows else None

    def links(self, mail_id: int) -> list[tuple[str, str]]:
        """Return token and original URL of each tracked link in a message."""
        rows = self._all(
            "SELECT * FROM links WHERE mail_id = ? ORDER BY rowid", mail_id
        )
        return [(row["token"], row["url"]) for row in rows]

    def mail_by_token(self, token: str) -> Mail | None:
        """Return the message with a token."""
        rows = self._all("SELECT * FROM mails WHERE token = ?", token)
        return _mail(rows[0]) if rows else None

    def add_activity(self, **values: Any) -> None:
        """Store that a message was opened or a link was clicked."""
        self._insert("activity", values)

    def activity(self, mail_id: int) -> list[dict[str, Any]]:
        """Return the opens and clicks of a message, oldest first."""
        query = "SELECT * FROM activity WHERE mail_id = ? ORDER BY id"
        return [dict(row) for row in self._all(query, mail_id)]

    # ---- requests

    def add_request(self, **values: Any) -> WebhookRequest:
        """Store a webhook request, and delete the oldest if there are too many."""
        with self._lock:
            number = self._insert("requests", values)
            if values["mail_id"] is None:
                self._connection.execute(
                    "DELETE FROM requests WHERE mail_id IS NULL AND id <= ?",
                    (number - 2 * MAX_MAILS,),
                )
            else:
                self._connection.execute(
                    "DELETE FROM requests WHERE id IN (SELECT id FROM requests"
                    " WHERE mail_id = ? ORDER BY id DESC LIMIT -1 OFFSET ?)",
                    (values["mail_id"], MAX_REQUESTS),
                )
            self._connection.execute(
                "DELETE FROM attempts WHERE request_id NOT IN (SELECT id FROM requests)"
            )
            self._make_room(values["mail_id"])
            (row,) = self._all("SELECT * FROM requests WHERE id = ?", number)
            return self._request(row)

    def request(self, number: int) -> WebhookRequest | None:
        """Return a webhook request with its attempts."""
        with self._lock:  # so that no attempt is added between the two queries
            rows = self._all("SELECT * FROM requests WHERE id = ?", number)
            return self._request(rows[0]) if rows else None

    def requests(self) -> list[WebhookRequest]:
        """Return all webhook requests, oldest first."""
        with self._lock:
            rows = self._all("SELECT * FROM requests ORDER BY id")
            return [self._request(row) for row in rows]

    def requests_about(self, mail_id: int | None) -> list[WebhookRequest]:
        """Return the webhook requests about a message, oldest first.

        :param mail_id: ``None`` for the requests that are not about a message.
        """
        with self._lock:
            rows = self._all(
                "SELECT * FROM requests WHERE mail_id IS ? ORDER BY id", mail_id
            )
            return [self._request(row) for row in rows]

    def add_attempt(self, request_id: int, state: str, attempt: Attempt) -> None:
        """Store an attempt, and set the state of its request."""
        with self._lock:
            self._insert(
                "attempts",
                {
                    "request_id": request_id,
                    "timestamp": attempt.timestamp,
                    "url": attempt.url,
                    "status": attempt.status,
                    "answer": attempt.answer,
                    "verdict": attempt.verdict,
                },
            )
            self._all("UPDATE requests SET state = ? WHERE id = ?", state, request_id)

    def _request(self, row: sqlite3.Row) -> WebhookRequest:
        attempts = self._all(
            "SELECT timestamp, url, status, answer, verdict FROM attempts"
            " WHERE request_id = ? ORDER BY id",
            row["id"],
        )
        values = dict(row)
        values["secret"] = bool(values["secret"])
        return WebhookRequest(
            **values, attempts=tuple(Attempt(*attempt) for attempt in attempts)
        )

    # ---- jobs

    def add_job(self, due: float, name: str, arguments: Mapping[str, Any]) -> None:
        """Store a job; see :meth:`.Schedule.plan`."""
        text = json.dumps(arguments)
        self._insert("jobs", {"due": due, "name": name, "arguments": text})

    def next_due(self) -> float | None:
        """Return when the next job is due, in seconds since 1970."""
        (row,) = self._all("SELECT min(due) AS due FROM jobs")
        due: float | None = row["due"]
        return due

    def next_job(self, until: float, but: Collection[int] = ()) -> Job | None:
        """Return the first job that is due by a time, in seconds since 1970.

        :param but: The ids of jobs to skip, because they are running.
        """
        marks = ", ".join("?" * len(but))
        rows = self._all(
            f"SELECT * FROM jobs WHERE due <= ? AND id NOT IN ({marks})"  # noqa: S608
            " ORDER BY due, id LIMIT 1",
            *(until, *but),
        )
        if not rows:
            return None
        row = rows[0]
        return Job(row["id"], row["due"], row["name"], json.loads(row["arguments"]))

    def remove_job(self, number: int) -> None:
        """Delete a job."""
        self._all("DELETE FROM jobs WHERE id = ?", number)

    # ---- notes: keys, secrets and the time

    def note(self, name: str) -> str | None:
        """Return the text stored under a name."""
        rows = self._all("SELECT content FROM notes WHERE name = ?", name)
        return rows[0]["content"] if rows else None

    def set_note(self, name: str, content: str) -> None:
        """Store a text under a name."""
        self._all("INSERT OR REPLACE INTO notes VALUES (?, ?)", name, content)

    # ---- SQL

    def _all(self, query: str, *values: Any) -> list[sqlite3.Row]:
        with self._lock:
            return self._connection.execute(query, values).fetchall()

    def _insert(self, table: str, values: Mapping[str, Any]) -> int:
        names, marks = ", ".join(values), ", ".join("?" * len(values))
        with self._lock:
            cursor = self._connection.execute(
                f"INSERT INTO {table} ({names}) VALUES ({marks})",  # noqa: S608
                tuple(values.values()),
            )
            return int(cursor.lastrowid or 0)


def _mail(row: sqlite3.Row) -> Mail:
    values = dict(row)
    values["bounce"] = bool(values["bounce"])
    return Mail(**values)
