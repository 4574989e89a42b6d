"""With gunicorn --preload, the workers inherit the master's open connection."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest
import requests

from .processes import gunicorn
from .servers import Loopback, loopback


@pytest.fixture
def server() -> Iterator[Loopback]:
    with loopback() as running:
        yield running


def test_workers_do_not_use_the_connection_of_the_master(server: Loopback) -> None:
    with gunicorn(
        "tests.apps.preloaded:app",
        "--preload",
        "--workers=2",
        "--threads=2",
        FLASK_POSTAL_API_URL=server.url,
        FLASK_POSTAL_API_KEY="k",
    ) as url:
        pids = set()
        for turn in range(20):
            names = [f"u{turn}-{n}@example.com" for n in range(6)]
            with ThreadPoolExecutor(6) as pool:
                answers = list(
                    pool.map(
                        lambda name: requests.get(f"{url}/{name}", timeout=10).json(),
                        names,
                    )
                )
            assert [answer["sent"] for answer in answers] == [[name] for name in names]
            pids |= {answer["pid"] for answer in answers}
            if len(pids) == 2 and turn >= 3:
                break
    assert len(pids) == 2
    addresses = [request.json["to"][0] for request in server.bodies]
    assert addresses[0] == "master@example.com"
    assert len(addresses) == len(set(addresses))
    # One for the master, and at most one per thread of the two workers.
    assert 3 <= server.connections <= 5
