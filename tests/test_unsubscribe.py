"""One click on a link in a message leaves a list; opening the link changes nothing."""

from __future__ import annotations

import base64
import hmac
import json
import pickle
import re
from collections.abc import Iterator
from email.message import EmailMessage
from typing import Any

import pytest
from cryptography.fernet import Fernet
from flask import Blueprint, Flask
from flask.testing import FlaskClient
from flask_wtf.csrf import CSRFProtect

from flask_postal import (
    ConfigurationError,
    Message,
    MessageError,
    Postal,
    message_sending,
    unsubscribed,
)
from flask_postal.sandbox import Sandbox, SigningKey
from flask_postal.testing import sandboxed

from .mails import parse

KEY = SigningKey.generate(1024)
LINK = re.compile(r"<(https://shop\.example/postal/unsubscribe/([A-Za-z0-9_-]+))>")


class App:
    """An app without a ledger, with a list of what its receiver got."""

    def __init__(self, **config: Any) -> None:
        self.app = Flask("lists")
        self.app.config.update(
            SECRET_KEY="secret",
            POSTAL_EXTERNAL_URL="https://shop.example",
            POSTAL_DEFAULT_SENDER="news@shop.example",
        )
        self.app.config.update(config)
        CSRFProtect(self.app)
        self.postal = Postal(self.app)
        self.app.register_blueprint(self.postal.blueprint)
        self.events: list[Any] = []
        unsubscribed.connect(self.on_unsubscribed, sender=self.app)

    def on_unsubscribed(self, app: Flask, event: Any, **extra: Any) -> None:
        self.events.append(event)

    def prepared(self, **changes: Any) -> Any:
        with self.app.app_context():
            prepared = self.postal.prepare(message(**changes))
        return json.loads(b"".join(prepared.body.pieces()))

    def link(self, address: str = "ana@example.com", name: str = "news") -> str:
        with self.app.app_context():
            return self.postal.unsubscribe_url(address, name)

    def client(self) -> FlaskClient:
        return self.app.test_client()


def message(**changes: Any) -> Message:
    fields = {"subject": "News", "recipients": "ana@example.com", "body": "x"}
    return Message(**{**fields, "unsubscribe": "news", **changes})


@pytest.fixture
def shop() -> App:
    return App()


@pytest.fixture
def sandbox(shop: App) -> Iterator[Sandbox]:
    with shop.app.app_context(), sandboxed(shop.app, key=KEY) as found:
        yield found


# ---- the headers


@pytest.mark.parametrize("raw", [False, True])
def test_a_message_gets_both_headers(shop: App, raw: bool) -> None:
    changes = {"message_id": "a@b.example"} if raw else {}
    fields = shop.prepared(**changes)
    headers: Any = fields.get("headers")
    if raw:
        headers = parse(base64.b64decode(fields["data"]))
        assert isinstance(headers, EmailMessage)
        source = base64.b64decode(fields["data"])
        # One line, so that no mail program can put a space into the link.
        assert re.search(rb"(?m)^List-Unsubscribe:\s+<https://[!-~]+>\r$", source)
    assert LINK.fullmatch(headers["List-Unsubscribe"].strip())
    assert headers["List-Unsubscribe-Post"] == "List-Unsubscribe=One-Click"


def test_the_link_names_nobody(shop: App) -> None:
    link = shop.link("ana@example.com", "news")
    token = link.rpartition("/")[2]
    content = base64.urlsafe_b64decode(token + "=" * (-len(token) % 4))
    for text in (link.encode(), content):
        for word in (b"ana", b"example.com", b"news"):
            assert word not in text.replace(b"shop.example", b"")
    assert link != shop.link("ana@example.com", "news")


def test_each_recipient_of_a_batch_has_a_link(shop: App, sandbox: Sandbox) -> None:
    names = ["ana@example.com", "bo@example.com"]
    for outcome in shop.postal.send_batch(message(recipients=names)):
        assert outcome.error is None
    for mail in sandbox.messages:
        header = mail.content.header("List-Unsubscribe") or ""
        assert shop.client().post(header.strip("<>")).status_code == 200
    assert sorted(event.recipient for event in shop.events) == names


