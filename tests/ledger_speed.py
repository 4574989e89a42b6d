"""The speed of the ledger, as ratios to the least work that a database could do.

Run it to write the tables of docs/performance.md::

    python -m tests.ledger_speed > docs/ledger-table.md
    python -m tests.ledger_speed --mails 200 --rows 10000 sqlite    # a quick look

Both sides of a ratio are measured in turns in the same run, because rates depend on the
machine and on what else it does. Databases run with their default durability: a commit
waits for the disk.
"""

from __future__ import annotations

import argparse
import contextlib
import itertools
import json
import platform
import re
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from flask_postal import Message, Postal
from flask_postal.ledger import Ledger
from flask_postal.ledger.app_ledger import BATCH
from flask_postal.ledger.columns import now
from flask_postal.ledger.content import owner_of_mail, save
from flask_postal.ledger.known import Known, known_ids, note_seen
from flask_postal.sandbox import Sandbox
from flask_postal.sending.payload import Body

from .databases import DATABASES, empty_database, mariadb, postgresql

__all__ = ["main"]

NAMES = {"sqlite": "SQLite", "postgresql": "PostgreSQL", "mariadb": "MariaDB"}
#: Times that both sides of a ratio are measured.
ROUNDS = 5
#: Times that each query is run.
RUNS = 200
#: Rows of each kind that is not finished yet, beside those that are.
UNFINISHED = 300

#: What a query ran with: the SQL and its parameters, as they are given to the driver.
Query = tuple[str, Any]


def _print(text: str, file: Any = None) -> None:
    stream = sys.stdout if file is None else file
    stream.write(f"{text}\n")
    stream.flush()


def _progress(text: str) -> None:
    _print(text, sys.stderr)


# ---- the app


class Instant:
    """A transport that reads the request, and answers at once."""

    def __init__(self) -> None:
        self._ids = itertools.count(1)

    def call(self, endpoint: str, body: Body) -> Any:
        for _ in body.pieces():
            pass
        number = next(self._ids)
        return {
            "message_id": "made-up@example.com",
            "messages": {"ana@example.com": {"id": number, "token": f"t{number:015}"}},
        }


class World:
    """An app with a ledger on an empty database.

    :param transport: Takes the messages; HTTP to ``POSTAL_API_URL`` if not given.
    :param config: Further settings of the app.
    """

    def __init__(self, url: str, transport: Any = None, **config: Any) -> None:
        class Base(DeclarativeBase):
            pass

        self.db: Any = SQLAlchemy(model_class=Base)
        self.ledger = Ledger(self.db)
        self.postal = Postal(ledger=self.ledger, transport=transport)
        self.app = Flask("ledger_speed")
        self.app.config.update(
            SQLALCHEMY_DATABASE_URI=url,
            # A connection for each thread. The default pool of 5 closes the others.
            SQLALCHEMY_ENGINE_OPTIONS={"pool_size": 10},
            POSTAL_RELAY="process",
            **config,
        )
        self.db.init_app(self.app)
        self.postal.init_app(self.app)
        with self.app.app_context():
            self.db.create_all()
            self.engine: sa.Engine = self.db.engine
        self.worker = self.ledger.of(self.app)
        self.mails, self.recipients, self.contents = (
            self.ledger.models.table(name) for name in ("mail", "recipient", "content")
        )

    def enqueue(self, count: int) -> list[int]:
        """Commit messages together; return their ids."""
        with self.app.app_context():
            records = self.postal.enqueue_many(messages(count))
            ids = [record.id for record in records]
            self.db.session.commit()
        return ids

    def deliver(self, threads: int) -> None:
        """Deliver all that is due, as the relay does, but without its pause."""

        def work(_: int) -> None:
            while True:
                try:
                    self.worker.send_due()
                except sa.exc.OperationalError as error:
                    _progress(f"    repeated: {error.orig}")
                else:
                    return

        in_threads(work, threads)

    def count(self, state: str) -> int:
        """The number of messages in a state."""
        query = sa.select(sa.func.count()).where(self.mails.c.state == state)
        with self.engine.connect() as connection:
            return int(connection.execute(query).scalar_one())


@contextlib.contextmanager
def world(url: str, transport: Any = None, **config: Any) -> Iterator[World]:
    """Make an app with empty tables, and remove them at the end of the block."""
    made = World(url, transport, **config)
    try:
        yield made
    finally:
        with made.app.app_context():
            made.db.drop_all()
        made.engine.dispose()


