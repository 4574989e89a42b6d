"""The sandbox deletes all messages only after a confirmation."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from .conftest import FILES_LEFT_OPEN, Size, World, both_sizes, no_sideways, send

pytestmark = FILES_LEFT_OPEN


@both_sizes
def test_forgetting_all_mails_is_confirmed_first(
    page: Page, world: World, size: Size
) -> None:
    send(world)
    page.goto(world.sandbox.url)
    expect(page.locator("#clear")).to_be_hidden()
    page.click("text=Delete all messages")
    expect(page.locator("#forget")).to_contain_text("1 message, with all events")
    assert len(world.sandbox.messages) == 1
    # A mail that arrives meanwhile is counted, and the question stays open.
    send(world)
    expect(page.locator("#forget")).to_contain_text("2 messages, with all events")
    no_sideways(page)
    page.click("text=Yes, delete all messages")
    expect(page.locator("#list")).to_contain_text("No messages yet")
    assert world.sandbox.messages == []


def test_search_results_have_no_button_to_forget_all_mails(
    page: Page, world: World
) -> None:
    send(world, subject="An invoice")
    page.goto(f"{world.sandbox.url}/?q=invoice")
    expect(page.locator("#list")).to_contain_text("An invoice")
    expect(page.locator("#forget")).to_have_count(0)
