"""Errors for recorded and unexpected responses; none may contain the API key."""

from __future__ import annotations

import json
import logging
import pickle
from typing import Any

import pytest

from flask_postal import (
    APIError,
    CancelSend,
    ConfigurationError,
    Message,
    MessageError,
    PayloadError,
    PostalError,
    SendError,
    SignatureError,
    TransportError,
    UnsupportedFeature,
    WebhookError,
)

from .captures import CAPTURES, api_capture
from .conftest import MakeApp
from .mails import message
from .secret import SECRET, everything_about
from .servers import answering, loopback, refusing

ALL = sorted(path.stem for path in (CAPTURES / "api").glob("*.json"))
SENDS = [n for n in ALL if "/send/" in api_capture(n)["request"]["path"]]
REFUSED = [
    n
    for n in SENDS
    if isinstance(api_capture(n)["response"]["body"], dict)
    and api_capture(n)["response"]["body"]["status"] in ("error", "parameter-error")
]
ACCEPTED = [
    n
    for n in SENDS
    if isinstance(api_capture(n)["response"]["body"], dict)
    and api_capture(n)["response"]["body"]["status"] == "success"
]


def answer_of(name: str) -> Any:
    """Return an act that responds as Postal did in a recording."""
    response = api_capture(name)["response"]
    body = response["body_raw"].replace("nope", SECRET).encode()
    return answering(f"{response['http_status']} Recorded", body)


def send(make_app: MakeApp, act: Any, **changes: Any) -> Any:
    with loopback(act) as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY=SECRET)
        with app.app_context():
            return postal.send(message(**changes))


def test_enough_responses_are_recorded() -> None:
    assert len(ALL) >= 50
    assert len(REFUSED) >= 15
    assert len(ACCEPTED) >= 15


@pytest.mark.parametrize("name", REFUSED)
def test_every_recorded_refusal_is_an_api_error_with_its_code(
    make_app: MakeApp, name: str
) -> None:
    body = api_capture(name)["response"]["body"]
    code = body["data"].get("code", body["status"])
    with pytest.raises(APIError, match=code) as caught:
        send(make_app, answer_of(name))
    error = caught.value
    assert (error.code, error.http_status, error.retryable) == (code, 200, False)
    assert error.maybe_sent is False
    assert body["data"].get("message", "") in str(error)
    assert SECRET not in everything_about(error)


@pytest.mark.parametrize("name", ACCEPTED)
def test_every_recorded_success_is_a_result(make_app: MakeApp, name: str) -> None:
    body = api_capture(name)["response"]["body"]
    addresses = [a for a in body["data"]["messages"] if "<" not in a]
    if not addresses:
        with pytest.raises(APIError, match="queued nothing"):
            send(make_app, answer_of(name))
        return
    result = send(make_app, answer_of(name), recipients=addresses)
    assert result.message_id == body["data"]["message_id"]
    seen = {}
    for address in addresses:
        status = result.recipients[address]
        seen[status.address] = {"id": status.id, "token": status.token}
    expected = {a: body["data"]["messages"][a] for a in seen}
    assert seen == expected


