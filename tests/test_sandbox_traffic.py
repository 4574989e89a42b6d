"""The sandbox's API behaves like a real Postal in rarely used cases.

The recorded requests themselves are replayed in ``test_sandbox_api.py``.
"""

from __future__ import annotations

import base64
import json
import re
from typing import Any
from urllib.parse import urlencode

import pytest
import requests

from flask_postal.sandbox import Sandbox

from .captures import api_capture
from .servers import refusing
from .test_sandbox_api import SENT, plain, replay

MIB = 1024 * 1024
OK = {"to": ["ana@example.com"], "from": "hello@example.test", "plain_body": "Hi"}
AUTHOR = b"From: hello@example.test\r\n"
RAW = AUTHOR + b"Subject: x\r\nMessage-ID: <own@example.test>\r\n\r\nHi\r\n"


def call(
    sandbox: Sandbox,
    path: str,
    body: Any,
    *,
    method: str = "POST",
    query: str = "",
    content_type: str = "application/json",
    **headers: str,
) -> requests.Response:
    """Call the API with a body that is bytes, or is written as JSON."""
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    headers = {"X_Server_API_Key": sandbox.api_key, **headers}
    return requests.request(
        method,
        f"{sandbox.url}/api/v1/{path}{query}",
        data=data,
        headers={
            "Content-Type": content_type,
            **{name.replace("_", "-"): value for name, value in headers.items()},
        },
        timeout=20,
    )


def outcome(response: requests.Response) -> Any:
    """Return the status of an HTTP error, an error code or message, or recipients."""
    if response.status_code != 200:
        assert response.content == b""
        return response.status_code
    content = response.json()
    data = content["data"]
    if content["status"] == "success":
        return list(data["messages"])
    return data.get("code") or data["message"]


def send(sandbox: Sandbox, **fields: Any) -> Any:
    return outcome(call(sandbox, "send/message", {**OK, **fields}))


def raw_call(sandbox: Sandbox, raw: bytes, **fields: Any) -> requests.Response:
    body = {
        "rcpt_to": ["ana@example.com"],
        "mail_from": "hello@example.test",
        "data": base64.b64encode(raw).decode(),
        **fields,
    }
    return call(sandbox, "send/raw", body)


def message(sandbox: Sandbox, number: int) -> Any:
    body = {"id": number, "_expansions": True}
    return call(sandbox, "messages/message", body).json()["data"]


def deliveries(sandbox: Sandbox, number: int) -> Any:
    return call(sandbox, "messages/deliveries", {"id": number}).json()["data"]


# ---- sizes


@pytest.mark.parametrize(("size", "passes"), [(11, True), (12, False)])
@pytest.mark.parametrize("content", [b"\xff", b"a"])
def test_a_mail_larger_than_a_database_packet_is_an_error(
    strict_sandbox: Sandbox, size: int, passes: bool, content: bytes
) -> None:
    data = base64.b64encode(content * (size * MIB)).decode()
    attachment = {"name": "a.bin", "data": data}
    expected = ["ana@example.com"] if passes else 500
    assert send(strict_sandbox, attachments=[attachment]) == expected
    assert len(strict_sandbox.messages) == passes


@pytest.mark.parametrize(("size", "passes"), [(15 * MIB, True), (16 * MIB, False)])
def test_a_raw_mail_larger_than_a_database_packet_is_an_error(
    strict_sandbox: Sandbox, size: int, passes: bool
) -> None:
    response = raw_call(strict_sandbox, RAW + b"a" * size)
    assert response.status_code == (200 if passes else 500)
    assert len(strict_sandbox.messages) == passes


def test_line_ends_count_twice_for_the_database_packet(strict_sandbox: Sandbox) -> None:
    assert outcome(raw_call(strict_sandbox, RAW + b"\r\n" * (4 * MIB))) == 500


