"""How many webhooks an app with a ledger takes, with gunicorn and PostgreSQL.

::

    python -m tests.ledger_load            # 5,000 webhooks in a minute
    python -m tests.ledger_load --kill     # and a worker is killed every 3 s
    python -m tests.ledger_load --most     # as many as it takes; and with a cache
    python -m tests.ledger_load --store    # storing, beside INSERT and COMMIT
    python -m tests.ledger_load --soak     # 50,000 webhooks: does memory grow?

Postal's part is played by threads of this process, which send a webhook again until it
is taken. The receiver writes one row. Everything runs on one machine.
"""

from __future__ import annotations

import argparse
import contextlib
import http.client
import itertools
import json
import os
import random
import re
import signal
import statistics
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import sqlalchemy as sa

from flask_postal.sandbox import SigningKey

from .databases import postgresql
from .processes import free_port, needed, wait_for

WORKERS = 4
SENDERS = 8


def body_of(number: int) -> bytes:
    message = {"id": number, "token": f"t{number}", "to": "ana@example.com"}
    payload = {"status": "Sent", "timestamp": 1780000000.5, "message": message}
    return json.dumps(
        {
            "event": "MessageSent",
            "uuid": f"u{number}",
            "timestamp": 1780000000.5,
            "payload": payload,
        }
    ).encode()


class Load:
    """Sends signed webhooks, and measures how long each takes.

    :param rate: Webhooks in a second; ``None`` for as many as possible.
    """

    def __init__(self, port: int, key: SigningKey, *, rate: float | None) -> None:
        self._port = port
        self._key = key
        self._gap = None if rate is None else 1 / rate
        self.times: list[float] = []
        self.retries = 0
        self._requests: list[tuple[bytes, dict[str, str]]] = []

    def prepare(self, first: int, events: int) -> None:
        for number in range(first, first + events):
            body = body_of(number)
            headers = {"Content-Type": "application/json", **self._key.headers(body)}
            self._requests.append((body, headers))

    def run(self) -> float:
        """Send everything that was prepared; return how many that was in a second."""
        numbers, lock, began = itertools.count(), threading.Lock(), time.monotonic()

        def send() -> None:
            while True:
                with lock:
                    number = next(numbers)
                if number >= len(self._requests):
                    return
                if self._gap is not None:
                    turn = began + number * self._gap
                    time.sleep(max(0.0, turn - time.monotonic()))
                self._send(*self._requests[number])

        threads = [threading.Thread(target=send) for _ in range(SENDERS)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        return len(self._requests) / (time.monotonic() - began)

    def _send(self, body: bytes, headers: dict[str, str]) -> None:
        while True:
            started = time.monotonic()
            connection = http.client.HTTPConnection("127.0.0.1", self._port, timeout=5)
            try:
                connection.request("POST", "/postal/tracking/", body, headers)
                taken = connection.getresponse().status == 200
            except OSError:
                taken = False
            except http.client.HTTPException:
                taken = False
            finally:
                connection.close()
            if taken:
                self.times.append(time.monotonic() - started)
                return
            self.retries += 1
            time.sleep(0.5)

    def report(self) -> str:
        cuts = statistics.quantiles(self.times, n=100)
        return (
            f"p50 {cuts[49] * 1000:.0f} ms, p99 {cuts[98] * 1000:.0f} ms, longest"
            f" {max(self.times) * 1000:.0f} ms, {self.retries} sent again"
        )


@contextlib.contextmanager
def serving(url: str, key: SigningKey, **more: str) -> Iterator[tuple[int, int]]:
    """Run the app with gunicorn; gives its port and the process."""
    port = free_port()
    environment = {
        **os.environ,
        "FLASK_SQLALCHEMY_DATABASE_URI": url,
        "FLASK_POSTAL_WEBHOOK_KEY": key.record(),
        "FLASK_POSTAL_LEASE": "40",
        "FLASK_POSTAL_BACKOFF": "[0.5, 2]",
        **more,
    }
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}"),
            *("-w", str(WORKERS), "--log-level", "critical"),
            "tests.apps.loaded:app",
        ],
        env=environment,
        stderr=subprocess.DEVNULL,
        text=True,
    )
    try:
        wait_for(port, process)
        time.sleep(2)
        yield port, process.pid
    finally:
        process.terminate()
        process.wait(60)


