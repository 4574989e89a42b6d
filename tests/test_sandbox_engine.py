"""What the sandbox does with messages, and how the app's responses affect it."""

from __future__ import annotations

import contextlib
import json
import os
import stat
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import requests
from flask import Flask

from flask_postal import (
    ConfigurationError,
    Message,
    Postal,
    RejectMail,
    inbound_received,
    server_event_received,
    tracking_received,
)
from flask_postal.sandbox import (
    Clock,
    ManualClock,
    Sandbox,
    SigningKey,
    compose_mail,
    reply_to,
    webhook_client,
)
from flask_postal.sandbox.endpoint import FORMATS, inbound_request
from flask_postal.sandbox.message_api import describe
from flask_postal.sandbox.store import MAX_MAILS
from flask_postal.sandbox.webhook_client import WebhookResponse, call_url
from flask_postal.webhooks.inbound import parse_inbound

from .captures import CAPTURES, Recorded
from .conftest import Listen, MakeApp
from .servers import Exchange, answering, hang, loopback, refusing

Send = Callable[..., Any]


@pytest.fixture
def sandbox(signing_key: SigningKey) -> Iterator[Sandbox]:
    """A sandbox whose clock is moved by the tests only."""
    with Sandbox(key=signing_key, clock=ManualClock()) as running:
        yield running


@pytest.fixture
def send(make_app: MakeApp, sandbox: Sandbox) -> Send:
    """Send a message from an app that receives the sandbox's webhooks."""
    app, postal = make_app(**sandbox.settings())
    sandbox.deliver_to(app)

    def send(to: str = "ana@example.com", **fields: Any) -> Any:
        fields = {"body": "Hi", "sender": "app@example.com", **fields}
        with app.app_context():
            return postal.send(Message("Hello", to, **fields)).recipients[to]

    return send


def event_types(events: list[Any]) -> list[str]:
    return [str(event.event_type) for event in events]


@pytest.mark.parametrize(
    ("to", "expected"),
    [
        ("ana@example.com", ["delivered"]),
        ("delayed@example.com", ["deferred", "delivered"]),
        ("failed@example.com", ["failed"]),
        ("held@example.com", ["queued"]),
        ("bounced+ana@example.com", ["delivered", "bounced"]),
        ("Opened@example.com", ["delivered", "opened"]),
        ("clicked+x@example.com", ["delivered", "opened", "clicked"]),
        ("lost@example.com", []),
        ("late@example.com", ["delivered"]),
        ("duplicate@example.com", ["delivered"]),
        ("ana+bounced@example.com", ["delivered"]),
    ],
)
def test_the_local_part_of_the_recipient_selects_the_scenario(
    sandbox: Sandbox, send: Send, tracking: list[Any], to: str, expected: list[str]
) -> None:
    sent = send(to)
    sandbox.advance(hours=1)
    assert event_types(tracking) == expected
    assert all(event.recipient == to for event in tracking)
    assert all((event.id, event.token) == (sent.id, sent.token) for event in tracking)