def test_a_template_has_the_link(shop: App, tmp_path: Any) -> None:
    (tmp_path / "news.txt").write_text("Leave: {{ unsubscribe_url }}")
    shop.app.jinja_loader.searchpath.append(str(tmp_path))  # type: ignore[union-attr]
    body = shop.prepared(body=None, template="news")["plain_body"]
    link = body.removeprefix("Leave: ")
    assert shop.client().post(link).status_code == 200
    assert shop.events[0].recipient == "ana@example.com"


def test_it_survives_queues() -> None:
    first = message(ignore_suppression=True)
    for other in (
        Message.from_dict(first.to_dict()),
        pickle.loads(pickle.dumps(first)),
    ):
        assert (other.unsubscribe, other.ignore_suppression) == ("news", True)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"recipients": ["ana@example.com", "bo@example.com"]}, "send_batch"),
        ({"cc": "bo@example.com"}, "send_batch"),
        ({"bcc": "bo@example.com"}, "send_batch"),
        ({"unsubscribe": ""}, "1 to 100"),
        ({"unsubscribe": " news"}, "spaces"),
        ({"unsubscribe": "x" * 101}, "1 to 100"),
        ({"unsubscribe": "a\nb"}, "printable"),
        ({"unsubscribe": True}, "string"),
        ({"extra_headers": {"list-unsubscribe": "<mailto:x@y>"}}, "leave one"),
        ({"ignore_suppression": "yes"}, "True, False"),
    ],
)
def test_what_makes_no_sense_is_refused(
    shop: App, changes: dict[str, Any], words: str
) -> None:
    with pytest.raises(MessageError, match=words):
        shop.prepared(**changes)


@pytest.mark.parametrize(
    ("config", "words"),
    [
        ({"POSTAL_EXTERNAL_URL": None}, "POSTAL_EXTERNAL_URL"),
        ({"POSTAL_EXTERNAL_URL": "http://shop.example"}, "https"),
        ({"SECRET_KEY": None}, "SECRET_KEY"),
        ({"SECRET_KEY": ""}, "SECRET_KEY"),
    ],
)
def test_what_is_missing_is_named(config: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigurationError, match=words):
        App(**config).prepared()


def test_without_the_blueprint_there_is_no_link() -> None:
    app = Flask("bare")
    app.config.update(SECRET_KEY="x", POSTAL_EXTERNAL_URL="https://shop.example")
    postal = Postal(app)
    with app.app_context(), pytest.raises(ConfigurationError, match="blueprint"):
        postal.unsubscribe_url("ana@example.com", "news")


@pytest.mark.parametrize("value", ["shop.example", "ftp://shop.example", 7])
def test_the_url_of_the_app_is_checked(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="POSTAL_EXTERNAL_URL"):
        App(POSTAL_EXTERNAL_URL=value)


def test_the_url_of_a_request_is_used_without_the_setting() -> None:
    shop = App(POSTAL_EXTERNAL_URL=None)
    for url, expected in (
        ("https://shop.example/app/", "https://shop.example/app/postal/unsubscribe/"),
        ("http://localhost:5000/", "http://localhost:5000/postal/unsubscribe/"),
    ):
        with shop.app.test_request_context("/", base_url=url):
            link = shop.postal.unsubscribe_url("ana@example.com", "news")
        assert link.startswith(expected)
    with (
        shop.app.test_request_context("/", base_url="http://shop.example/"),
        pytest.raises(ConfigurationError, match="https"),
    ):
        shop.postal.unsubscribe_url("ana@example.com", "news")


# ---- the page


def test_opening_the_link_changes_nothing(shop: App) -> None:
    client, link = shop.client(), shop.link()
    for method in ("get", "head", "options"):
        answer = getattr(client, method)(link)
        assert answer.status_code == 200
    page = client.get(link)
    assert page.text.count("<button") == 1
    assert "“news”" in page.text
    assert "ana@example.com" not in page.text
    assert shop.events == []
    for name in ("Cache-Control", "Content-Security-Policy", "Referrer-Policy"):
        assert name in page.headers


