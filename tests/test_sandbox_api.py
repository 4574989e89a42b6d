"""The sandbox's API responds as a real Postal did when it was recorded."""

from __future__ import annotations

import base64
import email
import json
import re
from typing import Any

import pytest
import requests

from flask_postal.sandbox import Sandbox

from .captures import CAPTURES, api_capture
from .servers import refusing

RECORDED = sorted(path.stem for path in (CAPTURES / "api").glob("*.json"))
SENT = [name for name in RECORDED if not name.startswith("messages-")]
FAULTS = {"err-ServerSuspended": "suspended"}
HOSTS = {"host-not-allowed": "postal.example.com"}


def replay(sandbox: Sandbox, recorded: dict[str, Any], **headers: str) -> Any:
    """Send a recorded request, whose body need not be JSON."""
    sent = recorded["request"]
    for name, value in sent["headers"].items():
        headers.setdefault(name, value.replace("<key>", sandbox.api_key))
    headers["Host"] = headers.get("Host", "localhost")
    body = sent["body"]
    return requests.post(
        sandbox.url + sent["path"],
        data=body.encode() if isinstance(body, str) else json.dumps(body),
        headers=headers,
        timeout=10,
    )


def plain(content: Any) -> Any:
    """Return a response without the values that are different each time."""
    if not isinstance(content, dict) or "data" not in content:
        return content
    data = json.loads(json.dumps(content["data"]))
    for entry in (data.get("messages") or {}).values():
        assert type(entry["id"]) is int
        assert re.fullmatch("[A-Za-z0-9]{16}", entry["token"])
        entry["id"] = entry["token"] = None
    if re.fullmatch(r"[0-9a-f-]{36}@rp\..+", data.get("message_id") or ""):
        data["message_id"] = "made by Postal"
    assert isinstance(content["time"], float)
    return {**content, "time": None, "data": data}


@pytest.mark.parametrize("name", SENT)
def test_recorded_requests_give_the_recorded_responses(
    strict_sandbox: Sandbox, name: str
) -> None:
    recorded = api_capture(name)
    if name in FAULTS:
        strict_sandbox.fault(FAULTS[name])
    response = replay(strict_sandbox, recorded, Host=HOSTS.get(name, "localhost"))
    answer = recorded["response"]
    assert response.status_code == answer["http_status"]
    assert response.headers["Content-Type"] == dict(answer["headers"])["content-type"]
    if answer["body"] is None:
        assert not response.content
    else:
        assert plain(response.json()) == plain(answer["body"])


def stored(
    sandbox: Sandbox, name: str, happens: str | None
) -> tuple[dict[str, Any], dict[str, Any]]:
    """Repeat a recorded query on a similar mail; return both responses."""
    recorded = api_capture(name)
    body = recorded["response"]["body"]["data"]
    details = body.get("details", {}) if isinstance(body, dict) else {}
    request = {
        "to": [details.get("rcpt_to", "alice@rcpt.test")],
        "from": "Acme <hello@example.test>",
        "subject": details.get("subject", "Hello"),
        "tag": details.get("tag"),
        "plain_body": body.get("plain_body", "Hi") if isinstance(body, dict) else "Hi",
    }
    if isinstance(body, dict) and body.get("html_body"):
        request["html_body"] = "<p>Hi <b>there</b></p>"
    if isinstance(body, dict) and body.get("attachments"):
        request["attachments"] = [
            {
                "name": a["filename"],
                "content_type": a["content_type"],
                "data": a["data"],
            }
            for a in body["attachments"]
        ]
    headers = {"Content-Type": "application/json", "X-Server-API-Key": sandbox.api_key}
    sandbox.tracking_url = f"{refusing()}/postal/tracking/"
    call = {"request": {"path": "/api/v1/send/message", "headers": headers}}
    call["request"]["body"] = request
    (sent,) = replay(sandbox, call).json()["data"]["messages"].values()
    if happens is None:
        sandbox.advance(seconds=1)
    else:
        for event in happens.split():
            sandbox.trigger(event)
    recorded["request"]["body"]["id"] = sent["id"]
    return replay(sandbox, recorded).json(), recorded["response"]["body"]


