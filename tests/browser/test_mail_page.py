"""The sandbox's page of one mail: its frame, its bounce, a reply, a missing mail."""

from __future__ import annotations

from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from .conftest import FILES_LEFT_OPEN, Size, World, both_sizes, no_sideways, send

pytestmark = FILES_LEFT_OPEN


@both_sizes
def test_a_reply_may_have_several_files(
    page: Page, world: World, tmp_path: Path, size: Size
) -> None:
    number = send(world)
    files = [tmp_path / "log.txt", tmp_path / "photo é.png"]
    for file in files:
        file.write_bytes(file.name.encode())
    page.goto(f"{world.sandbox.url}/mail/{number}")
    page.click("#reply-box summary")
    page.fill("#reply-box [name=text]", "See the files.")
    page.set_input_files("#reply-box [name=files]", files)
    no_sideways(page)
    page.click("#reply")
    expect(page.locator("#timeline")).to_contain_text("the mail is delivered")
    (mail,) = (m for m in world.sandbox.store.mails() if m.direction == "incoming")
    attachments = mail.content.attachments
    assert [file.filename for file in attachments] == ["log.txt", "photo é.png"]
    assert attachments[1].content == "photo é.png".encode()


def test_a_reply_that_is_too_large_is_refused_with_a_page(
    page: Page, world: World, tmp_path: Path
) -> None:
    file = tmp_path / "film.mp4"
    file.write_bytes(bytes(20_000_000))
    page.goto(f"{world.sandbox.url}/mail/{send(world)}")
    page.click("#reply-box summary")
    page.fill("#reply-box [name=text]", "See the film.")
    page.set_input_files("#reply-box [name=files]", file)
    page.click("#reply")
    expect(page.locator("h1")).to_have_text("Too large")
    expect(page.locator("#problem")).to_contain_text(
        "may have at most 26,214,400 bytes"
    )
    assert len(world.sandbox.store.mails()) == 1


@both_sizes
def test_a_mail_and_its_bounce_link_to_each_other(
    page: Page, world: World, size: Size
) -> None:
    number = send(world, subject="To nobody")
    page.goto(f"{world.sandbox.url}/mail/{number}")
    page.click("button[value=bounced]")
    status = page.locator("#status")
    expect(status).to_contain_text("bounced by message no.")
    status.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text("Undelivered Mail Returned to Sender")
    original = page.locator("#bounce-of")
    expect(original).to_contain_text(
        f"message no. {number} to ana@example.com: To nobody"
    )
    no_sideways(page)
    original.get_by_role("link").click()
    expect(page.locator("h1")).to_have_text("To nobody")


def test_a_bounce_does_not_link_to_a_forgotten_mail(page: Page, world: World) -> None:
    number = send(world)
    world.sandbox.trigger("bounced", to="ana@example.com")
    world.sandbox.store._forget(number)
    page.goto(world.sandbox.url)
    page.click("text=Undelivered Mail")
    original = page.locator("#bounce-of")
    expect(original).to_have_text(f"message no. {number}, which was deleted")
    expect(original.get_by_role("link")).to_have_count(0)


@both_sizes
def test_the_html_can_be_shown_in_phone_and_desktop_width(
    page: Page, world: World, size: Size
) -> None:
    page.goto(f"{world.sandbox.url}/mail/{send(world)}")
    frame = page.frame_locator("iframe").locator("html")
    width = "html => html.ownerDocument.defaultView.innerWidth"
    page.get_by_label("Phone").check()
    assert 330 < frame.evaluate(width) <= 390
    no_sideways(page)
    page.get_by_label("Desktop").check()
    assert frame.evaluate(width) > 1000
    no_sideways(page)
    # The choice is remembered for the next mail.
    page.goto(f"{world.sandbox.url}/mail/{send(world)}")
    expect(page.get_by_label("Desktop")).to_be_checked()
    page.get_by_label("Window").check()
    assert frame.evaluate(width) < size[0]


@both_sizes
@pytest.mark.parametrize(
    ("path", "shown"),
    [
        ("/mail/7", "There is no message no. 7."),
        ("/mail/7/edit", "There is no message no. 7."),
        (f"/mail/{'9' * 5000}", f"There is no message no. {2**63 - 1}."),
        ("/request/7/body", "There is no request no. 7."),
    ],
    ids=["mail", "edit", "too large", "request"],
)
def test_an_unknown_number_shows_a_page_with_a_link_back(
    page: Page, world: World, size: Size, path: str, shown: str
) -> None:
    send(world, subject="Still here")
    answer = page.goto(world.sandbox.url + path)
    assert answer is not None
    assert answer.status == 404
    expect(page.locator("#problem")).to_have_text(shown)
    no_sideways(page)
    page.click("text=Back to all messages")
    expect(page.locator("#list")).to_contain_text("Still here")


def test_a_mail_without_an_attachment_of_that_number_says_so(
    page: Page, world: World
) -> None:
    number = send(world)
    page.goto(f"{world.sandbox.url}/mail/{number}/attachment/3")
    problem = page.locator("#problem")
    expect(problem).to_have_text(f"Message no. {number} has no such attachment.")
