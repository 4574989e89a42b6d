"""Posting a request to the app again shows the new response next to the request."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from flask_postal.sandbox import compose_mail

from .conftest import FILES_LEFT_OPEN, Size, World, both_sizes, no_sideways, send

pytestmark = FILES_LEFT_OPEN


@both_sizes
def test_the_response_is_shown_next_to_the_request(
    page: Page, world: World, size: Size
) -> None:
    number = send(world)
    for name in ("delivered", "opened", "clicked", "deferred"):
        world.sandbox.trigger(name, to="ana@example.com")
    page.goto(f"{world.sandbox.url}/mail/{number}?view=headers")
    request = page.locator(".request", has_text="MessageDelayed").last
    request.locator("summary").click()
    request.get_by_text("Post it again now").click()
    notice = request.get_by_role("status")
    expect(notice).to_contain_text("Posted again at")
    expect(notice).to_contain_text("200: Postal is done with this event")
    expect(notice).to_be_in_viewport()
    expect(request.get_by_text("Post it again now")).to_be_in_viewport()
    expect(request.locator(".attempt")).to_have_count(2)
    expect(page.get_by_role("tab", name="Headers")).to_have_attribute(
        "aria-selected", "true"
    )
    no_sideways(page)
    # It stays when another event of the same mail arrives.
    world.sandbox.trigger("failed", to="ana@example.com")
    expect(page.locator("#timeline")).to_contain_text("MessageDeliveryFailed")
    expect(notice).to_be_visible()


def test_a_failure_is_shown_next_to_the_request(page: Page, world: World) -> None:
    world.sandbox.trigger("delivered", to="ana@example.com")
    world.sandbox.tracking_url = f"{world.url}/nowhere"
    world.sandbox.trigger("opened", to="ana@example.com")
    page.goto(f"{world.sandbox.url}/mail/1")
    request = page.locator(".request", has_text="MessageLoaded").last
    request.locator("summary").click()
    request.get_by_text("Post it again now").click()
    expect(request.get_by_role("status")).to_contain_text("404")


def test_posting_a_server_event_again_stays_on_its_page(
    page: Page, world: World
) -> None:
    world.sandbox.trigger("DomainDNSError")
    page.goto(f"{world.sandbox.url}/server")
    request = page.locator(".request", has_text="DomainDNSError")
    request.locator("summary").click()
    request.get_by_text("Post it again now").click()
    notice = request.get_by_role("status")
    expect(notice).to_contain_text("Postal is done with this event")
    expect(notice).to_be_in_viewport()


def test_posting_inbound_mail_again_shows_the_new_response(
    page: Page, world: World
) -> None:
    inbound = world.sandbox.inbound_url
    world.sandbox.inbound_url = f"{world.url}/nowhere"
    made = world.sandbox.receive(
        compose_mail("Help", "Please.", to="help@example.com"), to="help@example.com"
    )
    world.sandbox.inbound_url = inbound
    page.goto(f"{world.sandbox.url}/mail/{made.mail_id}")
    page.click("#deliver")
    notice = page.get_by_role("status")
    expect(notice).to_contain_text("200: the mail is delivered")
    expect(notice).to_be_in_viewport()
