"""The recipe for RQ in docs/scaling-out.md works for the ledger."""

from __future__ import annotations

import importlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from rq import SimpleWorker

from flask_postal import Message, tracking_received
from flask_postal.sandbox import ManualClock, Sandbox

from .broker import Broker

ROOT = Path(__file__).parent.parent.parent


@pytest.fixture
def broker() -> Iterator[Broker]:
    made = Broker()
    yield made
    made.kill()


@pytest.mark.slow
def test_the_recipe_delivers_and_calls_receivers(
    broker: Broker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[str] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        seen.append(str(event.event_type))

    with Sandbox(clock=ManualClock()) as sandbox:
        settings = {
            **sandbox.settings(),
            "SQLALCHEMY_DATABASE_URI": f"sqlite:///{tmp_path}/shop.sqlite",
            "POSTAL_EVENTS": "later",
            "POSTAL_DEFAULT_SENDER": "shop@example.com",
        }
        for key, value in settings.items():
            if value is not None:
                monkeypatch.setenv(f"FLASK_{key}", str(value))
        monkeypatch.setenv("SHOP_BROKER", broker.url)
        shop = importlib.import_module("tests.apps.rq_shop")
        sandbox.deliver_to(shop.app)
        worker = SimpleWorker([shop.queue], connection=shop.queue.connection)
        with shop.app.app_context(), tracking_received.connected_to(on_tracking):
            shop.db.create_all()
            record = shop.postal.enqueue(Message("Hi", "ana@example.com", body="x"))
            shop.db.session.commit()
            worker.work(burst=True)
            shop.db.session.refresh(record)
            assert record.state == "accepted"
            sandbox.advance(minutes=1)
            assert seen == []
            shop.queue.empty()  # it has lost the event
            shop.db.session.rollback()
            shop.sweep()
            worker.work(burst=True)
            shop.db.session.remove()
            shop.db.engine.dispose()
    assert seen == ["delivered"]


def test_the_recipe_is_the_one_in_the_docs() -> None:
    source = (ROOT / "tests" / "apps" / "rq_shop.py").read_text()
    recipe = source.partition("# --- recipe\n")[2].partition("# --- end")[0]
    assert recipe in (ROOT / "docs" / "scaling-out.md").read_text()