@pytest.mark.parametrize("data", [{"List-Unsubscribe": "One-Click"}, None])
def test_a_post_leaves_the_list(shop: App, data: dict[str, str] | None) -> None:
    """Without a cookie or a CSRF token, which mail programs don't have."""
    answer = shop.client().post(shop.link("Ana@Bücher.example"), data=data)
    assert answer.status_code == 200
    assert "no more mail of “news”" in answer.text
    (event,) = shop.events
    assert (event.recipient, event.list) == ("Ana@xn--bcher-kva.example", "news")
    assert (event.source, event.token) == ("link", None)
    assert event.timestamp.tzinfo is not None


def test_who_has_come_back_can_leave_again(shop: App) -> None:
    client, link = shop.client(), shop.link()
    client.post(link)
    client.post(link)
    assert len(shop.events) == 2
    assert shop.events[0].dedupe_key != shop.events[1].dedupe_key


def test_a_name_of_a_list_is_text_on_the_page(shop: App) -> None:
    page = shop.client().get(shop.link(name="<b>News & more</b>"))
    assert "&lt;b&gt;News &amp; more&lt;/b&gt;" in page.text


def test_a_link_of_another_app_server_or_purpose_is_not_valid(shop: App) -> None:
    token = shop.link().rpartition("/")[2]
    middle = len(token) // 2
    swapped = "B" if token[middle] == "A" else "A"
    others = [
        App(SECRET_KEY="other").link().rpartition("/")[2],
        token[:middle] + swapped + token[middle + 1 :],
        *(token[:-1], token[1:], "x", "é", "x" * 3000, "%00", "..", "=" * 8),
    ]
    for other in others:
        for method in ("get", "post"):
            answer = getattr(shop.client(), method)(f"/postal/unsubscribe/{other}")
            assert answer.status_code == 404, other
    assert shop.events == []


def test_links_of_an_earlier_secret_are_valid_as_long_as_it_is_kept() -> None:
    link = App(SECRET_KEY="old").link()
    assert App(SECRET_KEY="new").client().post(link).status_code == 404
    shop = App(SECRET_KEY="new", SECRET_KEY_FALLBACKS=["older", "old"])
    assert shop.client().post(link).status_code == 200
    assert len(shop.events) == 1


def test_links_of_one_postal_are_not_valid_for_another() -> None:
    shop = App(POSTAL_B_EXTERNAL_URL="https://shop.example/app")
    other = Postal(shop.app, name="b")
    shop.app.register_blueprint(other.blueprint)
    with shop.app.app_context():
        link = other.unsubscribe_url("ana@example.com", "news")
    assert link.startswith("https://shop.example/app/postal/b/unsubscribe/")
    token = link.rpartition("/")[2]
    assert shop.client().post(f"/postal/unsubscribe/{token}").status_code == 404
    assert shop.client().post(f"/postal/b/unsubscribe/{token}").status_code == 200


def test_a_receiver_that_fails_is_not_told_as_success(shop: App) -> None:
    def failing(app: Flask, event: Any, **extra: Any) -> None:
        raise ValueError("not now")

    with unsubscribed.connected_to(failing, sender=shop.app):
        answer = shop.client().post(shop.link())
    assert answer.status_code == 503
    assert "try again" in answer.text


def test_without_a_receiver_nobody_is_told_that_it_worked(
    shop: App, caplog: pytest.LogCaptureFixture
) -> None:
    unsubscribed.disconnect(shop.on_unsubscribed, sender=shop.app)
    assert shop.client().post(shop.link()).status_code == 503
    assert "no receiver is connected for UnsubscribeEvent" in caplog.text


def test_an_app_can_have_a_page_of_its_own(shop: App, tmp_path: Any) -> None:
    (tmp_path / "postal").mkdir()
    (tmp_path / "postal" / "unsubscribe.html").write_text("{{ state }}: {{ list }}")
    shop.app.jinja_loader.searchpath.append(str(tmp_path))  # type: ignore[union-attr]
    assert shop.client().get(shop.link()).text == "ask: news"


# ---- where the page is


