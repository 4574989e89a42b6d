"""The page on which people leave a list."""

from __future__ import annotations

from typing import Any

from flask import Flask
from playwright.sync_api import Page, expect

from flask_postal import unsubscribed

from .conftest import (
    FILES_LEFT_OPEN,
    Size,
    World,
    both_sizes,
    no_sideways,
    shoot,
)

pytestmark = FILES_LEFT_OPEN


@both_sizes
def test_one_button_leaves_the_list(page: Page, world: World, size: Size) -> None:
    left: list[str] = []

    def receiver(app: Flask, event: Any, **extra: Any) -> None:
        left.append(event.recipient)

    with world.app.test_request_context("/", base_url=world.url):
        postal = world.app.extensions["postal"]
        link = postal.unsubscribe_url("ana@example.com", "Garden & Home news")
    with unsubscribed.connected_to(receiver, sender=world.app):
        page.goto(link)
        expect(page.get_by_role("heading")).to_have_text("Unsubscribe?")
        no_sideways(page)
        shoot(page, "unsubscribe", size)
        assert left == []
        page.get_by_role("button", name="Unsubscribe").click()
        expect(page.get_by_role("heading")).to_have_text("Done")
        expect(page.locator("body")).to_contain_text("“Garden & Home news”")
        assert left == ["ana@example.com"]
        page.goto(link[:-3])
        expect(page.get_by_role("heading")).to_have_text("This link is not valid")
