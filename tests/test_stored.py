"""Reading stored messages and their deliveries, from recorded responses."""

from __future__ import annotations

import json
from datetime import UTC, datetime
from typing import Any

import pytest

from flask_postal import APIError, MessageError, TransportError
from flask_postal.sending.stored import EXPANSIONS, Delivery, MessageDetails

from .captures import api_capture
from .conftest import MakeApp
from .servers import Loopback, answering, loopback

PASSWORD = "planted-Password-77"


def ask(make_app: MakeApp, body: bytes, *arguments: Any, **more: Any) -> Any:
    """Query a server that responds with this body; return the result and the server."""
    kind = more.pop("kind", "get_message")
    with loopback(answering("200 OK", body)) as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY="k")
        with app.app_context():
            return getattr(postal, kind)(*arguments, **more), server


def recorded(make_app: MakeApp, name: str) -> Any:
    capture = api_capture(name)
    kind = "get_deliveries" if "deliveries" in name else "get_message"
    body = capture["response"]["body_raw"].encode()
    return ask(make_app, body, capture["request"]["body"]["id"], kind=kind)[0]


def test_a_message_that_was_opened_and_clicked(make_app: MakeApp) -> None:
    mail = recorded(make_app, "messages-message-clicked")
    assert isinstance(mail, MessageDetails)
    assert (mail.id, mail.token) == (408, "jiQq5nyfI8BxV4wg")
    assert (mail.status, mail.event_type) == ("Sent", "delivered")
    assert mail.held is False
    assert mail.last_delivery_attempt == datetime.fromtimestamp(1795351789.085311, UTC)
    assert (mail.recipient, mail.sender) == ("alice@rcpt.test", "hello@example.test")
    assert mail.message_id == "acd6468f-cd2b-4161-a2bb-2a1bf85688fa@rp.postal.test"
    assert (mail.size, mail.tags, mail.bounce_for_id) == (1110, ["täg-1"], None)
    assert mail.direction == "outgoing"
    assert mail.spam_detected is False
    assert mail.text == "Hi"
    assert mail.html is not None
    assert mail.headers is not None
    assert mail.headers["to"] == ["alice@rcpt.test"]
    assert mail.raw is not None
    assert mail.raw.startswith(b"DKIM-Signature: v=1;")
    assert mail.activity is not None
    assert [a.event_type.value for a in mail.activity] == [
        "opened",
        "opened",
        "clicked",
        "clicked",
        "opened",
    ]
    click = mail.activity[2]
    assert click.click_url == "https://plain.test/click?a=1&b=2"
    assert click.ip_address == "203.0.113.9"
    assert click.timestamp == datetime(2026, 11, 22, 12, 50, 51, 312000, UTC)


def test_attachments_are_bytes(make_app: MakeApp) -> None:
    (attachment,) = recorded(make_app, "messages-message-withattachment").attachments
    assert attachment.filename == "résumé ☃ 履歴書.pdf"
    assert (attachment.content, attachment.size) == (b"%PDF-1.4 x", 10)
    assert attachment.hash == "7c338c7822a0518737e370d5f5780bc1610d2ccb"


@pytest.mark.parametrize(
    ("name", "status", "event_type"),
    [
        ("messages-message-sent", "Sent", "delivered"),
        ("messages-message-bounced", "Bounced", "bounced"),
        ("messages-message-hardfail", "HardFail", "failed"),
        ("messages-message-exp-status-details", "Sent", "delivered"),
        ("messages-message-noexp", None, None),
    ],
)
def test_statuses_are_mapped_to_event_types(
    make_app: MakeApp, name: str, status: str | None, event_type: str | None
) -> None:
    mail = recorded(make_app, name)
    assert (mail.status, mail.event_type) == (status, event_type)


def test_deliveries(make_app: MakeApp) -> None:
    (failed,) = recorded(make_app, "messages-deliveries-hardfail")
    assert isinstance(failed, Delivery)
    assert (failed.event_type, failed.reject_reason) == ("failed", "invalid")
    assert (failed.smtp_code, failed.enhanced_status) == (550, "5.1.1")
    assert "added to suppression list" in str(failed.description)
    assert failed.mta_response == "550 5.1.1 No such user <hardfail1@rcpt.test> here"
    assert failed.timestamp == datetime.fromtimestamp(1795351819.5739331, UTC)
    assert (failed.log_id, failed.time, failed.sent_with_ssl) == (
        "MQYOAL27",
        0.0,
        False,
    )
    (held,) = recorded(make_app, "messages-deliveries-held")
    assert (held.event_type, held.hold_reason) == ("queued", "credential")
    assert (held.mta_response, held.log_id, held.time) == (None, None, None)
    (soft, *_) = recorded(make_app, "messages-deliveries-softfail")
    assert (soft.event_type, soft.reject_reason) == ("deferred", None)
    sent = recorded(make_app, "messages-deliveries-sent")
    assert {d.event_type.value for d in sent} == {"delivered"}


@pytest.mark.parametrize(
    "data",
    [
        # "\r\n\r\n", which Postal returns for headers and a body that were deleted.
        {"raw_message": "DQoNCg==\n", "headers": {}, "attachments": []},
        {"raw_message": "", "headers": {}, "attachments": []},
        {"headers": {}, "attachments": []},
        {"raw_message": "DQoNCg==\n", "attachments": []},
        {"attachments": None},
    ],
)
def test_the_content_of_a_pruned_mail_is_none(
    make_app: MakeApp, data: dict[str, Any]
) -> None:
    data = {"id": 5, "details": {"rcpt_to": "a@b.c"}, **data}
    body = json.dumps({"status": "success", "data": data}).encode()
    mail, _ = ask(make_app, body, 5)
    assert (mail.raw, mail.headers, mail.attachments) == (None, None, None)
    assert mail.recipient == "a@b.c"


