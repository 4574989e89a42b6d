from __future__ import annotations

import pytest
from flask import Flask

from flask_postal import (
    APIError,
    ConfigurationError,
    Message,
    MessageError,
    Postal,
    TransportError,
)
from flask_postal.sandbox import Sandbox

from .conftest import MakeApp
from .servers import refusing

WELCOME = Message(
    "Welcome", ["ana@example.com"], body="Hi", html="<p>Hi</p>", sender="a@example.com"
)


def test_send_returns_an_id_and_a_token_per_recipient(
    make_app: MakeApp, sandbox: Sandbox
) -> None:
    app, postal = make_app(**sandbox.settings())
    message = Message(
        "Grüße",
        ["Ana <ana@example.com>", ("Doe, Jane", "jane@bücher.example")],
        body="Hi",
        sender="Acme <a@example.com>",
    )
    with app.app_context():
        result = postal.send(message)
    assert list(result.recipients) == ["ana@example.com", "jane@bücher.example"]
    assert [status.id for status in result.recipients.values()] == [1, 2]
    jane = result.recipients["jane@bücher.example"]
    assert jane.token is not None
    assert len(jane.token) == 16
    assert result.recipients["jane@xn--bcher-kva.example"] is jane
    assert result.message_id is not None
    assert result.endpoint == "send/message"


@pytest.mark.parametrize("suffix", ["", "/", "/api/v1", "/api/v1/"])
def test_the_api_url_may_include_the_api_path(
    make_app: MakeApp, sandbox: Sandbox, suffix: str
) -> None:
    settings = {**sandbox.settings(), "POSTAL_API_URL": sandbox.url + suffix}
    app, postal = make_app(**settings)
    with app.app_context():
        assert len(postal.send(WELCOME).recipients) == 1


def test_a_refusal_with_http_200_is_an_api_error_with_its_code(
    make_app: MakeApp, sandbox: Sandbox
) -> None:
    wrong = "planted-Secret-0123"
    app, postal = make_app(**sandbox.settings() | {"POSTAL_API_KEY": wrong})
    with (
        app.app_context(),
        pytest.raises(APIError, match="InvalidServerAPIKey: The API token") as caught,
    ):
        postal.send(WELCOME)
    assert caught.value.code == "InvalidServerAPIKey"
    assert caught.value.http_status == 200
    assert caught.value.retryable is False
    assert wrong not in str(caught.value) + repr(caught.value)


def test_an_unreachable_server_is_a_transport_error(make_app: MakeApp) -> None:
    app, postal = make_app(POSTAL_API_URL=refusing(), POSTAL_API_KEY="k")
    with (
        app.app_context(),
        pytest.raises(TransportError, match="nothing was sent") as caught,
    ):
        postal.send(WELCOME)
    assert caught.value.maybe_sent is False


@pytest.mark.parametrize("key", ["POSTAL_API_URL", "POSTAL_API_KEY"])
def test_a_missing_setting_is_named_when_sending(
    make_app: MakeApp, sandbox: Sandbox, key: str
) -> None:
    app, postal = make_app(**sandbox.settings() | {key: ""})
    with app.app_context(), pytest.raises(ConfigurationError, match=key) as caught:
        postal.send(WELCOME)
    assert caught.value.key == key


def test_sending_without_an_app_context_is_explained(make_app: MakeApp) -> None:
    _, postal = make_app()
    with pytest.raises(ConfigurationError, match=r"with app.app_context\(\)"):
        postal.send(WELCOME)


def test_sending_without_init_app_is_explained() -> None:
    with (
        Flask("tests").app_context(),
        pytest.raises(ConfigurationError, match="did you forget to call"),
    ):
        Postal().send(WELCOME)


def test_a_second_init_app_is_refused(make_app: MakeApp) -> None:
    app, postal = make_app()
    assert app.extensions["postal"] is postal
    with pytest.raises(RuntimeError, match="already has a Postal"):
        postal.init_app(app)


@pytest.mark.parametrize(
    ("message", "field"),
    [
        (Message("Hi", [], body="x", sender="a@b.c"), "recipients"),
        (Message("Hi", ["a@b.c"], body=" ", sender="a@b.c"), "body"),
        (Message("Hi", ["a@b.c"], body="x"), "sender"),
        (Message("Hi", "a@b.c, d@e.f", body="x", sender="a@b.c"), "recipients"),
        (Message("Hi\nBcc: x@y.z", ["a@b.c"], body="x", sender="a@b.c"), "subject"),
    ],
    ids=["no recipients", "no content", "no sender", "two in one", "line feed"],
)
def test_bad_input_is_refused_with_its_field(
    make_app: MakeApp, message: Message, field: str
) -> None:
    app, postal = make_app()
    with app.app_context(), pytest.raises(MessageError, match=field) as caught:
        postal.send(message)
    assert caught.value.field == field
