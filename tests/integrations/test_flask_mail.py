"""Flask-Mail's names with Postal behind them: what is sent, and through which Postal.

That all the rest is as in Flask-Mail is shown by tests/packages.
"""

from __future__ import annotations

import subprocess
import sys
from typing import Any

import pytest
from flask import Flask

from flask_postal import Attachment as PostalAttachment
from flask_postal import MessageError, Postal, UnsupportedFeature, message_sent
from flask_postal.integrations import flask_mail
from flask_postal.integrations.flask_mail import Mail, Message, email_dispatched
from flask_postal.sandbox import Sandbox
from flask_postal.testing import sandboxed

TO = ["to@example.com"]


def make_app(**config: Any) -> Flask:
    app = Flask("shop")
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="shop@example.com")
    app.config.update(config)
    return app


def connected(app: Flask, sandbox: Sandbox) -> Flask:
    """Set the app's settings to those of a sandbox."""
    app.config.update(sandbox.settings(), POSTAL_SUPPRESS_SEND=False)
    return app


def test_a_mail_goes_out_as_it_was_written() -> None:
    with Sandbox() as sandbox, connected(make_app(), sandbox).app_context() as context:
        mail = Mail(context.app)
        message = Message(
            "a\r\n folded subject",
            ["Ana <ana@example.com>", ("Bo", "bo@example.com")],
            "Hi",
            "<img src='cid:logo'>",
            sender=("Doe, Jane", "jane@example.com"),
            bcc=["hidden@example.com"],
            reply_to="re@example.com",
            extra_headers={"X-Shop": "yes"},
        )
        message.attach(
            "logo.png",
            "image/png",
            b"png",
            "inline",
            headers=[("Content-ID", "<logo>"), ("Content-Description", "Ein Logö")],
        )
        message.attach("a.txt", data="text")
        mail.send(message)
        sent = sandbox.messages
        assert [m.recipient for m in sent] == [
            "ana@example.com",
            "bo@example.com",
            "hidden@example.com",
        ]
        content: Any = sent[0].content
        assert content.subject == "a folded subject"
        assert content.from_email.display_name == "Doe, Jane"
        assert (content.text.strip(), content.html.strip()) == (
            "Hi",
            "<img src='cid:logo'>",
        )
        assert content.inlines["logo"].content == b"png"
        assert content.attachments[0].content == b"text"
        assert content.header("X-Shop") == "yes"
        assert f"<{content.message_id}>" == message.msgId
        assert b"Content-Description: =?utf-8?" in sent[0].raw
        assert b"hidden" not in sent[0].raw
        assert message.postal_result is not None
        assert [r.id for r in message.postal_result.recipients.values()] == [1, 2, 3]


def test_a_mail_without_a_body_is_sent() -> None:
    with Sandbox() as sandbox, connected(make_app(), sandbox).app_context() as context:
        Mail(context.app).send_message("Hello", TO)
        (sent,) = sandbox.messages
        assert sent.subject == "Hello"
        assert not (sent.content.text or "").strip()


@pytest.mark.parametrize(
    ("arguments", "header", "value"),
    [
        ({"recipients": ("a@b.c", "d@e.f")}, "To", "a@b.c, d@e.f"),
        ({"recipients": [""], "bcc": ("a@b.c", "d@e.f")}, "Subject", "x"),
        ({"extra_headers": {"Reply-To": "a@b.c"}}, "Reply-To", "a@b.c"),
        ({"reply_to": "a@b.c, Bo <d@e.f>"}, "Reply-To", "a@b.c, Bo <d@e.f>"),
        ({"sender": ["Shop", "a@b.c"]}, "From", "Shop <a@b.c>"),
        ({"body": b"abc"}, "Subject", "x"),
        ({"attachments": [PostalAttachment("a.txt", "text/plain", b"x")]}, "To", TO[0]),
        ({"attachments": [("a.txt", "text/plain", b"x")]}, "To", TO[0]),
    ],
)
def test_what_flask_mail_takes_is_taken(
    arguments: dict[str, Any], header: str, value: str
) -> None:
    with Sandbox() as sandbox, connected(make_app(), sandbox).app_context() as context:
        given: dict[str, Any] = {"recipients": TO, "body": "x", **arguments}
        Mail(context.app).send(Message("x", **given))
        assert sandbox.messages[0].content.header(header) == value


