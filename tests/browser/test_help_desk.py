"""The help desk's pages: tickets that update themselves, and errors in the form."""

from __future__ import annotations

from playwright.sync_api import Page, expect

from example_app.mail import reply_address
from example_app.models import Ticket, db
from flask_postal.sandbox import compose_mail

from .conftest import (
    FILES_LEFT_OPEN,
    Size,
    World,
    both_sizes,
    no_sideways,
    write_to_us,
)

pytestmark = FILES_LEFT_OPEN


def reply_by_mail(world: World, text: str, sender: str = "ana@example.com") -> None:
    """Let the sandbox deliver a reply to the first ticket."""
    with world.app.app_context():
        to = reply_address(db.session.get_one(Ticket, 1))
    raw = compose_mail("Re: it", text, to=to, sender=f"Ana Lima <{sender}>")
    assert world.sandbox.receive(raw, to=to, sender=sender).attempts[-1].status == 200


@both_sizes
def test_new_entries_of_a_ticket_appear_without_a_reload(
    page: Page, world: World, size: Size
) -> None:
    write_to_us(page, world)
    page.goto(f"{world.url}/desk/ticket/1")
    expect(page.locator("#entries article")).to_have_count(2)
    expect(page.locator("#entries")).to_contain_text("delivered")
    page.fill("[name=text]", "I am writing")
    page.evaluate("getSelection().selectAllChildren(document.querySelector('pre'))")
    reply_by_mail(world, "It burns now.")
    entry = page.locator("article.theirs.new")
    expect(entry).to_contain_text("It burns now.")
    expect(page.locator("#entries article")).to_have_count(3)
    # The draft and the selection are kept.
    expect(page.locator("[name=text]")).to_have_value("I am writing")
    selected = page.evaluate("getSelection().toString()")
    assert selected == "It blinks, and that is all."
    no_sideways(page)
    page.get_by_role("status").get_by_role("link", name="New entry by Ana Lima").click()
    expect(entry).to_be_in_viewport()
    expect(page.locator("#news")).to_be_hidden()


def test_a_reply_reopens_a_closed_ticket(page: Page, world: World) -> None:
    write_to_us(page, world)
    page.goto(f"{world.url}/desk/ticket/1")
    page.click("#close")
    expect(page.locator("#close")).to_have_text("Open it again")
    reply_by_mail(world, "Not yet.")
    expect(page.locator("#close")).to_have_text("Close the ticket")
    expect(page.locator("#contact")).to_contain_text("open")


@both_sizes
def test_the_first_invalid_field_gets_the_focus(
    page: Page, world: World, size: Size
) -> None:
    write_to_us(page, world, email="nobody", text="")
    expect(page.get_by_label("Your mail address")).to_be_focused()
    for name in ("email", "text"):
        expect(page.locator(f"[name={name}]")).to_have_attribute("aria-invalid", "true")
    error = "Is this your address?"
    expect(page.get_by_label("Your mail address")).to_have_accessible_description(error)
    no_sideways(page)
