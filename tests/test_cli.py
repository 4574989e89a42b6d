"""``flask postal check`` and ``keys``: every problem is reported, and nothing else."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import requests
from flask import Flask, redirect, request
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_wtf.csrf import CSRFProtect

from flask_postal import Postal, inbound_received, tracking_received
from flask_postal.sandbox import Sandbox

from .captures import DKIM_RECORD, KEY1024_DKIM_RECORD, KID
from .servers import answering, loopback, refusing


def receiver(app: Flask, **extra: Any) -> None:
    """Accept every event."""


def good(sandbox: Sandbox, **config: Any) -> Flask:
    """Return an app that is configured correctly."""
    app = Flask("good")
    app.config.update(
        sandbox.settings(),
        POSTAL_WEBHOOK_SECRET="user:password",
        POSTAL_DEFAULT_SENDER="a@b.c",
        SECRET_KEY="x",
    )
    app.config.update(config)
    app.register_blueprint(Postal(app).blueprint)
    tracking_received.connect(receiver, sender=app)
    inbound_received.connect(receiver, sender=app)
    return app


def run(app: Flask, *arguments: str) -> tuple[int, str]:
    result = app.test_cli_runner().invoke(args=["postal", *arguments])
    assert result.exception is None or isinstance(result.exception, SystemExit)
    return result.exit_code, result.output


def test_a_correctly_configured_app_passes(sandbox: Sandbox) -> None:
    code, output = run(good(sandbox), "check")
    # The sandbox is the only warning; it is one because `flask --debug` is off.
    assert "warning  this is a sandbox, which delivers no mail" in output
    assert (code, output.count("error"), output.count("warning")) == (0, 0, 1), output
    assert f"{sandbox.url} accepts the API key" in output
    assert f"webhook key {sandbox.key.public.kid}, 2048 bits" in output
    assert "tracking-received: 1 receiver(s)" in output
    assert "/postal/inbound/ is routed to Flask-Postal" in output
    assert sandbox.api_key not in output


def test_a_key_that_postal_does_not_sign_with_is_reported(sandbox: Sandbox) -> None:
    code, output = run(good(sandbox, POSTAL_WEBHOOK_KEY=DKIM_RECORD), "check")
    assert code == 1
    assert "POSTAL_WEBHOOK_KEY is not the key that Postal signs with" in output
    assert f"Postal serves {sandbox.key.public.kid}" in output
    assert "postal default-dkim-record" in output
    key = sandbox.key.record()
    both = [DKIM_RECORD, key]
    for keys in (key, both):
        code, output = run(good(sandbox, POSTAL_WEBHOOK_KEY=keys), "check")
        assert (code, "Postal signs with this key" in output) == (0, True), output


def test_the_key_is_not_compared_if_postal_serves_none(sandbox: Sandbox) -> None:
    with loopback(answering("404 Not Found")) as server:
        app = good(sandbox, POSTAL_API_URL=server.url, POSTAL_WEBHOOK_KEY=DKIM_RECORD)
        _, output = run(app, "check")
    assert "not compared, because Postal serves no keys" in output
    assert "not the key that Postal signs with" not in output


def login_required(app: Flask) -> None:
    @app.before_request
    def require_login() -> Any:
        return redirect("/login")


def login_but_not_for_postal(app: Flask) -> None:
    @app.before_request
    def require_login() -> Any:
        if request.blueprint == "postal":
            return None
        return redirect("/login")


def limited(app: Flask) -> None:
    Limiter(get_remote_address, app=app, default_limits=["5 per day"])


def limited_but_not_postal(app: Flask) -> None:
    limiter = Limiter(get_remote_address, app=app, default_limits=["5 per day"])
    blueprint: Any = app.blueprints["postal"]
    limiter.exempt(blueprint)


def config(**values: Any) -> Callable[[Flask], None]:
    return lambda app: app.config.update(values)


@pytest.mark.parametrize(
    ("trap", "text", "without"),
    [
        (login_required, "require_login", login_but_not_for_postal),
        (limited, "a rate limiter may answer Postal", limited_but_not_postal),
        (
            config(TRUSTED_HOSTS=["app.example.com"]),
            "TRUSTED_HOSTS allows app.example.com only",
            config(TRUSTED_HOSTS=None),
        ),
    ],
    ids=["login", "limiter", "trusted hosts"],
)
@pytest.mark.filterwarnings("ignore:Using the in-memory storage")
def test_each_problem_is_reported_with_a_solution(
    sandbox: Sandbox,
    trap: Callable[[Flask], None],
    text: str,
    without: Callable[[Flask], None],
) -> None:
    app = good(sandbox)
    trap(app)
    code, output = run(app, "check")
    assert text in output
    assert "->" in output
    assert code == (0 if "TRUSTED" in text else 1)
    app = good(sandbox)
    without(app)
    code, output = run(app, "check")
    assert text not in output
    assert code == 0, output


@pytest.mark.parametrize(
    "harmless",
    [
        CSRFProtect,
        lambda app: app.register_error_handler(Exception, lambda error: "all is well"),
        config(MAX_CONTENT_LENGTH=1024),
        lambda app: app.after_request(lambda response: response),
    ],
    ids=["csrf", "error page", "length", "after"],
)
def test_app_code_that_does_not_affect_webhooks_is_not_reported(
    sandbox: Sandbox, harmless: Callable[[Flask], Any]
) -> None:
    app = good(sandbox)
    harmless(app)
    code, output = run(app, "check")
    assert (code, output.count("error")) == (0, 0), output


@pytest.mark.parametrize(
    ("settings", "code", "text", "cure"),
    [
        ({"POSTAL_API_URL": ""}, 1, "no API URL", "set POSTAL_API_URL"),
        ({"POSTAL_API_KEY": ""}, 1, "no API key", "set POSTAL_API_KEY"),
        ({"POSTAL_API_KEY": "wrong"}, 1, "InvalidServerAPIKey", "POSTAL_API_KEY"),
        ({"POSTAL_API_URL": refusing()}, 1, "can't be reached", "API_URL"),
        ({"POSTAL_WEBHOOK_SECRET": None}, 0, "one key", "set POSTAL_WEBHOOK_SECRET"),
        ({"POSTAL_DEFAULT_SENDER": None}, 0, "need sender=", "POSTAL_DEFAULT_SENDER"),
        ({"POSTAL_REDIRECT_TO": "s@t.u"}, 0, "goes to s@t.u", "unset"),
        (
            {"POSTAL_API_URL": "", "POSTAL_WEBHOOK_KEY": None},
            1,
            "no webhook can be verified",
            "postal default-dkim-record",
        ),
    ],
)
def test_missing_and_wrong_settings_are_reported(
    sandbox: Sandbox, settings: dict[str, Any], code: int, text: str, cure: str
) -> None:
    app = good(sandbox, POSTAL_CONNECT_RETRIES=0, **settings)
    exit_code, output = run(app, "check")
    assert exit_code == code
    assert text in output
    assert cure in output


def test_missing_receivers_and_blueprint_are_reported(sandbox: Sandbox) -> None:
    app = Flask("bare")
    app.config.update(sandbox.settings())
    Postal(app)
    code, output = run(app, "check")
    assert code == 1
    assert "the webhooks are not registered" in output
    assert "inbound-received: no receiver" in output
    assert "weak=False" in output


def test_the_public_url_is_requested(sandbox: Sandbox) -> None:
    app = good(sandbox)
    with loopback(answering("308 Redirect", b"")) as server:
        code, output = run(app, "check", "--url", server.url)
    assert code == 1
    assert "answers HTTP 308, but this is not a response of Flask" in output
    code, output = run(app, "check", "--url", refusing())
    assert (code, "can't be reached" in output) == (1, True)
    with loopback(answering("403 Forbidden", b"no signature [12345678]")) as server:
        code, output = run(app, "check", "--url", server.url)
    assert (code, output.count("refuses unsigned requests")) == (0, 2)
    (first, *_) = server.bodies
    assert first.headers["authorization"] == "Basic dXNlcjpwYXNzd29yZA=="
    with loopback(
        answering("401 Unauthorized", b"wrong password [12345678]")
    ) as server:
        code, output = run(app, "check", "--url", server.url)
    assert (code, output.count("expects another password")) == (1, 2)


def test_the_url_may_contain_a_password_and_a_query(sandbox: Sandbox) -> None:
    app = good(sandbox, TRUSTED_HOSTS=["127.0.0.1"])
    with loopback(answering("403 Forbidden", b"no signature [12345678]")) as server:
        url = server.url.replace("//", "//u:geheim@") + "/postal/tracking/?x=1"
        code, output = run(app, "check", "--url", url)
    assert (code, output.count("refuses unsigned requests")) == (0, 1), output
    (request,) = server.requests
    assert request.head.startswith("POST /postal/tracking/ ")


def test_the_webhook_password_is_not_sent_over_plain_http(
    sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent = []

    def post(url: str, **options: Any) -> Any:
        sent.append(options["headers"])
        raise requests.ConnectionError

    monkeypatch.setattr("requests.post", post)
    _, output = run(good(sandbox), "check", "--url", "http://app.example.com")
    assert "is plain http: the password of the webhooks would be sent" in output
    assert [headers.get("Authorization") for headers in sent] == [None, None]


def test_suppressed_sending_is_a_warning(sandbox: Sandbox) -> None:
    _, output = run(good(sandbox, MAIL_SUPPRESS_SEND=True), "check")
    assert "no mail is sent: messages are validated and then suppressed" in output


def test_a_password_in_the_url_is_not_shown(sandbox: Sandbox) -> None:
    app = good(sandbox)
    url = refusing().replace("http://", "http://user:geheim@")
    for path in ("", "/postal/tracking/", "/other/tracking/"):
        code, output = run(app, "check", "--url", url + path)
        assert code == 1
        assert "geheim" not in output
        assert "can't be reached" in output


def test_the_url_is_compared_with_the_webhook_routes(sandbox: Sandbox) -> None:
    app = good(sandbox)
    with loopback(answering("403 Forbidden", b"no signature [12345678]")) as server:
        right = f"{server.url}/postal/tracking/"
        code, output = run(app, "check", "--url", right)
        assert (code, output.count("refuses unsigned requests")) == (0, 1)
        code, output = run(app, "check", "--url", f"{server.url}/mail/inbound/")
    assert code == 1
    assert (
        f"{server.url}/mail/inbound/ is not a URL of this app: its webhooks are"
        in output
    )
    assert "/postal/inbound/ and /postal/tracking/" in output


def test_the_sandbox_urls_are_compared_with_the_webhook_routes(
    sandbox: Sandbox,
) -> None:
    app = good(sandbox)
    sandbox.tracking_url = "http://127.0.0.1:5000/mail/tracking/"
    sandbox.inbound_url = "http://127.0.0.1:5000/postal/inbound"
    code, output = run(app, "check")
    assert code == 1
    assert "tracking: the sandbox posts to /mail/tracking/, but this app has" in output
    assert "inbound: the sandbox posts" not in output


def test_a_sandbox_that_is_not_running_is_reported(sandbox: Sandbox) -> None:
    app = good(sandbox, POSTAL_API_URL=refusing())
    code, output = run(app, "check")
    assert code == 1
    assert "those of a sandbox; is it running? `flask postal sandbox`" in output


class Gone:
    """A cache whose server can't be reached."""

    def add(self, *arguments: Any) -> Any:
        raise ConnectionError("redis://u:geheim@10.0.0.1")

    get = set = delete = add