@pytest.mark.parametrize(
    "arguments",
    [
        {"mail_options": ["BODY=8BITMIME"]},
        {"rcpt_options": ["NOTIFY=SUCCESS"]},
        {"extra_headers": {"Message-ID": "<x@y.z>"}},
        {"extra_headers": {"Bcc": "x@y.z"}},
        {"cc": ["a@example.com\r\nBcc: x@y.z"]},
    ],
)
def test_what_postal_can_t_do_is_an_error(arguments: dict[str, Any]) -> None:
    app = make_app()
    with app.app_context(), pytest.raises(MessageError):
        Mail(app).send(Message("x", TO, "x", **arguments))


def test_an_envelope_sender_of_one_s_own_is_an_error() -> None:
    app = make_app()
    with app.app_context(), Mail(app).connect() as connection:
        message = Message("x", TO, "x")
        connection.send(message, envelope_from=("Shop", "SHOP@example.com"))
        with pytest.raises(UnsupportedFeature, match="return path"):
            connection.send(message, envelope_from="bounces@example.com")
        assert connection.num_emails == 1


@pytest.mark.parametrize(
    ("sender", "domain"),
    [
        ("shop@example.com", "example.com"),
        ("Shop <shop@example.com>", "example.com"),
        (("Doe, Jane", "jane@example.com"), "example.com"),
        ("shop@b\u00fccher.example", "localhost"),
        ("noreply", "noreply"),
        ("", "example.com"),
    ],
)
def test_each_message_has_an_id_that_can_be_sent(sender: Any, domain: str) -> None:
    app = make_app()
    with app.app_context():
        Mail(app)
        found = Message("x", TO, sender=sender).msgId
    assert found.endswith(f"@{domain}>")


# ---- through which Postal


def test_the_app_s_postal_is_used_wherever_it_stands() -> None:
    for first in (True, False):
        app = make_app()
        mail = Mail(app) if first else None
        postal = Postal(app)
        mail = mail or Mail(app)
        with app.app_context(), postal.record_messages() as outbox:
            mail.send_message("x", TO, "x")
        assert len(outbox) == 1


def test_an_app_without_a_postal_gets_one() -> None:
    app = make_app()
    with app.app_context():
        for _ in range(3):  # some packages do it for each mail
            Mail(app).send_message("x", TO, "x")
    assert isinstance(app.extensions["postal"], Postal)


def test_a_postal_with_a_name_can_be_chosen() -> None:
    app = make_app(MAIL_DEFAULT_SENDER=None)
    app.config["POSTAL_NEWS_DEFAULT_SENDER"] = "news@example.com"
    news = Postal(app, name="news")
    Postal(app)
    mail = Mail(app, postal=news)
    with app.app_context(), news.record_messages() as outbox:
        mail.send_message("x", TO, "x")
        app.extensions["mail"].send_message("x", TO, "x")
    assert [message.sender for message in outbox] == ["news@example.com"] * 2


@pytest.mark.parametrize(
    ("config", "sent"),
    [
        ({}, 0),
        ({"MAIL_SUPPRESS_SEND": False}, 1),
        ({"MAIL_SUPPRESS_SEND": True}, 0),
        ({"MAIL_SUPPRESS_SEND": "no"}, 1),
        ({"POSTAL_SUPPRESS_SEND": False}, 1),
        ({"MAIL_SUPPRESS_SEND": True, "POSTAL_SUPPRESS_SEND": False}, 1),
        ({"MAIL_SUPPRESS_SEND": False, "POSTAL_SUPPRESS_SEND": True}, 0),
        ({"TESTING": False}, 1),
        ({"TESTING": False, "MAIL_SUPPRESS_SEND": True}, 0),
    ],
)
def test_suppressed_mail_is_announced_but_not_sent(
    config: dict[str, Any], sent: int
) -> None:
    with Sandbox() as sandbox:
        app = make_app()
        app.debug = True
        app.config.update(sandbox.settings())
        app.config.update(config)
        mail = Mail(app)
        with app.app_context(), mail.record_messages() as outbox:
            mail.send_message("x", TO, "x")
        assert len(outbox) == 1
        assert len(sandbox.messages) == sent