def messages(count: int) -> list[Message]:
    """Return messages with one recipient and a short text."""
    return [
        Message(
            f"Order {number}",
            ["ana@example.com"],
            "Thank you for your order. It will be sent tomorrow.\n" * 10,
            sender="shop@example.com",
        )
        for number in range(count)
    ]


def in_threads(work: Callable[[int], object], threads: int) -> None:
    """Call a function with 0, 1, ... in as many threads."""
    started = [threading.Thread(target=work, args=(n,)) for n in range(threads)]
    for thread in started:
        thread.start()
    for thread in started:
        thread.join()


# ---- ratios


@dataclass(frozen=True, slots=True)
class Ratio:
    """Medians of several rounds.

    :param rate: What the ledger did in a second.
    :param bare: What the other side did in a second.
    :param ratio: Of the two, in the same round.
    """

    rate: float
    bare: float
    ratio: float


def in_turns(
    ledger: Callable[[], float], bare: Callable[[], float], count: int
) -> Ratio:
    """Measure both sides in turns.

    :param ledger: Does the work for ``count`` messages, and returns its seconds.
    :param bare: Does the same by hand.
    """
    ledger(), bare()  # caches, imports, connections
    pairs = []
    for number in range(ROUNDS):
        if number % 2:
            least, took = bare(), ledger()
        else:
            took, least = ledger(), bare()
        pairs.append((count / took, count / least))
    return Ratio(
        statistics.median(rate for rate, _ in pairs),
        statistics.median(rate for _, rate in pairs),
        statistics.median(rate / least for rate, least in pairs),
    )


def seconds(work: Callable[[], object]) -> float:
    """Return how long a function takes."""
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


# ---- enqueueing


def measure_enqueue(shop: World, count: int) -> Ratio:
    """One message in each transaction, and three rows in each by hand."""
    with shop.app.app_context():
        return in_turns(
            lambda: seconds(lambda: _enqueue_each(shop, count)),
            lambda: seconds(lambda: _insert_each(shop, count)),
            count,
        )


def _enqueue_each(shop: World, count: int) -> None:
    for message in messages(count):
        shop.postal.enqueue(message)
        shop.db.session.commit()


def _insert_each(shop: World, count: int) -> None:
    mail, recipient, content = (
        sa.insert(table) for table in (shop.mails, shop.recipients, shop.contents)
    )
    data = b"x" * 1100
    for row in rows_of_mails(count, "queued", due_at=now()):
        with shop.engine.begin() as connection:
            (number,) = connection.execute(mail, row).inserted_primary_key or (0,)
            connection.execute(recipient, row_of_recipient(number))
            connection.execute(
                content, {"owner": owner_of_mail(number), "number": 0, "data": data}
            )


_serials = itertools.count(1)


def rows_of_mails(count: int, state: str, **values: Any) -> Iterator[dict[str, Any]]:
    """Yield rows of messages in a state."""
    for _ in range(count):
        yield {
            "server": "postal",
            "message_id": f"{state}.{next(_serials)}@shop.example.com",
            "sender": "shop@example.com",
            "subject": "Your order",
            "state": state,
            "attempts": 0,
            "meta": {},
            "options": {},
            **values,
        }


def row_of_recipient(mail_id: int) -> dict[str, Any]:
    """Return the row of a message's recipient."""
    address = "ana@example.com"
    return {
        "mail_id": mail_id,
        "server": "postal",
        "address": address,
        "envelope": address,
    }


# ---- delivering


def measure_delivery(shop: World, threads: int, count: int) -> Ratio:
    """Deliver messages, and change one row of each by hand."""
    return in_turns(
        lambda: _deliver(shop, threads, count),
        lambda: _update_each(shop, threads, count),
        count,
    )


def _deliver(shop: World, threads: int, count: int) -> float:
    shop.enqueue(count)
    before = shop.count("accepted")
    took = seconds(lambda: shop.deliver(threads))
    delivered = shop.count("accepted") - before
    if delivered != count:
        raise RuntimeError(f"{delivered} of {count} messages were delivered")
    return took