@pytest.mark.parametrize("bad", ["a" * 250 + "@b.org", 5, {"a": "b"}])
def test_the_recipients_before_a_bad_one_get_their_mail(
    strict_sandbox: Sandbox, bad: Any
) -> None:
    recipients = ["first@example.com", bad, "third@example.com"]
    assert send(strict_sandbox, to=recipients) == 500
    assert outcome(raw_call(strict_sandbox, RAW, rcpt_to=recipients)) == 500
    assert [mail.recipient for mail in strict_sandbox.messages] == [
        "first@example.com"
    ] * 2
    strict_sandbox.advance(seconds=1)
    assert {mail.status for mail in strict_sandbox.messages} == {"Sent"}


# ---- requests


@pytest.mark.parametrize("body", [b"", b"[]", b"5", b"null", b'"x"', b"[[1]]", b"{}"])
def test_a_body_without_an_object_has_no_recipients(
    strict_sandbox: Sandbox, body: bytes
) -> None:
    assert outcome(call(strict_sandbox, "send/message", body)) == "NoRecipients"


@pytest.mark.parametrize(
    "body",
    [
        b"{bad json",
        b" ",
        b'{"to": ["\xff"]}',
        b'{"x": NaN}',
        b'{"x": -Infinity}',
        b'{"x": "\\ud800"}',
        b'{"\\udc00": 1}',
        b'{"x": ' + b"[" * 100 + b"]" * 100 + b"}",
        b'{"x": ' + b"[" * 100_000 + b"]" * 100_000 + b"}",
        b"\x1f\x8b\x08\x00",
    ],
)
def test_json_that_ruby_refuses_is_a_bad_request(
    strict_sandbox: Sandbox, body: bytes
) -> None:
    assert outcome(call(strict_sandbox, "send/message", body)) == 400


def test_json_may_be_nested_as_deeply_as_ruby_allows(strict_sandbox: Sandbox) -> None:
    body = json.dumps(OK).encode()
    body = body[:-1] + b', "x": ' + b"[" * 99 + b"]" * 99 + b', "y": "\\ud83d\\ude00"}'
    assert outcome(call(strict_sandbox, "send/message", body)) == ["ana@example.com"]


@pytest.mark.parametrize("method", ["GET", "PUT", "PATCH"])
def test_get_put_and_patch_are_treated_like_post(
    strict_sandbox: Sandbox, method: str
) -> None:
    response = call(strict_sandbox, "send/message", OK, method=method)
    assert outcome(response) == ["ana@example.com"]


@pytest.mark.parametrize("method", ["DELETE", "OPTIONS"])
def test_unknown_methods_are_not_found(strict_sandbox: Sandbox, method: str) -> None:
    assert outcome(call(strict_sandbox, "send/message", OK, method=method)) == 404


FORM = "application/x-www-form-urlencoded"


@pytest.mark.parametrize(
    "name", [name for name in SENT if name.startswith(("ok-", "raw-", "names-"))]
)
def test_a_form_gets_the_same_response_as_json(
    strict_sandbox: Sandbox, name: str
) -> None:
    recorded = api_capture(name)
    sent = recorded["request"]
    sent["body"] = urlencode({"params": json.dumps(sent["body"])})
    sent["headers"]["Content-Type"] = FORM
    response = replay(strict_sandbox, recorded)
    assert plain(response.json()) == plain(recorded["response"]["body"])


@pytest.mark.parametrize(
    ("form", "expected"),
    [
        (b"params=" + json.dumps(OK).encode(), ["ana@example.com"]),
        (b"params=", "NoRecipients"),
        (b"to=ana@example.com", "NoRecipients"),
        (b"params={bad", 500),
        (b"params=[1]", 500),
        (b"params=NaN", 500),
        (b"params=%ff", 400),
    ],
)
def test_a_form_contains_json_in_the_params_field(
    strict_sandbox: Sandbox, form: bytes, expected: Any
) -> None:
    response = call(strict_sandbox, "send/message", form, content_type=FORM)
    assert outcome(response) == expected


def test_the_query_wins_over_the_body(strict_sandbox: Sandbox) -> None:
    query = "?to[]=lee@example.com&to[]=kim@example.com&tag=q"
    response = call(strict_sandbox, "send/message", OK, query=query)
    assert outcome(response) == ["lee@example.com", "kim@example.com"]
    assert {mail.tag for mail in strict_sandbox.messages} == {"q"}


