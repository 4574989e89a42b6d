"""Tests of the help desk: tickets, mail in both directions, and limits."""

from __future__ import annotations

import re
import time
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app.mail import reply_address, ticket_number
from example_app.models import Entry, Ticket, db
from flask_postal import Message
from flask_postal.sandbox import Sandbox, compose_mail, reply_to
from flask_postal.testing import WebhookClient, sandboxed

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


def test_the_form_opens_a_ticket_and_confirms_it(
    app: Flask, client: FlaskClient, postal_outbox: list[Message]
) -> None:
    assert "We have sent a mail to ana@example.com." in write_to_us(client)
    (message,) = postal_outbox
    assert message.subject == "We have your message: It is broken"
    assert "Hello Ana," in str(message.body)
    assert [a.content_type for a in message.attachments] == ["image/png"]
    assert message.extra_headers["Auto-Submitted"] == "auto-generated"
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


def test_an_address_with_a_wrong_signature_bounces(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    write_to_us(client)
    mail, to = reply_to(postal_sandbox.messages[0], "Hi")
    others = to.replace("ticket+1.", "ticket+2.")
    for forged in (others, "ticket+1.0000000000000000@x.y", "ticket+1@x.y"):
        request = postal_sandbox.receive(mail, to=forged)
        assert "bounce this mail to its author" in request.attempts[-1].verdict
    assert count(app)[0] == 1
    with app.app_context():
        assert ticket_number(to) == 1
        assert ticket_number("help@example.com") is None


def test_a_bounce_marks_the_contact(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    write_to_us(client, email="bounced+bo@example.com")
    postal_sandbox.advance(minutes=1)
    page = client.get("/desk/ticket/1").text
    assert "mail came back" in page
    assert 'chip bad">bounced' in page


def test_the_html_of_mails_is_sanitised(
    app: Flask, client: FlaskClient, postal_webhook: WebhookClient
) -> None:
    app.config["POSTAL_SUPPRESS_SEND"] = True
    evil = (
        "<p onclick='x()'>Hi<script>x()</script><img src='https://e.test/t.png'>"
        "<a href='javascript:x()'>a</a><iframe src='//e.test'></iframe></p>"
    )
    mail = compose_mail("<b>x</b>", "Hi", to="help@example.com", html=evil)
    postal_webhook.inbound(mail)
    page = client.get("/desk/ticket/1").text
    assert "Hi" in page
    for bad in ("onclick", "<script>x", "e.test", "javascript:", "<iframe", "<b>x</b>"):
        assert bad not in page
    policy = client.get("/desk/").headers["Content-Security-Policy"]
    assert "default-src 'none'" in policy


def receive_mail(sandbox: Sandbox, raw: bytes, sender: str | None = "z@e.net") -> int:
    request = sandbox.receive(raw, to="help@example.com", sender=sender)
    return request.attempts[-1].status


@pytest.mark.parametrize(
    "head",
    [
        b"From: z@e.net\r\nSubject: =?utf-8?q?a=00b?=",
        b"From: " + b"n" * 600 + b" <z@e.net>",
        b"From: " + b"a" * 260 + b"@e.net",
        b"From: z@e.net\r\nMessage-ID: <" + b"m" * 900 + b"@x>",
        b"From: just a name",
        b"Subject: nobody",
    ],
)
def test_malformed_mail_is_stored(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox, head: bytes
) -> None:
    for number in (1, 2):
        raw = head + b"\r\nX-N: %d\r\n\r\nh\0i\xff" % number
        assert receive_mail(postal_sandbox, raw) == 200
        assert client.get(f"/desk/ticket/{number}").status_code == 200
    assert count(app)[0] == 2
    with app.app_context():
        for entry in db.session.query(Entry).all():
            assert "\0" not in entry.text + entry.author
            assert len(entry.author) <= 500
            assert len(entry.message_id or "") <= 500


def test_text_below_a_quote_is_kept(app: Flask, postal_sandbox: Sandbox) -> None:
    quote = b"Hello,\r\n\r\nOn Mon, Ana wrote:\r\n> does it work?\r\n"
    receive_mail(postal_sandbox, b"From: z@e.net\r\n\r\n" + quote)
    receive_mail(postal_sandbox, b"From: z@e.net\r\n\r\n" + quote + b"No: 4711.")
    assert texts(app, 1)[0] == "Hello,"
    assert texts(app, 2)[0].endswith("No: 4711.")


@pytest.mark.parametrize(
    ("head", "sender"),
    [
        (b"From: z@e.net", None),
        (b"From: z@e.net\r\nPrecedence: bulk", "z@e.net"),
        (b"From: z@e.net\r\nList-Id: <x.y>", "z@e.net"),
        (b"From: z@e.net\r\nX-Auto-Response-Suppress: All", "z@e.net"),
    ],
)
def test_mail_that_could_start_a_loop_gets_no_confirmation(
    app: Flask, postal_sandbox: Sandbox, head: bytes, sender: str | None
) -> None:
    assert receive_mail(postal_sandbox, head + b"\r\n\r\nHi", sender) == 200
    assert postal_sandbox.messages == []
    assert count(app) == (1, 1)


def test_confirmations_to_one_sender_are_limited(
    app: Flask, postal_sandbox: Sandbox
) -> None:
    for number in range(10):
        receive_mail(postal_sandbox, b"From: z@e.net\r\nX-N: %d\r\n\r\nHi" % number)
    assert count(app)[0] == 10
    assert len(postal_sandbox.messages) == 5


@pytest.mark.parametrize("says_so", [True, False])
def test_a_mail_loop_between_two_help_desks_ends(
    app: Flask,
    make_app: MakeApp,
    tmp_path: Path,
    postal_sandbox: Sandbox,
    says_so: bool,
) -> None:
    """The loop ends even if a relay removes the Auto-Submitted header."""
    theirs, ours = "desk@other.example", "help@example.com"
    app.config["POSTAL_DEFAULT_SENDER"] = ours
    other = make_app(
        TESTING=True,
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path / 'other.sqlite'}",
        POSTAL_DEFAULT_SENDER=theirs,
        MAIL_DOMAIN="other.example",
    )
    carried = 0
    with sandboxed(other) as other_sandbox:
        raw = f"From: {theirs}\r\nSubject: Hi\r\n\r\nx".encode()
        postal_sandbox.receive(raw, to=ours, sender=theirs)
        for _ in range(20):
            for source, target, sender, to in (
                (postal_sandbox, other_sandbox, ours, theirs),
                (other_sandbox, postal_sandbox, theirs, ours),
            ):
                sent = [mail.raw for mail in source.messages]
                source.clear()
                for raw in sent:
                    if not says_so:
                        raw = raw.replace(b"Auto-Submitted:", b"X-Was:")
                    target.receive(raw, to=to, sender=sender)
                    carried += 1
    # Each side confirms five mails in an hour; the first mail started the loop.
    assert carried == (1 if says_so else 11)


def test_the_text_is_shown_if_the_html_is_too_large_or_empty(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    began = time.process_time()
    for html in ("<div>" * 100_000, "<body>\n<img src='x.png'>\n</body>"):
        mail = compose_mail("x", "ORDER4711", to="help@example.com", html=html)
        assert receive_mail(postal_sandbox, mail) == 200
    assert time.process_time() - began < 3
    for number in (1, 2):
        page = client.get(f"/desk/ticket/{number}").text
        assert "ORDER4711" in page
        assert "message.html" in page


def test_a_late_event_does_not_undo_a_bounce(
    app: Flask, client: FlaskClient, postal_webhook: WebhookClient
) -> None:
    app.config["POSTAL_SUPPRESS_SEND"] = True
    write_to_us(client)
    for event, at in (("bounced", 2000.0), ("delivered", 1000.0)):
        changes = {"timestamp": at}
        if event == "delivered":
            changes["payload.timestamp"] = at
        postal_webhook.tracking(event, "ANA@example.com", set=changes)
    assert "mail came back" in client.get("/desk/ticket/1").text
    after = {"timestamp": 3000.0, "payload.timestamp": 3000.0}
    postal_webhook.tracking("delivered", "ana@example.com", set=after)
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


def test_spam_is_dropped(app: Flask, postal_webhook: WebhookClient) -> None:
    mail = compose_mail("Win", "now", to="help@example.com")
    assert postal_webhook.inbound(mail, spam=True).status_code == 429
    assert count(app) == (0, 0)


def test_a_failed_send_keeps_the_ticket_and_the_draft(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    postal_sandbox.fault("502", times=2)
    assert "The confirmation mail may not have been sent" in write_to_us(client)
    assert count(app) == (1, 1)
    assert "not confirmed" in client.get("/desk/").text
    assert (
        "the confirmation may not have been sent" in client.get("/desk/ticket/1").text
    )
    page = client.post("/desk/ticket/1", data={"text": "My long answer"}).text
    assert "Not sent:" in page
    assert "look in Postal before you try again" in page
    assert "My long answer</textarea>" in page


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
