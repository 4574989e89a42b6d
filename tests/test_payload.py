"""What is sent to Postal, and what is refused before it is sent."""

from __future__ import annotations

import base64
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from flask_postal import Address, Attachment, Message, MessageError, UnsupportedFeature

from .mails import headers_of, message, prepared, raw, wire

BINARY = b"\x00\x01\xfe\xff"


def attached(*arguments: Any, **more: Any) -> Message:
    made = message()
    made.attachments.append(Attachment(*arguments, **more))
    return made


# ---- the endpoint


@pytest.mark.parametrize(
    "plain",
    [
        message(),
        message(body=None, html="<p>x</p>"),
        message(html="<p>x</p>"),
        message(body=None, alts={"html": "<p>x</p>"}),
        message(cc="c@d.e", bcc="f@g.h", reply_to=["i@j.k", "l@m.n"]),
        message(recipients=[], bcc="f@g.h"),
        message(recipients=[f"u{n}@example.com" for n in range(50)]),
        message(recipients=["a@example.com"] * 60),
        message(extra_headers={"X-A": "b", "X-B": ["c"], "Sender": "s@example.com"}),
        message(tags="täg", bounce=True, date=0),
        message(track_opens=None),
        attached("a.pdf", "application/pdf", BINARY),
        attached("a b.csv", "application/csv", b"no line break"),
    ],
)
def test_ordinary_messages_use_send_message(plain: Message) -> None:
    assert prepared(plain).endpoint == "send/message"


@pytest.mark.parametrize(
    "special",
    [
        attached("a.png", "image/png", BINARY, content_id="logo"),
        attached("a.png", "image/png", BINARY, "inline"),
        message(alts={"text/calendar": "BEGIN:VCALENDAR"}),
        message(message_id="own@example.com"),
        message(track_opens=False, track_clicks=False),
        message(recipients=[f"u{n}@example.com" for n in range(51)]),
        message(cc=[f"u{n}@example.com" for n in range(51)]),
        message(bcc=[f"u{n}@example.com" for n in range(51)]),
        message(body=" ", attachments=[("a.bin", "application/x", BINARY)]),
        message(extra_headers={"X-A": ["b", "c"]}),
        message(extra_headers=[("X-A", "b"), ("X-A", "c")]),
        message(extra_headers={"X-A": "b", "x-a": "c"}),
        attached("a.bin", "application/octet-stream", b""),
        attached("a.bin", "application/octet-stream", b" \r\n\t "),
        attached(None, "application/pdf", BINARY),
        attached("  ", "application/pdf", BINARY),
        attached("résumé.pdf", "application/pdf", BINARY),
        attached('a".pdf', "application/pdf", BINARY),
        attached("a.txt", "text/plain", BINARY),
        attached("a.csv", "Text/CSV; charset=utf-8", BINARY),
        attached("a.eml", "message/rfc822", b"Subject: x\r\n\r\nx"),
        attached("a.json", "application/json", b"{\n}"),
        attached("a.json", "application/json", b"{\r}"),
    ],
)
def test_messages_that_send_message_would_refuse_or_change_use_send_raw(
    special: Message,
) -> None:
    assert prepared(special).endpoint == "send/raw"


def test_the_content_of_a_file_decides_the_endpoint(tmp_path: Path) -> None:
    ascii_file = tmp_path / "a.json"
    ascii_file.write_bytes(b"x" * 200_000 + b"\n")
    binary_file = tmp_path / "b.json"
    binary_file.write_bytes(b"x" * 200_000 + b"\n\xff")
    for path, endpoint in ((ascii_file, "send/raw"), (binary_file, "send/message")):
        made = message()
        made.attach_file(path, content_type="application/json")
        assert prepared(made).endpoint == endpoint


# ---- the JSON of send/message


