"""Extension points: each works with an implementation that is made here."""

from __future__ import annotations

import json
import pickle
import queue
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from flask import Flask, request

from flask_postal import (
    APIError,
    CancelSend,
    Message,
    PayloadError,
    Postal,
    RejectMail,
    RequestRefused,
    TransportError,
    UnsupportedFeature,
    VerifiedRequest,
    inbound_received,
    message_sending,
    message_sent,
    send_failed,
    tracking_received,
)
from flask_postal.sending.capabilities import FEATURES
from flask_postal.sending.mime import build_mime
from flask_postal.sending.payload import Body, Prepared, raw_body
from flask_postal.sending.pipeline import SendPipeline
from flask_postal.settings import Settings
from flask_postal.webhooks.dispatch import Dispatched

from .captures import KID, Recorded, flip_bit
from .conftest import Listen, MakeApp
from .mails import message

SENT = Recorded.load("webhooks/MessageSent")
MAIL = Recorded.load("inbound/raw-json")
FORM = Recorded.load("inbound/hash-form")


# ---- receiving: verify, and handle later


def verified(app: Flask, postal: Postal, recorded: Recorded, hook: str) -> Any:
    """Verify a recorded request in a view's context."""
    with app.test_request_context(
        recorded.path, method="POST", data=recorded.body, headers=recorded.headers
    ):
        return postal.webhooks.verify(request, hook)


@pytest.mark.parametrize(
    ("recorded", "hook", "media_type"),
    [
        (SENT, "tracking", "application/json"),
        (MAIL, "inbound", "application/json"),
        (FORM, "inbound", "application/x-www-form-urlencoded"),
    ],
    ids=["tracking", "raw-json", "hash-form"],
)
def test_a_verified_request_describes_what_was_received(
    make_app: MakeApp, recorded: Recorded, hook: str, media_type: str
) -> None:
    app, postal = make_app()
    found = verified(app, postal, recorded, hook)
    assert (found.hook, found.body) == (hook, recorded.body)
    assert (found.media_type, found.kid) == (media_type, KID)
    assert timedelta() <= datetime.now(UTC) - found.received_at < timedelta(seconds=9)
    assert recorded.body.decode() not in repr(found)


def test_verified_requests_can_be_queued_and_handled_later(
    make_app: MakeApp, tracking: list[Any], inbound: list[Any]
) -> None:
    """Requests are pickled into a queue, and handled without a request context."""
    app, postal = make_app()
    waiting: queue.Queue[bytes] = queue.Queue()
    for recorded, hook in ((SENT, "tracking"), (MAIL, "inbound")):
        waiting.put(pickle.dumps(verified(app, postal, recorded, hook)))
    assert (tracking, inbound) == ([], [])
    with app.app_context():
        while not waiting.empty():
            stored: VerifiedRequest = pickle.loads(waiting.get())
            assert postal.webhooks.handle(stored) is Dispatched.HANDLED
    assert [event.id for event in tracking + inbound] == [408, 422]


@pytest.mark.parametrize(
    ("recorded", "hook", "status"), [(SENT, "tracking", 403), (MAIL, "inbound", 503)]
)
def test_a_forged_request_is_refused_with_the_status_to_send(
    make_app: MakeApp, recorded: Recorded, hook: str, status: int
) -> None:
    app, postal = make_app()
    forged = Recorded(recorded.path, recorded.headers, flip_bit(recorded.body, 100))
    with pytest.raises(RequestRefused, match="does not match the body") as caught:
        verified(app, postal, forged, hook)
    refused = pickle.loads(pickle.dumps(caught.value))
    assert (refused.status, refused.text) == (status, "wrong signature")


@pytest.mark.parametrize(
    ("receiver", "outcome"),
    [
        (lambda app, event, **extra: None, Dispatched.HANDLED),
        (lambda app, event, **extra: 1 / 0, Dispatched.FAILED),
    ],
    ids=["handled", "failed"],
)
def test_handle_returns_the_outcome(
    make_app: MakeApp, receiver: Callable[..., Any], outcome: Dispatched
) -> None:
    app, postal = make_app()
    found = verified(app, postal, SENT, "tracking")
    with app.app_context():
        assert postal.webhooks.handle(found) is Dispatched.NO_RECEIVER
        with tracking_received.connected_to(receiver):
            assert postal.webhooks.handle(found) is outcome


