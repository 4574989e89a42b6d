"""The sandbox's settings can be copied, as Python and for a shell."""

from __future__ import annotations

import subprocess

import pytest
from flask import Flask
from playwright.sync_api import Page, expect

from .conftest import FILES_LEFT_OPEN, Size, World, both_sizes, no_sideways

pytestmark = FILES_LEFT_OPEN


def copied(page: Page, button: str) -> str:
    page.click(f"[data-copy={button}]")
    expect(page.locator(f"[data-copy={button}]")).to_have_text("Copied")
    return str(page.evaluate("navigator.clipboard.readText()"))


@both_sizes
@pytest.mark.parametrize("path", ["/", "/server"], ids=["list", "server"])
def test_settings_can_be_copied(
    page: Page, world: World, size: Size, path: str
) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto(world.sandbox.url + path)
    app, expected = Flask("pasted"), world.sandbox.settings()
    exec(copied(page, "settings-python"), {"app": app})  # as somebody pastes it
    del expected["POSTAL_WEBHOOK_KEY"]
    assert app.config.items() >= expected.items()
    script = copied(page, "settings-shell") + "\nenv"
    done = subprocess.run(["sh", "-c", script], capture_output=True, text=True)
    lines = [f"FLASK_{key}={value}" for key, value in expected.items()]
    assert set(lines) <= set(done.stdout.splitlines())
    no_sideways(page)