def test_an_empty_earlier_secret_is_none() -> None:
    shop = App(SECRET_KEY_FALLBACKS=[None, ""])
    key = hmac.digest(b"", b"flask-postal unsubscribe postal", "sha256")
    forged = Fernet(base64.urlsafe_b64encode(key)).encrypt(b'["news", "a@b.example"]')
    answer = shop.client().post(f"/postal/unsubscribe/{forged.decode().rstrip('=')}")
    assert (answer.status_code, shop.events) == (404, [])


def test_a_secret_that_is_a_number_is_its_digits() -> None:
    link = App(SECRET_KEY=12345).link()
    assert App(SECRET_KEY="12345").client().post(link).status_code == 200
    assert App(SECRET_KEY=b"\0" * 12345).client().post(link).status_code == 404


@pytest.mark.parametrize(
    ("options", "registered", "path"),
    [
        ({}, {"url_prefix": "/mail"}, "/mail/unsubscribe/"),
        ({}, {"name": "hooks"}, "/postal/unsubscribe/"),
        ({"subdomain_matching": True}, {"subdomain": "m"}, "/postal/unsubscribe/"),
        ({"host_matching": True, "static_host": "a"}, {}, "/postal/unsubscribe/"),
    ],
)
def test_the_link_leads_to_the_page_wherever_it_is(
    options: dict[str, Any], registered: dict[str, Any], path: str
) -> None:
    app = Flask("elsewhere", **options)
    app.config.update(
        SECRET_KEY="secret",
        SERVER_NAME="shop.example",
        POSTAL_EXTERNAL_URL="https://shop.example",
    )
    postal = Postal(app)
    app.register_blueprint(postal.blueprint, **registered)
    with app.app_context():
        link = postal.unsubscribe_url("ana@example.com", "news")
    assert link.startswith(f"https://shop.example{path}")


def test_a_page_of_the_app_with_the_same_name_is_not_ours() -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY="x", POSTAL_EXTERNAL_URL="https://shop.example")
    outer, inner = Blueprint("shop", "x"), Blueprint("postal", "x")
    inner.add_url_rule("/mine/<token>", "unsubscribe", lambda token: token)
    outer.register_blueprint(inner)
    app.register_blueprint(outer)
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    with app.app_context():
        link = postal.unsubscribe_url("ana@example.com", "news")
    assert link.startswith("https://shop.example/postal/unsubscribe/")


def test_a_prefix_with_a_variable_is_refused_with_a_cure() -> None:
    app = Flask("shop")
    app.config.update(SECRET_KEY="x", POSTAL_EXTERNAL_URL="https://shop.example")
    postal = Postal(app)
    app.register_blueprint(postal.blueprint, url_prefix="/<lang>/postal")
    with app.app_context(), pytest.raises(ConfigurationError, match="url_prefix"):
        postal.unsubscribe_url("ana@example.com", "news")


@pytest.mark.parametrize(
    "letter", ["x", "\xfc", "\u65b0", "\U0001f600"], ids=["ascii", "ue", "cjk", "emoji"]
)
def test_the_longest_link_is_valid(shop: App, letter: str) -> None:
    address = f"{'a' * 64}@{'.'.join(['b' * 60] * 3)}.example"
    link = shop.link(address, letter * 100)
    assert shop.client().post(link).status_code == 200
    assert (shop.events[0].recipient, shop.events[0].list) == (address, letter * 100)


def test_a_template_that_a_receiver_has_set_has_the_link(
    shop: App, tmp_path: Any
) -> None:
    (tmp_path / "news.txt").write_text("Leave: {{ unsubscribe_url }}")
    shop.app.jinja_loader.searchpath.append(str(tmp_path))  # type: ignore[union-attr]

    def receiver(app: Flask, message: Message, **extra: Any) -> None:
        message.body, message.template = None, "news"

    with (
        message_sending.connected_to(receiver, sender=shop.app),
        shop.app.app_context(),
        sandboxed(shop.app, key=KEY) as sandbox,
    ):
        shop.postal.send(message())
        assert "https://shop.example/postal" in (sandbox.messages[0].content.text or "")
