"""Fixtures that more than one file of tests uses."""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import pytest
from blinker import Signal
from flask import Flask

from flask_postal import Postal, inbound_received, tracking_received
from flask_postal.sandbox import ManualClock, Sandbox, SigningKey

from .captures import DKIM_RECORD
from .secret import SECRET

MakeApp = Callable[..., tuple[Flask, Postal]]
Listen = Callable[[Signal], list[Any]]


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport() -> Generator[
    None, pytest.TestReport, pytest.TestReport
]:
    """Fail a test that has printed or logged the planted secret."""
    report = yield
    if any(SECRET in content for _, content in report.sections):
        report.outcome = "failed"
        report.longrepr = "the planted secret is in the log or the output"
    return report


@pytest.fixture(autouse=True)
def no_proxy(monkeypatch: pytest.MonkeyPatch) -> None:
    """Ignore the proxy settings of the machine that runs the tests."""
    for name in ("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "NO_PROXY"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.lower(), raising=False)


@pytest.fixture
def make_app() -> MakeApp:
    """Return a function that makes an app with Postal's webhooks from settings."""

    def make(**settings: Any) -> tuple[Flask, Postal]:
        app = Flask("tests")
        app.config.update(POSTAL_WEBHOOK_KEY=DKIM_RECORD)
        app.config.update(settings)
        postal = Postal(app)
        app.register_blueprint(postal.blueprint)
        return app, postal

    return make


@pytest.fixture
def listen() -> Iterator[Listen]:
    """Return a function that collects the events of a signal until the test ends."""
    connected: list[tuple[Signal, Any]] = []

    def connect(signal: Signal) -> list[Any]:
        events: list[Any] = []

        def receiver(app: Flask, event: Any, **extra: Any) -> None:
            events.append(event)

        signal.connect(receiver)
        connected.append((signal, receiver))
        return events

    yield connect
    for signal, receiver in connected:
        signal.disconnect(receiver)


@pytest.fixture
def tracking(listen: Listen) -> list[Any]:
    """The tracking events received."""
    return listen(tracking_received)


@pytest.fixture
def inbound(listen: Listen) -> list[Any]:
    """The inbound events received."""
    return listen(inbound_received)


@pytest.fixture(scope="session")
def signing_key() -> SigningKey:
    """A private key to sign with, shared because generating one is slow."""
    return SigningKey.generate()


@pytest.fixture
def sandbox(signing_key: SigningKey) -> Iterator[Sandbox]:
    """A running sandbox."""
    with Sandbox(key=signing_key) as running:
        yield running


@pytest.fixture
def strict_sandbox(signing_key: SigningKey) -> Iterator[Sandbox]:
    """A sandbox with a manual clock, in which only two domains may send."""
    with Sandbox(
        key=signing_key, clock=ManualClock(), domains=["example.test", "susp.test"]
    ) as running:
        yield running
