from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_postal import (
    Address,
    ConfigurationError,
    Message,
    MessageError,
    Postal,
    UnsupportedFeature,
)
from flask_postal.settings import Settings, read_flag

from .secret import SECRET


def read(**config: Any) -> Settings:
    values = {f"POSTAL_{key}": value for key, value in config.items()}
    return Settings.from_config(values, "POSTAL_")


def test_default_settings() -> None:
    settings = read()
    assert (settings.api_url, settings.api_key) == (None, None)
    assert settings.timeout == (5.0, 30.0)
    assert settings.connect_retries == 2
    assert settings.ignore_unsupported_features is False
    assert settings.redirect_to is None


@pytest.mark.parametrize(
    ("name", "value", "field", "expected"),
    [
        ("API_URL", "", "api_url", None),
        ("API_URL", "https://p.example.com", "api_url", "https://p.example.com"),
        ("API_URL", " https://p.example.com/ ", "api_url", "https://p.example.com"),
        ("API_URL", "http://p:81/x/api/v1/", "api_url", "http://p:81/x"),
        ("API_KEY", "", "api_key", None),
        ("API_KEY", " key ", "api_key", "key"),
        ("TIMEOUT", 7, "timeout", (7.0, 7.0)),
        ("TIMEOUT", (1, 2.5), "timeout", (1.0, 2.5)),
        ("TIMEOUT", "3", "timeout", (3.0, 3.0)),
        ("TIMEOUT", "3, 4.5", "timeout", (3.0, 4.5)),
        ("CONNECT_RETRIES", 0, "connect_retries", 0),
        ("CONNECT_RETRIES", "5", "connect_retries", 5),
        ("IGNORE_UNSUPPORTED_FEATURES", "true", "ignore_unsupported_features", True),
        ("IGNORE_UNSUPPORTED_FEATURES", "0", "ignore_unsupported_features", False),
        ("IGNORE_UNSUPPORTED_FEATURES", 1, "ignore_unsupported_features", True),
        ("REDIRECT_TO", "a@b.c", "redirect_to", Address("a@b.c")),
        ("REDIRECT_TO", "", "redirect_to", None),
        ("DEFAULT_SENDER", "A <a@b.c>", "default_sender", Address("a@b.c", "A")),
        ("DEFAULT_SENDER", ("A", "a@b.c"), "default_sender", Address("a@b.c", "A")),
        ("DEFAULT_SENDER", ["A", "a@b.c"], "default_sender", Address("a@b.c", "A")),
        ("SEND_DEFAULTS", '{"tags": "x"}', "send_defaults", {"tags": "x"}),
    ],
)
def test_values_are_read(name: str, value: Any, field: str, expected: Any) -> None:
    assert getattr(read(**{name: value}), field) == expected


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("API_URL", 5),
        ("API_URL", "postal.example.com"),
        ("API_URL", "ftp://postal.example.com"),
        ("API_URL", "https://"),
        ("API_URL", "https://user:pw@postal.example.com"),
        ("API_URL", "https://postal.example.com/?a=b"),
        ("API_URL", "https://postal.example.com:port"),
        ("API_URL", "https://postal .example.com"),
        ("API_KEY", 5),
        ("API_KEY", f"{SECRET}\n{SECRET}"),
        ("API_KEY", f"{SECRET}ü"),
        ("TIMEOUT", 0),
        ("TIMEOUT", -1),
        ("TIMEOUT", "soon"),
        ("TIMEOUT", (1, 2, 3)),
        ("TIMEOUT", (1, None)),
        ("TIMEOUT", float("inf")),
        ("TIMEOUT", []),
        ("CONNECT_RETRIES", -1),
        ("CONNECT_RETRIES", 11),
        ("CONNECT_RETRIES", 1.5),
        ("CONNECT_RETRIES", True),
        ("CONNECT_RETRIES", "two"),
        ("CA_BUNDLE", "/nowhere/ca.pem"),
        ("CA_BUNDLE", 5),
        ("IGNORE_UNSUPPORTED_FEATURES", "maybe"),
        ("IGNORE_UNSUPPORTED_FEATURES", []),
        ("SUPPRESS_SEND", "perhaps"),
        ("REDIRECT_TO", "nobody"),
        ("REDIRECT_TO", ["a@b.c", "d@e.f"]),
        ("DEFAULT_SENDER", "nobody"),
        ("SEND_DEFAULTS", "no json"),
        ("SEND_DEFAULTS", [1]),
        ("SEND_DEFAULTS", {"colour": "red"}),
        ("SEND_DEFAULTS", {"attachments": 5}),
        ("WEBHOOK_KEY", ""),
        ("WEBHOOK_KEY", "nonsense"),
        ("WEBHOOK_KEY", "-----BEGIN RSA PRIVATE KEY-----\nx"),
    ],
)
def test_a_bad_value_is_an_error_at_init_app_that_names_the_key(
    name: str, value: Any
) -> None:
    app = Flask("tests")
    app.config[f"POSTAL_{name}"] = value
    with pytest.raises(ConfigurationError, match=f"POSTAL_{name}") as caught:
        Postal(app)
    assert caught.value.key == f"POSTAL_{name}"
    assert SECRET not in str(caught.value)
    assert "postal" not in app.extensions


def test_the_default_sender_of_flask_mail_is_used() -> None:
    config = {"MAIL_DEFAULT_SENDER": ("M", "m@example.com")}
    sender = Settings.from_config(config, "POSTAL_").default_sender
    assert sender == Address("m@example.com", "M")
    config["POSTAL_DEFAULT_SENDER"] = ("P", "p@example.com")
    sender = Settings.from_config(config, "POSTAL_").default_sender
    assert sender == Address("p@example.com", "P")
    with pytest.raises(ConfigurationError, match="MAIL_DEFAULT_SENDER"):
        Settings.from_config({"MAIL_DEFAULT_SENDER": "nobody"}, "POSTAL_")


