"""Relays are killed and the network fails: each recipient gets each mail once.

The seed is printed. To repeat a run, set FLASK_POSTAL_CHAOS_SEED. The order in which
threads and processes get to work is not repeated, only what is done to them.
"""

from __future__ import annotations

import os
import random
import signal
import subprocess
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import sqlalchemy as sa

from flask_postal import Message
from flask_postal.sandbox import Sandbox, store

from ..world import FLASK, World, environment
from .faulty_proxy import FAULTS, FaultyProxy, faulty_proxy

LEASE, SETTLE = 4.5, 3.0
SETTINGS = {
    "FLASK_POSTAL_RELAY": "process",
    "FLASK_POSTAL_TIMEOUT": "2",
    "FLASK_POSTAL_LEASE": str(LEASE),
    "FLASK_POSTAL_SETTLE": str(SETTLE),
    "FLASK_POSTAL_BACKOFF": "[0.1, 1]",
}


class Relay:
    """A relay in a process of its own, which is killed and started again."""

    def __init__(self, around: dict[str, str], log: Path) -> None:
        self._around = around
        self._log = log
        self._process = self._start()

    def _start(self) -> subprocess.Popen[bytes]:
        with self._log.open("ab") as log:
            return subprocess.Popen(
                [*FLASK, "postal", "relay", "--threads", "3"],
                env=self._around,
                stdout=log,
                stderr=log,
            )

    def kill(self) -> None:
        self._process.kill()
        self._process.wait()
        self._process = self._start()

    def freeze(self, seconds: float) -> None:
        self._process.send_signal(signal.SIGSTOP)
        time.sleep(seconds)
        self._process.send_signal(signal.SIGCONT)

    def end(self) -> None:
        self._process.send_signal(signal.SIGCONT)
        self._process.terminate()
        try:
            self._process.wait(20)
        except subprocess.TimeoutExpired:
            self._process.kill()
            raise

    @property
    def output(self) -> str:
        return self._log.read_text()


def torment(relay: Relay, rng: random.Random, times: int) -> None:
    """Kill a relay, or stop it for longer than its lease, again and again."""
    for _ in range(times):
        time.sleep(rng.uniform(1.0, 2.0))  # a process takes a second to start
        how = rng.random()
        if how < 0.75:
            relay.kill()
        else:
            # Longer than the lease, and now and then than the settling time too.
            relay.freeze(LEASE + (0.5 if how < 0.9 else SETTLE + 0.5))


@contextmanager
def tormented(
    around: dict[str, str], folder: Path, seed: str, times: int
) -> Iterator[list[Relay]]:
    """Run two relays, to which all that happens ``times`` times in all."""
    relays = [Relay(around, folder / f"relay-{number}.log") for number in (1, 2)]
    threads = [
        threading.Thread(
            target=torment, args=(relay, random.Random(f"{seed} {n}"), times // 2)
        )
        for n, relay in enumerate(relays)
    ]
    for thread in threads:
        thread.start()
    try:
        yield relays
    finally:
        for thread in threads:
            thread.join()
        for relay in relays:
            relay.end()


def unfinished(world: World) -> int:
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        query = sa.select(sa.func.count()).where(table.c.state != "accepted")
        return int(connection.execute(query).scalar_one())


def rows(world: World) -> list[str]:
    """Describe the messages that are not accepted."""
    table = world.ledger.models.table("mail")
    with world.db.engine.connect() as connection:
        query = sa.select(table).where(table.c.state != "accepted")
        return [str(row._mapping) for row in connection.execute(query)]


def enqueue(world: World, mails: int) -> None:
    """Enqueue messages to two recipients each.

    A relay that was stopped in the middle of a transaction holds SQLite's lock. An app
    tries again then; the key keeps it from enqueuing a message twice.
    """
    left = list(range(mails))
    while left:
        try:
            world.postal.enqueue(mail(left[0]), key=f"mail-{left[0]}")
            world.session.commit()
        except sa.exc.OperationalError:
            world.session.rollback()
        else:
            del left[0]
        time.sleep(0.02)


def mail(number: int) -> Message:
    return Message(
        str(number),
        [f"a{number}@example.com", f"b{number}@example.com"],
        body="x" * 2000 + "\n",
        sender="app@example.com",
    )


def run(
    url: str, sandbox: Sandbox, folder: Path, *, mails: int, kills: int, limit: float
) -> tuple[Counter[tuple[str, str]], FaultyProxy, str]:
    """Send mails through chaos; return how many each recipient got of each."""
    seed = os.environ.get("FLASK_POSTAL_CHAOS_SEED") or str(random.randrange(10**9))
    print(f"FLASK_POSTAL_CHAOS_SEED={seed}")  # noqa: T201 - shown if the test fails
    world, deadline = World(url), time.monotonic() + limit
    port = int(sandbox.url.rpartition(":")[2])
    with (
        world.app.app_context(),
        faulty_proxy(port, random.Random(f"{seed} network")) as proxy,
    ):
        world.db.create_all()
        around = environment(url, sandbox, **SETTINGS, FLASK_POSTAL_API_URL=proxy.url)
        with tormented(around, folder, seed, kills) as relays:
            enqueue(world, mails)
        # All has been done to them: the last ones finish the work.
        last = Relay(around, folder / "relay-3.log")
        while unfinished(world) and time.monotonic() < deadline:
            time.sleep(0.2)
        left = rows(world)
        last.end()
        world.session.remove()
        world.db.engine.dispose()
    logs = "\n".join(relay.output for relay in [*relays, last])
    assert left == [], f"{left}\n{logs}"
    got = Counter((m.message_id or "", m.recipient) for m in sandbox.messages)
    return got, proxy, logs


def check(got: Counter[tuple[str, str]], mails: int) -> None:
    assert {pair: count for pair, count in got.items() if count > 1} == {}
    assert len(got) == 2 * mails
    assert len({message_id for message_id, _ in got}) == mails


@pytest.fixture(autouse=True)
def no_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    """Keep all mails in the sandbox, to count them in the end."""
    monkeypatch.setattr(store, "MAX_MAILS", 10**6)


def test_each_recipient_gets_each_mail_once(
    database_url: str, sandbox: Sandbox, tmp_path: Path
) -> None:
    got, proxy, logs = run(
        database_url, sandbox, tmp_path, mails=300, kills=30, limit=118
    )
    check(got, 300)
    assert set(proxy.counts) == {"none", *FAULTS}, proxy.counts
    assert "Traceback" not in logs


@pytest.mark.soak
def test_a_long_time_of_it(database_url: str, sandbox: Sandbox, tmp_path: Path) -> None:
    got, _, logs = run(
        database_url, sandbox, tmp_path, mails=5000, kills=400, limit=1800
    )
    check(got, 5000)
    assert "Traceback" not in logs
