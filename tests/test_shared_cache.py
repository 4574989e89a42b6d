"""Duplicates that reach two workers at once, with a real Redis and Memcached."""

from __future__ import annotations

import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import requests

from .captures import DKIM_RECORD, Recorded
from .processes import free_port, gunicorn, needed, running

SENT = Recorded.load("webhooks/MessageSent")


@pytest.fixture(params=["redis", "memcached", "flask-caching"])
def cache(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    port = free_port()
    if request.param == "memcached":
        command = [needed("memcached"), "-l", "127.0.0.1", "-p", str(port)]
        command += ["-u", "nobody"]
    else:
        command = [needed("redis-server"), "--bind", "127.0.0.1", "--save", ""]
        command += ["--port", str(port), "--dir", str(tmp_path)]
    with running(command, port):
        yield f"{request.param}:{port}"


def find_both_workers(url: str) -> set[str]:
    """Send requests until both workers have responded; the kernel picks which does."""
    pids: set[str] = set()
    deadline = time.monotonic() + 60
    with ThreadPoolExecutor(8) as pool:
        while len(pids) < 2 and time.monotonic() < deadline:
            answers = pool.map(
                lambda _: requests.get(f"{url}/pid", timeout=10).text, range(16)
            )
            pids |= set(answers)
    return pids


def test_twenty_duplicates_at_two_workers_run_the_receiver_once(
    cache: str, tmp_path: Path
) -> None:
    seen = tmp_path / "seen"
    with gunicorn(
        "tests.apps.deduped:app",
        "--workers=2",
        "--threads=4",
        CACHE=cache,
        WEBHOOK_KEY=DKIM_RECORD,
        SEEN=str(seen),
    ) as url:

        def post(number: int) -> int:
            answer = requests.post(
                url + SENT.path, data=SENT.body, headers=SENT.headers, timeout=10
            )
            return answer.status_code

        pids = find_both_workers(url)
        with ThreadPoolExecutor(20) as pool:
            statuses = list(pool.map(post, range(20)))
        later = post(0)
    assert len(seen.read_text().splitlines()) == 1
    assert set(statuses) <= {200, 503}
    assert 200 in statuses
    assert later == 200
    assert len(pids) == 2
