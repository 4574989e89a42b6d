"""The signal that tells how webhook requests were answered, and how long calls took."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

import flask_postal
from flask_postal import (
    AnswerReason,
    APIError,
    Message,
    Postal,
    RejectMail,
    inbound_received,
    message_sent,
    send_failed,
    tracking_received,
    webhook_answered,
)
from flask_postal.sandbox import compose_mail
from flask_postal.testing import WebhookClient, sandboxed
from flask_postal.webhooks.answers import _REFUSALS

Answers = list[dict[str, Any]]


@pytest.fixture
def app() -> Flask:
    app = Flask("answers")
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    return app


@pytest.fixture
def answers(app: Flask) -> Iterator[Answers]:
    """What the signal has told."""
    told: Answers = []

    def receiver(app: Flask, **arguments: Any) -> None:
        told.append(arguments)

    with webhook_answered.connected_to(receiver, sender=app):
        yield told


def facts(told: dict[str, Any]) -> tuple[Any, ...]:
    assert 0 < told["seconds"] < 10
    assert isinstance(told["postal"], Postal)
    assert (told["event"] is None) == (told["event_type"] is None)
    names = ("hook", "status", "reason", "event_type")
    return tuple(told[name] for name in names)


def test_handled_and_unheard_events(app: Flask, answers: Answers) -> None:
    def receive(app: Flask, **extra: Any) -> None:
        pass

    with WebhookClient(app) as webhook:
        webhook.tracking("delivered")
        with tracking_received.connected_to(receive, sender=app):
            webhook.tracking("bounced")
        webhook.tracking("DomainDNSError")
        webhook.inbound(compose_mail("x", "x", to="a@example.com"))
    assert [facts(told) for told in answers] == [
        ("tracking", 200, "no_receiver", "delivered"),
        ("tracking", 200, "handled", "bounced"),
        ("tracking", 200, "no_receiver", "server"),
        ("inbound", 503, "no_receiver", "inbound"),
    ]
    assert answers[1]["event"].event_type == "bounced"


def test_what_receivers_raise(app: Flask, answers: Answers) -> None:
    def reject(app: Flask, **extra: Any) -> None:
        raise RejectMail("spam")

    def fail(app: Flask, **extra: Any) -> None:
        raise LookupError("x")

    mail = compose_mail("x", "x", to="a@example.com")
    with WebhookClient(app) as webhook:
        for receiver in (reject, fail):
            with inbound_received.connected_to(receiver, sender=app):
                webhook.inbound(mail)
    assert [facts(told)[1:3] for told in answers] == [
        (406, "rejected"),
        (500, "failed"),
    ]


def test_refusals_are_told_too(app: Flask, answers: Answers) -> None:
    client = app.test_client()
    client.get("/postal/tracking/")
    client.post("/postal/tracking/", json={})
    client.post("/postal/inbound/", data=b"x" * (2**20 * 41))
    assert [facts(told) for told in answers] == [
        ("tracking", 405, "method", None),
        ("tracking", 403, "no_signature", None),
        ("inbound", 503, "too_large", None),
    ]


def test_a_receiver_that_ends_the_process_is_told_too(
    app: Flask, answers: Answers
) -> None:
    def fail(app: Flask, **extra: Any) -> None:
        raise SystemExit

    with (
        WebhookClient(app) as webhook,
        tracking_received.connected_to(fail, sender=app),
        pytest.raises(SystemExit),
    ):
        webhook.tracking("delivered")
    assert [facts(told)[1:3] for told in answers] == [(500, "failed")]


def test_each_refusal_has_a_reason() -> None:
    """The texts of all refusals in the package are known."""
    folder = Path(flask_postal.__file__).parent / "webhooks"
    source = (folder / "verify.py").read_text() + (folder / "receive.py").read_text()
    texts = set(
        re.findall(r'RequestRefused\(\s*[\w.]+,\s*"([^"]+)"', source),
    )
    assert len(texts) >= 9
    assert texts == set(_REFUSALS)
    assert set(_REFUSALS.values()) < set(AnswerReason)


@pytest.mark.parametrize("error", [LookupError, SystemExit])
def test_a_receiver_that_fails_changes_no_answer(
    app: Flask, caplog: pytest.LogCaptureFixture, error: type[BaseException]
) -> None:
    def fail(app: Flask, **extra: Any) -> None:
        raise error("metrics are down")

    with WebhookClient(app) as webhook, webhook_answered.connected_to(fail, sender=app):
        assert webhook.tracking("delivered").status_code == 200
    assert "metrics are down" in caplog.text


def test_results_and_errors_tell_how_long_the_call_took(app: Flask) -> None:
    seen: list[Any] = []

    def on_sent(app: Flask, result: Any, **extra: Any) -> None:
        seen.append(result)

    def on_failed(app: Flask, error: Any, **extra: Any) -> None:
        seen.append(error)

    postal = app.extensions["postal"]
    message = Message("x", "ana@example.com", "x", sender="b@example.com")
    with (
        app.app_context(),
        sandboxed(app) as sandbox,
        message_sent.connected_to(on_sent, sender=app),
        send_failed.connected_to(on_failed, sender=app),
    ):
        postal.send(message)
        sandbox.fault("502", times=1)
        with pytest.raises(APIError):
            postal.send(message)
        for outcome in seen:
            assert outcome.endpoint == "send/message"
            assert 0 < outcome.seconds < 10
        app.config["POSTAL_SUPPRESS_SEND"] = True
        assert postal.send(message).seconds is None
