"""The fixtures of the pytest plugin, used as in the tests of an app."""

from __future__ import annotations

import subprocess
import sys
from email.message import EmailMessage
from pathlib import Path
from typing import Any

import pytest
from flask import Blueprint, Flask

from flask_postal import (
    APIError,
    ConfigurationError,
    Message,
    Postal,
    inbound_received,
    tracking_received,
)
from flask_postal.sandbox import Sandbox, compose_mail, reply_to
from flask_postal.testing import WebhookClient, outbox, sandboxed


@pytest.fixture
def app() -> Flask:
    """The app of a user; its settings would send real mail."""
    app = Flask("users_app")
    app.config.update(
        POSTAL_API_URL="https://postal.example.com",
        POSTAL_API_KEY="real",
        POSTAL_DEFAULT_SENDER="app@example.com",
        POSTAL_WEBHOOK_SECRET="user:pass",
    )
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)

    @app.post("/welcome/<address>")
    def welcome(address: str) -> dict[str, Any]:
        message = Message("Welcome", address, body="Hi", tags="welcome")
        return {"id": postal.send(message).recipients[address].id}

    return app


def test_the_outbox_contains_what_the_app_sends(
    app: Flask, postal_outbox: list[Message]
) -> None:
    app.test_client().post("/welcome/ana@example.com")
    (message,) = postal_outbox
    assert message.subject == "Welcome"
    assert message.recipients == ["ana@example.com"]
    assert message.sender == "app@example.com"  # the default sender is filled in


def test_wait_for_raises_the_error_of_a_receiver(
    app: Flask, postal_sandbox: Sandbox
) -> None:
    def receiver(app: Flask, event: Any, **extra: Any) -> None:
        raise LookupError("no such order")

    with tracking_received.connected_to(receiver, sender=app):
        app.test_client().post("/welcome/ana@example.com")
        with pytest.raises(LookupError, match="no such order") as raised:
            postal_sandbox.wait_for("delivered")
    assert [frame.name for frame in raised.traceback][-1] == "receiver"


def test_the_sandbox_accepts_messages_and_posts_events(
    app: Flask, postal_sandbox: Sandbox, tracking: list[Any]
) -> None:
    answer = app.test_client().post("/welcome/bounced@example.com").get_json()
    (mail,) = postal_sandbox.messages
    assert (mail.id, mail.subject, mail.tag) == (answer["id"], "Welcome", "welcome")
    assert mail.content.text == "Hi"
    postal_sandbox.advance(minutes=2)
    assert [event.event_type for event in tracking] == ["delivered", "bounced"]
    assert postal_sandbox.wait_for("bounced", to="bounced@example.com").state == "taken"


def test_the_sandbox_delivers_replies(
    app: Flask, postal_sandbox: Sandbox, inbound: list[Any]
) -> None:
    app.test_client().post("/welcome/ana@example.com")
    raw, to = reply_to(postal_sandbox.messages[0], "Thank you")
    request = postal_sandbox.receive(raw, to=to, sender="ana@example.com")
    assert request.attempts[0].status == 200
    assert inbound[0].message.text.startswith("Thank you")


def test_the_sandbox_can_simulate_faults(app: Flask, postal_sandbox: Sandbox) -> None:
    postal_sandbox.fault("502", times=1)
    app.testing = True
    with pytest.raises(APIError, match="HTTP 502"):
        app.test_client().post("/welcome/ana@example.com")


@pytest.mark.parametrize("event", ["delivered", "bounced", "clicked", "MessageHeld"])
def test_signed_events_are_posted(
    app: Flask, postal_webhook: WebhookClient, tracking: list[Any], event: str
) -> None:
    answer = postal_webhook.tracking(
        event, "bo@example.com", id=7, token="t" * 16, tag="x", subject="S"
    )
    assert answer.status_code == 200
    (seen,) = tracking
    assert (seen.id, seen.token, seen.tags) == (7, "t" * 16, ["x"])
    assert (seen.recipient, seen.subject) == ("bo@example.com", "S")


def test_events_can_refer_to_a_sent_message(
    app: Flask,
    postal_outbox: list[Message],
    postal_webhook: WebhookClient,
    tracking: list[Any],
) -> None:
    postal: Postal = app.extensions["postal"]
    with app.app_context():
        result = postal.send(Message("Hi", "ana@example.com", body="x"))
    sent = result.recipients["ana@example.com"]
    postal_webhook.tracking(
        "failed", sent, set={"payload.output": "550 5.7.1 Blocked by policy"}
    )
    (event,) = tracking
    assert (event.id, event.token, event.recipient) == (
        sent.id,
        sent.token,
        sent.address,
    )
    assert event.reject_reason == "blocked"