class Working(dict[str, Any]):
    """A cache with the few methods that are needed."""

    def add(self, key: str, value: Any, timeout: float) -> bool:
        return self.setdefault(key, value) is value

    def set(self, key: str, value: Any, timeout: float) -> None:
        self[key] = value

    def delete(self, key: str) -> None:
        self.pop(key, None)


def test_a_cache_that_does_not_work_is_reported(sandbox: Sandbox) -> None:
    code, output = run(good(sandbox, POSTAL_DEDUPE_CACHE=Gone()), "check")
    assert code == 1
    assert "POSTAL_DEDUPE_CACHE: the cache does not work (ConnectionError" in output
    assert "geheim" not in output
    code, output = run(good(sandbox, POSTAL_DEDUPE_CACHE=Working()), "check")
    assert (code, "POSTAL_DEDUPE_CACHE: the cache works" in output) == (0, True)


def test_keys_are_listed() -> None:
    app = Flask("keys")
    app.config["POSTAL_WEBHOOK_KEY"] = [DKIM_RECORD, KEY1024_DKIM_RECORD]
    Postal(app)
    code, output = run(app, "keys")
    lines = output.splitlines()
    assert (code, len(lines)) == (0, 2)
    assert lines[0] == f"{KID}  2048 bits  POSTAL_WEBHOOK_KEY"
    assert "1024 bits" in lines[1]


def test_discovered_keys_are_listed_with_their_url(sandbox: Sandbox) -> None:
    app = Flask("keys")
    app.config["POSTAL_API_URL"] = sandbox.url
    Postal(app)
    _, output = run(app, "keys")
    assert output.split()[-1] == f"{sandbox.url}/.well-known/jwks.json"


def test_a_missing_key_or_an_unknown_name_is_an_error() -> None:
    app = Flask("keys")
    Postal(app, name="marketing")
    code, output = run(app, "keys", "--name", "marketing")
    assert (code, "set POSTAL_MARKETING_WEBHOOK_KEY" in output) == (1, True)
    code, output = run(app, "keys")
    assert (code, "it has postal_marketing" in output) == (1, True)