def test_a_ca_bundle_may_be_a_path_object(tmp_path: Path) -> None:
    assert read(CA_BUNDLE=tmp_path).ca_bundle == str(tmp_path)


def test_settings_can_be_loaded_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("FLASK_POSTAL_API_URL", "https://postal.example.com")
    monkeypatch.setenv("FLASK_POSTAL_API_KEY", "key")
    monkeypatch.setenv("FLASK_POSTAL_TIMEOUT", "[3, 9]")
    monkeypatch.setenv("FLASK_POSTAL_SUPPRESS_SEND", "true")
    app = Flask("tests")
    app.config.from_prefixed_env()
    postal = Postal(app)
    with app.app_context():
        assert postal.settings.timeout == (3.0, 9.0)
    assert read_flag(app.config, "POSTAL_SUPPRESS_SEND", default=False) is True


def test_the_keys_contain_the_name_of_the_server() -> None:
    app = Flask("tests")
    app.config["POSTAL_MARKETING_TIMEOUT"] = "never"
    with pytest.raises(ConfigurationError, match="POSTAL_MARKETING_TIMEOUT"):
        Postal(app, name="marketing")
    with pytest.raises(ConfigurationError, match="letters, digits and underscores"):
        Postal(name="no-name")


# ---- names


@pytest.mark.parametrize(
    ("key", "near"),
    [
        ("POSTAL_API_KYE", "POSTAL_API_KEY"),
        ("POSTAL_WEBHOOK_SECRETS", "POSTAL_WEBHOOK_SECRET"),
        ("POSTAL_SUPRESS_SEND", "POSTAL_SUPPRESS_SEND"),
        ("POSTAL_URL", "POSTAL_API_URL"),
        ("POSTAL_DEFAULT_SENDERS", "POSTAL_DEFAULT_SENDER"),
    ],
)
def test_a_misspelt_setting_is_warned_about_with_the_nearest_name(
    key: str, near: str, caplog: pytest.LogCaptureFixture
) -> None:
    app = Flask("tests")
    app.config[key] = "x"
    Postal(app)
    assert (
        f"'{key}' is not a setting of Flask-Postal; did you mean {near}?" in caplog.text
    )


def test_other_keys_are_not_warned_about(caplog: pytest.LogCaptureFixture) -> None:
    app = Flask("tests")
    app.config.update(
        POSTAL_API_URL="https://postal.example.com",
        POSTAL_MARKETING_API_KEY="x",
        POSTAL_MARKETING_WEBHOOK_SECRET="a:b",
        POSTAL_CODES=["1234"],
        MAIL_DEFAULT_SENDER="a@b.c",
    )
    Postal(app)
    Postal(app, name="marketing")
    assert "did you mean" not in caplog.text


def test_errors_name_the_settings_of_their_server() -> None:
    app = Flask("tests")
    postal = Postal(app, name="marketing")
    app.config["POSTAL_MARKETING_SUPPRESS_SEND"] = True
    with app.app_context():
        with pytest.raises(UnsupportedFeature, match="POSTAL_MARKETING_IGNORE_UNSUPP"):
            postal.send(Message("x", "a@b.c", body="x", sender="a@b.c", send_at=1))
        with pytest.raises(MessageError, match="POSTAL_MARKETING_DEFAULT_SENDER"):
            postal.send(Message("x", "a@b.c", body="x"))
        app.config["POSTAL_MARKETING_SUPPRESS_SEND"] = False
        with pytest.raises(ConfigurationError, match="POSTAL_MARKETING_API_URL"):
            postal.send(Message("x", "a@b.c", body="x", sender="a@b.c"))


@pytest.mark.parametrize(
    ("config", "suppressed"),
    [
        ({"MAIL_SUPPRESS_SEND": True}, True),
        ({"MAIL_SUPPRESS_SEND": "1"}, True),
        ({"MAIL_SUPPRESS_SEND": True, "POSTAL_SUPPRESS_SEND": False}, False),
        ({"MAIL_SUPPRESS_SEND": False, "TESTING": True}, True),
        ({"POSTAL_SUPPRESS_SEND": True}, True),
        ({"TESTING": True}, True),
        ({"MAIL_SUPPRESS_SEND": ""}, False),
        ({"MAIL_SUPPRESS_SEND": "perhaps", "POSTAL_SUPPRESS_SEND": "1"}, True),
        ({}, False),
    ],
)
def test_mail_suppress_send_of_flask_mail_is_respected(
    config: dict[str, Any], suppressed: bool
) -> None:
    app = Flask("tests")
    app.config.update(config, POSTAL_DEFAULT_SENDER="a@b.c")
    postal = Postal(app)
    message = Message("x", "a@b.c", body="x")
    with app.app_context():
        for send in (postal.send, lambda m: postal.deliver(postal.prepare(m))):
            if suppressed:
                assert send(message).suppressed is True
            else:
                with pytest.raises(ConfigurationError, match="API_URL was not set"):
                    send(message)


def test_an_invalid_mail_suppress_send_is_an_error() -> None:
    app = Flask("tests")
    app.config["MAIL_SUPPRESS_SEND"] = "perhaps"
    with pytest.raises(ConfigurationError, match="MAIL_SUPPRESS_SEND must be True"):
        Postal(app)
