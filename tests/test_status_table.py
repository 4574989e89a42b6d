"""The statuses of the webhook views, row by row, and in apps that interfere."""

from __future__ import annotations

import base64
import logging
import threading
from collections.abc import Callable
from typing import Any

import pytest
from flask import Blueprint, Flask, Response, abort, redirect, request, session
from flask_limiter import Limiter
from flask_limiter.util import get_remote_address
from flask_wtf.csrf import CSRFProtect

from flask_postal import Postal, RejectMail, inbound_received, tracking_received
from flask_postal.sandbox import SigningKey
from flask_postal.sandbox.webhook_bodies import serialize, webhook

from .captures import DKIM_RECORD, KEY1024_DKIM_RECORD, SHA1, SHA256, Recorded, flip_bit
from .captures import KID_HEADER as KID
from .conftest import MakeApp

SENT = Recorded.load("webhooks/MessageSent")
MAIL = Recorded.load("inbound/raw-json")
BOTH = pytest.mark.parametrize(
    ("recorded", "column"), [(SENT, 0), (MAIL, 1)], ids=["tracking", "inbound"]
)
SECRET = "user:p%40ss"
AUTH = {"Authorization": "Basic " + base64.b64encode(b"user:p%40ss").decode()}


def post(app: Flask, recorded: Recorded, **changes: Any) -> Any:
    answer = recorded.post(app.test_client(), **changes)
    assert answer.mimetype == "text/plain"
    assert answer.text.isascii()
    assert len(answer.data) < 120
    assert "Set-Cookie" not in answer.headers
    assert "Location" not in answer.headers
    assert "Content-Encoding" not in answer.headers
    return answer


@BOTH
def test_handled_is_200_and_so_is_a_duplicate(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
) -> None:
    app, _ = make_app()
    assert [post(app, recorded).status_code for _ in range(3)] == [200] * 3
    assert len(tracking + inbound) == 1


