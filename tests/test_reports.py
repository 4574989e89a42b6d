"""Complaints that come as mails are events of the messages they are about."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask

from flask_postal import (
    Message,
    Postal,
    inbound_received,
    tracking_received,
    unsubscribed,
)
from flask_postal.sandbox import Mail, Sandbox, SigningKey, complaint_about
from flask_postal.testing import sandboxed

KEY = SigningKey.generate(1024)


class App:
    """An app without a ledger, with lists of what its receivers got."""

    def __init__(self) -> None:
        self.app = Flask("reports")
        self.postal = Postal(self.app)
        self.app.register_blueprint(self.postal.blueprint)
        self.tracked: list[Any] = []
        self.left: list[Any] = []
        self.error: Exception | None = None
        tracking_received.connect(self.on_tracking, sender=self.app)
        unsubscribed.connect(self.on_unsubscribed, sender=self.app)

    def on_tracking(self, app: Flask, event: Any, **extra: Any) -> None:
        if event.event_type == "complained":
            self.tracked.append(event)
            if self.error is not None:
                raise self.error

    def on_unsubscribed(self, app: Flask, event: Any, **extra: Any) -> None:
        self.left.append(event)


@pytest.fixture
def desk() -> App:
    return App()


@pytest.fixture
def sandbox(desk: App) -> Iterator[Sandbox]:
    with desk.app.app_context(), sandboxed(desk.app, key=KEY) as found:
        yield found


@pytest.fixture
def mail(desk: App, sandbox: Sandbox) -> Mail:
    sender = "shop@example.com"
    desk.postal.send(Message("Hi", "ana@example.com", body="x", sender=sender))
    sandbox.advance(minutes=1)
    return sandbox.messages[0]


def test_a_complaint_names_the_mail_by_its_token(
    desk: App, sandbox: Sandbox, mail: Mail
) -> None:
    answer = sandbox.receive(complaint_about(mail), to="abuse@example.com")
    assert answer.attempts[-1].status == 200
    (event,) = desk.tracked
    assert (event.token, event.message_id) == (mail.token, mail.message_id)
    assert (event.source, event.recipient, event.id) == ("report", None, None)
    claimed = event.esp_event["report"]["original-rcpt-to"]
    assert claimed == "<ana@example.com>"
    sandbox.retry(answer)
    assert len(desk.tracked) == 1


def test_a_wish_for_no_more_mail_is_no_complaint(
    desk: App, sandbox: Sandbox, mail: Mail
) -> None:
    report = complaint_about(mail, feedback_type="Opt-Out")
    assert sandbox.receive(report, to="abuse@example.com").state == "taken"
    assert desk.tracked == []
    (event,) = desk.left
    assert (event.token, event.source) == (mail.token, "report")
    assert (event.recipient, event.list) == (None, None)


def test_postal_repeats_a_complaint_whose_receiver_has_failed(
    desk: App, sandbox: Sandbox, mail: Mail
) -> None:
    mails: list[Any] = []

    def on_mail(app: Flask, event: Any, **extra: Any) -> None:
        mails.append(event)

    desk.error = ValueError("not now")
    with inbound_received.connected_to(on_mail, sender=desk.app):
        answer = sandbox.receive(complaint_about(mail), to="abuse@example.com")
        assert answer.attempts[-1].status == 500
        desk.error = None
        answer = sandbox.retry(answer)
    assert answer.attempts[-1].status == 200
    assert (len(desk.tracked), len(mails)) == (2, 1)


def test_a_complaint_that_nobody_receives_waits_in_postal(
    desk: App, sandbox: Sandbox, mail: Mail
) -> None:
    tracking_received.disconnect(desk.on_tracking, sender=desk.app)
    answer = sandbox.receive(complaint_about(mail), to="abuse@example.com")
    assert answer.attempts[-1].status == 503


@pytest.mark.parametrize(
    ("old", "new"),
    [
        (b"multipart/report", b"multipart/mixed"),
        (b"message/feedback-report", b"text/plain"),
        (b"Feedback-Type: abuse", b"Feedback-Type: fraud"),
        (b"Feedback-Type: abuse\r\n", b""),
        (b"Feedback-Type: abuse", b"Feedback-Type:"),
        (b"text/rfc822-headers", b"text/plain"),
    ],
)
def test_what_is_no_complaint_or_about_nothing_is_mail_only(
    desk: App, sandbox: Sandbox, mail: Mail, old: bytes, new: bytes
) -> None:
    raw = complaint_about(mail)
    assert raw.count(old) == 1
    answer = sandbox.receive(raw.replace(old, new), to="abuse@example.com")
    assert answer.attempts[-1].status == 503  # no receiver of inbound mail
    assert (desk.tracked, desk.left) == ([], [])


@pytest.mark.parametrize("token", ["", "x" * 65, "a b", "../../x", "é"])
def test_what_cannot_be_a_token_is_none(
    desk: App, sandbox: Sandbox, mail: Mail, token: str
) -> None:
    raw = complaint_about(mail).replace(mail.token.encode(), token.encode())
    sandbox.receive(raw, to="abuse@example.com")
    assert desk.tracked[0].token is None
    assert desk.tracked[0].message_id == mail.message_id