def test_handle_returns_rejections_but_raises_for_invalid_bodies(
    make_app: MakeApp,
) -> None:
    def reject(app: Flask, event: Any, **extra: Any) -> None:
        raise RejectMail("no")

    app, postal = make_app()
    mail = verified(app, postal, MAIL, "inbound")
    with app.app_context(), inbound_received.connected_to(reject):
        assert postal.webhooks.handle(mail) is Dispatched.BOUNCED
        with pytest.raises(PayloadError, match="not JSON"):
            postal.webhooks.handle(VerifiedRequest("tracking", b"nonsense"))
        with pytest.raises(PayloadError, match="event") as caught:
            postal.webhooks.handle(VerifiedRequest("tracking", MAIL.body))
    assert caught.value.misdirected


@pytest.mark.parametrize("recorded", [SENT, FORM], ids=["event", "mail"])
def test_a_stored_body_is_replayed_without_a_sandbox(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    tmp_path: Path,
    recorded: Recorded,
) -> None:
    app, _ = make_app()
    file = tmp_path / "stored.body"
    file.write_bytes(recorded.body)
    done = app.test_cli_runner().invoke(args=["postal", "replay", "--local", str(file)])
    assert (done.exit_code, len(tracking + inbound)) == (0, 1), done.output
    assert done.output.endswith(": handled\n")


def test_a_failed_replay_is_reported(
    make_app: MakeApp, tmp_path: Path, listen: Listen
) -> None:
    app, _ = make_app()
    file = tmp_path / "stored.body"
    file.write_bytes(SENT.body)
    runner = app.test_cli_runner()
    done = runner.invoke(args=["postal", "replay", "--local", str(file)])
    assert (done.exit_code, done.output) == (1, "MessageSent: no receiver\n")
    file.write_bytes(b"nonsense")
    done = runner.invoke(args=["postal", "replay", "--local", str(file)])
    assert done.exit_code == 1
    assert "neither an event nor a mail" in done.output


# ---- receiving: a custom store that recognises duplicates


class DictStore:
    """A store that keeps handled deliveries in a dict, and grants every lease."""

    def __init__(self) -> None:
        self.done: dict[str, int] = {}

    def claim(self, identity: str) -> Claim:
        return Claim(self, identity)


class Claim:
    def __init__(self, store: DictStore, identity: str) -> None:
        self._store = store
        self._identity = identity

    def handled(self) -> int | None:
        return self._store.done.get(self._identity)

    def lease(self) -> bool:
        return True

    def release(self) -> None:
        pass

    def done(self, status: int) -> None:
        self._store.done[self._identity] = status

    def has_done(self, receiver: str) -> int | None:
        return None

    def mark(self, receiver: str, status: int) -> None:
        pass


def test_a_custom_store_recognises_duplicates(
    make_app: MakeApp, tracking: list[Any]
) -> None:
    store = DictStore()
    app, _ = make_app(POSTAL_DEDUPE_CACHE=store)
    for _ in range(2):
        assert SENT.post(app.test_client()).status_code == 200
    assert len(tracking) == 1
    assert list(store.done.values()) == [200]
    store.done.clear()
    SENT.post(app.test_client())
    assert len(tracking) == 2


# ---- sending: a custom transport