def test_a_mail_without_attachments_has_an_empty_list(make_app: MakeApp) -> None:
    data = {"id": 5, "attachments": [], "headers": {"to": ["a@b.c"]}}
    body = json.dumps({"status": "success", "data": data}).encode()
    mail, _ = ask(make_app, body, 5)
    assert (mail.attachments, mail.headers) == ([], {"to": ["a@b.c"]})


@pytest.mark.parametrize(
    ("expand", "sent"),
    [
        (True, True),
        ("status", ["status"]),
        (["raw_message", "headers"], ["raw_message", "headers"]),
        (("status",), ["status"]),
        ([], None),
        (False, None),
        (None, None),
    ],
)
def test_expand_selects_what_is_requested(
    make_app: MakeApp, expand: Any, sent: Any
) -> None:
    body = b'{"status": "success", "data": {"id": 5}}'
    server: Loopback
    _, server = ask(make_app, body, 5, expand=expand)
    expected = {"id": 5} if sent is None else {"id": 5, "_expansions": sent}
    assert server.bodies[0].json == expected
    assert server.bodies[0].head.startswith("POST /api/v1/messages/message ")


def test_status_and_details_are_requested_by_default(make_app: MakeApp) -> None:
    _, server = ask(make_app, b'{"status": "success", "data": {}}', 5)
    assert server.bodies[0].json["_expansions"] == ["status", "details"]
    assert len(EXPANSIONS) == 9


@pytest.mark.parametrize("value", ["5", 5.0, True, None, [5], -1])
@pytest.mark.parametrize("kind", ["get_message", "get_deliveries"])
def test_ids_must_be_ints(make_app: MakeApp, kind: str, value: Any) -> None:
    with pytest.raises(MessageError, match="id must be an int") as caught:
        ask(make_app, b"", value, kind=kind)
    assert caught.value.field == "id"


def test_an_unknown_expansion_is_refused(make_app: MakeApp) -> None:
    with pytest.raises(MessageError, match="'nonsense' is not one of status"):
        ask(make_app, b"", 5, expand=["nonsense"])


@pytest.mark.parametrize("kind", ["get_message", "get_deliveries"])
def test_an_unknown_id_is_an_api_error(make_app: MakeApp, kind: str) -> None:
    body = api_capture("err-MessageNotFound")["response"]["body_raw"].encode()
    with pytest.raises(APIError, match="No message found") as caught:
        ask(make_app, body, 999999, kind=kind)
    assert caught.value.code == "MessageNotFound"


@pytest.mark.parametrize("data", [b"null", b"5", b'"x"', b"true"])
@pytest.mark.parametrize("kind", ["get_message", "get_deliveries"])
def test_unexpected_responses_are_transport_errors_without_doubt(
    make_app: MakeApp, kind: str, data: bytes
) -> None:
    body = b'{"status": "success", "data": ' + data + b"}"
    with pytest.raises(TransportError, match="success without") as caught:
        ask(make_app, body, 5, kind=kind)
    assert caught.value.maybe_sent is False
    with pytest.raises(TransportError, match="not a complete response") as caught:
        ask(make_app, b"<html>", 5, kind=kind)
    assert caught.value.maybe_sent is False
    assert "may have queued" not in str(caught.value)


@pytest.mark.parametrize(
    "data",
    [
        dict.fromkeys(EXPANSIONS, 5),
        {name: [5] for name in EXPANSIONS},
        {name: {"x": 5} for name in EXPANSIONS},
        {"status": {"status": 5, "held": "x", "hold_expiry": 1e300}},
        {"details": {"size": "x" * 99, "bounce_for_id": "x", "timestamp": "x"}},
        {"details": {"size": "9" * 9999}},
        {"attachments": [{"data": "%%%"}, None], "raw_message": "ä"},
        {"activity_entries": {"loads": [{"timestamp": "never"}, 5], "clicks": None}},
        {"headers": {"to": None}},
        {"activity_entries": {"loads": 5, "clicks": {}}},
        {"activity_entries": {"loads": [{"timestamp": "0001-01-01T00:00:00+14:00"}]}},
        {"inspection": {"spam_score": 10**400}},
    ],
)
def test_fields_of_the_wrong_type_do_not_raise(make_app: MakeApp, data: Any) -> None:
    body = json.dumps({"status": "success", "data": data}).encode()
    mail, _ = ask(make_app, body, 5, expand=True)
    assert mail.data == data


def test_the_password_of_an_endpoint_is_redacted(make_app: MakeApp) -> None:
    details = f"Received a 500 from https://user:{PASSWORD}@app.test/in?key={PASSWORD}"
    data = [{"id": 5, "status": "SoftFail", "details": details, "output": details}]
    body = json.dumps({"status": "success", "data": data}).encode()
    (delivery,), _ = ask(make_app, body, 5, kind="get_deliveries")
    assert delivery.description == "Received a 500 from https://***@app.test/in?***"
    assert PASSWORD not in repr(delivery) + str(delivery.data)