@pytest.mark.parametrize(
    ("key", "code"),
    [("", "AccessDenied"), ("smtp", "InvalidServerAPIKey")],
)
def test_only_the_key_of_an_api_credential_is_accepted(
    strict_sandbox: Sandbox, key: str, code: str
) -> None:
    response = call(strict_sandbox, "send/message", OK, X_Server_API_Key=key)
    assert outcome(response) == code


@pytest.mark.parametrize("endpoint", ["messages/message", "messages/deliveries"])
@pytest.mark.parametrize("number", [None, "", " ", {}, [], False])
def test_a_blank_id_is_a_parameter_error(
    strict_sandbox: Sandbox, endpoint: str, number: Any
) -> None:
    expected = "`id` parameter is required but is missing"
    assert outcome(call(strict_sandbox, endpoint, {"id": number})) == expected


@pytest.mark.parametrize("number", [0, -1, 2**70])
def test_an_unknown_id_is_not_found(strict_sandbox: Sandbox, number: int) -> None:
    response = call(strict_sandbox, "messages/message", {"id": number})
    assert outcome(response) == "MessageNotFound"


# ---- fields of send/message

ANA = ["ana@example.com"]


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"to": None}, "NoRecipients"),
        ({"to": ""}, "NoRecipients"),
        ({"to": ","}, "NoRecipients"),
        ({"to": "ana@example.com, "}, ANA),
        ({"to": {}}, "NoRecipients"),
        ({"to": [None]}, "NoRecipients"),
        ({"to": False}, 500),
        ({"to": 5}, 500),
        ({"cc": 1.5}, 500),
        ({"to": [["ana@example.com"]]}, ANA),
        ({"to": {"ana@example.com": "lee@example.com"}}, [*ANA, "lee@example.com"]),
        ({"to": [], "from": 5}, 500),
        ({"from": [], "to": ["x"] * 51}, "TooManyToAddresses"),
        ({"from": []}, "FromAddressMissing"),
        ({"from": False}, "FromAddressMissing"),
        ({"from": " "}, "FromAddressMissing"),
        ({"from": ["hello@example.test"]}, 500),
        ({"from": "hello"}, "UnauthenticatedFromAddress"),
        ({"from": "x@evil.org@example.test"}, "UnauthenticatedFromAddress"),
        ({"plain_body": " \n"}, "NoContent"),
        ({"plain_body": False}, "NoContent"),
        ({"plain_body": []}, "NoContent"),
        ({"plain_body": {}}, "NoContent"),
        ({"plain_body": 5}, ANA),
        ({"headers": "X: y"}, ANA),
        ({"headers": ["X"]}, ANA),
        ({"headers": 5}, ANA),
        ({"tag": 5}, ANA),
        ({"tag": ["x"]}, ANA),
        ({"tag": ["x" * 256]}, 500),
        ({"attachments": False}, ANA),
        ({"attachments": {}}, ANA),
        ({"attachments": ["x", 5]}, ANA),
        ({"attachments": {"name": "a"}}, ANA),
        ({"attachments": "x"}, 500),
        ({"attachments": 5}, 500),
        ({"attachments": [{"data": "eA=="}]}, "AttachmentMissingName"),
        ({"attachments": [{"name": " ", "data": "eA=="}]}, "AttachmentMissingName"),
        ({"attachments": [{"name": "a"}]}, "AttachmentMissingData"),
        ({"attachments": [{"name": "a", "data": ""}]}, "AttachmentMissingData"),
        ({"attachments": [{"name": "a", "data": "!!"}]}, "AttachmentMissingData"),
        ({"attachments": [{"name": "a", "data": "IAoJ"}]}, "AttachmentMissingData"),
        ({"attachments": [{"name": "a", "data": False}]}, "AttachmentMissingData"),
        ({"attachments": [{"name": "a", "data": 5}]}, 500),
        ({"attachments": [{"name": 5, "data": "eA=="}]}, 500),
        ({"attachments": [{"name": "a", "data": "e!A"}]}, ANA),
    ],
)
def test_send_message_fields_of_unexpected_types(
    strict_sandbox: Sandbox, fields: dict[str, Any], expected: Any
) -> None:
    assert send(strict_sandbox, **fields) == expected