def workers_of(pid: int) -> list[int]:
    found = Path(f"/proc/{pid}/task/{pid}/children").read_text().split()
    return [int(worker) for worker in found]


@contextlib.contextmanager
def killing(pid: int, *, every: float | None) -> Iterator[list[int]]:
    """Kill a worker again and again; ``None`` for never."""
    ended, killed = threading.Event(), list[int]()

    def kill() -> None:
        while not ended.wait(every):
            if workers := workers_of(pid):
                killed.append(random.choice(workers))
                with contextlib.suppress(ProcessLookupError):
                    os.kill(killed[-1], signal.SIGKILL)

    thread = threading.Thread(target=kill)
    thread.start()
    try:
        yield killed
    finally:
        ended.set()
        thread.join()


def create_tables(url: str) -> sa.Engine:
    os.environ["FLASK_SQLALCHEMY_DATABASE_URI"] = url
    from .apps import loaded

    with loaded.app.app_context():
        loaded.db.create_all()
        loaded.db.engine.dispose()
    return sa.create_engine(url)


def effects(engine: sa.Engine) -> Counter[str]:
    with engine.connect() as connection:
        return Counter(connection.scalars(sa.text("SELECT token FROM effect")))


def wait_until_done(engine: sa.Engine, events: int, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    query = sa.text("SELECT count(*) FROM postal_event WHERE state = 'done'")
    while time.monotonic() < deadline:
        with engine.connect() as connection:
            if connection.scalar(query) == events:
                return
        time.sleep(0.5)


def in_a_minute(events: int, seconds: float, *, kill: bool) -> None:
    """Send webhooks at a steady rate, and check that each took effect once."""
    key = SigningKey.generate()
    with TemporaryDirectory() as folder, postgresql(Path(folder)) as server:
        engine = create_tables(server.url)
        with serving(server.url, key) as (port, pid):
            load = Load(port, key, rate=events / seconds)
            load.prepare(1, events)
            with killing(pid, every=3.0 if kill else None) as dead:
                load.run()
            wait_until_done(engine, events, 120)
        found = effects(engine)
        engine.dispose()
    once = sum(times == 1 for times in found.values())
    show(f"{events} webhooks in {seconds:g} s: {load.report()}")
    show(f"{len(dead)} workers killed; {once} of {events} took effect once")
    if once != events or len(found) != events:
        sys.exit(1)


def most(events: int) -> None:
    """Send as many webhooks as the app takes: with a ledger, and with a cache."""
    key = SigningKey.generate()
    with TemporaryDirectory() as folder, postgresql(Path(folder)) as server:
        engine = create_tables(server.url)
        redis_port = free_port()
        redis = subprocess.Popen(
            [
                *(needed("redis-server"), "--port", str(redis_port)),
                *("--save", "", "--bind", "127.0.0.1"),
            ],
            stdout=subprocess.DEVNULL,
            text=True,
        )
        wait_for(redis_port, redis)
        try:
            for turn, name in enumerate(["ledger", "cache"] * 2):
                more = {"LOAD_CACHE": str(redis_port)} if name == "cache" else {}
                with serving(server.url, key, **more) as (port, _):
                    load = Load(port, key, rate=None)
                    load.prepare(1 + turn * events, events)
                    show(f"{name}: {load.run():.0f} in a second, {load.report()}")
        finally:
            redis.terminate()
            redis.wait(20)
            engine.dispose()


def soak(events: int, rounds: int = 10) -> None:
    """Send many webhooks, and show the workers' memory and open files on the way."""
    key = SigningKey.generate()
    with TemporaryDirectory() as folder, postgresql(Path(folder)) as server:
        engine = create_tables(server.url)
        with serving(server.url, key) as (port, pid):
            workers = workers_of(pid)
            for turn in range(rounds):
                load = Load(port, key, rate=None)
                load.prepare(1 + turn * events // rounds, events // rounds)
                rate = load.run()
                files = sum(len(os.listdir(f"/proc/{worker}/fd")) for worker in workers)
                show(
                    f"{(turn + 1) * events // rounds} webhooks, {rate:.0f} in a second:"
                    f" {sum(map(memory_of, workers)):.1f} MB, {files} open files"
                )
            if workers_of(pid) != workers:
                sys.exit("a worker was replaced")
            wait_until_done(engine, events, 120)
        found = effects(engine)
        engine.dispose()
    once = sum(times == 1 for times in found.values())
    show(f"{once} of {events} took effect once")
    if once != events or len(found) != events:
        sys.exit(1)


def memory_of(process: int) -> float:
    """Return the megabytes that a process has for itself."""
    status = Path(f"/proc/{process}/status").read_text()
    (anonymous,) = re.findall(r"RssAnon:\s+(\d+) kB", status)
    return int(anonymous) / 1024


def store(events: int) -> None:
    """Storing an event, beside an INSERT of the same row with its own commit."""
    with TemporaryDirectory() as folder, postgresql(Path(folder)) as server:
        engine = create_tables(server.url)
        from .apps import loaded

        with loaded.app.app_context():
            ledger = loaded.postal.ledger.of(loaded.app)
            processor = ledger._events
            table = loaded.postal.ledger.models.table("event")
            from flask_postal.ledger.columns import now
            from flask_postal.ledger.identity import identity_of
            from flask_postal.webhooks.handle import parse
            from flask_postal.webhooks.verify import VerifiedRequest

            def bare(number: int) -> None:
                values = {
                    "identity": f"bare:{number}",
                    **dict.fromkeys(("server", "kind", "event_type"), "x"),
                    **dict.fromkeys(("media_type", "source", "token"), "x"),
                    **dict.fromkeys(("created_at", "tried_at", "due_at"), now()),
                    "state": "claimed",
                    "attempts": 1,
                    "address": None,
                    "recipient_id": None,
                    "body": body_of(number),
                }
                with engine.begin() as connection:
                    connection.execute(sa.insert(table), values)

            def stored(number: int) -> None:
                request = VerifiedRequest("tracking", body_of(number))
                event = parse(request)
                identity = identity_of("postal", event, request.body)
                state = processor.store.first_claim()
                processor._store("postal", request, event, identity, state)

            rates: dict[str, list[float]] = {"bare": [], "stored": []}
            numbers = itertools.count(1)
            for _ in range(6):
                for name, work in (("bare", bare), ("stored", stored)):
                    rates[name].append(_seconds(work, numbers, events))
            bare_ms, stored_ms = (
                statistics.median(rates[name][1:]) / events * 1000 for name in rates
            )
            show(
                f"INSERT and COMMIT {bare_ms:.2f} ms, store {stored_ms:.2f} ms:"
                f" {stored_ms / bare_ms:.2f} times"
            )
        engine.dispose()


def _seconds(work: Callable[[int], None], numbers: Iterator[int], times: int) -> float:
    began = time.perf_counter()
    for _ in range(times):
        work(next(numbers))
    return time.perf_counter() - began


def show(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--events", type=int, default=5000)
    parser.add_argument("--seconds", type=float, default=60.0)
    parser.add_argument("--kill", action="store_true")
    parser.add_argument("--most", action="store_true")
    parser.add_argument("--store", action="store_true")
    parser.add_argument("--soak", action="store_true")
    arguments = parser.parse_args()
    if arguments.most:
        most(arguments.events)
    elif arguments.soak:
        soak(10 * arguments.events)
    elif arguments.store:
        store(min(arguments.events, 1000))
    else:
        in_a_minute(arguments.events, arguments.seconds, kill=arguments.kill)


if __name__ == "__main__":
    main()
