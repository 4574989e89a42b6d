from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

import pytest
from flask import Flask

from flask_postal import EventType, tracking_received

from .captures import (
    JWKS,
    KEY1024_DKIM_RECORD,
    KID_HEADER,
    PUBLIC_KEY_P,
    SHA1,
    SHA256,
    Recorded,
    flip_bit,
)
from .conftest import MakeApp

SENT = Recorded.load("webhooks/MessageSent")
MAIL = Recorded.load("inbound/raw-json")


def test_recorded_message_sent_is_emitted_normalized(
    make_app: MakeApp, tracking: list[Any]
) -> None:
    app, _ = make_app()
    answer = SENT.post(app.test_client())
    assert (answer.status_code, answer.mimetype) == (200, "text/plain")
    (event,) = tracking
    assert event.event_type == "delivered"
    assert event.event_type is EventType.DELIVERED
    assert event.event_id == "5cda7b7c-904c-451d-a0b0-8617ffb70cbb"
    assert event.id == 408
    assert event.token == "jiQq5nyfI8BxV4wg"
    assert event.message_id == "acd6468f-cd2b-4161-a2bb-2a1bf85688fa@rp.postal.test"
    assert (event.sender, event.recipient) == ("hello@example.test", "alice@rcpt.test")
    assert event.subject == 'Grüße ✓ 🎉 <b>&amp; "q" \u2028 /x'
    assert event.tags == ["täg-1"]
    assert event.created_at == datetime.fromtimestamp(1795351789.0929139, UTC)
    assert event.timestamp == datetime.fromtimestamp(1795351789.0853114, UTC)
    assert event.mta_response == "250 OK queued as sink-0404"
    assert event.smtp_code == 250
    assert event.esp_event["payload"]["sent_with_ssl"] is False


def test_recorded_raw_mail_is_emitted_with_its_bytes(
    make_app: MakeApp, inbound: list[Any]
) -> None:
    app, _ = make_app()
    assert MAIL.post(app.test_client()).status_code == 200
    (event,) = inbound
    assert event.id == 422
    assert event.message.envelope_sender == "zoe@outside.test"
    assert event.message.envelope_recipient == "raw-json@example.test"
    assert event.message.subject == "Grüße ✓ 🎉 <b>&'\"</b>"
    assert event.message.text.startswith("Hällo ✓\nLine & = + % two")
    assert event.message.html.startswith("<p>Hällo ✓ &amp;")
    assert event.message.raw.startswith(b"X-Postal-Spam: no\r\n")


@pytest.mark.parametrize("recorded", [SENT, MAIL], ids=["tracking", "inbound"])
@pytest.mark.parametrize("slash", ["/", ""], ids=["slash", "no-slash"])
def test_the_trailing_slash_is_optional_and_never_redirects(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    slash: str,
) -> None:
    app, _ = make_app()
    path = recorded.path.rstrip("/") + slash
    assert recorded.post(app.test_client(), path=path).status_code == 200
    assert len(tracking + inbound) == 1


@pytest.mark.parametrize(
    "key", [PUBLIC_KEY_P, JWKS, [KEY1024_DKIM_RECORD, JWKS]], ids=["p", "jwks", "list"]
)
@pytest.mark.parametrize(
    "dropped",
    [(), (SHA1,), (SHA256, KID_HEADER)],
    ids=["both", "sha256-only", "sha1-of-an-old-postal"],
)
def test_either_signature_is_accepted(
    make_app: MakeApp, tracking: list[Any], key: Any, dropped: tuple[str, ...]
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_KEY=key)
    answer = SENT.post(app.test_client(), headers=SENT.without(*dropped))
    assert answer.status_code == 200
    assert len(tracking) == 1


@pytest.mark.parametrize("at", [0, 100, -20, -1])
@pytest.mark.parametrize(
    ("recorded", "status"), [(SENT, 403), (MAIL, 503)], ids=["tracking", "inbound"]
)
@pytest.mark.parametrize("dropped", [(), (SHA256, KID_HEADER)], ids=["sha256", "sha1"])
def test_one_flipped_bit_is_refused_and_not_emitted(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    status: int,
    at: int,
    dropped: tuple[str, ...],
) -> None:
    app, _ = make_app()
    answer = recorded.post(
        app.test_client(),
        data=flip_bit(recorded.body, at),
        headers=recorded.without(*dropped),
    )
    assert answer.status_code == status
    assert (tracking, inbound) == ([], [])


def test_a_wrong_sha256_signature_is_refused_despite_a_valid_sha1_one(
    make_app: MakeApp, tracking: list[Any]
) -> None:
    app, _ = make_app()
    forged = {**SENT.headers, SHA256: SENT.headers[SHA1]}
    assert SENT.post(app.test_client(), headers=forged).status_code == 403
    assert tracking == []


@pytest.mark.parametrize(
    ("signature", "status"),
    [
        ("", 403),
        ("no base64!", 403),
        (SENT.headers[SHA256] + "\n", 403),
        (SENT.headers[SHA256] + "====", 403),
        (SENT.headers[SHA256].replace("g==", "h=="), 403),  # stray bits at the end
    ],
    ids=["empty", "characters", "lax", "padding", "bits"],
)
def test_a_malformed_signature_is_refused(
    make_app: MakeApp, tracking: list[Any], signature: str, status: int
) -> None:
    app, _ = make_app()
    environ = {"HTTP_X_POSTAL_SIGNATURE_256": signature}
    answer = SENT.post(
        app.test_client(), headers=SENT.without(SHA256), environ_overrides=environ
    )
    assert answer.status_code == status
    assert tracking == []


def test_no_signature_at_all_is_refused(make_app: MakeApp, tracking: list[Any]) -> None:
    app, _ = make_app()
    headers = SENT.without(SHA256, SHA1, KID_HEADER)
    assert SENT.post(app.test_client(), headers=headers).status_code == 403
    assert tracking == []


@pytest.mark.parametrize("key", [None, KEY1024_DKIM_RECORD], ids=["none", "another"])
def test_without_the_key_postal_is_made_to_retry(
    make_app: MakeApp, inbound: list[Any], key: str | None
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_KEY=key)
    assert MAIL.post(app.test_client()).status_code == 503
    assert inbound == []


def test_a_receiver_that_raises_makes_postal_retry_and_does_not_stop_others(
    make_app: MakeApp, tracking: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()

    def broken(app: Flask, event: Any, **extra: Any) -> None:
        raise LookupError("no such ticket")

    with tracking_received.connected_to(broken):
        assert SENT.post(app.test_client()).status_code == 500
    assert len(tracking) == 1
    assert "broken failed" in caplog.text


def test_url_prefix_moves_the_webhooks(make_app: MakeApp, tracking: list[Any]) -> None:
    app, postal = make_app()
    moved = Flask("moved")
    moved.config.update(app.config)
    postal.init_app(moved)
    moved.register_blueprint(postal.blueprint, url_prefix="/anymail/postal")
    answer = SENT.post(moved.test_client(), path="/anymail/postal/tracking/")
    assert answer.status_code == 200
    assert len(tracking) == 1