def test_a_mail_is_delivered_after_a_second(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    send()
    sandbox.advance(seconds=0.9)
    assert not tracking
    sandbox.advance(seconds=0.1)
    assert event_types(tracking) == ["delivered"]


def test_a_late_event_takes_twenty_minutes(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    send("late@example.com")
    sandbox.advance(minutes=20)
    assert not tracking
    sandbox.advance(minutes=1)
    assert event_types(tracking) == ["delivered"]


def test_a_duplicate_is_posted_twice_and_handled_once(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    send("duplicate@example.com")
    sandbox.advance(minutes=1)
    (request,) = sandbox.requests
    assert [attempt.status for attempt in request.attempts] == [200, 200]
    assert len(tracking) == 1


def test_an_event_is_posted_six_times_in_36_minutes(sandbox: Sandbox) -> None:
    """The recorded Postal posts after 0, 2, 5, 11, 21 and 36 minutes, unchanged."""
    taken: list[tuple[dict[str, str], bytes]] = []

    def act(exchange: Exchange) -> bool:
        request = exchange.read_body()
        taken.append((dict(request.headers), request.body))
        exchange.answer("503 Service Unavailable", b"not now")
        return False

    with loopback(act) as server:
        sandbox.tracking_url = f"{server.url}/postal/tracking/"
        post = {"to": ["a@b.c"], "from": "d@e.f", "plain_body": "x"}
        requests.post(
            f"{sandbox.url}/api/v1/send/message",
            json=post,
            headers={"X-Server-API-Key": sandbox.api_key},
            timeout=5,
        )
        sandbox.advance(hours=10)
    (request,) = sandbox.requests
    began = request.attempts[0].timestamp
    minutes = [round((a.timestamp - began) / 60, 3) for a in request.attempts]
    assert minutes == [0, 2, 5, 11, 21, 36]
    assert request.state == "lost"
    assert len(taken) == 6
    assert len({body for _, body in taken}) == 1
    signatures = {json.dumps(headers, sort_keys=True) for headers, _ in taken}
    assert len(signatures) == 1
    recorded = Recorded.load("webhooks/MessageSent").headers
    assert {name.lower() for name in taken[0][0]} - {"host", "authorization"} == {
        name.lower() for name in recorded
    } - {"host"}


def test_events_have_the_recorded_fields(sandbox: Sandbox, send: Send) -> None:
    send("bounced@example.com", html='<a href="https://x.test/?a=1&amp;b=2">l</a>')
    for event in ("delayed", "failed", "held", "opened", "clicked"):
        send(f"{event}@example.com", html='<a href="https://x.test/">l</a>')
    sandbox.advance(hours=1)
    for event in ("DomainDNSError", "SendLimitApproaching", "SendLimitExceeded"):
        sandbox.trigger(event)
    seen = set()
    for request in sandbox.requests:
        name = request.event.replace("Held", "Held-development")
        recorded = json.loads(Recorded.load(f"webhooks/{name}").body)
        assert keys(json.loads(request.body)) == keys(recorded), request.event
        seen.add(request.event)
    assert len(seen) == 10


def keys(value: Any) -> Any:
    """Return the keys of JSON objects, in order."""
    if isinstance(value, dict):
        return [(key, keys(item)) for key, item in value.items()]
    return None


# ---- tracking


def test_tracked_links_and_pixel_are_inserted_and_reported(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    link = "https://example.com/?a=1&b=2"
    sent = send(
        body=f"See {link}.",
        html='<p><a class="x" href="https://example.com/?a=1&amp;b=2">l</a></p>',
    )
    sandbox.advance(seconds=1)
    mail = sandbox.messages[0]
    html = described_mail(sandbox)["html_body"]
    text = described_mail(sandbox)["plain_body"]
    assert link in (mail.content.text or "")
    assert link not in text
    assert "example.com" not in html
    assert mail.delivered_content.html == html
    urls = [part for part in html.replace('"', "'").split("'") if "://" in part]
    assert len(urls) == 2
    clicked = requests.get(
        urls[0], headers={"User-Agent": "Me"}, allow_redirects=False, timeout=5
    )
    assert (clicked.status_code, clicked.headers["Location"]) == (307, link)
    opened = requests.get(urls[1], timeout=5)
    assert opened.headers["Content-Type"] == "image/png"
    sandbox.advance(seconds=1)
    assert event_types(tracking) == ["delivered", "clicked", "opened"]
    click = tracking[1]
    assert (click.click_url, click.user_agent, click.id) == (link, "Me", sent.id)
    assert tracking[2].ip_address == "127.0.0.1"


def described_mail(sandbox: Sandbox) -> dict[str, Any]:
    return describe(sandbox.store, sandbox.messages[-1], expansions=True)


def test_tracking_can_be_switched_off(signing_key: SigningKey) -> None:
    with Sandbox(key=signing_key, clock=ManualClock(), tracking=False) as sandbox:
        headers = {"X-Server-API-Key": sandbox.api_key}
        html = '<a href="https://x.test/">l</a>'
        post = {"to": ["a@b.c"], "from": "d@e.f", "html_body": html}
        url = f"{sandbox.url}/api/v1/send/message"
        requests.post(url, json=post, headers=headers, timeout=5)
        sandbox.advance(seconds=1)
        assert described_mail(sandbox)["html_body"] == html


def test_a_message_with_tracking_switched_off_is_unchanged(
    sandbox: Sandbox, send: Send
) -> None:
    html = '<a href="https://example.com/">l</a>'
    send(html=html, track_opens=False, track_clicks=False)
    sandbox.advance(seconds=1)
    assert (described_mail(sandbox)["html_body"] or "").strip() == html


def test_tracking_changes_attached_texts_unless_they_are_protected(
    sandbox: Sandbox, send: Send
) -> None:
    post: dict[str, Any] = {
        "to": ["a@b.c"],
        "from": "d@e.f",
        "plain_body": "x",
        "attachments": [
            {
                "name": "a.txt",
                "content_type": "text/plain",
                "data": "aHR0cDovL3gudGVzdC95",
            }
        ],
    }
    requests.post(
        f"{sandbox.url}/api/v1/send/message",
        json=post,
        headers={"X-Server-API-Key": sandbox.api_key},
        timeout=5,
    )
    message = Message("Hello", "a@b.c", body="x", sender="d@e.f")
    message.attach("a.txt", "text/plain", b"http://x.test/y")
    send("a@b.c", attachments=message.attachments)
    sandbox.advance(seconds=1)
    careless, careful = sandbox.messages
    contents = [
        describe(sandbox.store, mail, expansions=True)["attachments"][0]["data"]
        for mail in (careless, careful)
    ]
    assert contents[0] != contents[1]
    assert contents[1] == "aHR0cDovL3gudGVzdC95\n"


# ---- inbound mail


@pytest.mark.parametrize("format", FORMATS)
def test_inbound_mail_is_posted_in_any_format(
    sandbox: Sandbox, send: Send, inbound: list[Any], format: str
) -> None:
    raw = compose_mail(
        "Grüße ✓",
        "Hällo & = + % ~\n",
        to="Support <support@example.com>",
        html="<p>Hällo</p>",
        attachments=[("résumé.pdf", "application/pdf", bytes(range(256)))],
    )
    request = sandbox.receive(raw, to="support+1@example.com", format=format)
    (event,) = inbound
    assert event.format == format
    message = event.message
    assert message.subject == "Grüße ✓"
    assert message.text.strip() == "Hällo & = + % ~"
    assert message.html.strip() == "<p>Hällo</p>"
    assert [a.filename for a in message.attachments] == ["résumé.pdf"]
    assert message.attachments[0].content == bytes(range(256))
    assert message.envelope_recipient == "support+1@example.com"
    assert message.spam_detected is False
    assert request.attempts[-1].verdict == "200: the mail is delivered"


@pytest.mark.parametrize("format", FORMATS)
def test_inbound_bodies_have_the_recorded_fields(sandbox: Sandbox, format: str) -> None:
    recorded = Recorded.load(f"inbound/{format}").body
    raw = parse_inbound(Recorded.load("inbound/raw-json").body).message.raw or b""
    # Without the five headers that Postal adds at the top.
    raw = raw[raw.index(b"\r\nFrom:") + 2 :].replace(
        b"raw-json@", f"{format}@".encode()
    )
    sandbox.receive(raw, to=f"{format}@example.test", format=format)
    body = sandbox.requests[0].body
    if format.endswith("form"):
        names = [pair.partition(b"=")[0] for pair in body.split(b"&")]
        assert names == [pair.partition(b"=")[0] for pair in recorded.split(b"&")]
    else:
        ours, theirs = json.loads(body), json.loads(recorded)
        assert list(ours) == list(theirs)
        for name in ("subject", "from", "to", "cc", "reply_to", "auto_submitted"):
            assert ours.get(name) == theirs.get(name)
        if "attachments" in theirs:
            assert ours["attachments"] == theirs["attachments"]
            assert ours["plain_body"].split() == theirs["plain_body"].split()


def test_a_reply_reaches_the_app(
    sandbox: Sandbox, send: Send, inbound: list[Any]
) -> None:
    send(reply_to="ticket+5@example.com")
    raw, to = reply_to(sandbox.messages[0], "Thanks!")
    sandbox.receive(raw, to=to, sender="ana@example.com")
    message = inbound[0].message
    assert message.envelope_recipient == "ticket+5@example.com"
    assert message.subject == "Re: Hello"
    assert message.in_reply_to == sandbox.messages[0].message_id
    assert message.text.startswith("Thanks!")
    assert "> Hi" in message.text


@pytest.mark.parametrize(
    ("status", "state", "verdict", "event"),
    [
        (200, "taken", "200: the mail is delivered", "delivered"),
        (204, "taken", "204: the mail is delivered", "delivered"),
        (308, "lost", "308: Postal would bounce this mail to its author", "failed"),
        (401, "lost", "401: Postal would bounce this mail to its author", "failed"),
        (429, "lost", "429: Postal drops this mail without notifying", "failed"),
        (503, "pending", "503: Postal retries in 5 minutes, 18", "deferred"),
    ],
)
def test_the_apps_response_decides_what_postal_does(
    sandbox: Sandbox,
    listen: Listen,
    make_app: MakeApp,
    status: int,
    state: str,
    verdict: str,
    event: str,
) -> None:
    events = listen(server_event_received)
    app, _ = make_app(**sandbox.settings())
    sandbox.deliver_to(app)
    receive = sandbox.target

    def call(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        if url == sandbox.inbound_url:
            return WebhookResponse(status, "said")
        return receive(url, body, headers)

    sandbox.call_with(call)
    request = sandbox.receive(compose_mail(to="a@b.c"), to="a@b.c")
    assert request.state == state
    assert request.attempts[-1].verdict.startswith(verdict)
    sandbox.advance(seconds=1)
    assert event_types(events)[0] == event
    bounced = [mail for mail in sandbox.messages if mail.bounce]
    assert [mail.recipient for mail in bounced] == (
        ["zoe@example.net"] if "bounce" in verdict else []
    )


def test_inbound_mail_is_retried_for_31_hours(sandbox: Sandbox) -> None:
    sandbox.inbound_url = f"{refusing()}/postal/inbound/"
    sandbox.receive(compose_mail(to="a@b.c"), to="a@b.c")
    sandbox.advance(hours=100)
    (request,) = sandbox.requests
    times = [attempt.timestamp for attempt in request.attempts]
    assert len(times) == 19
    assert 30.5 < (times[-1] - times[0]) / 3600 < 31.5
    assert request.attempts[0].status == -2
    assert request.attempts[-1].verdict.endswith("would bounce this mail to its author")
    assert [mail.recipient for mail in sandbox.messages] == ["zoe@example.net"]


def test_a_receiver_that_fails_gets_the_mail_again(
    sandbox: Sandbox, send: Send, inbound: list[Any]
) -> None:
    failures = [RuntimeError("the first time")]

    def fail(app: Flask, **extra: Any) -> None:
        if failures:
            raise failures.pop()

    with inbound_received.connected_to(fail):
        request = sandbox.receive(compose_mail(to="a@b.c"), to="a@b.c")
        assert (request.attempts[0].status, request.state) == (500, "pending")
        sandbox.advance(minutes=5)
    assert sandbox.requests[0].state == "taken"
    assert len(inbound) == 1  # the other receiver had succeeded before


def test_a_rejected_mail_bounces(
    sandbox: Sandbox, send: Send, inbound: list[Any]
) -> None:
    def reject(app: Flask, **extra: Any) -> None:
        raise RejectMail("closed")

    with inbound_received.connected_to(reject):
        request = sandbox.receive(compose_mail(to="a@b.c"), to="a@b.c")
    assert request.attempts[-1].status == 406
    assert "bounce this mail" in request.attempts[-1].verdict


# ---- faults of webhooks; those of the API are in test_sandbox_faults


def test_a_dropped_event_is_never_posted(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    sandbox.fault("drop", times=1)
    send()
    send()
    sandbox.advance(hours=1)
    assert [r.state for r in sandbox.requests] == ["dropped", "taken"]
    assert len(tracking) == 1


def test_events_can_arrive_out_of_order(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    sandbox.fault("reorder", times=1)
    send("opened@example.com")
    sandbox.advance(minutes=1)
    assert event_types(tracking) == ["opened", "delivered"]


def test_the_secret_protects_against_other_tenants(
    sandbox: Sandbox, send: Send, make_app: MakeApp, tracking: list[Any]
) -> None:
    """Their events have a valid signature, because all tenants share one key."""
    sandbox.fault("foreign", times=1)
    send()
    sandbox.advance(seconds=1)
    (request,) = sandbox.requests
    assert request.attempts[0].status == 401
    assert not tracking
    careless, _ = make_app(**sandbox.settings() | {"POSTAL_WEBHOOK_SECRET": None})
    sandbox.deliver_to(careless)
    sandbox.advance(minutes=2)
    assert len(tracking) == 1
    assert tracking[0].sender == "billing@tenant.localhost"


def test_a_rotated_key_is_discovered(
    sandbox: Sandbox, make_app: MakeApp, tracking: list[Any]
) -> None:
    app, postal = make_app(**sandbox.settings())
    sandbox.deliver_to(app)
    sandbox.trigger("delivered")
    sandbox.rotate_key()
    request = sandbox.trigger("delivered")
    assert request.attempts[0].status == 503
    # The app fetches keys at most once in 30 seconds.
    with app.app_context():
        keys: Any = postal.webhooks._discovered
    keys._clock = lambda: time.monotonic() + 31
    sandbox.advance(minutes=2)
    assert event_types(tracking) == ["delivered", "delivered"]


# ---- triggered events


def test_triggered_events_are_about_the_last_message_to_a_recipient(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    send("bo@example.com")
    sent = send("ana@example.com")
    send("cy@example.com")
    request = sandbox.trigger("bounced", to="ana@example.com")
    assert request.attempts[-1].verdict == "200: Postal is done with this event"
    assert (tracking[0].event_type, tracking[0].id) == ("bounced", sent.id)
    with pytest.raises(
        ValueError, match="unknown event 'nonsense'; use one of delivered"
    ):
        sandbox.trigger("nonsense")


def test_fields_of_triggered_events_can_be_set(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    changes = {"payload.output": "550 5.7.1 Blocked", "payload.message.tag": "x"}
    sandbox.trigger("failed", to="new@example.com", set=changes)
    (event,) = tracking
    assert event.recipient == "new@example.com"
    assert (event.reject_reason, event.tags) == ("blocked", ["x"])
    with pytest.raises(ValueError, match=r"nothing at 'payload\.nope\.x'"):
        sandbox.trigger("failed", set={"payload.nope.x": 1})


@pytest.mark.parametrize(
    "name", ["webhooks/MessageHeld-suppressed", "inbound/raw-form"]
)
def test_replayed_requests_are_signed_again(
    sandbox: Sandbox,
    send: Send,
    tracking: list[Any],
    inbound: list[Any],
    name: str,
) -> None:
    request = sandbox.replay(CAPTURES / f"{name}.body")
    assert request.state == "taken"
    assert len(tracking) + len(inbound) == 1


def test_only_events_and_mails_can_be_posted(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="neither an event nor a mail"):
        sandbox.post(b'{"a": 1}')


# ---- time


def test_wait_for_advances_the_clock(sandbox: Sandbox, send: Send) -> None:
    send("delayed@example.com")
    began = sandbox.clock.now()
    request = sandbox.wait_for("delivered", to="delayed@example.com")
    assert request.event == "MessageSent"
    assert sandbox.clock.now() - began == pytest.approx(301)
    with pytest.raises(AssertionError, match=r"no MessageBounced .* MessageSent to"):
        sandbox.wait_for("bounced")


def test_a_fast_clock_advances_by_itself(
    make_app: MakeApp, signing_key: SigningKey
) -> None:
    with Sandbox(key=signing_key, clock=Clock(speed=1000)) as sandbox:
        app, postal = make_app(**sandbox.settings())
        sandbox.deliver_to(app)
        with app.app_context():
            postal.send(Message("Hi", "delayed@b.c", body="x", sender="d@e.f"))
        assert sandbox.wait_for("delivered").attempts[0].status == 200
        with pytest.raises(ConfigurationError, match="runs by itself"):
            sandbox.advance(seconds=1)


def test_a_second_wait_for_returns_the_next_event(sandbox: Sandbox, send: Send) -> None:
    first = send()
    one = sandbox.wait_for("delivered", to="ana@example.com")
    second = send()
    two = sandbox.wait_for("delivered", to="ana@example.com")
    ids = [request.payload["message"]["id"] for request in (one, two)]
    assert ids == [first.id, second.id]


def test_wait_for_ends_even_if_receivers_send_more_messages(
    sandbox: Sandbox, send: Send
) -> None:
    def again(app: Flask, **extra: Any) -> None:
        send()

    send()
    with (
        tracking_received.connected_to(again),
        pytest.raises(AssertionError, match="no MessageBounced webhook was posted"),
    ):
        sandbox.wait_for("bounced", timeout=0.3)


def test_a_receiver_may_advance_the_clock(
    sandbox: Sandbox, send: Send, tracking: list[Any]
) -> None:
    def move(app: Flask, **extra: Any) -> None:
        sandbox.advance(seconds=10)

    send("opened@example.com")
    with tracking_received.connected_to(move):
        sandbox.advance(seconds=1)
    assert sorted(event_types(tracking)) == ["delivered", "opened"]


def test_malformed_events_do_not_stop_the_sandbox(sandbox: Sandbox, send: Send) -> None:
    for body in (b'{"event":"x"}', b'{"event":"x","payload":[{}]}'):
        assert sandbox.post(body).recipient is None
    sandbox.trigger("delivered", set={"payload": 1})
    send()
    assert sandbox.wait_for("delivered", to="ana@example.com").state == "taken"


def test_the_clock_continues_after_a_restart(
    tmp_path: Path, signing_key: SigningKey
) -> None:
    """Otherwise, an event due in a minute could be hours late after a fast clock."""
    with Sandbox(folder=tmp_path, key=signing_key, clock=Clock(speed=10_000)) as fast:
        fast.tracking_url = f"{refusing()}/"
        time.sleep(0.2)
        seen = fast.clock.now()
    assert seen > time.time() + 500
    with Sandbox(folder=tmp_path, key=signing_key) as again:
        assert 0 <= again.clock.now() - seen < 3600


def test_the_log_names_mails_faults_and_tenants(
    sandbox: Sandbox, send: Send, caplog: pytest.LogCaptureFixture
) -> None:
    sandbox.fault("foreign", times=1)
    sent = send()
    sandbox.advance(seconds=1)
    assert f"message {sent.id} to 'ana@example.com'" in caplog.text
    assert "fault foreign applies to MessageSent" in caplog.text
    assert "(of another tenant) -> 401" in caplog.text


# ---- failures


def test_an_app_that_raises_counts_as_no_response(sandbox: Sandbox, send: Send) -> None:
    deliver, failures = sandbox.target, [RuntimeError("the first time")]

    def call(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        if failures:
            raise failures.pop()
        return deliver(url, body, headers)

    sandbox.call_with(call)
    send()
    sandbox.advance(minutes=3)
    (request,) = sandbox.requests
    assert [a.status for a in request.attempts] == [-2, 200]


def test_interrupted_jobs_are_finished_after_a_crash(
    tmp_path: Path, signing_key: SigningKey
) -> None:
    class Killed(BaseException):
        pass

    def die(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        raise Killed("killed")

    def open_sandbox() -> Sandbox:
        return Sandbox(
            folder=tmp_path,
            key=signing_key,
            clock=ManualClock(),
            tracking=False,
            tracking_url=f"{refusing()}/",
        )

    sandbox = open_sandbox()
    sandbox.call_with(die)
    sandbox.accept(["a@b.c"], b"Subject: x\r\n\r\n", subject="x")
    with pytest.raises(Killed, match="killed"):
        sandbox.advance(seconds=1)
    again = open_sandbox()
    again.call_with(lambda url, body, headers: WebhookResponse(200, ""))
    again.advance(seconds=5)
    assert [request.state for request in again.requests] == ["taken"]


def test_retries_of_events_use_the_original_url(sandbox: Sandbox) -> None:
    """Retries of inbound mail use the current URL, as with a real Postal."""
    called: list[str] = []

    def call(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        called.append(url.rpartition("/")[2])
        return WebhookResponse(500, "")

    sandbox.call_with(call)
    sandbox.tracking_url = f"{refusing()}/old"
    sandbox.trigger("delivered")
    sandbox.tracking_url = None
    sandbox.inbound_url = f"{refusing()}/yesterday"
    sandbox.receive(compose_mail(to="a@b.c"), to="a@b.c")
    sandbox.inbound_url = f"{refusing()}/today"
    sandbox.advance(minutes=5)
    assert called == ["old", "yesterday", "old", "today", "old"]


def test_a_mail_nobody_can_parse_is_delivered(sandbox: Sandbox) -> None:
    deep = b"".join(
        b"Content-Type: multipart/mixed; boundary=b%d\r\n\r\n--b%d\r\n" % (n, n)
        for n in range(1500)
    )
    sandbox.accept(["a@b.c"], b"Subject: x\r\n" + deep, subject="x")
    sandbox.advance(seconds=1)
    assert sandbox.messages[0].status == "Sent"


@pytest.mark.parametrize("link", ["https://[bad", "https://x:99999/"])
def test_an_invalid_link_can_be_tracked(
    sandbox: Sandbox, send: Send, link: str
) -> None:
    send(html=f"<a href='{link}'>x</a>")
    sandbox.advance(seconds=1)
    html = described_mail(sandbox)["html_body"]
    url = html.partition("href='")[2].partition("'")[0]
    assert requests.get(url, allow_redirects=False, timeout=5).status_code in (307, 404)


def test_a_slow_response_is_a_timeout(monkeypatch: pytest.MonkeyPatch) -> None:
    """The five seconds are the limit for the whole exchange."""
    monkeypatch.setattr(webhook_client, "TIMEOUT", 0.4)

    def drip(exchange: Exchange) -> bool:
        exchange.read_body()
        exchange.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 9\r\n\r\n")
        for _ in range(9):
            time.sleep(0.2)
            with contextlib.suppress(OSError):
                exchange.connection.sendall(b"x")
        return False

    with loopback(drip) as server:
        began = time.monotonic()
        assert call_url(server.url, b"{}", {}).status == -1
        assert time.monotonic() - began < 1


def test_stop_does_not_wait_for_jobs_that_are_due(signing_key: SigningKey) -> None:
    started = threading.Event()

    def slow(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        started.set()
        time.sleep(0.3)
        return WebhookResponse(200, "")

    with Sandbox(key=signing_key, clock=Clock(speed=1000)) as sandbox:
        sandbox.call_with(slow)
        sandbox.tracking_url = f"{refusing()}/"
        sandbox.accept(["a@b.c"] * 20, b"Subject: x\r\n\r\n", subject="x")
        assert started.wait(10)
        began = time.monotonic()
    assert time.monotonic() - began < 2


# ---- safety


def test_a_taken_port_is_explained(sandbox: Sandbox) -> None:
    port = int(sandbox.url.rpartition(":")[2])
    with pytest.raises(ConfigurationError, match=f"can't listen on port {port}"):
        Sandbox(port=port, key=sandbox.key).start()


def test_inbound_mail_that_is_too_large_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ValueError, match="at most 26,214,400 are accepted"):
        sandbox.receive(b"x" * 27_000_000, to="a@b.c")


def test_a_rotated_key_is_saved(tmp_path: Path) -> None:
    rotated = Sandbox(folder=tmp_path).rotate_key()
    assert Sandbox(folder=tmp_path).key.public == rotated.public


@pytest.mark.parametrize(
    "url",
    [
        "http://example.com/",
        "https://127.0.0.1/",
        "http://127.0.0.1.example.com/",
        "http://127.0.0.1@example.com/",
        "http://10.0.0.1/",
        "ftp://localhost/",
    ],
)
def test_only_loopback_urls_are_accepted(sandbox: Sandbox, url: str) -> None:
    for hook in ("tracking_url", "inbound_url"):
        with pytest.raises(ConfigurationError, match="calls loopback URLs only"):
            setattr(sandbox, hook, url)
    with pytest.raises(ConfigurationError, match="loopback URLs only"):
        call_url(url, b"", {})


def test_redirects_of_webhooks_are_not_followed(sandbox: Sandbox) -> None:
    act = answering("308 Permanent Redirect", b"", f"Location: {refusing()}/")
    with loopback(act) as server:
        sandbox.inbound_url = server.url
        request = sandbox.receive(compose_mail(to="a@b.c"), to="a@b.c")
    assert request.attempts[0].status == 308


def test_a_webhook_times_out_after_five_seconds(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    assert webhook_client.TIMEOUT == 5
    monkeypatch.setattr(webhook_client, "TIMEOUT", 0.1)
    with loopback(hang) as server:
        assert call_url(server.url, b"{}", {}).status == -1


def test_keys_are_saved_and_readable_by_their_owner_only(tmp_path: Path) -> None:
    first = Sandbox(folder=tmp_path)
    second = Sandbox(folder=tmp_path)
    assert first.key.public == second.key.public
    assert first.api_key == second.api_key
    assert first.api_key.startswith("sandbox-")
    file = tmp_path / "postal-sandbox.key"
    for secret in (file, tmp_path / "postal-sandbox.sqlite"):
        assert stat.S_IMODE(os.stat(secret).st_mode) == 0o600
    file.write_text("nonsense")
    with pytest.raises(ConfigurationError, match="delete it"):
        Sandbox(folder=tmp_path)


def test_mails_are_kept_after_a_restart(
    tmp_path: Path, signing_key: SigningKey
) -> None:
    with Sandbox(folder=tmp_path, clock=ManualClock()) as sandbox:
        sandbox.accept(
            ["a@b.c"],
            b"Subject: x\r\n\r\nHi",
            sender="d@e.f",
            subject="x",
        )
    with Sandbox(folder=tmp_path, clock=ManualClock()) as again:
        (mail,) = again.messages
        assert mail.content.text == "Hi"
        again.clear()
        assert not again.messages


def test_only_the_newest_mails_are_kept(sandbox: Sandbox) -> None:
    for _ in range(MAX_MAILS + 3):
        sandbox.accept(
            ["a@b.c"],
            b"Subject: x\r\n\r\n",
            sender=None,
            subject="x",
        )
    ids = [mail.id for mail in sandbox.messages]
    assert ids == list(range(4, MAX_MAILS + 4))


def test_an_unknown_format_is_refused(sandbox: Sandbox) -> None:
    (mail,) = sandbox.accept(["a@b.c"], b"Subject: x\r\n\r\nHi")
    with pytest.raises(ValueError, match="unknown format 'json'; use one of raw-json"):
        inbound_request(mail, "json")


def test_an_app_without_webhooks_is_refused(sandbox: Sandbox) -> None:
    with pytest.raises(ConfigurationError, match="register_blueprint"):
        sandbox.deliver_to(Flask("x"))


@pytest.mark.parametrize(("debug", "testing"), [(True, False), (False, True)])
def test_using_a_sandbox_in_production_is_warned_about(
    sandbox: Sandbox, caplog: pytest.LogCaptureFixture, debug: bool, testing: bool
) -> None:
    def send(**flags: bool) -> None:
        app = Flask("x")
        for name, value in flags.items():
            setattr(app, name, value)
        app.config.update(sandbox.settings())
        postal = Postal(app)
        with app.app_context():
            for _ in range(2):
                postal.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))

    send(debug=debug, testing=testing)
    assert "is a sandbox" not in caplog.text
    send()
    assert caplog.text.count("POSTAL_API_KEY is a sandbox's") == 1


# ---- limits of what is stored


def test_the_oldest_mails_are_deleted_beyond_the_size_limit(
    sandbox: Sandbox, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_postal.sandbox.store.MAX_BYTES", 50_000)
    for number in range(10):
        send(body=f"mail {number} " + "x" * 10_000)
    texts = [str(mail.content.text)[:6] for mail in sandbox.messages]
    assert 2 <= len(texts) <= 4
    assert texts[-1] == "mail 9"


def test_the_newest_mail_is_kept_even_beyond_the_size_limit(
    sandbox: Sandbox, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_postal.sandbox.store.MAX_BYTES", 50_000)
    send(body="small")
    send(body="large" + "x" * 100_000)
    sandbox.advance(seconds=5)
    assert [str(m.content.text)[:5] for m in sandbox.messages] == ["large"]


def test_the_number_of_requests_about_one_mail_is_limited(
    sandbox: Sandbox, send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_postal.sandbox.store.MAX_REQUESTS", 5)
    send()
    sandbox.advance(seconds=5)
    (mail,) = sandbox.messages
    for _ in range(10):
        sandbox.happen(mail, "opened")
        sandbox.advance(seconds=1)
    assert len(sandbox.requests) == 5
    assert sandbox.requests[-1].event == "MessageLoaded"
    assert sandbox.requests[-1].attempts
