"""Tests of mail from strangers: hostile, malformed, automatic, or too much of it."""

from __future__ import annotations

import time
from pathlib import Path

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app.mail import ticket_number
from example_app.models import Entry, db
from flask_postal.sandbox import Sandbox, compose_mail, reply_to
from flask_postal.testing import WebhookClient, sandboxed

from .conftest import MakeApp
from .test_helpdesk import count, receive_mail, write_to_us


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
    """The loop ends even if a relay removes the headers that say so."""
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
                        for name in (b"Auto-Submitted:", b"X-Auto-Response-Suppress:"):
                            raw = raw.replace(name, b"X-Was:")
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


def test_spam_is_dropped(app: Flask, postal_webhook: WebhookClient) -> None:
    mail = compose_mail("Win", "now", to="help@example.com")
    assert postal_webhook.inbound(mail, spam=True).status_code == 429
    assert count(app) == (0, 0)


def test_a_forged_author_is_shown_as_such(
    app: Flask, client: FlaskClient, postal_sandbox: Sandbox
) -> None:
    dns = postal_sandbox.dns
    dns.publish("_dmarc.bank.example", "v=DMARC1; p=reject")
    raw = compose_mail("x", "Hi", to="help@example.com", sender="boss@bank.example")
    receive_mail(postal_sandbox, raw)
    receive_mail(postal_sandbox, dns.sign(raw, "bank.example", bits=1024))
    assert "not from boss@bank.example" in client.get("/desk/ticket/1").text
    page = client.get("/desk/ticket/2").text
    assert "verified" in page
    assert "not from" not in page