def test_every_field_of_send_message() -> None:
    made = message(
        subject="Grüße",
        recipients=["Ana <ana@example.com>", ("Doe, Jane", "jane@bücher.example")],
        body="text",
        html="<p>html</p>",
        cc="cc@example.com",
        bcc=["bcc@example.com"],
        reply_to=[("A", "a@example.com"), "b@example.com"],
        extra_headers={"X-A": "b", "Sender": "Sam <s@example.com>"},
        date=datetime(2026, 11, 22, 10, tzinfo=UTC),
        tags=["welcome"],
        bounce=True,
        esp_extra={"HypotheticalFuturePostalParam": "2022"},
    )
    made.attach("a.pdf", "application/pdf", BINARY)
    made.attach("b.pdf", "application/pdf", BINARY * 2)
    assert wire(made) == {
        "from": "hello@example.com",
        "to": ["Ana <ana@example.com>", '"Doe, Jane" <jane@xn--bcher-kva.example>'],
        "cc": ["cc@example.com"],
        "bcc": ["bcc@example.com"],
        "subject": "Grüße",
        "plain_body": "text",
        "html_body": "<p>html</p>",
        "reply_to": "A <a@example.com>, b@example.com",
        "sender": "Sam <s@example.com>",
        "tag": "welcome",
        "bounce": True,
        "headers": {"X-A": "b", "Date": "Sun, 22 Nov 2026 10:00:00 +0000"},
        "HypotheticalFuturePostalParam": "2022",
        "attachments": [
            {
                "name": name,
                "content_type": "application/pdf",
                "data": base64.b64encode(data).decode(),
            }
            for name, data in (("a.pdf", BINARY), ("b.pdf", BINARY * 2))
        ],
    }


def test_the_date_parameter_wins_over_the_header_in_any_case() -> None:
    sent = wire(message(date=0, extra_headers={"date": "Sun, 22 Nov 2026 11:00:00 +0"}))
    assert sent["headers"] == {"Date": "Thu, 01 Jan 1970 00:00:00 +0000"}


def test_unset_fields_are_left_out() -> None:
    assert wire() == {
        "from": "hello@example.com",
        "to": ["ana@example.com"],
        "subject": "Hi",
        "plain_body": "x",
    }


def test_a_blank_text_beside_html_is_left_out() -> None:
    assert "plain_body" not in wire(message(body=" \n", html="<p>x</p>"))


def test_text_that_looks_like_an_encoded_word_is_encoded() -> None:
    sent = wire(message(subject="=?utf-8?q?a?=", recipients=[("=?x", "a@b.c")]))
    assert sent["subject"] == "=?utf-8?b?PT91dGYtOD9xP2E/PQ==?="
    assert sent["to"] == ["=?utf-8?b?PT94?= <a@b.c>"]


def test_duplicate_recipients_are_sent_once_and_found_under_every_spelling() -> None:
    made = message(
        recipients=["Ana <ana@Bücher.example>", "ana@bücher.EXAMPLE", "bob@b.c"],
        cc=["ana@xn--bcher-kva.example", "Ana@bücher.example"],
        bcc=[("B", "bob@B.c")],
    )
    sent = wire(made)
    assert sent["to"] == ["Ana <ana@xn--bcher-kva.example>", "bob@b.c"]
    assert sent["cc"] == ["Ana@xn--bcher-kva.example"]
    assert "bcc" not in sent
    ready = prepared(made)
    first = ["ana@Bücher.example", "bob@b.c", "Ana@bücher.example"]
    assert list(ready.recipients) == first
    for spelling in (
        "ana@Bücher.example",
        "Ana <ana@Bücher.example>",
        "ana@bücher.EXAMPLE",
        "ana@xn--bcher-kva.example",
    ):
        assert ready.aliases[spelling] == "ana@Bücher.example"


def test_the_default_sender_is_used_if_the_message_has_none() -> None:
    for value in ("Acme <a@b.c>", ("Acme", "a@b.c")):
        assert (
            wire(message(sender=None), default_sender=value)["from"] == "Acme <a@b.c>"
        )


# ---- refused before any I/O