def test_values_are_converted_to_text_as_in_ruby(strict_sandbox: Sandbox) -> None:
    headers = {"X-List": ["a", "b"], "X-Dict": {"a": None}, "X-True": True, "X-Int": 5}
    send(
        strict_sandbox,
        headers=headers,
        subject=["a", "b"],
        plain_body=["a", 1],
        tag=True,
    )
    (mail,) = strict_sandbox.messages
    assert (mail.subject, mail.content.text, mail.tag) == ("a, b", "a1", "1")
    assert mail.content.header("x-list") == '["a", "b"]'
    assert mail.content.header("x-dict") == '{"a"=>nil}'
    assert mail.content.header("x-true") == "true"
    assert mail.content.header("x-int") == "5"


@pytest.mark.parametrize(
    ("value", "bounce"),
    [
        (None, False),
        (False, False),
        (True, True),
        ("false", True),
        ("", True),
        (0, True),
    ],
)
def test_bounce_is_set_by_any_value_but_null_and_false(
    strict_sandbox: Sandbox, value: Any, bounce: bool
) -> None:
    send(strict_sandbox, bounce=value)
    raw_call(strict_sandbox, RAW, bounce=value)
    assert [mail.bounce for mail in strict_sandbox.messages] == [bounce] * 2


def test_an_attached_mail_gets_crlf_line_ends(strict_sandbox: Sandbox) -> None:
    mail = "Subject: é\n\nHi\n".encode()
    data = base64.b64encode(mail).decode()
    attachment = {"name": "a.eml", "content_type": "message/rfc822", "data": data}
    send(strict_sandbox, attachments=[attachment])
    (file,) = strict_sandbox.messages[0].content.attachments
    assert file.content == mail.replace(b"\n", b"\r\n")


# ---- fields of send/raw


@pytest.mark.parametrize(
    "author",
    [
        b"From: hello@example.test, eve@evil.org\r\n",
        AUTHOR + b"From: eve@evil.org\r\n",
        b"From: eve@evil.org\r\nSender: hello@example.test\r\n",
        b"X: y\r\n",
    ],
)
def test_every_author_must_be_authorised(
    strict_sandbox: Sandbox, author: bytes
) -> None:
    response = raw_call(strict_sandbox, author + b"\r\nHi")
    assert response.json()["data"] == {"code": "UnauthenticatedFromAddress"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"data": "!!"}, "UnauthenticatedFromAddress"),
        ({"data": "RnJvbTogeA"}, "UnauthenticatedFromAddress"),
        ({"data": 5}, 500),
        ({"data": []}, "`data` parameter is required but is missing"),
        ({"mail_from": {}}, "`mail_from` parameter is required but is missing"),
        ({"mail_from": 5}, ANA),
        ({"mail_from": "a" * 256}, 500),
        ({"rcpt_to": "x"}, "`rcpt_to` parameter is required but is missing"),
        ({"rcpt_to": {"0": "x"}}, "`rcpt_to` parameter is required but is missing"),
        ({"rcpt_to": [None]}, []),
        ({"rcpt_to": [["x"]]}, 500),
    ],
)
def test_send_raw_fields_of_unexpected_types(
    strict_sandbox: Sandbox, fields: dict[str, Any], expected: Any
) -> None:
    assert outcome(raw_call(strict_sandbox, RAW, **fields)) == expected


@pytest.mark.parametrize(
    ("raw", "message_id"),
    [
        (RAW, "own@example.test"),
        (AUTHOR + b"\r\nHi", None),
        (RAW.replace(b"\r\n", b"\n"), None),
        (RAW.partition(b"\r\n\r\n")[0], None),
        (AUTHOR + b"Message-ID: <a@b.c>\r\nMessage-ID: <d@e.f>\r\n\r\n", "d@e.f"),
        (AUTHOR + b"Message-ID: bare@b.c\r\n\r\n", "bare@b.c"),
        (AUTHOR + b"Message-ID: <%b@b.c>\r\n\r\n" % (b"a" * 251), "a" * 251 + "@b.c"),
    ],
)
def test_the_message_id_of_a_raw_mail(
    strict_sandbox: Sandbox, raw: bytes, message_id: str | None
) -> None:
    data = raw_call(strict_sandbox, raw).json()["data"]
    assert data["message_id"] == message_id
    number = data["messages"]["ana@example.com"]["id"]
    assert message(strict_sandbox, number)["details"]["message_id"] == message_id