def shape(value: Any, path: str = "") -> Any:
    """Replace values that are different each time by the names of their types."""
    if isinstance(value, dict):
        return {key: shape(item, f"{path}.{key}") for key, item in value.items()}
    if isinstance(value, list):
        return [shape(item, f"{path}[]") for item in value]
    fixed = (
        r"\.(status|flags|data\.status\.(status|held|hold_expiry)|data\.inspection\..+"
        r"|data\.details\.(rcpt_to|mail_from|subject|direction|bounce|bounce_for_id|tag)"
        r"|data\[\]\.status|data\.plain_body|data\.attachments\[\]\..+"
        r"|data\.headers\.(from|to|subject|mime-version|content-transfer-encoding)\[\])"
    )
    if re.fullmatch(fixed, path) or value is None:
        return value
    return type(value).__name__


@pytest.mark.parametrize(
    ("name", "happens"),
    [
        ("messages-message-noexp", None),
        ("messages-message-exp-status-details", None),
        ("messages-message-sent", None),
        ("messages-message-withattachment", None),
        ("messages-message-hardfail", "failed"),
        ("messages-message-bounced", "delivered bounced"),
        ("messages-message-clicked", "delivered opened opened opened clicked clicked"),
        ("messages-deliveries-sent", None),
        ("messages-deliveries-hardfail", "failed"),
        ("messages-deliveries-held", "held"),
    ],
)
def test_stored_mails_are_described_as_recorded(
    strict_sandbox: Sandbox, name: str, happens: str | None
) -> None:
    answer, expected = stored(strict_sandbox, name, happens)
    for side in (answer, expected):
        if isinstance(side["data"], dict):
            # The sandbox does not sign mail.
            side["data"].get("headers", {}).pop("dkim-signature", None)
    if name.endswith("clicked"):
        for entry in expected["data"]["activity_entries"]["loads"]:
            entry["user_agent"] = "x"
    assert shape(answer) == shape(expected)
    if "raw_message" in answer["data"]:
        raw = answer["data"]["raw_message"]
        assert all(len(line) <= 60 for line in raw.split("\n"))
        assert email.message_from_bytes(base64.b64decode(raw))["Subject"]


def test_every_soft_fail_is_a_delivery(strict_sandbox: Sandbox) -> None:
    answer, expected = stored(
        strict_sandbox, "messages-deliveries-softfail", "deferred deferred"
    )
    assert [shape(d) for d in answer["data"]] == [
        shape(d) for d in expected["data"][:2]
    ]


@pytest.mark.parametrize("number", ["1", 1.0, [1], {"id": 1}, True])
def test_an_id_that_is_not_an_int_is_an_error_500(
    strict_sandbox: Sandbox, number: Any
) -> None:
    recorded = api_capture("err-MessageNotFound")
    recorded["request"]["body"]["id"] = number
    assert replay(strict_sandbox, recorded).status_code == 500


@pytest.mark.parametrize(
    "fields",
    [
        {"to": ["a" * 256 + "@b.c"]},
        {"tag": "x" * 256},
        {"headers": {"X: y": "z"}},
        {"from": 5},
    ],
)
def test_fields_that_postal_fails_at_are_an_error_500(
    strict_sandbox: Sandbox, fields: dict[str, Any]
) -> None:
    recorded = api_capture("ok-basic")
    recorded["request"]["body"].update(fields)
    assert replay(strict_sandbox, recorded).status_code == 500
    assert strict_sandbox.messages == []


@pytest.mark.parametrize(
    ("to", "recipients"),
    [
        ([""], [""]),
        ("a@b.c, d@e.f", ["a@b.c", "d@e.f"]),
        ('"Doe, J" <a@b.c>', ['"Doe', "a@b.c"]),
        (["a@b.c, d@e.f"], ["a@b.c, d@e.f"]),
        (['"a(b)c"@x.org'], ['"ac"@x.org']),
        (["not an address"], ["not an address"]),
        ("a@b.c,,", ["a@b.c"]),
    ],
)
def test_recipients_are_parsed_as_loosely_as_by_postal(
    strict_sandbox: Sandbox, to: Any, recipients: list[str]
) -> None:
    recorded = api_capture("ok-basic")
    recorded["request"]["body"]["to"] = to
    assert (
        list(replay(strict_sandbox, recorded).json()["data"]["messages"]) == recipients
    )


