"""The send pipeline: defaults, templates, signals, and suppressed sends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from jinja2 import TemplateNotFound, UndefinedError

from flask_postal import (
    APIError,
    Attachment,
    CancelSend,
    Message,
    MessageError,
    Postal,
    TransportError,
    message_sending,
    message_sent,
    send_failed,
)
from flask_postal.sandbox import Sandbox

from .conftest import MakeApp
from .mails import message
from .servers import accept, answering, loopback

TEMPLATES = {
    "email/welcome.txt": "Hello {{ name }}",
    "email/welcome.html": "<p>Hello {{ name }} from {{ g_of_app }}</p>",
    "email/welcome.subject": "\n  Welcome,\n  {{ name }}\n",
    "email/text.txt": "only text for {{ name }}",
    "email/broken.txt": "{% extends 'email/nowhere.txt' %}",
    "email/strict.txt": "{{ a.b.c }}",
}


@pytest.fixture
def app(tmp_path: Path) -> Flask:
    for name, text in TEMPLATES.items():
        path = tmp_path / "templates" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    app = Flask("tests", root_path=str(tmp_path))
    app.config.update(TESTING=True, POSTAL_DEFAULT_SENDER="d@example.com")
    app.context_processor(lambda: {"g_of_app": "the app"})
    return app


@pytest.fixture
def postal(app: Flask) -> Postal:
    return Postal(app)


@pytest.fixture
def context(app: Flask) -> Iterator[Flask]:
    with app.app_context():
        yield app


# ---- suppressed sends and the recorder


def test_a_test_app_sends_nothing_and_needs_no_settings(
    postal: Postal, context: Flask
) -> None:
    first = postal.send(message(recipients=["a@b.c", "d@e.f"]))
    second = postal.send(message(message_id="own@example.com"))
    assert first.suppressed
    statuses = [*first.recipients.values(), *second.recipients.values()]
    assert len({status.id for status in statuses}) == 3
    assert len({status.token for status in statuses}) == 3
    assert all(len(status.token or "") == 16 for status in statuses)
    assert (first.endpoint, second.endpoint) == ("send/message", "send/raw")
    assert second.message_id == "own@example.com"
    assert first.message_id


def test_a_suppressed_send_runs_every_check(postal: Postal, context: Flask) -> None:
    with pytest.raises(MessageError, match="line feed"):
        postal.send(message(subject="a\nb"))


@pytest.mark.parametrize(
    ("testing", "setting", "suppressed"),
    [
        (True, None, True),
        (False, None, False),
        (True, False, False),
        (False, True, True),
        (False, "yes", True),
    ],
)
def test_suppress_send_is_read_when_a_mail_is_sent(
    make_app: MakeApp, sandbox: Sandbox, testing: bool, setting: Any, suppressed: bool
) -> None:
    app, postal = make_app(**sandbox.settings())
    app.testing = testing
    app.config["POSTAL_SUPPRESS_SEND"] = setting
    with app.app_context():
        assert postal.send(message()).suppressed is suppressed


def test_recorded_messages_are_copies_of_this_app_only(
    app: Flask, postal: Postal, tmp_path: Path
) -> None:
    other = Flask("other")
    other.testing = True
    postal.init_app(other)
    marketing = Postal(app, name="marketing")
    (tmp_path / "a.txt").write_text("file")
    sent = message(subject="ours")
    sent.attach_file(tmp_path / "a.txt")
    with app.app_context(), postal.record_messages() as outbox:
        postal.send(sent)
        marketing.send(message(subject="another Postal"))
        with other.app_context():
            postal.send(message(subject="another app"))
    assert [m.subject for m in outbox] == ["ours"]
    assert outbox[0] is not sent
    assert outbox[0].attachments[0].data == b"file"


def test_messages_are_recorded_without_an_app_context(
    app: Flask, postal: Postal
) -> None:
    app.add_url_rule("/", "send", lambda: str(postal.send(message()).suppressed))
    with postal.record_messages() as outbox:
        assert app.test_client().get("/").text == "True"
    assert len(outbox) == 1
    assert message_sent.receivers == {}


# ---- methods of Flask-Mail


def test_send_message_and_connect_work_as_in_flask_mail(
    postal: Postal, context: Flask
) -> None:
    with postal.record_messages() as outbox:
        postal.send_message("one", ["a@b.c"], "text")
        with postal.connect() as connection:
            connection.send(message(subject="two"))
            connection.send_message("three", recipients=["a@b.c"], body="text")
    assert [m.subject for m in outbox] == ["one", "two", "three"]


# ---- signals


def test_message_sending_may_change_a_copy(postal: Postal, context: Flask) -> None:
    def change(app: Flask, message: Message, postal: Postal, **extra: Any) -> None:
        message.subject = f"[{app.name}] {message.subject}"
        message.bcc = "audit@example.com"  # type: ignore[assignment]

    original = message()
    with message_sending.connected_to(change), postal.record_messages() as outbox:
        for _ in range(2):
            result = postal.send(original)
    assert [m.subject for m in outbox] == ["[tests] Hi"] * 2
    assert list(result.recipients) == ["ana@example.com", "audit@example.com"]
    assert (original.subject, original.bcc) == ("Hi", [])


def test_message_sending_may_set_a_template(postal: Postal, context: Flask) -> None:
    def change(app: Flask, message: Message, **extra: Any) -> None:
        message.body, message.template, message.context = None, "email/text", {}

    with message_sending.connected_to(change), postal.record_messages() as outbox:
        postal.send(message())
    assert outbox[0].body == "only text for "


def test_cancel_send_gives_a_result_without_recipients(
    postal: Postal, context: Flask
) -> None:
    def cancel(app: Flask, **extra: Any) -> None:
        raise CancelSend("not today")

    with message_sending.connected_to(cancel), postal.record_messages() as outbox:
        result = postal.send(message())
    assert (dict(result.recipients), result.endpoint) == ({}, None)
    assert outbox == []


def test_an_error_in_message_sending_stops_the_mail(
    postal: Postal, context: Flask
) -> None:
    def broken(app: Flask, **extra: Any) -> None:
        raise LookupError("no such list")

    with (
        message_sending.connected_to(broken),
        postal.record_messages() as outbox,
        pytest.raises(LookupError, match="no such list"),
    ):
        postal.send(message())
    assert outbox == []


def test_message_sent_carries_message_and_result(
    postal: Postal, context: Flask
) -> None:
    seen = []

    def note(app: Flask, **values: Any) -> None:
        seen.append((app, values))

    with message_sent.connected_to(note):
        result = postal.send(message(subject="sent"))
    ((sender, values),) = seen
    assert sender is context
    assert values["result"] is result
    assert values["message"].subject == "sent"
    assert values["postal"] is postal


def test_an_error_in_message_sent_is_logged_and_not_raised(
    postal: Postal, context: Flask, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(app: Flask, **extra: Any) -> None:
        raise LookupError("the database is gone")

    with message_sent.connected_to(broken), postal.record_messages() as outbox:
        assert postal.send(message()).suppressed
    assert len(outbox) == 1
    assert "a receiver of message-sent failed" in caplog.text
    assert "the database is gone" in caplog.text


@pytest.mark.parametrize(
    ("act", "changes", "kind", "text"),
    [
        (answering("502 Bad Gateway"), {}, APIError, "HTTP 502"),
        (answering("200 OK", b"{}"), {}, TransportError, "not a complete"),
        (accept, {"subject": "a\nb"}, MessageError, "a line feed"),
        (accept, {"template": "email/none"}, MessageError, "email/none.txt"),
    ],
)
def test_send_failed_carries_message_and_error(
    make_app: MakeApp,
    act: Any,
    changes: dict[str, Any],
    kind: type[Exception],
    text: str,
) -> None:
    seen = []

    def note(app: Flask, **values: Any) -> None:
        seen.append(values)
        raise LookupError("goes to the log")

    with loopback(act) as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY="k")
        with (
            app.app_context(),
            send_failed.connected_to(note),
            pytest.raises(kind, match=text) as caught,
        ):
            postal.send(message(**changes))
    (values,) = seen
    assert values["error"] is caught.value
    assert values["message"].recipients == ["ana@example.com"]
    assert values["postal"] is postal


# ---- templates


def test_a_template_renders_text_html_and_subject(
    postal: Postal, context: Flask
) -> None:
    source = message(
        subject=None, body=None, template="email/welcome", context={"name": "A & B"}
    )
    with postal.record_messages() as outbox:
        postal.send(source)
    (sent,) = outbox
    assert sent.body == "Hello A & B"
    assert sent.html == "<p>Hello A &amp; B from the app</p>"
    assert sent.subject == "Welcome, A & B"
    assert source.template == "email/welcome"


def test_whichever_templates_exist_are_rendered(postal: Postal, context: Flask) -> None:
    rendered = postal.render(
        message(body=None, template="email/text", context={"name": "Ana"})
    )
    assert (rendered.body, rendered.html) == ("only text for Ana", None)
    assert rendered.subject == "Hi"


def test_given_values_win_over_the_template(postal: Postal, context: Flask) -> None:
    source = message(template="email/welcome", context={"name": "Ana"})
    rendered = postal.render(source)
    assert (rendered.subject, rendered.body) == ("Hi", "x")
    assert rendered.html is not None


def test_a_line_break_in_the_context_is_removed_from_the_subject(
    postal: Postal, context: Flask
) -> None:
    source = message(
        subject=None, template="email/welcome", context={"name": "A\nBcc: e@v.il"}
    )
    assert postal.render(source).subject == "Welcome, A Bcc: e@v.il"


def test_body_and_html_are_never_rendered(postal: Postal, context: Flask) -> None:
    source = message(body="{{ 7 * 7 }}", html="{% raw %}", subject="{{ 1 }}")
    rendered = postal.render(source)
    assert (rendered.body, rendered.html) == ("{{ 7 * 7 }}", "{% raw %}")
    assert rendered.subject == "{{ 1 }}"


def test_a_missing_template_is_an_error_that_lists_the_names_tried(
    postal: Postal, context: Flask
) -> None:
    with pytest.raises(
        MessageError, match=r"email/no\.txt, email/no\.html, email/no\.subject"
    ) as caught:
        postal.send(message(template="email/no"))
    assert caught.value.field == "template"


def test_jinja_errors_in_templates_are_not_wrapped(
    postal: Postal, context: Flask
) -> None:
    with pytest.raises(TemplateNotFound, match="nowhere"):
        postal.send(message(body=None, template="email/broken"))
    with pytest.raises(UndefinedError, match="undefined"):
        postal.send(message(body=None, template="email/strict"))


def test_a_rendered_message_needs_no_templates_or_files(
    postal: Postal, context: Flask, tmp_path: Path
) -> None:
    (tmp_path / "a.txt").write_text("file")
    source = message(
        body=None, template="email/welcome", context={"name": "Ana", "x": object()}
    )
    source.attach_file(tmp_path / "a.txt")
    rendered = postal.render(source)
    assert (rendered.template, rendered.context) == (None, {})
    assert rendered.attachments == [Attachment("a.txt", "text/plain", b"file")]
    assert Message.from_dict(rendered.to_dict()) == rendered
    assert postal.send(rendered).suppressed


# ---- defaults for every message


DEFAULTS = {
    "subject": "Default",
    "sender": "defaults@example.com",
    "bcc": ["archive@example.com"],
    "attachments": [("terms.pdf", "application/pdf", b"\xff")],
    "extra_headers": {"X-App": "a", "X-Both": "default"},
    "context": {"name": "Default", "other": 1},
    "esp_extra": {"one": 1, "both": "default"},
    "tags": ["default"],
    "track_opens": False,
    "track_clicks": False,
}


@pytest.fixture
def defaults(app: Flask) -> Postal:
    app.config["POSTAL_SEND_DEFAULTS"] = DEFAULTS
    return Postal(app)


def test_defaults_fill_what_is_unset(defaults: Postal, context: Flask) -> None:
    sent = defaults.render(Message(recipients="a@b.c", body="x"))
    assert (sent.subject, sent.sender) == ("Default", "defaults@example.com")
    assert (sent.bcc, sent.tags) == (["archive@example.com"], ["default"])
    assert [a.filename for a in sent.attachments] == ["terms.pdf"]
    assert sent.track_clicks is False


def test_defaults_are_merged_appended_or_overridden(
    defaults: Postal, context: Flask
) -> None:
    source = message(
        bcc="b@c.d",
        tags="own",
        extra_headers={"x-both": "own"},
        esp_extra={"both": "own"},
        context={"name": "own"},
        attachments=[("own.pdf", "application/pdf", b"\xff")],
        track_opens=None,
    )
    sent = defaults.render(source)
    assert (sent.subject, sent.sender) == ("Hi", "hello@example.com")
    assert sent.bcc == ["b@c.d", "archive@example.com"]
    assert sent.tags == ["own"]
    assert sent.extra_headers == {"X-App": "a", "x-both": "own"}
    assert sent.esp_extra == {"one": 1, "both": "own"}
    assert sent.context == {"other": 1, "name": "own"}
    assert [a.filename for a in sent.attachments] == ["own.pdf", "terms.pdf"]


def test_a_template_wins_over_the_default_subject(
    defaults: Postal, context: Flask
) -> None:
    source = Message(recipients="a@b.c", template="email/welcome")
    assert defaults.render(source).subject == "Welcome, Default"
    source = Message(recipients="a@b.c", template="email/text")
    assert defaults.render(source).subject == "Default"


def test_receivers_do_not_change_the_defaults(defaults: Postal, context: Flask) -> None:
    def change(app: Flask, message: Message, **extra: Any) -> None:
        message.tags.append("x")
        message.bcc.append("x@y.z")
        message.extra_headers["X-New"] = "y"

    with message_sending.connected_to(change):
        with pytest.raises(MessageError, match="one tag"):
            defaults.send(Message(recipients="a@b.c", body="x"))
        assert defaults.render(Message(recipients="a@b.c", body="x")).tags == [
            "default"
        ]


def test_sending_anything_but_a_message_is_refused(
    postal: Postal, context: Flask
) -> None:
    with pytest.raises(MessageError, match="takes a Message, not dict"):
        postal.send({"subject": "x"})  # type: ignore[arg-type]


def test_prepare_and_deliver_are_two_steps(make_app: MakeApp, sandbox: Sandbox) -> None:
    app, postal = make_app(**sandbox.settings())
    with app.app_context(), postal.record_messages() as outbox:
        prepared = postal.prepare(message())
        result = postal.deliver(prepared)
    assert result.recipients["ana@example.com"].id == 1
    assert outbox == []


def test_a_rendered_message_does_not_get_the_defaults_twice(
    defaults: Postal, context: Flask
) -> None:
    rendered = Message.from_dict(defaults.render(message()).to_dict())
    with defaults.record_messages() as outbox:
        defaults.send(rendered)
    assert [a.filename for a in outbox[0].attachments] == ["terms.pdf"]
    assert outbox[0].bcc == ["archive@example.com"]