@pytest.mark.parametrize("bad", ["\r", "\n", "\0"], ids=["CR", "LF", "NUL"])
@pytest.mark.parametrize(
    ("field", "make"),
    [
        ("subject", lambda bad: message(subject=f"a{bad}b")),
        ("sender", lambda bad: message(sender=(f"a{bad}", "a@b.c"))),
        ("recipients", lambda bad: message(recipients=f"a{bad}@b.c")),
        ("cc", lambda bad: message(cc=[("n" + bad, "a@b.c")])),
        ("bcc", lambda bad: message(bcc=f"a@b{bad}.c")),
        ("reply_to", lambda bad: message(reply_to=f"a{bad} <a@b.c>")),
        ("extra_headers", lambda bad: message(extra_headers={f"X{bad}": "y"})),
        ("extra_headers", lambda bad: message(extra_headers={"X": f"y{bad}z"})),
        ("extra_headers", lambda bad: message(extra_headers={"X": ["a", f"y{bad}"]})),
        ("extra_headers", lambda bad: message(extra_headers={"Sender": f"{bad}@b.c"})),
        ("tags", lambda bad: message(tags=f"a{bad}b")),
        ("message_id", lambda bad: message(message_id=f"a{bad}@b.c")),
        ("alts", lambda bad: message(alts={f"text/x{bad}": "y"})),
        ("attachments", lambda bad: attached(f"a{bad}.pdf", "a/b", BINARY)),
        ("attachments", lambda bad: attached("a.pdf", f"a/b{bad}", BINARY)),
        ("attachments", lambda bad: attached("a", "a/b", BINARY, content_id=f"a{bad}")),
        ("esp_extra", lambda bad: message(esp_extra={"subject": f"a{bad}"})),
    ],
)
def test_line_breaks_and_nul_are_refused_with_their_field(
    field: str, make: Any, bad: str
) -> None:
    with pytest.raises(MessageError, match=field) as caught:
        prepared(make(bad))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("name", "cure"),
    [
        ("From", "sender="),
        ("to", "recipients="),
        ("Cc", "cc="),
        ("BCC", "bcc="),
        ("Subject", "subject="),
        ("Reply-To", "reply_to="),
        ("Message-ID", "message_id="),
        ("Content-Type", "attach"),
        ("content-transfer-encoding", "attach"),
        ("MIME-Version", "leave it out"),
        ("X-Postal-MsgID", "DKIM"),
        ("X-Postal-Tag", "tags="),
        ("x-postal-anything", "leave it out"),
        ("A b", "not a valid header name"),
        ("A:b", "not a valid header name"),
        ("Ä", "not a valid header name"),
        ("", "not a valid header name"),
        ("X" * 77, "not a valid header name"),
        (5, "must be a string"),
    ],
)
def test_headers_that_postal_would_drop_corrupt_or_obey_are_refused(
    name: Any, cure: str
) -> None:
    with pytest.raises(MessageError, match=cure) as caught:
        prepared(message(extra_headers={name: "x"}))
    assert caught.value.field == "extra_headers"


