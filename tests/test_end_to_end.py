"""The real extension, two gunicorn workers, and the sandbox, over real HTTP."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import pytest
import requests

from flask_postal.sandbox import Clock, Sandbox, SigningKey, reply_to
from flask_postal.sandbox.mail_reader import read_mail
from flask_postal.sandbox.scenarios import SCENARIOS

from .processes import gunicorn

EXPECTED = {
    "ana": ["delivered"],
    "delayed": ["deferred", "delivered"],
    "failed": ["failed"],
    "held": ["queued"],
    "bounced": ["bounced", "delivered"],
    "opened": ["delivered", "opened"],
    "clicked": ["clicked", "delivered", "opened"],
    "duplicate": ["delivered"],
    "lost": [],
    "late": ["delivered"],
}


class World:
    """The sandbox, the app, and the log of what the app received."""

    def __init__(self, sandbox: Sandbox, url: str, log: Path) -> None:
        self.sandbox = sandbox
        self.url = url
        self._log = log

    def send(self, address: str, **query: str) -> dict[str, Any]:
        url = f"{self.url}/send/{address}"
        answer = requests.post(url, params=query, timeout=20)
        answer.raise_for_status()
        content: dict[str, Any] = answer.json()
        return content

    def seen(self) -> list[dict[str, Any]]:
        return [json.loads(line) for line in self._log.read_text().splitlines()]


@pytest.fixture
def world(tmp_path: Path, signing_key: SigningKey) -> Iterator[World]:
    log = tmp_path / "events"
    log.touch()
    with Sandbox(key=signing_key, clock=Clock(speed=600)) as sandbox:
        environment = {
            f"FLASK_{key}": value
            for key, value in sandbox.settings().items()
            if value is not None
        }
        with gunicorn(
            "tests.apps.whole:app",
            *("-w", "2"),
            **environment,
            FLASK_POSTAL_DEFAULT_SENDER="app@example.com",
            EVENTS=str(log),
        ) as url:
            sandbox.tracking_url = f"{url}/postal/tracking/"
            sandbox.inbound_url = f"{url}/postal/inbound/"
            yield World(sandbox, url, log)


def test_the_events_of_every_scenario_arrive(world: World) -> None:
    assert EXPECTED.keys() == {"ana", *SCENARIOS}
    sent = {}
    with ThreadPoolExecutor(4) as pool:
        addresses = [f"{name}+{n}@example.com" for name in EXPECTED for n in (1, 2)]
        for address, answer in zip(
            addresses, pool.map(world.send, addresses), strict=True
        ):
            sent[address] = answer
    for address in addresses:
        for event in EXPECTED[address.partition("+")[0]]:
            assert world.sandbox.wait_for(event, to=address).state == "taken"
    for address in addresses:
        name = address.partition("+")[0]
        seen = [entry for entry in world.seen() if entry["to"] == address]
        kinds = sorted(set(Counter(entry["event"] for entry in seen)))
        assert kinds == sorted(EXPECTED[name]), address
        for entry in seen:
            assert (entry["id"], entry["token"]) == tuple(sent[address].values())


def test_a_reply_reaches_the_app(world: World) -> None:
    """The original message has an inline image."""
    world.send("ana@example.com", inline="1")
    (mail,) = world.sandbox.messages
    assert [*mail.content.inlines]
    raw, to = reply_to(mail, "Thanks")
    request = world.sandbox.receive(raw, to=to, sender="ana@example.com")
    assert request.attempts[0].status == 200
    entry = next(entry for entry in world.seen() if "mail" in entry)
    assert entry["mail"].startswith("Thanks")
    assert entry["to"] == "ticket+7@example.com"


def test_a_tracked_link_redirects_and_reports_the_click(world: World) -> None:
    world.send("ana@example.com")
    world.sandbox.wait_for("delivered")
    (mail,) = world.sandbox.messages
    assert mail.delivered is not None
    link = str(read_mail(mail.delivered).html).split("href='")[1].split("'")[0]
    answer = requests.get(link, allow_redirects=False, timeout=5)
    assert answer.headers["Location"] == "https://x.test/"
    assert world.sandbox.wait_for("clicked").state == "taken"