def test_the_wrong_api_key_is_not_echoed(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    assert "nope" in api_capture("err-InvalidServerAPIKey")["response"]["body_raw"]
    with (
        caplog.at_level(logging.DEBUG),
        pytest.raises(APIError, match="set POSTAL_API_KEY") as caught,
    ):
        send(make_app, answer_of("err-InvalidServerAPIKey"))
    assert SECRET not in everything_about(caught.value) + caplog.text


def test_an_api_key_in_the_error_message_is_redacted(make_app: MakeApp) -> None:
    body = {"status": "error", "data": {"code": SECRET, "message": f"bad {SECRET}!"}}
    with pytest.raises(APIError, match=r"bad \*\*\*!") as caught:
        send(make_app, answering("200 OK", json.dumps(body).encode()))
    assert SECRET not in everything_about(caught.value)


def test_host_not_allowed_names_the_setting_to_change(make_app: MakeApp) -> None:
    sentence = "Host not allowed by this Postal; set POSTAL_API_URL to its web hostname"
    with pytest.raises(APIError, match=sentence) as caught:
        send(make_app, answer_of("host-not-allowed"))
    assert caught.value.http_status == 403


@pytest.mark.parametrize(
    ("status", "body", "why", "retryable", "maybe_sent"),
    [
        ("502 Bad Gateway", b"<html>", "HTTP 502", True, True),
        ("503 Unavailable", b"", "HTTP 503", True, True),
        ("504 Timeout", b"<html>", "HTTP 504", True, True),
        ("429 Slow down", b"", "HTTP 429", True, False),
        ("500 Error", b'{"status":500,"error":"x"}', "HTTP 500", False, True),
        ("400 Bad", b"", "HTTP 400", False, False),
        ("401 Who", b"", "HTTP 401", False, False),
        ("403 No", b"<html>", "HTTP 403", False, False),
        ("404 None", b"<html>", "no Postal API.*check POSTAL_API_URL", False, False),
        ("413 Large", b"<html>", r"\d+ bytes .* too large for the proxy", False, False),
        ("201 Created", b'{"status":"success"}', "HTTP 201", False, True),
        ("200 OK", b'{"status":"error"}', "an error", False, False),
        ("200 OK", b'{"status":"error","data":[]}', "an error", False, False),
        ("200 OK", b'{"status":"error","data":{"code":5}}', "an error", False, False),
        ("200 OK", b'{"status":"new","data":null}', "new", False, False),
        (
            "200 OK",
            b'{"status":"success","data":{"message_id":null,"messages":{}}}',
            "queued nothing",
            False,
            False,
        ),
    ],
)
def test_unexpected_responses_are_api_errors(
    make_app: MakeApp,
    status: str,
    body: bytes,
    why: str,
    retryable: bool,
    maybe_sent: bool,
) -> None:
    with pytest.raises(APIError, match=why) as caught:
        send(make_app, answering(status, body))
    assert caught.value.retryable is retryable
    assert caught.value.maybe_sent is maybe_sent
    assert caught.value.http_status == int(status[:3])


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"<html>",
        b"[]",
        b"null",
        b'"success"',
        b"{}",
        b'{"status": 200}',
        b'{"status": "success"}',
        b'{"status": "success", "data": null}',
        b'{"status": "success", "data": []}',
        b'{"status": "success", "data": {"message_id": "x"}}',
        b'{"status": "success", "data": {"messages": []}}',
        b"\xff\xfe",
        b"[" * 100_000,
        b'{"status": ' + b"9" * 10_000 + b"}",
    ],
    ids=lambda body: repr(body[:45]),
)
def test_after_an_unreadable_response_the_mail_may_have_been_sent(
    make_app: MakeApp, body: bytes
) -> None:
    with pytest.raises(TransportError, match="may have") as caught:
        send(make_app, answering("200 OK", body))
    assert caught.value.maybe_sent is True


@pytest.mark.parametrize(
    "entry", [None, [], 5, {}, {"id": "5", "token": 5}, {"id": True, "token": None}]
)
def test_a_recipient_without_a_valid_entry_has_no_id(
    make_app: MakeApp, entry: Any
) -> None:
    data = {"messages": {"ana@example.com": entry, "more@example.com": {"id": 1}}}
    body = json.dumps({"status": "success", "data": data}).encode()
    result = send(make_app, answering("200 OK", body))
    status = result.recipients["ana@example.com"]
    assert (status.id, status.token) == (None, None)
    assert list(result.recipients) == ["ana@example.com"]
    assert result.message_id is None


ERRORS = [
    PostalError("x"),
    ConfigurationError("x", key="POSTAL_API_URL"),
    MessageError("x", field="subject"),
    UnsupportedFeature("x", feature="send_at"),
    SendError("x", maybe_sent=True),
    APIError("x", code="NoContent", http_status=200, retryable=True, maybe_sent=True),
    TransportError("x", maybe_sent=True),
    WebhookError("x"),
    SignatureError("x"),
    PayloadError("x"),
    CancelSend("x"),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda error: type(error).__name__)
def test_errors_survive_pickling(error: Exception) -> None:
    came = pickle.loads(pickle.dumps(error))
    assert type(came) is type(error)
    assert (str(came), vars(came)) == (str(error), vars(error))


def test_the_exception_hierarchy() -> None:
    assert issubclass(ConfigurationError, RuntimeError)
    assert issubclass(MessageError, ValueError)
    assert issubclass(UnsupportedFeature, MessageError)
    assert {APIError.__base__, TransportError.__base__} == {SendError}
    assert {SignatureError.__base__, PayloadError.__base__} == {WebhookError}
    for error in ERRORS[:-1]:
        assert isinstance(error, PostalError)
    assert not issubclass(CancelSend, PostalError)


def test_no_repr_contains_the_api_key(make_app: MakeApp) -> None:
    app, postal = make_app(POSTAL_API_URL=refusing(), POSTAL_API_KEY=SECRET)
    with app.app_context():
        assert SECRET not in repr(postal.settings)
        assert SECRET not in repr(vars(postal)) + repr(postal.prepare(message()))


def test_sending_reports_a_sandbox_that_is_not_running(
    make_app: MakeApp,
) -> None:
    app, postal = make_app(
        POSTAL_API_URL=refusing(),
        POSTAL_API_KEY="sandbox-123",
        POSTAL_CONNECT_RETRIES=0,
        POSTAL_DEFAULT_SENDER="a@b.c",
    )
    with (
        app.app_context(),
        pytest.raises(TransportError, match=r"is it running\? `flask postal sandbox`"),
    ):
        postal.send(Message("x", "a@b.c", body="x"))