@pytest.mark.parametrize(
    ("changes", "field", "why"),
    [
        ({"recipients": []}, "recipients", "no recipients"),
        ({"recipients": [""]}, "recipients", "not an address"),
        ({"recipients": [5]}, "recipients", "not int"),
        ({"body": None}, "body", "no content"),
        ({"body": " \n "}, "body", "no content"),
        ({"body": 5}, "body", "must be a string"),
        ({"html": b"x"}, "html", "must be a string"),
        ({"subject": 5}, "subject", "must be a string"),
        ({"sender": None}, "sender", "set POSTAL_DEFAULT_SENDER"),
        ({"tags": "x" * 256}, "tags", "too long; Postal accepts at most 255"),
        ({"tags": [5]}, "tags", "must be a string"),
        ({"bounce": "false"}, "bounce", "True, False or None"),
        ({"track_opens": "no", "track_clicks": False}, "track_clicks", "both"),
        ({"date": datetime(2026, 1, 1)}, "date", "aware datetime"),
        ({"date": "2026-01-01"}, "date", "aware datetime"),
        ({"date": float("inf")}, "date", "aware datetime"),
        ({"message_id": "no at"}, "message_id", "unique@your.domain"),
        ({"message_id": "ä@b.c"}, "message_id", "unique@your.domain"),
        ({"message_id": "a" * 250 + "@b"}, "message_id", "unique@your.domain"),
        ({"alts": {"text": "x", "a b/c": "x"}}, "alts", "not a media type"),
        ({"extra_headers": {"X": 5}}, "extra_headers", "not int"),
        ({"extra_headers": {"X": [5]}}, "extra_headers", "not int"),
        ({"body": "a\ud800"}, "body", "surrogate"),
        ({"esp_extra": {"x": object()}}, "esp_extra", "JSON"),
        ({"esp_extra": {"x": float("nan")}}, "esp_extra", "JSON"),
        ({"esp_extra": {"bounce": "false"}}, "esp_extra", "True or False"),
        ({"esp_extra": {"tag": "x" * 256}}, "esp_extra", "at most 255"),
        ({"esp_extra": {"from": "a@b.c, d@e.f"}}, "esp_extra", "not one address"),
    ],
)
def test_bad_input_is_refused_with_its_field(
    changes: dict[str, Any], field: str, why: str
) -> None:
    with pytest.raises(MessageError, match=why) as caught:
        prepared(message(**changes))
    assert caught.value.field == field


@pytest.mark.parametrize(
    ("attachment", "why"),
    [
        (Attachment("a", "nonsense", BINARY), "not a media type"),
        (Attachment("a", "multipart/mixed", BINARY), "octet-stream"),
        (Attachment("a", "message/partial", BINARY), "octet-stream"),
        (Attachment("a", "a/b", BINARY, "hidden"), "disposition"),
        (Attachment("a" * 256, "a/b", BINARY), "too long"),
        (Attachment("a", "a/b", BINARY, content_id="a b"), "not a valid content id"),
        (Attachment("a", "a/b", path="/nowhere/at/all"), "can't be read"),
        (Attachment(5, "a/b", BINARY), "must be a string"),  # type: ignore[arg-type]
    ],
)
def test_attachments_that_can_not_be_sent_are_refused(
    attachment: Attachment, why: str
) -> None:
    with pytest.raises(MessageError, match=why) as caught:
        prepared(message(attachments=[attachment]))
    assert caught.value.field == "attachments"


@pytest.mark.parametrize(
    "key", ["to", "cc", "bcc", "rcpt_to", "headers", "attachments", "data", "mail_from"]
)
@pytest.mark.parametrize("own_id", [None, "own@example.com"], ids=["message", "raw"])
def test_esp_extra_can_not_bypass_the_checks(key: str, own_id: str | None) -> None:
    with pytest.raises(MessageError, match=f"esp_extra: '{key}' can't be set"):
        prepared(message(message_id=own_id, esp_extra={key: "x"}))


# ---- esp_extra, on both endpoints


def test_unknown_esp_extra_is_merged_on_both_endpoints() -> None:
    extra = {"HypotheticalFuturePostalParam": {"a": [1]}, "bounce": True}
    assert wire(message(esp_extra=extra)).items() >= extra.items()
    sent = wire(message(message_id="own@example.com", esp_extra=extra))
    assert sent.items() >= extra.items()
    assert sent.keys() == {"mail_from", "rcpt_to", "data"} | extra.keys()


def test_known_esp_extra_is_merged_into_send_message() -> None:
    extra = {"tag": "t", "subject": "S", "sender": "s@example.com"}
    assert wire(message(esp_extra=extra)).items() >= extra.items()


@pytest.mark.parametrize(
    ("key", "cure"),
    [
        ("tag", "tags="),
        ("subject", "subject="),
        ("plain_body", "body="),
        ("html_body", "html="),
        ("from", "sender="),
        ("sender", "Sender"),
        ("reply_to", "reply_to="),
    ],
)
def test_known_esp_extra_that_send_raw_does_not_support_is_refused(
    key: str, cure: str
) -> None:
    made = message(message_id="own@example.com", esp_extra={key: "x"})
    with pytest.raises(MessageError, match=f"send/raw.*a Message-ID.*use .*{cure}"):
        prepared(made)