def _update_each(shop: World, threads: int, count: int) -> float:
    ids = shop.enqueue(count)
    statement = (
        sa.update(shop.mails)
        .where(shop.mails.c.id == sa.bindparam("number"))
        .values(state="accepted", due_at=None)
    )

    def work(first: int) -> None:
        for number in ids[first::threads]:
            with shop.engine.begin() as connection:
                connection.execute(statement, {"number": number})

    return seconds(lambda: in_threads(work, threads))


# ---- delivering over HTTP


@contextlib.contextmanager
def sandbox() -> Iterator[dict[str, Any]]:
    """Run a sandbox in a process of its own; yields the settings for it."""
    with subprocess.Popen(
        [sys.executable, "-m", "tests.ledger_speed", "--sandbox"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        if process.stdin is None or process.stdout is None:
            raise RuntimeError("the sandbox has no pipes")
        try:
            yield json.loads(process.stdout.readline())
        finally:
            process.stdin.close()
            process.wait(20)


def run_sandbox() -> None:
    """Run a sandbox until stdin ends."""
    with Sandbox() as server:
        _print(json.dumps(server.settings()))
        sys.stdin.read()


def measure_http(url: str, count: int) -> Ratio:
    """Deliver with 4 threads, and send the same messages without a ledger."""
    with sandbox() as settings, world(url, **settings) as shop:
        return in_turns(
            lambda: _deliver(shop, 4, count), lambda: _send_many(shop, count), count
        )


def _send_many(shop: World, count: int) -> float:
    sent = messages(count)
    with shop.app.app_context():
        began = time.perf_counter()
        outcomes = shop.postal.send_many(sent, concurrency=4)
        failed = [outcome.error for outcome in outcomes if outcome.error]
        took = time.perf_counter() - began
    if failed:
        raise RuntimeError(f"{len(failed)} messages were not sent: {failed[0]}")
    return took


# ---- queries on a large table


#: A query of the numbers from 1, for each database.
_SERIES = {
    "postgresql": "SELECT i FROM generate_series(1, {count}) AS series(i)",
    "mysql": "SELECT seq AS i FROM seq_1_to_{count}",
    "sqlite": "WITH RECURSIVE series(i) AS (SELECT 1 UNION ALL SELECT i + 1 FROM series"
    " WHERE i < {count}) SELECT i FROM series",
}
_ANALYZE = {
    "postgresql": "VACUUM ANALYZE",
    "mysql": "ANALYZE TABLE postal_mail, postal_recipient, postal_content",
}


def fill(shop: World, count: int) -> None:
    """Store finished messages, and a few hundred of each other state."""
    with shop.engine.begin() as connection:
        _insert_finished(connection, shop, count)
        _insert_unfinished(connection, shop)
    # PostgreSQL and MariaDB do this by themselves, after a while.
    statement = _ANALYZE.get(shop.engine.dialect.name)
    if statement is not None:
        with shop.engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            connection.exec_driver_sql(statement)


def _insert_finished(connection: sa.Connection, shop: World, count: int) -> None:
    series = sa.text(_SERIES[connection.dialect.name].format(count=count)).columns(
        sa.column("i", sa.Integer)
    )
    at = now() - timedelta(days=1)
    number = series.subquery("numbers").c.i
    text = sa.cast(number, sa.String(20))
    (row,) = rows_of_mails(1, "accepted", created_at=at, finished_at=at, began_at=at)
    mail: dict[str, Any] = {
        **_literals(shop.mails, row),
        "id": number,
        "message_id": text + sa.literal("@shop.example.com"),
    }
    recipient: dict[str, Any] = {
        **_literals(shop.recipients, row_of_recipient(0)),
        "mail_id": number,
        "postal_id": number,
        "token": text,
    }
    for table, values in ((shop.mails, mail), (shop.recipients, recipient)):
        query = sa.select(*(value.label(name) for name, value in values.items()))
        connection.execute(sa.insert(table).from_select(list(values), query))
    if connection.dialect.name == "postgresql":
        connection.exec_driver_sql(
            f"ALTER SEQUENCE postal_mail_id_seq RESTART WITH {count + 1}"
        )


def _literals(table: sa.Table, row: dict[str, Any]) -> dict[str, Any]:
    return {name: sa.literal(value, table.c[name].type) for name, value in row.items()}


def _insert_unfinished(connection: sa.Connection, shop: World) -> None:
    hour = timedelta(hours=1)
    for state, due_at in (
        ("queued", now() - hour),
        ("queued", now() + hour),
        ("claimed", now() + hour),
        ("sending", now() + hour),
        ("doubtful", now() - hour),
    ):
        for row in rows_of_mails(UNFINISHED, state, due_at=due_at):
            (number,) = connection.execute(
                sa.insert(shop.mails), row
            ).inserted_primary_key or (0,)
            connection.execute(sa.insert(shop.recipients), row_of_recipient(number))
            save(connection, shop.contents, owner_of_mail(number), b"x" * 1000)
    note_seen(connection, shop.ledger.models, "postal", Known(1, "token"))


def loop_queries(shop: World) -> Iterator[tuple[str, Query]]:
    """Yield the queries that the ledger runs again and again, as it runs them."""
    worker, database = shop.worker, shop.worker.database
    claims, scan = worker._claims, worker._scans["postal"]
    due = claims._due("postal", BATCH)
    looks: list[tuple[str, Callable[[], object]]] = [
        (
            "messages to claim",
            lambda: database.rows(claims._is_due_and_free, due),
        ),
        ("leases that ran out", worker.release_expired),
        ("time of the next work", worker.next_due),
        ("doubtful messages", scan._doubts.any_due),
        (
            "highest known ids",
            lambda: database.run(lambda c: known_ids(c, shop.ledger.models, "postal")),
        ),
    ]
    for name, look in looks:
        for query in captured(shop.engine, look):
            yield name, query


def captured(engine: sa.Engine, work: Callable[[], object]) -> list[Query]:
    """Return the statements that a function runs."""
    found: list[Query] = []

    def note(_1: Any, _2: Any, statement: str, parameters: Any, *_: Any) -> None:
        found.append((statement, parameters))

    sa.event.listen(engine, "before_cursor_execute", note)
    try:
        work()
    finally:
        sa.event.remove(engine, "before_cursor_execute", note)
    return found


def milliseconds(connection: sa.Connection, query: Query) -> float:
    """Return the median time of a query, with the way to the database and back."""
    times = []
    for _ in range(RUNS):
        began = time.perf_counter()
        connection.exec_driver_sql(*query).all()
        times.append(time.perf_counter() - began)
        connection.rollback()
    return statistics.median(times) * 1000


def plan_of(connection: sa.Connection, query: Query) -> list[str]:
    """Return the database's plan for a query, as lines."""
    sql, parameters = query
    explain = "EXPLAIN QUERY PLAN" if connection.dialect.name == "sqlite" else "EXPLAIN"
    steps = connection.exec_driver_sql(f"{explain} {sql}", parameters).mappings().all()
    connection.rollback()
    return [_step(step) for step in steps]


def _step(step: Mapping[Any, Any]) -> str:
    if "key" not in step:
        return str(step.get("detail") or step.get("QUERY PLAN"))
    # MariaDB has a column for each property of a step.
    index = f"using index {step['key']}" if step["key"] else "whole table"
    return f"{step['table']} {index}, {step['rows']} rows; {step['Extra']}"


#: How the databases name an index, a table that is read as a whole, and a sort.
_INDEX = re.compile(r"(?:Scan(?: Backward)? using|INDEX|using index) (\w+)|PRIMARY KEY")
_WHOLE = re.compile(r"Seq Scan|^SCAN (?!.*INDEX)|whole table", re.MULTILINE)
# PostgreSQL's incremental sort is only of rows with the same due_at.
_SORT = re.compile(r"(?<!Incremental )\bSort\b(?! Key)|filesort|TEMP B-TREE")


def abridged(plan: Sequence[str]) -> str:
    """Say in a few words how a plan finds its rows."""
    text = "\n".join(plan)
    if _WHOLE.search(text):
        return "reads the whole table"
    found = _INDEX.search(text)
    name = "none" if found is None else found[1] or "of the primary key"
    return f"uses index `{name}`" + (", sorts" if _SORT.search(text) else "")


@dataclass(frozen=True, slots=True)
class Sweep:
    """A query on the large table."""

    name: str
    took: float
    plan: str


def measure_sweeps(shop: World) -> list[Sweep]:
    """Time each query of the loop; queries of one kind are numbered."""
    found = list(loop_queries(shop))
    done = []
    with shop.engine.connect() as connection:
        for name, query in found:
            took, plan = milliseconds(connection, query), plan_of(connection, query)
            _progress(f"    {name}: {took:.3f} ms\n      {query[0]}\n      {query[1]}")
            for line in plan:
                _progress(f"      > {line}")
            done.append(Sweep(name, took, abridged(plan)))
    return done


# ---- the databases


@contextlib.contextmanager
def database(name: str, folder: Path) -> Iterator[str]:
    """Run a database with its default durability; yields the URL of an empty one."""
    if name == "sqlite":
        yield f"sqlite:///{folder}/app.sqlite"
        return
    server = postgresql(folder, fsync=True) if name == "postgresql" else mariadb(folder)
    with server as running, empty_database(running.url, "speed") as empty:
        yield empty


def _version(url: str) -> str:
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.connect() as connection:
        version = connection.dialect.server_version_info or ()
    if engine.dialect.name == "sqlite":
        version = engine.dialect.dbapi.sqlite_version_info  # type: ignore[union-attr]
    return ".".join(map(str, version[:2]))


def ratios(name: str, url: str, count: int) -> Iterator[str]:
    """Measure rows of the first table."""

    def row(what: str, against: str, found: Ratio) -> str:
        line = (
            f"| {what} | {NAMES[name]} | {found.rate:,.0f} | {against}"
            f" | {found.bare:,.0f} | {found.ratio:.2f} |"
        )
        _progress(f"  {line}")
        return line

    with world(url, Instant()) as shop:
        found = measure_enqueue(shop, count)
        yield row("enqueue and commit", "3 `INSERT`, `COMMIT`", found)
    with world(url, Instant()) as shop:
        for threads in (1,) if name == "sqlite" else (1, 4, 8):
            found = measure_delivery(shop, threads, count)
            yield row(f"deliver, {_threads(threads)}", "`UPDATE`, `COMMIT`", found)
    found = measure_http(url, max(count // 2, 50))
    yield row("deliver over HTTP, 4 threads", "`send_many`", found)


def _threads(number: int) -> str:
    return "1 thread" if number == 1 else f"{number} threads"


def sweeps(name: str, url: str, count: int) -> Iterator[str]:
    """Measure rows of the second table: the slowest query of each kind."""
    with world(url, Instant()) as shop:
        took = seconds(lambda: fill(shop, count))
        _progress(f"  {count:,} rows in {took:.0f} s")
        for kind, group in itertools.groupby(measure_sweeps(shop), lambda s: s.name):
            same = list(group)
            plans = "; ".join(dict.fromkeys(sweep.plan for sweep in same))
            slowest = max(sweep.took for sweep in same)
            yield (
                f"| {kind} | {NAMES[name]} | {len(same)} | {slowest:.2f} | {plans} |"
            )


def _table(heads: str, aligned: str, rows: Iterable[str]) -> None:
    for line in (heads, aligned, *rows):
        _print(line)


def main(arguments: Sequence[str]) -> None:
    """Print two tables in Markdown."""
    parser = argparse.ArgumentParser(description="Measure the ledger.")
    parser.add_argument("databases", nargs="*", default=list(DATABASES))
    parser.add_argument("--mails", type=int, default=300, help="in each round")
    parser.add_argument(
        "--rows", type=int, default=1_000_000, help="of the large table"
    )
    chosen = parser.parse_args(arguments)
    rates: list[str] = []
    queries: list[str] = []
    versions: list[str] = []
    for name in chosen.databases:
        _progress(NAMES[name])
        with TemporaryDirectory() as folder, database(name, Path(folder)) as url:
            versions.append(f"{NAMES[name]} {_version(url)}")
            rates += ratios(name, url, chosen.mails)
            queries += sweeps(name, url, chosen.rows)
    _table(
        "| work | database | ledger, messages/s | compared with | its rate/s | ratio |",
        "| --- | --- | ---: | --- | ---: | ---: |",
        sorted(rates, key=lambda line: line.split("|")[1]),
    )
    _print("")
    _table(
        f"| query, {chosen.rows:,} finished messages | database | queries"
        " | slowest, ms | plan |",
        "| --- | --- | ---: | ---: | --- |",
        sorted(queries, key=lambda line: line.split("|")[1]),
    )
    _print(
        f"\nMeasured on {time.strftime('%Y-%m-%d')} with Python"
        f" {platform.python_version()}, SQLAlchemy {sa.__version__},"
        f" {', '.join(versions)}, by `python -m tests.ledger_speed`."
    )


if __name__ == "__main__":
    if sys.argv[1:] == ["--sandbox"]:
        run_sandbox()
    else:
        main(sys.argv[1:])