def test_response_statuses_show_what_the_receiver_did(
    app: Flask, postal_webhook: WebhookClient
) -> None:
    def fail(app: Flask, **extra: Any) -> None:
        raise RuntimeError("no")

    assert postal_webhook.inbound(compose_mail(to="a@b.c")).status_code == 503
    with inbound_received.connected_to(fail), tracking_received.connected_to(fail):
        assert postal_webhook.inbound(compose_mail(to="a@b.c")).status_code == 500
        assert postal_webhook.tracking("delivered").status_code == 500


def test_inbound_mail_may_be_a_message_bytes_or_a_path(
    app: Flask, postal_webhook: WebhookClient, inbound: list[Any], tmp_path: Path
) -> None:
    mail = EmailMessage()
    mail["To"], mail["Subject"] = "Support <support@example.com>", "Help"
    mail.set_content("x")
    file = tmp_path / "mail.eml"
    file.write_bytes(mail.as_bytes())
    for source in (mail, mail.as_bytes(), file):
        postal_webhook.inbound(source, format="hash-form")
    postal_webhook.inbound(mail, to="other@example.com", sender=None, spam=True)
    recipients = [event.message.envelope_recipient for event in inbound]
    assert recipients == ["support@example.com"] * 3 + ["other@example.com"]
    assert inbound[3].message.envelope_sender is None
    assert inbound[3].message.spam_detected is True


def test_settings_are_restored_after_a_test(app: Flask) -> None:
    postal: Postal = app.extensions["postal"]
    before = dict(app.config)
    with app.app_context():
        settings = postal.settings
    with outbox(app), sandboxed(app) as box, WebhookClient(app), app.app_context():
        assert postal.settings.api_url == box.url
        assert postal.settings.webhook_secrets == (box.webhook_secret,)
    assert app.config == before
    with app.app_context():
        assert postal.settings is settings
    with app.app_context():
        assert postal.webhooks.discovers_keys


def test_a_named_postal_can_be_selected(app: Flask, tracking: list[Any]) -> None:
    marketing = Postal(app, name="marketing")
    app.register_blueprint(marketing.blueprint)
    with WebhookClient(app, name="marketing") as client:
        assert (
            client.tracking("delivered").request.path == "/postal/marketing/tracking/"
        )
    with sandboxed(app, name="marketing") as sandbox, app.app_context():
        marketing.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))
        assert sandbox.wait_for("delivered").state == "taken"
    with outbox(app) as messages, app.app_context():
        marketing.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))
    assert len(messages) == 1
    with pytest.raises(ConfigurationError, match="no Postal with the name 'x'"):
        WebhookClient(app, name="x")
    with pytest.raises(ConfigurationError, match="no Postal"), outbox(Flask("x")):
        pass


def test_an_app_that_only_sends_needs_no_webhooks() -> None:
    app = Flask("sender")
    postal = Postal(app)
    with sandboxed(app) as sandbox, app.app_context():
        postal.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))
        sandbox.advance(minutes=1)
        assert sandbox.messages[0].status == "Sent"


def test_a_nested_blueprint_is_found(tracking: list[Any]) -> None:
    app = Flask("nested")
    app.config["TRUSTED_HOSTS"] = ["app.example.com"]
    postal = Postal(app)
    outer = Blueprint("outer", __name__, url_prefix="/outer")
    outer.register_blueprint(postal.blueprint)
    app.register_blueprint(outer)
    with sandboxed(app) as sandbox, app.app_context():
        postal.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))
        assert sandbox.wait_for("delivered").attempts[0].status == 200
    with WebhookClient(app) as client:
        assert client.tracking("delivered").status_code == 200
    assert len(tracking) == 2


def test_the_plugin_imports_no_heavy_packages() -> None:
    """pytest imports it for every project that uses the environment."""
    heavy = ("flask", "werkzeug", "requests", "cryptography", "jinja2")
    program = (
        "import sys, flask_postal.pytest_plugin;"
        f"print([name for name in {heavy} if name in sys.modules])"
    )
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == "[]"


def test_a_missing_app_fixture_is_explained(pytester: pytest.Pytester) -> None:
    pytester.makepyfile("def test_it(postal_outbox): pass")
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*need a fixture named 'app'*"])
    result.assert_outcomes(errors=1)


def test_a_missing_fixture_of_the_app_is_named(pytester: pytest.Pytester) -> None:
    pytester.makepyfile(
        "import pytest\n"
        "@pytest.fixture\n"
        "def app(database): pass\n"
        "def test_it(postal_outbox): pass"
    )
    result = pytester.runpytest_subprocess("-p", "no:cacheprovider")
    result.stdout.fnmatch_lines(["*fixture 'database' not found*"])