# ---- what Postal can't do


UNSUPPORTED = {
    "tags": ({"tags": ["one", "two"]}, "pass one"),
    "send_at": ({"send_at": 5}, "scheduled task"),
    "track_opens": ({"track_opens": True}, "tracking domain"),
    "track_clicks": ({"track_clicks": True}, "tracking domain"),
    "track_opens one-sided": ({"track_opens": False}, "track_clicks=False too"),
    "track_clicks one-sided": ({"track_clicks": False}, "track_opens=False too"),
    "metadata": ({"metadata": {"a": 1}}, "result.recipients"),
    "mail_options": ({"mail_options": ["SMTPUTF8"]}, "leave it out"),
    "rcpt_options": ({"rcpt_options": ["NOTIFY=NEVER"]}, "leave it out"),
    "charset": ({"charset": "iso-8859-1"}, "UTF-8"),
}


@pytest.mark.parametrize(
    ("feature", "changes", "instead"),
    [(feature, *rest) for feature, rest in UNSUPPORTED.items()],
    ids=list(UNSUPPORTED),
)
def test_unsupported_features_are_refused_with_an_alternative(
    feature: str, changes: dict[str, Any], instead: str
) -> None:
    with pytest.raises(UnsupportedFeature, match=instead) as caught:
        prepared(message(**changes))
    assert caught.value.feature == feature.split()[0]
    assert "POSTAL_IGNORE_UNSUPPORTED_FEATURES" in str(caught.value)


@pytest.mark.parametrize(
    "changes", [rest[0] for rest in UNSUPPORTED.values()], ids=list(UNSUPPORTED)
)
def test_ignore_unsupported_features_drops_them(changes: dict[str, Any]) -> None:
    made = message(**changes)
    sent = wire(made, ignore_unsupported_features=True)
    expected = wire(message(tags="one" if "tags" in changes else None))
    assert sent == expected
    assert getattr(made, next(iter(changes))) == next(iter(changes.values()))


@pytest.mark.parametrize("charset", ["utf-8", "UTF-8", "utf8", None])
def test_utf_8_is_accepted_as_the_charset(charset: str | None) -> None:
    assert wire(message(charset=charset)) == wire()


# ---- redirect


def test_redirect_to_replaces_all_recipients_and_names_the_originals() -> None:
    made = message(cc="c@d.e", bcc=("F", "f@g.h"), reply_to="r@s.t")
    sent = wire(made, redirect_to="Staging <staging@example.com>")
    assert sent["to"] == ["Staging <staging@example.com>"]
    assert "cc" not in sent
    assert "bcc" not in sent
    assert sent["reply_to"] == "r@s.t"
    assert sent["headers"] == {"X-Original-To": "ana@example.com, c@d.e, f@g.h"}
    ready = prepared(made, redirect_to="staging@example.com")
    assert ready.recipients == {"staging@example.com": Address("staging@example.com")}
    assert ready.aliases["f@g.h"] == "staging@example.com"


def test_redirect_to_applies_to_send_raw_too() -> None:
    many = [f"u{n}@example.com" for n in range(60)]
    assert prepared(message(recipients=many), redirect_to="s@t.u").endpoint == (
        "send/message"
    )
    made = message(recipients=many, message_id="own@example.com")
    assert wire(made, redirect_to="s@t.u")["rcpt_to"] == ["s@t.u"]


def test_header_names_are_case_insensitive() -> None:
    source = message(extra_headers={"x-original-to": "kept?", "dAtE": "x"}, date=0)
    sent = wire(source, redirect_to="staging@example.com")
    assert sent["headers"]["X-Original-To"] == "ana@example.com"
    names = [name.lower() for name in sent["headers"]]
    assert sorted(names) == ["date", "x-original-to"]
    source = message(extra_headers={"X-A": "1", "x-a": "2"})
    mail = raw(source)
    assert headers_of(mail, "X-A") == ["1", "2"]
