from __future__ import annotations

import threading
from typing import Any

import pytest
import requests
from flask import Flask
from werkzeug.serving import make_server

from flask_postal import ConfigurationError, Message, Postal, tracking_received
from flask_postal.sandbox import Sandbox
from flask_postal.sandbox.webhook_bodies import serialize
from flask_postal.webhooks.keys import load_keys

from .captures import JWKS, Recorded
from .conftest import MakeApp


def test_sending_a_message_triggers_a_signed_event(
    make_app: MakeApp, sandbox: Sandbox, tracking: list[Any]
) -> None:
    app, postal = make_app(**sandbox.settings())
    arrived = threading.Event()

    def notice(app: Flask, **extra: Any) -> None:
        arrived.set()

    server = make_server("127.0.0.1", 0, app, threaded=True)
    thread = threading.Thread(target=server.serve_forever, args=(0.02,))
    thread.start()
    try:
        sandbox.tracking_url = f"http://127.0.0.1:{server.port}/postal/tracking/"
        with tracking_received.connected_to(notice), app.app_context():
            result = postal.send(
                Message("Hi", "ana@example.com", body="x", sender="a@example.com")
            )
            assert arrived.wait(10)
    finally:
        server.shutdown()
        thread.join()
        server.server_close()
    (event,) = tracking
    sent = result.recipients["ana@example.com"]
    assert event.event_type == "delivered"
    assert (event.id, event.token) == (sent.id, sent.token)
    assert event.message_id == result.message_id


def test_jwks_serves_the_key_that_signs(sandbox: Sandbox) -> None:
    answer = requests.get(f"{sandbox.url}/.well-known/jwks.json", timeout=5).json()
    assert answer.keys() == JWKS.keys()
    assert answer["keys"][0].keys() == JWKS["keys"][0].keys()
    assert load_keys(answer) == (sandbox.key.public,)


@pytest.mark.parametrize(
    "name", ["MessageSent", "MessageLoaded", "MessageBounced", "DomainDNSError"]
)
def test_webhook_bodies_are_serialized_as_by_postal(name: str) -> None:
    import json

    body = Recorded.load(f"webhooks/{name}").body
    assert serialize(json.loads(body)) == body


def test_the_sandbox_posts_to_loopback_only() -> None:
    with pytest.raises(ConfigurationError, match="loopback URLs only"):
        Sandbox(tracking_url="http://example.com/postal/tracking/")


def test_an_invalid_url_is_a_configuration_error() -> None:
    for url in ("http://[127.0.0.1]/", "http://u:geheim@[::1/", "127.0.0.1:5000"):
        with pytest.raises(ConfigurationError, match="such as http://127") as raised:
            Sandbox(tracking_url=url)
        assert "geheim" not in str(raised.value)


def test_a_sandbox_can_be_started_and_stopped_repeatedly() -> None:
    sandbox = Sandbox()
    sandbox.stop()
    with pytest.raises(ConfigurationError, match=r"call start\(\) first"):
        sandbox.settings()
    for _ in range(2):
        assert sandbox.start().url == sandbox.start().url
        assert requests.get(f"{sandbox.url}/.well-known/jwks.json", timeout=5).ok
        sandbox.stop()


def test_settings_are_available_for_a_named_server(sandbox: Sandbox) -> None:
    app = Flask("tests")
    app.config.update(sandbox.settings("marketing"))
    marketing = Postal(app, name="marketing")
    app.register_blueprint(marketing.blueprint)
    rules = {rule.rule for rule in app.url_map.iter_rules()}
    assert app.extensions["postal_marketing"] is marketing
    assert {"/postal/marketing/tracking/", "/postal/marketing/inbound/"} <= rules
    with app.app_context():
        result = marketing.send(Message("Hi", "a@b.c", body="x", sender="a@b.c"))
    assert result.recipients["a@b.c"].id == 1


@pytest.mark.parametrize(
    ("method", "path", "form", "status"),
    [
        ("GET", "/mail/7", {}, 404),
        ("GET", f"/mail/{'9' * 31}", {}, 404),
        ("GET", f"/mail/{'9' * 31}/html", {}, 404),
        ("POST", f"/request/{'9' * 31}/retry", {}, 404),
        ("GET", "/?q=" + "a" * 60_000, {}, 200),
        ("POST", "/mail/7/event", {"event": "opened"}, 404),
        ("POST", "/server/event", {"event": "nonsense"}, 400),
        ("POST", "/server/fault", {"fault": "500", "times": ""}, 303),
        ("POST", "/server/fault", {"fault": "500", "times": "x"}, 303),
        ("POST", "/server/fault", {"fault": "nonsense"}, 400),
        ("POST", "/server/fault", {}, 400),
        ("POST", "/compose", {}, 303),
        ("POST", "/compose", {"format": "nonsense"}, 400),
        ("POST", "/compose", {"subject": "a\x0b\u2028\x85b\0"}, 303),
        ("POST", "/compose", {"to": "=?utf-8?q?=0a?=@x.y", "from": "\n"}, 303),
        ("POST", "/clear", {}, 303),
    ],
)
def test_malformed_requests_get_a_regular_status(
    sandbox: Sandbox, method: str, path: str, form: dict[str, str], status: int
) -> None:
    client = sandbox.app.test_client()
    answer = client.open(path, method=method, data=form, base_url=sandbox.url)
    assert answer.status_code == status


def test_images_of_a_mail_are_embedded_up_to_a_limit(sandbox: Sandbox) -> None:
    image = (
        b"Content-Type: multipart/related; boundary=b\r\n\r\n--b\r\n"
        b"Content-Type: text/html\r\n\r\n"
        + b"<img src=cid:i>" * 400
        + b"\r\n--b\r\nContent-Type: image/png\r\nContent-ID: <i>\r\n\r\n"
        + b"x" * 500_000
        + b"\r\n--b--\r\n"
    )
    made = sandbox.receive(image, to="a@b.c")
    client = sandbox.app.test_client()
    page = client.get(f"/mail/{made.mail_id}/html", base_url=sandbox.url).data
    assert page.count(b"data:image/png") == 20
    assert len(page) < 20_000_000