def test_an_empty_message_id_is_replaced(strict_sandbox: Sandbox) -> None:
    data = raw_call(strict_sandbox, AUTHOR + b"Message-ID:\r\n\r\nHi").json()["data"]
    assert re.fullmatch(r"[^\s<>@]+@[^\s<>@]+", data["message_id"])


def test_a_message_id_of_over_255_characters_is_an_error(
    strict_sandbox: Sandbox,
) -> None:
    raw = AUTHOR + b"Message-ID: <%b@b.c>\r\n\r\nHi" % (b"a" * 252)
    assert outcome(raw_call(strict_sandbox, raw)) == 500
    assert outcome(raw_call(strict_sandbox, raw, rcpt_to=[])) == []
    assert strict_sandbox.messages == []


def test_an_overlong_tag_in_a_header_ends_without_a_webhook(
    strict_sandbox: Sandbox,
) -> None:
    strict_sandbox.tracking_url = f"{refusing()}/postal/tracking/"
    tag = "x" * 256
    raw = AUTHOR + f"X-Postal-Tag: {tag}\r\n\r\nHi".encode()
    assert outcome(raw_call(strict_sandbox, raw)) == ANA
    assert send(strict_sandbox, headers={"X-Postal-Tag": tag}) == ANA
    strict_sandbox.advance(seconds=10)
    for mail in strict_sandbox.messages:
        assert (mail.status, mail.tag) == ("Error", None)
        (delivery,) = deliveries(strict_sandbox, mail.id)
        assert (delivery["status"], delivery["time"]) == ("Error", None)
    assert strict_sandbox.requests == []


def test_a_tag_in_a_header_is_decoded_and_the_last_counts(
    strict_sandbox: Sandbox,
) -> None:
    raw = AUTHOR + b"X-Postal-Tag: a\r\nX-Postal-Tag: =?utf-8?q?caf=C3=A9?=\r\n\r\n"
    raw_call(strict_sandbox, raw)
    assert strict_sandbox.messages[0].tag == "café"


# ---- what is stored


def test_a_held_mail_expires_after_seven_days(strict_sandbox: Sandbox) -> None:
    send(strict_sandbox, to=["held@example.com"])
    strict_sandbox.advance(seconds=1)
    status = message(strict_sandbox, strict_sandbox.messages[0].id)["status"]
    assert status["held"] is True
    assert status["hold_expiry"] == status["last_delivery_attempt"] + 7 * 24 * 3600


def test_a_bounced_mail_names_its_bounce(strict_sandbox: Sandbox) -> None:
    strict_sandbox.tracking_url = f"{refusing()}/postal/tracking/"
    send(strict_sandbox, to=["bounced@example.com"])
    strict_sandbox.advance(seconds=10)
    mail = strict_sandbox.messages[0]
    event = strict_sandbox.requests[-1].payload
    bounce = event["bounce"]
    assert bounce["spam_status"] == "NotChecked"
    sent, bounced = deliveries(strict_sandbox, mail.id)
    assert (sent["status"], bounced["status"]) == ("Sent", "Bounced")
    assert f"<msg:{bounce['id']}>" in bounced["details"]
    assert (bounced["output"], bounced["log_id"], bounced["time"]) == (None, None, None)
    status = message(strict_sandbox, mail.id)["status"]
    assert status["status"] == "Bounced"
    assert status["last_delivery_attempt"] == bounced["timestamp"]
    stored = message(strict_sandbox, bounce["id"])
    assert stored["status"]["status"] == "Processed"
    assert stored["details"]["bounce_for_id"] == mail.id
    assert stored["inspection"]["inspected"] is False
    (processed,) = deliveries(strict_sandbox, bounce["id"])
    assert f"<msg:{mail.id}>" in processed["details"]