def test_suppressing_can_be_switched_as_in_flask_mail() -> None:
    app = make_app(POSTAL_API_URL="http://127.0.0.1:9", POSTAL_API_KEY="k")
    app.testing = False
    mail = Mail(app)
    mail.state.suppress = True
    with app.app_context():
        mail.send_message("x", TO, "x")  # would be refused


def test_the_sandbox_of_a_test_gets_the_mail() -> None:
    app = make_app()
    Postal(app)
    mail = Mail(app)
    with sandboxed(app) as sandbox, app.app_context():
        mail.send_message("x", TO, "x")
        assert len(sandbox.messages) == 1


# ---- signals


def test_receivers_of_both_orders_are_called() -> None:
    seen: list[Any] = []

    def of_0_9(message: Any, app: Any) -> None:
        seen.append((app, message))

    def of_0_10(app: Any, message: Any, **extra: Any) -> None:
        seen.append((app, message))

    app = make_app()
    mail, other = Mail(app), make_app()
    with (
        app.app_context(),
        email_dispatched.connected_to(of_0_9),
        email_dispatched.connected_to(of_0_10, sender=app),
        email_dispatched.connected_to(of_0_10, sender=other),
    ):
        message = Message("x", TO, "x")
        mail.send(message)
    assert seen == [(app, message)] * 2


def test_receivers_may_be_async_and_muted() -> None:
    seen: list[Any] = []

    async def receiver(app: Any, message: Any) -> None:
        seen.append(message)

    app = make_app()
    mail = Mail(app)
    with app.app_context(), email_dispatched.connected_to(receiver):
        mail.send(Message("x", TO, "x"))
        with email_dispatched.muted():
            mail.send(Message("x", TO, "x"))
    assert len(seen) == 1


def test_our_signals_are_emitted_too() -> None:
    seen: list[Any] = []

    def on_sent(app: Flask, result: Any, **extra: Any) -> None:
        seen.append(result)

    app = make_app()
    mail = Mail(app)
    with app.app_context(), message_sent.connected_to(on_sent):
        message = Message("x", TO, "x")
        mail.send(message)
    assert seen == [message.postal_result]


def test_debug_logs_ids_and_no_addresses(caplog: pytest.LogCaptureFixture) -> None:
    app = make_app(MAIL_DEBUG=True)
    with app.app_context():
        Mail(app).send_message("x", TO, "x")
    assert "was sent as Postal's [" in caplog.text
    assert "to@example.com" not in caplog.text


# ---- install


def python(code: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, timeout=60
    )


def test_install_gives_the_name_to_ours() -> None:
    done = python(
        "from flask_postal.integrations import flask_mail\n"
        "flask_mail.install(); flask_mail.install()\n"
        "import flask_mail as found\n"
        "from flask_mail import Mail, Message, Attachment, Connection\n"
        "from flask_mail import BadHeaderError, email_dispatched\n"
        "assert found is flask_mail and found.__version__\n"
    )
    assert done.returncode == 0, done.stderr


def test_install_refuses_if_it_comes_too_late() -> None:
    done = python(
        "import sys, types\n"
        "sys.modules['flask_mail'] = types.ModuleType('flask_mail')\n"
        "from flask_postal.integrations import flask_mail\n"
        "flask_mail.install()\n"
    )
    assert "ConfigurationError" in done.stderr
    assert "call install() first" in done.stderr


def test_nothing_imports_it_by_itself() -> None:
    assert flask_mail.__name__ == "flask_postal.integrations.flask_mail"
    done = python(
        "import flask_postal, flask_postal.extension, sys\n"
        "assert not [n for n in sys.modules if 'integrations' in n]\n"
    )
    assert done.returncode == 0, done.stderr
