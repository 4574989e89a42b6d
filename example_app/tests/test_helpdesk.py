"""Tests of the help desk: tickets, mail in both directions, and limits."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app.mail import reply_address
from example_app.models import Entry, Ticket, db
from flask_postal import Message
from flask_postal.sandbox import Sandbox, compose_mail, reply_to
from flask_postal.testing import WebhookClient

from .conftest import MakeApp

FORM = {
    "name": "Ana",
    "email": "ana@example.com",
    "subject": "It is broken",
    "text": "Nothing works.",
}


def write_to_us(client: FlaskClient, **changes: str) -> str:
    """Submit the contact form and return the page that follows."""
    return client.post("/", data=FORM | changes, follow_redirects=True).text


def texts(app: Flask, number: int = 1) -> list[str]:
    with app.app_context():
        ticket = db.session.get(Ticket, number)
        assert ticket is not None
        return [entry.text for entry in ticket.entries]


def count(app: Flask) -> tuple[int, int]:
    """Return the numbers of tickets and entries."""
    with app.app_context():
        return db.session.query(Ticket).count(), db.session.query(Entry).count()


def receive_mail(sandbox: Sandbox, raw: bytes, sender: str | None = "z@e.net") -> int:
    request = sandbox.receive(raw, to="help@example.com", sender=sender)
    return request.attempts[-1].status


def test_the_form_opens_a_ticket_and_confirms_it(
    app: Flask, client: FlaskClient, postal_outbox: list[Message]
) -> None:
    assert "A mail to ana@example.com is on its way." in write_to_us(client)
    (message,) = postal_outbox
    assert message.subject == "We have your message: It is broken"
    assert "Hello Ana," in str(message.body)
    assert [a.content_type for a in message.attachments] == ["image/png"]
    assert message.extra_headers["Auto-Submitted"] == "auto-replied"
    with app.app_context():
        ticket = db.session.get(Ticket, 1)
        assert ticket is not None
        assert reply_address(ticket) in str(message.reply_to)
    assert "Nothing works." in client.get("/desk/ticket/1").text


@pytest.mark.parametrize(
    "changes",
    [
        {"email": "nobody"},
        {"email": "a@b.c, d@e.f"},
        {"text": ""},
        {"subject": ""},
        {"email": "a@b.c\r\nBcc: x@y.z"},
        {"email": "a@b.c\n"},
        {"email": "a@b.c\0"},
        {"email": "\u00e9@b.c"},
    ],
)
def test_a_form_with_invalid_fields_is_refused(
    app: Flask,
    client: FlaskClient,
    postal_outbox: list[Message],
    changes: dict[str, str],
) -> None:
    assert 'class="error"' in write_to_us(client, **changes)
    assert postal_outbox == []
    assert count(app) == (0, 0)


def test_mail_in_both_directions_is_added_to_the_ticket(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    write_to_us(client)
    (confirmation,) = postal_sandbox.messages
    mail, to = reply_to(
        confirmation,
        "It is the printer.",
        attachments=[("../../p.png", "image/png", b"\x89PNG")],
    )
    request = postal_sandbox.receive(mail, to=to, sender="ana@example.com")
    assert request.attempts[-1].status == 200
    client.post("/desk/ticket/1", data={"text": "Turn it on."})
    answer = postal_sandbox.messages[-1]
    assert answer.subject == "Re: It is broken"
    assert answer.content.in_reply_to == read_message_id(mail)
    mail, to = reply_to(answer, "Thank you!")
    postal_sandbox.receive(mail, to=to.upper(), sender="ana@example.com")
    postal_sandbox.advance(minutes=1)
    assert texts(app)[2:] == ["It is the printer.", "Turn it on.", "Thank you!"]
    page = client.get("/desk/ticket/1").text
    assert page.count('chip good">delivered') == 2
    assert ">p.png</a>" in page
    file = client.get("/desk/file/1")
    assert file.data == b"\x89PNG"
    assert file.headers["Content-Disposition"] == "attachment; filename=p.png"


def read_message_id(mail: bytes) -> str:
    found = re.search(rb"(?im)^message-id: <(.+)>", mail)
    assert found
    return found[1].decode()


def test_a_mail_opens_a_ticket(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    mail = compose_mail("Help", "Please.", to="help@example.com")
    postal_sandbox.receive(mail, to="help@example.com")
    assert texts(app)[0] == "Please."
    assert postal_sandbox.messages[0].recipient == "zoe@example.net"


@pytest.mark.parametrize("format_", ["raw-json", "raw-form", "hash-json", "hash-form"])
def test_a_mail_that_is_delivered_twice_is_stored_once(
    app: Flask, postal_sandbox: Sandbox, format_: str
) -> None:
    with app.app_context():
        app.extensions["postal"].webhooks.store = None  # as after a restart
    mail = compose_mail("Help", "Please.", to="help@example.com")
    request = postal_sandbox.receive(mail, to="help@example.com", format=format_)
    again = postal_sandbox.retry(request)
    assert [attempt.status for attempt in again.attempts] == [200, 200]
    assert count(app) == (1, 2)  # the mail and its confirmation


@pytest.mark.parametrize(
    "headers",
    [
        {"Auto-Submitted": "auto-replied"},
        {"Precedence": "auto_reply"},
        {"X-Autoreply": "yes"},
    ],
)
def test_automatic_replies_get_no_confirmation(
    app: Flask,
    client: FlaskClient,
    postal_sandbox: Sandbox,
    headers: dict[str, str],
) -> None:
    write_to_us(client)
    mail, to = reply_to(postal_sandbox.messages[0], "I am away.")
    mail = b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items()) + mail
    postal_sandbox.receive(mail, to=to, sender="ana@example.com")
    postal_sandbox.receive(mail, to="help@example.com", sender="ana@example.com")
    assert len(postal_sandbox.messages) == 1
    assert count(app)[0] == 1
    assert "automatic" in client.get("/desk/ticket/1").text


def test_a_bounce_marks_the_contact(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    write_to_us(client, email="bounced+bo@example.com")
    postal_sandbox.advance(minutes=1)
    page = client.get("/desk/ticket/1").text
    assert "mail came back" in page
    assert 'chip bad">bounced' in page


def test_text_below_a_quote_is_kept(app: Flask, postal_sandbox: Sandbox) -> None:
    quote = b"Hello,\r\n\r\nOn Mon, Ana wrote:\r\n> does it work?\r\n"
    receive_mail(postal_sandbox, b"From: z@e.net\r\n\r\n" + quote)
    receive_mail(postal_sandbox, b"From: z@e.net\r\n\r\n" + quote + b"No: 4711.")
    assert texts(app, 1)[0] == "Hello,"
    assert texts(app, 2)[0].endswith("No: 4711.")


def test_a_late_event_does_not_undo_a_bounce(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    write_to_us(client)
    assert len(postal_sandbox.messages) == 1
    for event, at in (("bounced", 2000.0), ("delivered", 1000.0)):
        changes = {"timestamp": at}
        if event == "delivered":
            changes["payload.timestamp"] = at
        postal_sandbox.trigger(event, to="ana@example.com", set=changes)
    assert "mail came back" in client.get("/desk/ticket/1").text
    after = {"timestamp": 3000.0, "payload.timestamp": 3000.0}
    postal_sandbox.trigger("delivered", to="ana@example.com", set=after)
    assert "mail came back" not in client.get("/desk/ticket/1").text


def test_replies_go_to_the_reply_to_address(
    app: Flask, postal_sandbox: Sandbox
) -> None:
    head = b"From: form@site.example\r\nReply-To: Real <real@person.example>"
    receive_mail(postal_sandbox, head + b"\r\n\r\nHi", "form@site.example")
    assert postal_sandbox.messages[0].recipient == "real@person.example"


def test_an_empty_secret_key_file_is_refused(make_app: MakeApp, tmp_path: Path) -> None:
    (tmp_path / "secret_key").touch()
    with pytest.raises(RuntimeError, match="contains no key; delete it"):
        make_app()


@pytest.mark.parametrize("page", ["ticket", "file"])
def test_unknown_tickets_and_files_are_not_found(
    client: FlaskClient, page: str
) -> None:
    for number in ("7", "9" * 30):
        assert client.get(f"/desk/{page}/{number}").status_code == 404


def test_mail_that_is_not_sent_is_shown(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    postal_sandbox.fault("502", times=1)
    write_to_us(client)
    assert postal_sandbox.messages == []
    assert "not sent" in client.get("/desk/").text
    page = client.get("/desk/ticket/1").text
    assert 'chip bad">doubtful' in page
    assert "502" in page


def test_an_answer_that_can_t_be_sent_keeps_the_draft(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    assert (
        receive_mail(postal_sandbox, b"Subject: Hi\r\n\r\nHi", "zo\u00eb@e.net") == 200
    )
    page = client.post("/desk/ticket/1", data={"text": "My long answer"}).text
    assert "Not sent:" in page
    assert "My long answer</textarea>" in page
    assert count(app) == (1, 1)
    assert postal_sandbox.messages == []


def test_what_is_rolled_back_is_not_sent(
    app: Flask,
    client: FlaskClient,
    postal_sandbox: Sandbox,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def fail() -> None:
        raise OSError("the disk is full")

    for page, form in (("/", FORM), ("/desk/ticket/1", {"text": "Turn it on."})):
        with monkeypatch.context() as patched:
            patched.setattr(db.session, "commit", fail)
            with pytest.raises(OSError, match="full"):
                client.post(page, data=form)
        before = count(app)
        assert len(postal_sandbox.messages) == before[0]
        write_to_us(client)
    assert count(app) == (2, 4)


def test_the_database_can_be_set_in_the_environment(
    make_app: MakeApp, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "elsewhere.sqlite"
    monkeypatch.setenv("DATABASE_URL", f"sqlite:///{file}")
    with make_app().app_context():
        assert str(db.engine.url) == f"sqlite:///{file}"
    assert file.exists()


def test_the_desk_is_closed_without_a_password(make_app: MakeApp) -> None:
    app = make_app(WTF_CSRF_ENABLED=False)
    client = app.test_client()
    assert client.get("/desk/").status_code == 403
    app.config["DESK_PASSWORD"] = "geheim"
    assert client.get("/desk/").status_code == 401
    assert client.get("/desk/file/1", auth=("x", "wrong")).status_code == 401
    assert client.get("/desk/", auth=("x", "geheim")).status_code == 200
    assert client.get("/").status_code == 200


def test_csrf_protection_covers_forms_but_not_webhooks(
    make_app: MakeApp,
) -> None:
    app = make_app(DESK_OPEN=True)
    assert app.test_client().post("/", data=FORM).status_code == 400
    with WebhookClient(app) as webhook:
        assert webhook.tracking("delivered").status_code == 200


def test_reply_addresses_stay_valid_after_a_restart(
    make_app: MakeApp, tmp_path: Path
) -> None:
    addresses = []
    for _ in range(2):
        with make_app().app_context():
            addresses.append(reply_address(Ticket(id=7, subject="x")))
    assert addresses[0] == addresses[1]
    assert (tmp_path / "secret_key").stat().st_mode & 0o777 == 0o600
