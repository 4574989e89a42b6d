"""Fixtures: Chromium, and the help desk with its sandbox."""

from __future__ import annotations

import gc
import os
import re
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from playwright.sync_api import Browser, Page, Route, expect, sync_playwright
from werkzeug.serving import make_server

from example_app import create_app
from example_app.models import db
from flask_postal import Message
from flask_postal.sandbox import Clock, Sandbox, SigningKey
from flask_postal.sandbox.webhook_client import hook_urls
from flask_postal.testing import resolving_with

from ..ledger.world import end_threads
from ..processes import needed

#: The folder for screenshots of the docs. None are taken if it is not set.
SCREENSHOTS = os.environ.get("FLASK_POSTAL_SCREENSHOTS")

# Generous, because the machine may be busy with other things.
expect.set_options(timeout=15_000)

# Werkzeug's development server leaves a static file open when the browser closes the
# connection before it has read all of it.
FILES_LEFT_OPEN = [
    pytest.mark.filterwarnings("ignore:unclosed file:ResourceWarning"),
    pytest.mark.filterwarnings(
        "ignore:Exception ignored in. <_io:pytest.PytestUnraisableExceptionWarning"
    ),
]
Size = tuple[int, int]


class World:
    """The help desk and its sandbox, each served on its own port."""

    def __init__(self, app: Flask, sandbox: Sandbox, url: str) -> None:
        self.app = app
        self.sandbox = sandbox
        self.url = url


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    """One browser per module, closed early because Playwright keeps an event loop."""
    path = needed("chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=path, args=["--no-sandbox"]
        )
        yield browser
        browser.close()


@pytest.fixture
def world(tmp_path: Path, signing_key: SigningKey) -> Iterator[World]:
    with (
        Sandbox(key=signing_key, clock=Clock(speed=5)) as sandbox,
        resolving_with(sandbox.dns),
    ):
        settings: dict[str, Any] = {**sandbox.settings(), "DESK_OPEN": True}
        app = create_app(settings, instance_path=str(tmp_path))
        app.debug = True
        server = make_server("127.0.0.1", 0, app, threaded=True)
        thread = threading.Thread(target=server.serve_forever, args=(0.02,))
        thread.start()
        url = f"http://127.0.0.1:{server.server_port}"
        sandbox.tracking_url, sandbox.inbound_url = hook_urls(app, "postal", url)
        yield World(app, sandbox, url)
        sandbox.stop()
        server.shutdown()
        thread.join()
        server.server_close()
        end_threads()
    with app.app_context():
        for engine in db.engines.values():
            engine.dispose()
    gc.collect()  # report what was left open here, and not in a later test


WIDE, NARROW = (1280, 860), (390, 800)
#: For tests of pages whose layout is different on a phone.
both_sizes = pytest.mark.parametrize(
    "size", [WIDE, NARROW], indirect=True, ids=["wide", "narrow"]
)


@pytest.fixture
def size(request: pytest.FixtureRequest) -> tuple[int, int]:
    """The size of the browser window."""
    size: tuple[int, int] = getattr(request, "param", WIDE)
    return size


@pytest.fixture
def page(chromium: Browser, size: tuple[int, int]) -> Iterator[Page]:
    """A page. The test fails on script errors, dialogs and requests to other hosts."""
    context = chromium.new_context(
        viewport={"width": size[0], "height": size[1]}, locale="en-GB"
    )
    page = context.new_page()
    page.set_default_timeout(20_000)
    problems: list[str] = []
    page.on("pageerror", lambda error: problems.append(str(error)))

    def dialog(box: Any) -> None:
        problems.append(f"a dialog: {box.message}")
        box.dismiss()

    page.on("dialog", dialog)

    def elsewhere(route: Route) -> None:
        """Record a request that no Content-Security-Policy has blocked."""
        problems.append(f"a request to {route.request.url}")
        route.abort()

    context.route(re.compile(r"^(?!http://127\.0\.0\.1:)"), elsewhere)
    yield page
    context.close()
    assert problems == []


def write_to_us(page: Page, world: World, **fields: str) -> None:
    """Fill in the contact form and send it."""
    page.goto(world.url)
    values = {
        "name": "Ana Lima",
        "email": "ana@example.com",
        "subject": "The printer prints nothing",
        "text": "It blinks, and that is all.",
        **fields,
    }
    for name, value in values.items():
        page.fill(f"[name={name}]", value)
    page.click("text=Send")


def send(world: World, to: str = "ana@example.com", **fields: str) -> int:
    """Send a message with a link from the help desk and return its id."""
    postal = world.app.extensions["postal"]
    message = Message(
        fields.get("subject", "Hello"),
        to,
        body=fields.get("body", "Hi"),
        html=fields.get("html", '<p>Hi, <a href="https://example.com/x">look</a></p>'),
        tags="test",
    )
    with world.app.app_context():
        number: int = postal.send(message).recipients[to].id
    return number


def shoot(page: Page, name: str, size: tuple[int, int]) -> None:
    """Take a screenshot for the docs, if they are wanted."""
    if SCREENSHOTS:
        kind = "wide" if size[0] > 800 else "narrow"
        page.screenshot(path=f"{SCREENSHOTS}/{name}-{kind}.png")


def no_sideways(page: Page) -> None:
    """Check that the page is no wider than the window."""
    extent = "[document.documentElement.scrollWidth, window.innerWidth]"
    width, window = page.evaluate(extent)
    assert width <= window