@BOTH
def test_no_receiver_is_200_or_503(
    make_app: MakeApp,
    recorded: Recorded,
    column: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _ = make_app()
    statuses = [post(app, recorded).status_code for _ in range(2)]
    assert statuses == [(200, 503)[column]] * 2
    assert caplog.text.count("connect with weak=False") == 1


@BOTH
def test_a_duplicate_that_arrives_meanwhile_is_503(
    make_app: MakeApp, recorded: Recorded, column: int
) -> None:
    app, _ = make_app()
    begun, go_on = threading.Event(), threading.Event()
    calls = []

    def slow(app: Flask, event: Any, **extra: Any) -> None:
        calls.append(event)
        begun.set()
        assert go_on.wait(10)

    signal = (tracking_received, inbound_received)[column]
    with signal.connected_to(slow):
        first: list[int] = []
        thread = threading.Thread(
            target=lambda: first.append(post(app, recorded).status_code)
        )
        thread.start()
        assert begun.wait(10)
        assert post(app, recorded).status_code == 503
        go_on.set()
        thread.join()
        assert post(app, recorded).status_code == 200
    assert (first, len(calls)) == ([200], 1)


def fail() -> None:
    raise LookupError("no such ticket")


@BOTH
@pytest.mark.parametrize("error", [fail, lambda: abort(404)], ids=["error", "abort"])
def test_a_receiver_that_raises_is_500_and_is_called_again(
    make_app: MakeApp, recorded: Recorded, column: int, error: Callable[[], Any]
) -> None:
    app, _ = make_app()
    calls = []

    def broken(app: Flask, event: Any, **extra: Any) -> None:
        calls.append(event)
        if len(calls) == 1:
            error()

    signal = (tracking_received, inbound_received)[column]
    with signal.connected_to(broken):
        assert post(app, recorded).status_code == 500
        assert post(app, recorded).status_code == 200
        assert post(app, recorded).status_code == 200
    assert len(calls) == 2


@BOTH
@pytest.mark.parametrize("key", [None, KEY1024_DKIM_RECORD], ids=["no key", "KID"])
def test_a_missing_or_unknown_key_is_503(
    make_app: MakeApp, recorded: Recorded, column: int, key: Any
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_KEY=key)
    assert post(app, recorded).status_code == 503


@BOTH
def test_no_signature_header_is_403(
    make_app: MakeApp, recorded: Recorded, column: int
) -> None:
    app, _ = make_app()
    headers = recorded.without(SHA256, SHA1, KID)
    assert post(app, recorded, headers=headers).status_code == 403


@BOTH
@pytest.mark.parametrize(
    "signature", ["", "%%%", "AAAA", "AA AA", SENT.headers[SHA1], "x" * 5000]
)
def test_a_wrong_signature_is_403_or_503(
    make_app: MakeApp, recorded: Recorded, column: int, signature: str
) -> None:
    app, _ = make_app()
    headers = {**recorded.headers, SHA256: signature}
    assert post(app, recorded, headers=headers).status_code == (403, 503)[column]


@BOTH
@pytest.mark.parametrize(
    "changes",
    [{}, {"Authorization": "Basic dXNlcjp4"}, {"Authorization": "Bearer user:p%40ss"}],
    ids=["missing", "wrong", "bearer"],
)
def test_basic_auth_missing_or_wrong_is_401_or_503(
    make_app: MakeApp, recorded: Recorded, column: int, changes: dict[str, str]
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_SECRET=SECRET)
    answer = post(app, recorded, headers={**recorded.headers, **changes})
    assert answer.status_code == (401, 503)[column]


@BOTH
@pytest.mark.parametrize(
    "secret", ["user:p%40ss", "user:p@ss", ["old:one", "user:p@ss"], ("user:p%40ss",)]
)
@pytest.mark.parametrize("sent", ["user:p%40ss", "user:p@ss"])
def test_basic_auth_may_be_percent_encoded_on_either_side(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    secret: Any,
    sent: str,
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_SECRET=secret)
    auth = "Basic " + base64.b64encode(sent.encode()).decode()
    headers = {**recorded.headers, "Authorization": auth}
    assert post(app, recorded, headers=headers).status_code == 200


@BOTH
def test_a_proxy_that_strips_the_signature_is_suspected_in_the_log(
    make_app: MakeApp,
    recorded: Recorded,
    column: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_SECRET=SECRET)
    headers = {**recorded.without(SHA256, SHA1, KID), **AUTH}
    assert post(app, recorded, headers=headers).status_code == (403, 503)[column]
    assert ("does a proxy strip them" in caplog.text) is bool(column)


@BOTH
@pytest.mark.parametrize("media_type", ["text/plain", "multipart/form-data", ""])
def test_a_wrong_media_type_is_400_or_503(
    make_app: MakeApp, recorded: Recorded, column: int, media_type: str
) -> None:
    app, _ = make_app()
    headers = {**recorded.headers, "Content-Type": media_type}
    assert post(app, recorded, headers=headers).status_code == (400, 503)[column]


@pytest.mark.parametrize(
    "body", [b"", b"[]", b"null", b"{", b"{}", b'{"event": 5}', b"\xff", b"NaN"]
)
@pytest.mark.parametrize(("path", "status"), [("tracking", 400), ("inbound", 503)])
def test_an_invalid_body_with_a_signature_is_400_or_503(
    make_app: MakeApp, signing_key: SigningKey, body: bytes, path: str, status: int
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_KEY=signing_key.jwks())
    recorded = Recorded(
        f"/postal/{path}/",
        {"Content-Type": "application/json", **signing_key.headers(body)},
        body,
    )
    assert post(app, recorded).status_code == status


@BOTH
def test_swapped_urls_are_503_and_the_log_says_so(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _ = make_app()
    other = (MAIL, SENT)[column].path
    assert post(app, recorded, path=other).status_code == 503
    assert "swap the two URLs" in caplog.text
    assert tracking + inbound == []


@BOTH
def test_too_large_is_413_or_503_and_the_log_names_the_setting(
    make_app: MakeApp,
    recorded: Recorded,
    column: int,
    caplog: pytest.LogCaptureFixture,
) -> None:
    name = ("POSTAL_TRACKING_MAX_BYTES", "POSTAL_INBOUND_MAX_BYTES")[column]
    app, _ = make_app(**{name: len(recorded.body) - 1})
    assert post(app, recorded).status_code == (413, 503)[column]
    assert f"raise {name}" in caplog.text


@BOTH
@pytest.mark.parametrize("length", ["-1", "+5", "1e3", "5 5", "x", "", "\u0665"])
def test_an_invalid_content_length_is_400_or_503(
    make_app: MakeApp, recorded: Recorded, column: int, length: str
) -> None:
    app, _ = make_app()
    environ = {"CONTENT_LENGTH": length}
    answer = post(app, recorded, environ_overrides=environ)
    assert answer.status_code == (400, 503)[column]


@BOTH
def test_a_body_without_a_length_is_read_if_the_server_marks_its_end(
    make_app: MakeApp,
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
) -> None:
    app, _ = make_app()
    environ = {"CONTENT_LENGTH": "", "wsgi.input_terminated": True}
    assert post(app, recorded, environ_overrides=environ).status_code == 200
    name = ("POSTAL_TRACKING_MAX_BYTES", "POSTAL_INBOUND_MAX_BYTES")[column]
    app, _ = make_app(**{name: len(recorded.body) - 1})
    answer = post(app, recorded, environ_overrides=environ)
    assert answer.status_code in ((413, 503)[column], (400, 503)[column])


@BOTH
def test_a_short_body_is_400_or_503(
    make_app: MakeApp, recorded: Recorded, column: int
) -> None:
    app, _ = make_app()
    environ = {"CONTENT_LENGTH": str(len(recorded.body) + 5)}
    answer = post(app, recorded, environ_overrides=environ)
    assert answer.status_code == (400, 503)[column]


@pytest.mark.parametrize(("bounce", "status"), [(True, 406), (False, 429)])
def test_reject_mail_is_remembered_for_duplicates(
    make_app: MakeApp, bounce: bool, status: int, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()
    calls = []

    def reject(app: Flask, event: Any, **extra: Any) -> None:
        calls.append(event)
        raise RejectMail("no such mailbox", bounce=bounce)

    with inbound_received.connected_to(reject):
        assert [post(app, MAIL).status_code for _ in range(2)] == [status] * 2
    assert len(calls) == 1
    assert "rejected mail 422: 'no such mailbox'" in caplog.text


def test_an_error_beside_reject_mail_is_500(make_app: MakeApp) -> None:
    app, _ = make_app()

    def reject(app: Flask, **extra: Any) -> None:
        raise RejectMail("no such mailbox")

    def broken(app: Flask, **extra: Any) -> None:
        raise LookupError("no such ticket")

    with inbound_received.connected_to(reject), inbound_received.connected_to(broken):
        assert post(app, MAIL).status_code == 500


def test_reject_mail_in_a_tracking_receiver_is_an_ordinary_error(
    make_app: MakeApp,
) -> None:
    app, _ = make_app()

    def reject(app: Flask, **extra: Any) -> None:
        raise RejectMail("what?")

    with tracking_received.connected_to(reject):
        assert post(app, SENT).status_code == 500


@BOTH
@pytest.mark.parametrize(
    "method", ["GET", "HEAD", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE"]
)
@pytest.mark.parametrize("slash", ["/", ""])
def test_a_wrong_method_is_405(
    make_app: MakeApp, recorded: Recorded, column: int, method: str, slash: str
) -> None:
    app, _ = make_app()
    path = recorded.path.rstrip("/") + slash
    answer = app.test_client().open(path, method=method)
    assert (answer.status_code, answer.headers["Allow"]) == (405, "POST")


def test_the_response_and_the_log_share_a_reference(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()
    evil = "\x1b[31m<script>"
    answer = post(
        app, SENT, headers={**SENT.headers, KID: evil, SHA256: SENT.headers[SHA256]}
    )
    reference = answer.text.partition("[")[2].partition("]")[0]
    assert reference in caplog.text
    assert evil not in caplog.text + answer.text


# ---- the first row that applies decides, in the order of the checks

ORDER: list[tuple[str, dict[str, Any], tuple[int, int]]] = [
    ("method", {"method": "GET"}, (405, 405)),
    ("length", {"length": "x"}, (400, 503)),
    ("auth", {"auth": "wrong"}, (401, 503)),
    ("no signature", {"signature": None}, (403, 503)),
    ("bad signature", {"signature": "%%%"}, (403, 503)),
    ("media type", {"media_type": "text/plain"}, (400, 503)),
    ("no key", {"kid": "0" * 64}, (503, 503)),
    ("forged", {"body": b"x"}, (403, 503)),
]


@BOTH
@pytest.mark.parametrize("first", range(len(ORDER)), ids=[row[0] for row in ORDER])
def test_the_first_failing_check_decides(
    make_app: MakeApp, recorded: Recorded, column: int, first: int
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_SECRET="user:right")
    wrong: dict[str, Any] = {}
    for _, fault, _ in reversed(ORDER[first:]):
        wrong |= fault
    headers = recorded.without()
    auth = "user:wrong" if wrong.get("auth") else "user:right"
    headers["Authorization"] = "Basic " + base64.b64encode(auth.encode()).decode()
    if "signature" in wrong:
        for name in (SHA256, SHA1):
            headers.pop(name)
        if wrong["signature"]:
            headers[SHA256] = wrong["signature"]
    headers["Content-Type"] = wrong.get("media_type", headers["Content-Type"])
    headers[KID] = wrong.get("kid", headers[KID])
    body = flip_bit(recorded.body) if "body" in wrong else recorded.body
    environ = {"CONTENT_LENGTH": wrong["length"]} if "length" in wrong else {}
    answer = app.test_client().open(
        recorded.path,
        method=wrong.get("method", "POST"),
        headers=headers,
        data=body,
        environ_overrides=environ,
    )
    assert answer.status_code == ORDER[first][2][column]


# ---- apps that would replace our response


def hostile(kind: str) -> tuple[Flask, Postal]:
    app = Flask("hostile")
    app.config.update(POSTAL_WEBHOOK_KEY=DKIM_RECORD, SECRET_KEY="x")
    postal = Postal()
    if kind == "csrf before":
        CSRFProtect(app)
    postal.init_app(app)
    app.register_blueprint(postal.blueprint)
    if kind == "csrf after":
        CSRFProtect(app)
    if kind == "error page":

        @app.errorhandler(Exception)
        def friendly(error: Exception) -> str:
            return "<h1>Something went wrong, and all is well</h1>"

    if kind == "small forms":
        app.config.update(MAX_CONTENT_LENGTH=1024, MAX_FORM_MEMORY_SIZE=1024)
    if kind == "session":

        @app.before_request
        def count() -> None:
            request.get_data(cache=True)

    return app, postal


@BOTH
@pytest.mark.parametrize(
    "kind", ["csrf before", "csrf after", "error page", "small forms", "session"]
)
def test_the_webhooks_work_in_a_hostile_app(
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    kind: str,
) -> None:
    app, _ = hostile(kind)
    assert post(app, recorded).status_code == 200
    assert len(tracking + inbound) == 1


@BOTH
def test_a_receivers_error_does_not_reach_the_error_page(
    recorded: Recorded, column: int
) -> None:
    app, _ = hostile("error page")
    with (tracking_received, inbound_received)[column].connected_to(
        lambda app, **extra: fail()
    ):
        assert post(app, recorded).status_code == 500
    assert app.test_client().get(recorded.path).status_code == 405


@BOTH
@pytest.mark.parametrize("kind", ["login", "limiter", "broken", "hosts", "cookie"])
def test_a_response_that_replaces_ours_becomes_503(
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    kind: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _ = hostile("error page" if kind == "broken" else "")

    def before() -> Any:
        if kind == "login":
            return redirect("/login")
        if kind == "broken":
            raise LookupError("the user database is down")
        if kind == "cookie":
            return Response("please accept cookies", 200)
        return None

    app.before_request(before)
    if kind == "limiter":
        Limiter(
            get_remote_address,
            app=app,
            default_limits=["0 per minute"],
            storage_uri="memory://",
        )
    if kind == "hosts":
        app.config["TRUSTED_HOSTS"] = ["app.example.com"]
    assert post(app, recorded).status_code == 503
    assert tracking + inbound == []
    errors = [r for r in caplog.records if r.levelno == logging.ERROR]
    assert "not from the webhook's view" in errors[-1].getMessage()


def replace(response: Response) -> Response:
    return Response("<html>", 302, {"Location": "/"})


def change(response: Response) -> Response:
    response.status_code = 302
    return response


@BOTH
@pytest.mark.parametrize("after", [replace, change])
def test_an_after_request_function_can_not_change_our_status(
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    after: Callable[[Response], Response],
) -> None:
    app, _ = hostile("")
    app.after_request(after)

    assert post(app, recorded).status_code == 200
    assert app.test_client().get("/nothing").status_code == 302


def forget(response: Response) -> Any:
    return None


def say(response: Response) -> Any:
    return "sorry"


def rename(response: Response) -> Response:
    response.status = "200 Whatever"
    return response


def rewrite(response: Response) -> Response:
    response.get_app_iter = lambda environ: [b"rewritten"]  # type: ignore[method-assign]
    return response


@BOTH
@pytest.mark.parametrize("after", [forget, say, rename, rewrite])
def test_changes_by_an_after_request_function_are_not_sent(
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    after: Callable[[Response], Response],
) -> None:
    app, _ = hostile("")
    app.after_request(after)
    answer = post(app, recorded)
    assert (answer.status, answer.data) == ("200 OK", b"ok")


def test_a_form_that_the_app_has_already_read_is_logged(
    inbound: list[Any], caplog: pytest.LogCaptureFixture
) -> None:
    form = Recorded.load("inbound/raw-form")
    app, _ = hostile("")
    app.before_request(lambda: request.form.get("csrf_token") and None)
    assert post(app, form).status_code == 503
    assert "has read request.form before the webhook" in caplog.text
    assert inbound == []


def test_the_session_is_not_touched(tracking: list[Any], inbound: list[Any]) -> None:
    app, _ = hostile("")
    client = app.test_client()
    with client.session_transaction() as stored:
        stored["user"] = 5
    answer = SENT.post(client)
    assert "Set-Cookie" not in answer.headers
    assert "Cookie" not in answer.headers.get("Vary", "")
    with client.session_transaction() as kept:
        assert kept["user"] == 5


@BOTH
@pytest.mark.parametrize("prefix", ["/hooks", "/hooks/"])
def test_responses_are_protected_in_a_nested_blueprint_too(
    tracking: list[Any],
    inbound: list[Any],
    recorded: Recorded,
    column: int,
    prefix: str,
) -> None:
    app = Flask("nested")
    app.config.update(POSTAL_WEBHOOK_KEY=DKIM_RECORD, TRUSTED_HOSTS=["localhost"])
    parent = Blueprint("parent", __name__, url_prefix=prefix)
    parent.register_blueprint(Postal(app).blueprint)
    app.register_blueprint(parent)
    path = f"/hooks{recorded.path}"
    assert post(app, recorded, path=path).status_code == 200
    headers = {**recorded.headers, "Host": "elsewhere.example"}
    assert post(app, recorded, path=path, headers=headers).status_code == 503
    app.before_request_funcs.setdefault(None, []).append(lambda: redirect("/login"))
    assert post(app, recorded, path=path).status_code == 503


def grow(response: Response) -> Response:
    response.set_data(b"x" * 70_000)
    response.headers["Content-Encoding"] = "gzip"
    return response


def fail_after(response: Response) -> Response:
    raise LookupError("no such header")


@BOTH
@pytest.mark.parametrize("after", [grow, fail_after])
def test_changes_after_a_failed_receiver_do_not_reach_postal(
    recorded: Recorded, column: int, after: Callable[[Response], Response]
) -> None:
    app, _ = hostile("error page")
    app.after_request(after)

    @app.before_request
    def visit() -> None:
        session["visits"] = 1

    signal = (tracking_received, inbound_received)[column]
    with signal.connected_to(lambda app, **extra: fail()):
        assert post(app, recorded).status_code == 500


def test_several_postals_have_separate_webhooks(tracking: list[Any]) -> None:
    app = Flask("several")
    app.config.update(
        POSTAL_WEBHOOK_KEY=DKIM_RECORD,
        POSTAL_OTHER_WEBHOOK_KEY=DKIM_RECORD,
        POSTAL_OTHER_WEBHOOK_SECRET="a:b",
    )
    for postal in (Postal(app), Postal(app, name="other")):
        app.register_blueprint(postal.blueprint)
    assert post(app, SENT).status_code == 200
    path = "/postal/other/tracking/"
    assert post(app, SENT, path=path).status_code == 401
    headers = {**SENT.headers, "Authorization": "Basic YTpi"}
    assert post(app, SENT, path=path, headers=headers).status_code == 200
    assert len(tracking) == 2


def test_events_written_by_the_sandbox_are_accepted(
    make_app: MakeApp, signing_key: SigningKey, tracking: list[Any]
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_KEY=signing_key.jwks())
    body = webhook("SomethingNew", {"message": {"id": 5}, "future": [1]}, 1.0)
    recorded = Recorded(
        SENT.path,
        {"Content-Type": "application/json", **signing_key.headers(body)},
        body,
    )
    assert post(app, recorded).status_code == 200
    (event,) = tracking
    assert (event.event_type, event.id) == ("unknown", 5)
    assert event.esp_event["payload"]["future"] == [1]
    assert serialize(event.esp_event) == body
