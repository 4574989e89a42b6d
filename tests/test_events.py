"""Parsing of recorded events, and of bodies that a real Postal would never send."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_postal import PayloadError, server_event_received
from flask_postal.sandbox import SigningKey
from flask_postal.webhooks.events import ServerEvent, TrackingEvent
from flask_postal.webhooks.tracking import parse_tracking

from .captures import CAPTURES, DKIM_RECORD, KEY1024_DKIM_RECORD, Recorded
from .conftest import Listen, MakeApp

PASSWORD = "planted-Password-77"
ALL = sorted(path.stem for path in (CAPTURES / "webhooks").glob("*.body"))


def load(name: str) -> Any:
    return parse_tracking(Recorded.load(f"webhooks/{name}").body)


@pytest.mark.parametrize("name", ALL)
def test_every_recorded_event_is_accepted_and_normalized(
    make_app: MakeApp, listen: Listen, tracking: list[Any], name: str
) -> None:
    key = KEY1024_DKIM_RECORD if name.startswith("key1024") else DKIM_RECORD
    app, _ = make_app(POSTAL_WEBHOOK_KEY=key)
    server = listen(server_event_received)
    recorded = Recorded.load(f"webhooks/{name}")
    assert recorded.post(app.test_client(), path="/postal/tracking/").status_code == 200
    (event,) = tracking + server
    content = json.loads(recorded.body)
    assert event.event_id == content["uuid"]
    assert event.created_at == datetime.fromtimestamp(content["timestamp"], UTC)
    assert event.esp_event.keys() == content.keys()
    ours = name.startswith("incoming-") or content["event"].startswith(("Domain", "Se"))
    assert isinstance(event, ServerEvent if ours else TrackingEvent)


EXPECTED: dict[str, dict[str, Any]] = {
    "MessageSent": {"event_type": "delivered", "smtp_code": 250},
    "MessageDelayed": {
        "event_type": "deferred",
        "smtp_code": 451,
        "enhanced_status": "4.3.0",
        "reject_reason": None,
    },
    "MessageDelayed-greylisted": {"event_type": "deferred", "smtp_code": 450},
    "MessageDeliveryFailed": {
        "event_type": "failed",
        "reject_reason": "invalid",
        "smtp_code": 550,
        "enhanced_status": "5.1.1",
    },
    "MessageDeliveryFailed-then-suppressed": {
        "event_type": "failed",
        "reject_reason": "invalid",
    },
    "MessageHeld-suppressed": {
        "event_type": "queued",
        "hold_reason": "suppressed",
        "mta_response": None,
    },
    "MessageHeld-credential": {"event_type": "queued", "hold_reason": "credential"},
    "MessageHeld-development": {"event_type": "queued", "hold_reason": "development"},
    "MessageHeld-send-limit": {"event_type": "queued", "hold_reason": "send_limit"},
    "MessageBounced": {
        "event_type": "bounced",
        "reject_reason": "bounced",
        "id": 418,
        "recipient": "willbounce@rcpt.test",
        "tags": ["b1"],
    },
    "MessageLinkClicked": {
        "event_type": "clicked",
        "click_url": "https://plain.test/click?a=1&b=2",
        "ip_address": "203.0.113.9",
        "user_agent": "Mozilla/5.0",
        "token": "jiQq5nyfI8BxV4wg",
    },
    "MessageLoaded": {
        "event_type": "opened",
        "user_agent": "Mozilla/5.0 <x>&\"'",
        "click_url": None,
    },
    "DomainDNSError": {
        "event": "DomainDNSError",
        "server": "main",
        "organization": "acme",
        "domain": "broken.test",
    },
    "SendLimitApproaching": {
        "event": "SendLimitApproaching",
        "volume": 10,
        "limit": 10,
    },
    "SendLimitExceeded": {"event": "SendLimitExceeded", "server": "limited"},
    "incoming-MessageDelayed": {
        "event": "MessageDelayed",
        "event_type": "deferred",
        "recipient": "refused@example.test",
        "description": "Received a -2 from http://127.0.0.1:9/postal/inbound/",
    },
    "incoming-MessageSent": {"event": "MessageSent", "event_type": "delivered"},
    "incoming-MessageDeliveryFailed": {"event_type": "failed"},
}


@pytest.mark.parametrize(("name", "expected"), EXPECTED.items(), ids=list(EXPECTED))
def test_a_recorded_event_has_the_expected_attributes(
    name: str, expected: dict[str, Any]
) -> None:
    event = load(name)
    assert {key: getattr(event, key) for key in expected} == expected


def test_a_bounce_carries_the_bounce_mail() -> None:
    event = load("MessageBounced")
    assert event.bounce["subject"] == "Undelivered Mail"
    assert event.timestamp == event.created_at


def test_dns_problems_are_named() -> None:
    problems = load("DomainDNSError").problems
    assert set(problems) == {"spf", "dkim", "mx", "return_path"}
    assert problems["spf"] == "No SPF record exists for this domain"


def body(event: str = "MessageDeliveryFailed", **payload: Any) -> bytes:
    message = {"id": 1, "direction": "outgoing", "to": "a@b.c"}
    content = {"event": event, "payload": {"message": message, **payload}, "uuid": "u"}
    return json.dumps(content).encode()


@pytest.mark.parametrize(
    ("details", "output", "reason"),
    [
        ("Permanent SMTP delivery error", "550 5.1.1 No such user", "invalid"),
        ("Permanent SMTP delivery error", "550-5.1.10 RESOLVER.ADR", "invalid"),
        ("Permanent SMTP delivery error", "554 5.7.1 blocked", "blocked"),
        ("Permanent SMTP delivery error", "554 5.7.1 looks like spam", "spam"),
        ("Permanent SMTP delivery error", "552 5.2.2 mailbox full", "bounced"),
        ("Permanent SMTP delivery error", "550 no", "bounced"),
        ("Maximum number of delivery attempts (18) has been reached.", "", "timed_out"),
        ("Message is likely spam. Threshold is 5 and it scored 9", "", "spam"),
        ("Message contains a threat", "", "spam"),
        ("Something new", "", "other"),
        ("Something new", "not a reply", "other"),
    ],
)
def test_reject_reasons(details: str, output: str, reason: str) -> None:
    event = parse_tracking(body(details=details, output=output))
    assert event.reject_reason == reason


@pytest.mark.parametrize(
    ("text", "redacted"),
    [
        ("from https://u:{p}@x.test/in?k={p}&y", "from https://***@x.test/in?***"),
        ("from http://{p}@x.test", "from http://***@x.test"),
        ("from http://u:{p}@x.test:80/a (b)", "from http://***@x.test:80/a (b)"),
        ("from http://u:{p}", "from http://***"),
        ("from http://u:1234567", "from http://***"),
        ("from http://x.test:8080/a", "from http://x.test:8080/a"),
        ("two http://a:{p}@b/ http://c:{p}@d/", "two http://***@b/ http://***@d/"),
        ("at https://u:12345/{p}@x.test/a", "at https://***@x.test/a"),
        ("at https://u:x#{p}@x.test/a", "at https://***@x.test/a"),
        ("at https://u:x\xa0{p}@x.test", "at https://***@x.test"),
        ("at https://x.test/in?who={p}@y", "at https://x.test/in?***"),
        ("no url", "no url"),
    ],
)
def test_passwords_of_urls_are_redacted_everywhere(text: str, redacted: str) -> None:
    text = text.format(p=PASSWORD)
    event = parse_tracking(body(details=text, output=text, deep=[{"details": text}]))
    assert (event.description, event.mta_response) == (redacted, redacted)
    assert PASSWORD not in repr(event) + str(event.esp_event)


@pytest.mark.parametrize("colon", ["\\u003a", "\\u003A", ":"])
@pytest.mark.parametrize("slash", ["\\u002f", "\\/", "/"])
def test_passwords_in_escaped_urls_are_redacted(colon: str, slash: str) -> None:
    url = f"https{colon}{slash}{slash}u:{PASSWORD}@x.test"
    nested = '{"details":"' + url + '"}'
    for _ in range(25):
        nested = '{"a":' + nested + "}"
    text = '{"event":"MessageSent","uuid":"u","payload":{"x":' + nested + "}}"
    assert PASSWORD not in str(parse_tracking(text.encode()).esp_event)


def test_a_lone_surrogate_becomes_a_replacement_character() -> None:
    raw = body(details="a\ud800b").replace(b'"a@b.c"', b'"\\udfff@b.c"')
    event = parse_tracking(raw)
    assert (event.description, event.recipient) == ("a\ufffdb", "\ufffd@b.c")


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b"null",
        b"[]",
        b'"x"',
        b"5",
        b"{",
        b"\xff\xfe{\x00}\x00",
        '{"event":"MessageSent"}'.encode("utf-16"),
        b'\xef\xbb\xbf{"event":"MessageSent"}',
        b'{"event":' + b"[" * 100_000,
        b'{"event":"x","a":' + b"9" * 100_000 + b"}",
        b'{"event": 5}',
        b'{"uuid": "x"}',
        b"v=1; a=rsa-sha256; d=example.test",
    ],
    ids=lambda raw: repr(raw[:20]),
)
def test_a_body_that_is_not_an_event_is_a_payload_error(raw: bytes) -> None:
    with pytest.raises(PayloadError, match="the body is"):
        parse_tracking(raw)


@pytest.mark.parametrize(
    "payload",
    [
        None,
        [],
        5,
        {"message": []},
        {"message": {"id": "5", "to": 5, "tag": [], "direction": {}}},
        {"message": {"id": 10**400}},
        {"message": {"id": True}},
        {"details": {}, "output": 5, "timestamp": "now"},
        {"timestamp": float("nan")},
        {"timestamp": 1e308},
        {"url": [], "user_agent": {}, "ip_address": 5, "bounce": "x"},
        {"server": "x", "spf_status": 5},
    ],
)
@pytest.mark.parametrize("name", ["MessageSent", "DomainDNSError", "Unheard", "\0"])
def test_fields_of_any_type_are_accepted(name: str, payload: Any) -> None:
    raw = json.dumps({"event": name, "payload": payload, "timestamp": payload}).encode()
    event = parse_tracking(raw)
    assert isinstance(event, TrackingEvent | ServerEvent)
    assert repr(event)


def test_duplicate_keys_and_deep_fields_are_accepted() -> None:
    event = parse_tracking(b'{"event":"x","event":"MessageSent","uuid":"u"}')
    assert event.event_type == "delivered"
    deep = b'{"event":"x","payload":' + b'{"a":' * 300 + b"1" + b"}" * 301
    assert parse_tracking(deep).event_type == "unknown"


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.text(max_size=10), inner, max_size=3)
    ),
    max_leaves=10,
)


@settings(max_examples=500)
@given(VALUES, VALUES, VALUES)
def test_no_payload_makes_the_parser_raise(
    message: Any, payload: Any, timestamp: Any
) -> None:
    for content in (
        {"event": "MessageBounced", "payload": payload, "timestamp": timestamp},
        {"event": "MessageHeld", "payload": {"message": message, "details": payload}},
    ):
        parse_tracking(json.dumps(content).encode())


@settings(max_examples=2500, deadline=None)
@given(st.data())
def test_a_mutated_body_is_always_refused(
    signing_key: SigningKey, data: st.DataObject
) -> None:
    """10,000 mutated requests get an expected status, and none reaches a receiver."""
    app, seen = _fuzzed(signing_key)
    for recorded in (
        Recorded.load("webhooks/MessageSent"),
        Recorded.load("inbound/raw-json"),
        Recorded.load("inbound/raw-form"),
        Recorded.load("inbound/hash-json-minimal"),
    ):
        mutated = _mutate(recorded.body, data)
        if mutated == recorded.body:
            continue
        answer = recorded.post(
            app.test_client(), data=mutated, headers=recorded.without("Content-Length")
        )
        assert answer.status_code in (400, 403, 503), answer.text
    assert seen == []


_FUZZED: list[Any] = []


def _fuzzed(signing_key: SigningKey) -> Any:
    if not _FUZZED:
        from flask import Flask

        from flask_postal import Postal, inbound_received, tracking_received

        app = Flask("fuzzed")
        app.config["POSTAL_WEBHOOK_KEY"] = DKIM_RECORD
        app.register_blueprint(Postal(app).blueprint)
        seen: list[Any] = []

        def receive(app: Flask, event: Any, **extra: Any) -> None:
            seen.append(event)

        for signal in (tracking_received, inbound_received, server_event_received):
            signal.connect(receive, sender=app, weak=False)
        _FUZZED.extend([app, seen])
    return _FUZZED


def _mutate(body: bytes, data: st.DataObject) -> bytes:
    kind = data.draw(st.sampled_from(["flip", "cut", "insert", "repeat", "replace"]))
    at = data.draw(st.integers(0, len(body) - 1))
    piece = data.draw(st.binary(min_size=1, max_size=8))
    if kind == "flip":
        return body[:at] + bytes([body[at] ^ piece[0]]) + body[at + 1 :]
    if kind == "cut":
        return body[:at]
    if kind == "insert":
        return body[:at] + piece + body[at:]
    if kind == "repeat":
        return body + body[at:]
    return body[:at] + piece + body[at + len(piece) :]
