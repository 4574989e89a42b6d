"""Flask-Mailman with the backend that sends through Postal."""

from __future__ import annotations

from collections.abc import Iterator
from email.mime.image import MIMEImage
from typing import Any

import pytest
from flask import Flask
from flask_mailman import EmailMessage, EmailMultiAlternatives, Mail

from flask_postal import ConfigurationError, MessageError, Postal
from flask_postal.integrations.flask_mailman import EmailBackend
from flask_postal.sandbox import Sandbox
from flask_postal.testing import sandboxed

BACKEND = "flask_postal.integrations.flask_mailman"


class NewsBackend(EmailBackend):
    postal_key = "postal_news"


def make_app(backend: Any = BACKEND, name: str | None = None) -> tuple[Flask, Mail]:
    app = Flask("mailman")
    app.config.update(
        TESTING=True, MAIL_BACKEND=backend, MAIL_DEFAULT_SENDER="shop@example.com"
    )
    Postal(app, name=name)
    return app, Mail(app)


@pytest.fixture
def mail() -> Iterator[Any]:
    app, made = make_app()
    with app.app_context():
        yield made


@pytest.fixture
def sandbox(mail: Any) -> Iterator[Sandbox]:
    with sandboxed(mail.app) as made:
        yield made


def test_a_message_with_alternatives_goes_out_whole(
    mail: Any, sandbox: Sandbox
) -> None:
    message = EmailMultiAlternatives(
        "Grüße",
        "Hi",
        ("Shop", "shop@example.com"),
        ["ana@example.com"],
        cc=["cc@example.com"],
        bcc=["hidden@example.com"],
        reply_to=["re@example.com"],
        headers={"X-Shop": "yes", "Message-ID": "<own@example.com>"},
    )
    message.attach_alternative("<img src='cid:logo'>", "text/html")
    message.attach_alternative("BEGIN:VCALENDAR", "text/calendar")
    message.attach("a.pdf", b"%PDF", "application/pdf")
    logo = MIMEImage(b"png", "png")
    logo.add_header("Content-ID", "<logo>")
    message.attach(logo)
    inner = EmailMessage("inner", "text", to=["x@example.com"])
    message.attach("inner.eml", inner, "message/rfc822")
    assert message.send() == 1
    assert len(sandbox.messages) == 3
    content: Any = sandbox.messages[0].content
    assert content.subject == "Grüße"
    assert str(content.from_email) == "Shop <shop@example.com>"
    assert str(content.reply_to[0]) == "re@example.com"
    assert content.message_id == "own@example.com"
    assert content.header("X-Shop") == "yes"
    assert "cid:logo" in content.html
    assert content.inlines["logo"].content == b"png"
    files = {part.filename: part.content for part in content.attachments}
    assert files["a.pdf"] == b"%PDF"
    assert b"Subject: inner" in files["inner.eml"]
    assert [r.id for r in message.postal_result.recipients.values()] == [1, 2, 3]


def test_other_kinds_of_bodies(mail: Any, sandbox: Sandbox) -> None:
    html = EmailMessage("html", "<p>Hi</p>", to=["ana@example.com"])
    html.content_subtype = "html"
    blank = EmailMessage("blank", to=["ana@example.com"])
    other = EmailMessage("other", "a,b", to=["ana@example.com"])
    other.content_subtype = "csv"
    for message in (html, blank, other):
        assert message.send() == 1
    sent = [mail.content for mail in sandbox.messages]
    assert (sent[0].html or "").strip() == "<p>Hi</p>"
    assert sent[0].text is None or not sent[0].text.strip()
    assert [content.subject for content in sent] == ["html", "blank", "other"]
    assert b"text/csv" in sandbox.messages[2].raw


def test_many_messages_at_once(mail: Any, sandbox: Sandbox) -> None:
    sent = mail.send_mass_mail(
        [("a", "x", None, ["a@example.com"]), ("b", "x", "b@example.com", ["c@d.e"])]
    )
    assert sent == 2
    assert [m.subject for m in sandbox.messages] == ["a", "b"]
    assert mail.send_mail("c", "x", None, ["a@b.c"], html_message="<p>x</p>") == 1


def test_failing_silently_leaves_out_what_failed(mail: Any, sandbox: Sandbox) -> None:
    messages = [("a", "x", None, ["nobody"]), ("b", "x", None, ["b@example.com"])]
    assert mail.send_mass_mail(messages, fail_silently=True) == 1
    with pytest.raises(MessageError):
        mail.send_mass_mail(messages)
    assert EmailMessage("nobody", "x", bcc=[""]).send() == 0


def test_a_postal_with_a_name_can_be_chosen() -> None:
    app, mail = make_app(NewsBackend, name="news")
    with app.app_context(), sandboxed(app, name="news") as sandbox:
        mail.send_mail("x", "x", None, ["a@example.com"])
        assert len(sandbox.messages) == 1


def test_an_app_without_a_postal_is_an_error() -> None:
    app, mail = make_app(name="news")
    with app.app_context(), pytest.raises(ConfigurationError, match="'postal'"):
        mail.send_mail("x", "x", None, ["a@example.com"])
