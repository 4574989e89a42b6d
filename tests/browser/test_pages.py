"""Sending, events, bounces and replies in the browser, and the sandbox's buttons."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from example_app.mail import confirm
from example_app.models import Entry, db
from example_app.receivers import open_ticket
from flask_postal.sandbox import compose_mail
from flask_postal.sandbox.endpoint import FORMATS
from flask_postal.sandbox.faults import Fault
from flask_postal.vocabulary import SERVER_EVENTS

from ..ledger.world import until
from .conftest import (
    FILES_LEFT_OPEN,
    Size,
    World,
    both_sizes,
    no_sideways,
    send,
    shoot,
    write_to_us,
)

pytestmark = FILES_LEFT_OPEN


@both_sizes
def test_a_ticket_from_the_form_to_the_reply(
    page: Page, world: World, size: Size
) -> None:
    write_to_us(page, world)
    expect(page.get_by_role("status")).to_contain_text("A mail to ana@example.com is")
    no_sideways(page)
    # Each page links to the other.
    page.click("text=Sandbox")
    assert page.url.rstrip("/") == world.sandbox.url
    page.click("text=We have your message")
    expect(page.locator("#timeline")).to_contain_text("MessageSent")
    expect(page.locator("#timeline")).to_contain_text("Postal is done with this event")
    logo = page.frame_locator("iframe").locator("img")
    expect(logo).to_be_visible()
    assert logo.evaluate("image => image.naturalWidth") > 0
    no_sideways(page)
    shoot(page, "sandbox-mail", size)
    # The recipient answers.
    page.click("text=Reply as ana@example.com")
    page.fill("#reply-box [name=text]", "Now it burns.")
    page.click("#reply")
    expect(page.locator("#timeline")).to_contain_text("the mail is delivered")
    page.click("text=Your app")
    page.get_by_role("link", name="Desk", exact=True).click()
    page.click("text=The printer prints nothing")
    expect(page.locator("#entries")).to_contain_text("Now it burns.")
    page.fill("[name=text]", "Use water.")
    page.click("#answer")
    entry = page.locator("article.ours").last
    expect(entry).to_contain_text("Use water.")
    expect(entry).to_contain_text("delivered")
    no_sideways(page)
    shoot(page, "desk-ticket", size)
    # New events appear without a reload.
    world.sandbox.trigger("opened", to="ana@example.com")
    expect(entry).to_contain_text("opened")
    page.click("#close")
    expect(page.locator("#contact")).to_contain_text("closed")


def test_a_bounce_marks_the_contact(page: Page, world: World) -> None:
    write_to_us(page, world, email="bounced+bo@example.com")
    page.goto(f"{world.url}/desk/ticket/1")
    expect(page.locator("#bounced")).to_contain_text("mail came back")
    expect(page.locator("#entries")).to_contain_text("bounced")


def test_the_form_shows_what_is_invalid(page: Page, world: World) -> None:
    write_to_us(page, world, email="nobody", text="")
    expect(page.locator(".error").first).to_contain_text("Is this your address?")
    expect(page.locator("[name=subject]")).to_have_value("The printer prints nothing")


@pytest.mark.parametrize(
    ("button", "shown"),
    [
        ("delivered", "MessageSent"),
        ("deferred", "MessageDelayed"),
        ("failed", "MessageDeliveryFailed"),
        ("held", "MessageHeld"),
        ("bounced", "MessageBounced"),
        ("opened", "MessageLoaded"),
        ("clicked", "MessageLinkClicked"),
    ],
)
def test_every_event_has_a_button(
    page: Page, world: World, button: str, shown: str
) -> None:
    number = send(world)
    page.goto(f"{world.sandbox.url}/mail/{number}")
    page.click(f"button[value={button}]")
    request = page.locator(".request", has_text=shown).last
    expect(request).to_contain_text("200: Postal is done with this event")
    request.locator("summary").click()
    expect(request.locator("pre")).to_contain_text(f'"event": "{shown}"')
    expect(request.locator(".attempt")).to_contain_text("/postal/tracking/")
    with page.expect_download() as download:
        request.get_by_text("Download the body").click()
    world.sandbox.replay(download.value.path())
    request.get_by_text("Post it again now").click()
    again = page.locator(".request", has_text=shown).last
    expect(again.locator(".attempt")).to_have_count(2)


@both_sizes
def test_the_list_updates_itself_and_can_be_searched(
    page: Page, world: World, size: Size
) -> None:
    page.goto(world.sandbox.url)
    expect(page.locator("#list")).to_contain_text("No messages yet")
    send(world, subject="An invoice")
    expect(page.locator("#list")).to_contain_text("An invoice")
    expect(page.locator("#list .chip")).to_have_text("Sent")
    send(world, "bo@example.com", subject="A reminder", body="100 % of it")
    expect(page.locator("#list .mail").first).to_contain_text("A reminder")
    no_sideways(page)
    shoot(page, "sandbox-list", size)
    for query, found in (
        ("invoice", 1),
        ("bo@", 1),
        ("example.com", 2),
        ("100 %", 1),
        ("%", 1),
        ("nothing", 0),
    ):
        page.fill("[type=search]", query)
        page.keyboard.press("Enter")
        expect(page.locator("#list .mail")).to_have_count(found)
    page.goto(world.sandbox.url)
    page.click("#forget summary")
    page.click("#clear")
    expect(page.locator("#list")).to_contain_text("No messages yet")


def test_a_mail_can_be_viewed_and_downloaded(page: Page, world: World) -> None:
    raw = compose_mail(
        "Zwölf",
        "plain text",
        to="help@example.com",
        html="<p>rich text</p>",
        attachments=[("note é.txt", "text/plain", b"a note")],
    )
    world.sandbox.receive(raw, to="help@example.com")
    number = world.sandbox.requests[0].mail_id
    page.goto(f"{world.sandbox.url}/mail/{number}")
    expect(page.frame_locator("iframe").locator("p")).to_have_text("rich text")
    page.get_by_role("tab", name="Text").click()
    expect(page.locator("#view")).to_contain_text("plain text")
    page.get_by_role("tab", name="Headers").click()
    expect(page.locator("#view")).to_contain_text("X-Postal-Spam")
    page.get_by_role("tab", name="Raw").click()
    expect(page.locator("#view pre")).to_contain_text("Content-Type: multipart/mixed")
    with page.expect_download() as download:
        page.get_by_text("Download as .eml").click()
    assert Path(download.value.path()).read_bytes().endswith(raw)
    page.get_by_role("tab", name="Attachments").click()
    with page.expect_download() as download:
        page.get_by_role("link", name="note é.txt").click()
    assert download.value.suggested_filename == "note é.txt"
    assert Path(download.value.path()).read_bytes() == b"a note"


def test_a_mail_can_be_sent_again_and_edited(page: Page, world: World) -> None:
    number = send(world, subject="First")
    page.goto(f"{world.sandbox.url}/mail/{number}")
    page.click("#resend")
    page.wait_for_url(re.compile(rf"/mail/{number + 1}$"))
    page.click("#edit")
    page.fill("[name=subject]", "Second")
    page.fill("[name=to]", "failed@example.com")
    page.click("#send")
    expect(page.locator("h1")).to_have_text("Second")
    expect(page.locator("#status")).to_have_text("HardFail")
    recipients = [mail.recipient for mail in world.sandbox.messages]
    assert recipients == ["ana@example.com", "ana@example.com", "failed@example.com"]


@both_sizes
def test_the_compose_form_fits_the_window(page: Page, world: World, size: Size) -> None:
    for path in ("/compose", f"/mail/{send(world)}/edit"):
        page.goto(world.sandbox.url + path)
        no_sideways(page)


@pytest.mark.parametrize("format_", FORMATS)
def test_inbound_mail_can_be_composed(
    page: Page, world: World, format_: str, tmp_path: Path
) -> None:
    page.goto(f"{world.sandbox.url}/compose")
    page.fill("[name=to]", "help@example.com")
    page.fill("[name=subject]", "My question")
    page.fill("[name=text]", "Why?")
    file = tmp_path / "why.txt"
    file.write_text("because")
    page.set_input_files("[name=files]", str(file))
    page.select_option("[name=format]", format_)
    page.check("[name=strip_replies]")
    page.click("#receive")
    expect(page.locator("#timeline")).to_contain_text("200: the mail is delivered")
    expect(page.locator("#timeline")).to_contain_text(format_)
    page.select_option("[name=format]", format_)
    page.click("#deliver")
    expect(page.locator(".request", has_text=format_)).to_have_count(2)
    page.goto(f"{world.url}/desk/ticket/1")
    expect(page.locator("#entries")).to_contain_text("Why?")
    expect(page.locator(".files")).to_contain_text("why.txt")


def test_an_eml_file_can_be_received_as_spam(
    page: Page, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "mail.eml"
    file.write_bytes(compose_mail("From a file", "x", to="help@example.com"))
    page.goto(f"{world.sandbox.url}/compose")
    page.set_input_files("[name=eml]", str(file))
    page.check("[name=spam]")
    page.click("#receive")
    expect(page.locator("h1")).to_have_text("From a file")
    expect(page.locator("#timeline")).to_contain_text("Postal drops this mail")


def test_an_eml_file_can_be_dropped_on_the_form(page: Page, world: World) -> None:
    page.goto(f"{world.sandbox.url}/compose")
    raw = compose_mail("Dropped", "x", to="help@example.com").decode()
    page.evaluate(
        """text => {
          const data = new DataTransfer();
          data.items.add(new File([text], "dropped.eml"));
          const about = { dataTransfer: data, bubbles: true, cancelable: true };
          const drop = new DragEvent("drop", about);
          document.getElementById("compose").dispatchEvent(drop);
        }""",
        raw,
    )
    page.click("#receive")
    expect(page.locator("h1")).to_have_text("Dropped")


@both_sizes
def test_the_buttons_of_the_server_page(page: Page, world: World, size: Size) -> None:
    page.goto(f"{world.sandbox.url}/server")
    no_sideways(page)
    shoot(page, "sandbox-server", size)
    for event in SERVER_EVENTS:
        page.click(f"button[value={event.name}]")
        expect(page.locator("#requests")).to_contain_text(str(event.name))
    for fault in Fault:
        page.click(f"button[name=fault][value='{fault}']")
        expect(page.locator("#active")).to_contain_text(str(fault))
    assert set(world.sandbox.faults) == {str(fault) for fault in Fault}
    page.select_option("[name=times]", "")
    page.click("button[name=fault][value='hang']")
    expect(page.locator("#active")).to_contain_text("hang")
    assert world.sandbox.faults["hang"] is None
    page.click("#clear-faults")
    expect(page.locator("#active")).to_have_text("No faults are active.")
    before = page.locator("#kid").text_content()
    page.click("#rotate")
    expect(page.locator("#kid")).not_to_have_text(str(before))
    page.click("#foreign")
    expect(page.locator(".request").first).to_contain_text("401")


XSS = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "'><svg onload=alert(1)>",
    "javascript:alert(1)",
    "</textarea><script>alert(1)</script>",
    "</title><script>alert(1)</script>",
    "{{ 7*7 }}<iframe srcdoc='<script>alert(1)</script>'>",
    "<a href='javascript:alert(1)'>x</a>",
    "<img src='https://evil.example/x.png'><link rel=stylesheet href='//evil.example'>",
    "<meta http-equiv=refresh content='0;url=https://evil.example'>",
    "<form action='https://evil.example'><input name=password></form>",
    "<base href='https://evil.example/'>",
]


def is_sent(world: World, address: str) -> bool:
    return any(mail.recipient == address for mail in world.sandbox.messages)


def test_no_field_of_a_mail_runs_scripts(page: Page, world: World) -> None:
    for number, evil in enumerate(XSS):
        name = evil.replace("\r", "").replace("\n", "")
        quoted = name.replace("\\", "").replace('"', "'")
        raw = compose_mail(
            name,
            evil,
            to="help@example.com",
            sender=f'"{quoted}" <x{number}@example.net>',
            html=f"<html><body>{evil}</body></html>",
            attachments=[(quoted, "text/html", evil.encode())],
        )
        world.sandbox.receive(
            raw, to=f'"{quoted}"@example.com', sender=f"x{number}@example.net"
        )
        send(world, "ana@example.com", subject=name, body=evil, html=evil)
        address = f"y{number}@example.net"
        with world.app.app_context():
            ticket = open_ticket(address, evil, evil, Entry(author=evil, text=evil))
            confirm(ticket)
            db.session.commit()
        until(partial(is_sent, world, address))
        world.sandbox.trigger(
            "failed",
            to=address,
            set={"payload.output": evil, "payload.details": evil},
        )
        world.sandbox.trigger(
            "clicked", set={"payload.url": evil, "payload.user_agent": evil}
        )
    pages = [
        f"{world.url}/desk/",
        world.sandbox.url,
        f"{world.sandbox.url}/server",
        *(f"{world.url}/desk/ticket/{number + 1}" for number in range(2 * len(XSS))),
    ]
    for mail in world.sandbox.store.list_mails():
        incoming = mail.direction == "incoming"
        views = (
            ("html", "text", "headers", "raw", "attachments") if incoming else ("html",)
        )
        pages += [f"{world.sandbox.url}/mail/{mail.id}?view={view}" for view in views]
    for url in pages:
        page.goto(url)
        assert page.url.startswith("http://127.0.0.1:")
        assert page.locator("body script").count() == 0
    page.goto(f"{world.sandbox.url}/mail/1/html")
    assert page.url.endswith("/html")