class Recorder:
    """A transport that records requests instead of sending them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.calls: list[tuple[str, dict[str, Any]]] = []
        self._error = error

    def call(self, endpoint: str, body: Body) -> Any:
        content = json.loads(b"".join(body.pieces()))
        self.calls.append((endpoint, content))
        if self._error is not None:
            raise self._error
        if endpoint == "messages/deliveries":
            return [{"id": 1, "status": "Sent", "timestamp": 1.0}]
        recipients = content.get("rcpt_to") or content["to"]
        return {
            "message_id": "made-up@example.com",
            "messages": {
                recipient: {"id": number, "token": f"t{number}"}
                for number, recipient in enumerate(recipients, 1)
            },
        }


def app_with(transport: Any, **config: Any) -> tuple[Flask, Postal]:
    app = Flask("seams")
    app.config.update(config)
    return app, Postal(app, transport=transport)


def test_a_custom_transport_needs_neither_url_nor_key() -> None:
    recorder = Recorder()
    app, postal = app_with(recorder)
    with app.app_context():
        result = postal.send(message())
        assert postal.get_deliveries(7)[0].event_type == "delivered"
        outcomes = postal.send_many([message(), message(message_id="a@b.example")])
    assert result.message_id == "made-up@example.com"
    assert result.recipients["ana@example.com"].token == "t1"
    assert not result.suppressed
    assert [outcome.error for outcome in outcomes] == [None, None]
    assert sorted(endpoint for endpoint, _ in recorder.calls) == [
        *("messages/deliveries", "send/message", "send/message", "send/raw")
    ]
    assert recorder.calls[0][1]["plain_body"] == "x"


def test_an_error_in_a_transport_is_raised_and_signalled(listen: Listen) -> None:
    told: list[Any] = []

    def on_failure(app: Flask, error: Exception, **extra: Any) -> None:
        told.append(error)

    error = TransportError("the line is dead", maybe_sent=True)
    app, postal = app_with(Recorder(error))
    with (
        app.app_context(),
        send_failed.connected_to(on_failure),
        pytest.raises(TransportError, match="the line is dead"),
    ):
        postal.send(message())
    assert told == [error]


def test_the_response_of_a_transport_is_checked_like_postals() -> None:
    class Empty:
        def call(self, endpoint: str, body: Body) -> Any:
            return {"message_id": "x", "messages": {}}

    app, postal = app_with(Empty())
    with app.app_context(), pytest.raises(APIError, match="queued nothing"):
        postal.send(message())


def test_suppressed_messages_do_not_reach_a_transport() -> None:
    recorder = Recorder()
    app, postal = app_with(recorder, POSTAL_SUPPRESS_SEND=True)
    with app.app_context():
        assert postal.send(message()).suppressed
    assert recorder.calls == []


# ---- sending: the steps one by one


def pipeline(**config: Any) -> SendPipeline:
    settings = Settings.from_config(
        {f"POSTAL_{name.upper()}": value for name, value in config.items()}, "POSTAL_"
    )
    return SendPipeline(settings, postal=None, transport=Recorder())


def test_the_steps_of_the_pipeline_can_be_called_one_by_one() -> None:
    """As an outbox would do that stores the finished mail and sends it later."""
    steps: list[str] = []
    app = Flask("steps")
    sender = pipeline(send_defaults={"tags": "shop"})

    def on_sending(app: Flask, message: Message, **extra: Any) -> None:
        steps.append("announced")
        message.subject = f"{message.subject}!"

    def on_sent(app: Flask, result: Any, **extra: Any) -> None:
        steps.append("reported")

    with (
        app.app_context(),
        message_sending.connected_to(on_sending),
        message_sent.connected_to(on_sent),
    ):
        complete = sender.complete(app, message(message_id="mine@example.com"))
        assert complete.tags == ["shop"]
        announced = sender.announce(app, complete)
        content = sender.check(announced)
        assert steps == ["announced"]
        mime = build_mime(content)
        assert b"Subject: Hi!\r\n" in mime
        # ... stored, and days later:
        body = raw_body(content.sender.addr_spec, list(content.recipients), mime)
        recipients = content.recipients
        later = Prepared("send/raw", recipients, {}, content.message_id, body)
        result = sender.post(later, suppressed=sender.is_suppressed(app))
        sender.report(app, announced, result)
    assert steps == ["announced", "reported"]
    assert result.recipients["ana@example.com"].id == 1


def test_announce_raises_if_a_receiver_cancels() -> None:
    def stop(app: Flask, message: Message, **extra: Any) -> None:
        raise CancelSend("stopped")

    app = Flask("steps")
    with (
        app.app_context(),
        message_sending.connected_to(stop),
        pytest.raises(CancelSend, match="stopped"),
    ):
        pipeline().announce(app, message())


# ---- sending: capabilities

ASKED: dict[str, dict[str, Any]] = {
    "tags": {"tags": ["a", "b"]},
    "send_at": {"send_at": 1.0},
    "track_opens": {"track_opens": True},
    "track_clicks": {"track_clicks": True},
    "metadata": {"metadata": {"order": 7}},
    "mail_options": {"mail_options": ["BODY=8BITMIME"]},
    "rcpt_options": {"rcpt_options": ["NOTIFY=NEVER"]},
    "charset": {"charset": "latin-1"},
}


@pytest.mark.parametrize("feature", {feature.name for feature in FEATURES})
def test_every_feature_of_the_table_is_detected_in_a_message(feature: str) -> None:
    """``FEATURES`` is the only list that a new feature must be added to."""
    asking = message(**ASKED[feature])
    assert any(f.name == feature and f.wanted(asking) for f in FEATURES)
    with pytest.raises(UnsupportedFeature, match=f"^{feature}: ") as caught:
        pipeline().check(asking)
    assert caught.value.feature == feature


@pytest.mark.parametrize("feature", ["send_at", "metadata"])
def test_features_can_be_declared_as_capabilities(feature: str) -> None:
    settings = Settings.from_config({}, "POSTAL_")
    able = SendPipeline(settings, postal=None, capabilities=frozenset({feature}))
    able.check(message(**ASKED[feature]))
    with pytest.raises(UnsupportedFeature, match="tags"):
        able.check(message(**ASKED["tags"], **ASKED[feature]))