@pytest.mark.parametrize(
    "mail",
    [
        b"From: a@example.test\nSubject: caf\xe9\n\nonly line feeds",
        b"From: a@example.test\r\nSubject: caf\xe9\r\n\r\nx",
    ],
)
def test_a_raw_mail_that_postal_fails_at_is_an_error_500(
    strict_sandbox: Sandbox, mail: bytes
) -> None:
    recorded = api_capture("raw-basic")
    recorded["request"]["body"]["data"] = base64.b64encode(mail).decode()
    assert replay(strict_sandbox, recorded).status_code == 500
    assert strict_sandbox.messages == []


@pytest.mark.parametrize("name", ["Date", "date"])
def test_the_date_header_is_kept(strict_sandbox: Sandbox, name: str) -> None:
    recorded = api_capture("ok-basic")
    date = "Sat, 01 Jan 2000 00:00:00 +0000"
    recorded["request"]["body"]["headers"] = {name: date, "Message-ID": "<x@y>"}
    replay(strict_sandbox, recorded)
    headers = strict_sandbox.messages[0].content.headers
    assert [value for name, value in headers if name == "Date"] == [date]
    assert len([1 for name, _ in headers if name == "Message-ID"]) == 1


@pytest.mark.parametrize("value", [5, True, "x", ["x"], {"x": 1}, "\udc00", None])
@pytest.mark.parametrize(
    "field",
    [
        *("to", "cc", "from", "sender", "subject", "reply_to", "plain_body", "bounce"),
        *("html_body", "tag", "headers", "attachments", "rcpt_to", "mail_from", "data"),
    ],
)
def test_fields_of_any_type_get_a_regular_status(
    strict_sandbox: Sandbox, field: str, value: Any
) -> None:
    name = "raw-basic" if field in ("rcpt_to", "mail_from", "data") else "ok-basic"
    recorded = api_capture(name)
    recorded["request"]["body"][field] = value
    # Ruby refuses JSON with a lone surrogate.
    expected = (400,) if value == "\udc00" else (200, 500)
    assert replay(strict_sandbox, recorded).status_code in expected
    strict_sandbox.advance(seconds=1)


def test_a_body_of_another_media_type_is_ignored(strict_sandbox: Sandbox) -> None:
    response = replay(
        strict_sandbox, api_capture("ok-basic"), **{"Content-Type": "Application/json"}
    )
    assert response.json()["data"]["code"] == "NoRecipients"


def test_invalid_utf8_is_a_bad_request(strict_sandbox: Sandbox) -> None:
    recorded = api_capture("ok-basic")
    recorded["request"]["body"] = ""
    response = requests.post(
        f"{strict_sandbox.url}/api/v1/send/message",
        data=b'{"to": ["\xff"]}',
        headers={"Content-Type": "application/json"},
        timeout=5,
    )
    assert (response.status_code, response.content) == (400, b"")


@pytest.mark.parametrize(
    "headers",
    [
        {"Host": "evil.example"},
        {"Host": "127.0.0.1.evil.example:80"},
        {"Host": "localhost@evil.example"},
        {"Origin": "http://evil.example"},
        {"Origin": "null"},
        {"Origin": "http://127.0.0.1:1"},
    ],
)
def test_requests_from_other_websites_are_refused(
    strict_sandbox: Sandbox, headers: dict[str, str]
) -> None:
    for path in ("/api/v1/send/message", "/sandbox/trigger"):
        response = requests.post(
            strict_sandbox.url + path,
            json={},
            headers={"X-Server-API-Key": strict_sandbox.api_key, **headers},
            timeout=5,
        )
        assert (response.status_code, response.content) == (403, b"")


def test_a_large_mail_is_refused(strict_sandbox: Sandbox) -> None:
    recorded = api_capture("raw-basic")
    recorded["request"]["body"]["data"] = "A" * (36 * 1024 * 1024)
    assert replay(strict_sandbox, recorded).status_code in (413, 500)
    assert strict_sandbox.messages == []
