"""Inbound mail: the four formats, and malicious mail."""

from __future__ import annotations

import base64
import json
import time
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote_plus

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_postal import Address, PayloadError
from flask_postal.sandbox import SigningKey
from flask_postal.sandbox.webhook_bodies import serialize
from flask_postal.webhooks.inbound import FORM, JSON, parse_inbound
from flask_postal.webhooks.mail.base64_mail import Base64Mail, cut_out
from flask_postal.webhooks.mail.message import InboundMessage
from flask_postal.webhooks.mail.raw import RawMail

from .captures import CAPTURES, Recorded
from .conftest import MakeApp

ALL = sorted(path.stem for path in (CAPTURES / "inbound").glob("*.body"))
ACCESSORS = [
    name
    for name in dir(InboundMessage)
    if not name.startswith("_") and name not in ("header", "raw")
]


def load(name: str) -> Any:
    recorded = Recorded.load(f"inbound/{name}")
    return parse_inbound(recorded.body, recorded.headers["Content-Type"])


def mail(raw: bytes, **more: Any) -> InboundMessage:
    return InboundMessage(RawMail(Base64Mail(raw=raw), **more))


def read_all(message: InboundMessage) -> dict[str, Any]:
    """Read all attributes; none may raise, and all must be encodable as UTF-8."""
    values = {name: getattr(message, name) for name in ACCESSORS}
    for attachment in values["attachments"]:
        assert attachment.safe_filename
        assert attachment.as_file().read() == attachment.content
    repr(values).encode()
    return values


@pytest.mark.parametrize("name", ALL)
def test_every_recorded_mail_is_accepted(
    make_app: MakeApp, inbound: list[Any], name: str
) -> None:
    app, _ = make_app()
    answer = Recorded.load(f"inbound/{name}").post(app.test_client())
    assert answer.status_code == 200
    (event,) = inbound
    assert isinstance(event.id, int)
    assert name.startswith(event.format)
    values = read_all(event.message)
    assert values["defects"] == []


@pytest.mark.parametrize("name", ["raw-json", "raw-form", "hash-json", "hash-form"])
def test_all_four_formats_give_the_same_message(name: str) -> None:
    event = load(name)
    message = event.message
    assert event.format == name
    assert message.envelope_sender == "zoe@outside.test"
    assert message.envelope_recipient == f"{name}@example.test"
    assert message.from_email == Address("zoe@outside.test", "Zoë, Ångström")
    assert message.to == [
        Address(f"{name}@example.test", "Inböx, Acme"),
        Address("other@outside.test"),
    ]
    assert message.cc == [Address("jose@outside.test", "José")]
    assert message.reply_to == [
        Address("r1@outside.test"),
        Address("r2@outside.test", "R, Zwei"),
    ]
    assert message.subject == "Grüße ✓ 🎉 <b>&'\"</b>"
    assert message.message_id == "in-1@outside.test"
    assert message.in_reply_to == "orig-1@example.test"
    assert message.references == ["orig-0@example.test", "orig-1@example.test"]
    assert message.date == datetime(2026, 11, 22, 9, tzinfo=UTC)
    assert message.text is not None
    assert message.text.startswith("Hällo ✓\nLine & = + % two\n")
    assert message.html is not None
    assert message.html.startswith("<p>Hällo ✓ &amp; <a href=")
    assert message.spam_detected is False
    assert message.is_auto_reply is True
    assert message.is_bounce is False
    assert message.header("Subject") == message.subject
    assert message.attachments[0].filename == "résumé ☃ & =.pdf"
    assert message.attachments[0].content == bytes(range(256)) * 3
    assert message.attachments[0].content_type == "application/pdf"
    assert message.stripped_text == "Hällo ✓\nLine & = + % two"
    assert (message.raw is None) is name.startswith("hash")


def test_replies_stripped_by_postal_are_joined_in_text() -> None:
    for name in ("hash-json-strip-replies", "hash-form-strip-replies"):
        message = load(name).message
        assert message.stripped_text == "Hällo ✓\nLine & = + % two"
        assert message.text.startswith(message.stripped_text)
        assert "> quoted" in message.text


def test_a_null_sender_is_none_and_its_mail_a_bounce() -> None:
    message = load("hash-json-returnpath").message
    assert message.envelope_sender is None
    assert message.is_bounce is True


def test_attachments_without_a_disposition_are_found() -> None:
    message = load("raw-json-attachments").message
    assert message.text == "see\n"
    found = [(a.filename, a.content_type, a.size) for a in message.attachments]
    assert found[:2] == [
        ("empty.bin", "application/octet-stream", 0),
        ("in line.png", "image/png", 200),
    ]
    assert found[2][1] == "message/rfc822"
    assert found[3] == (None, "application/octet-stream", 1)
    assert message.inlines["c@x"].content == message.attachments[1].content


def test_the_text_of_an_attached_message_is_not_the_body() -> None:
    inner = b"Content-Type: text/plain\n\ninner"
    raw = (
        b'From: a@b.c\nContent-Type: multipart/mixed; boundary="x"\n\n'
        b"--x\nContent-Type: message/rfc822\n\n" + inner + b"\n--x--\n"
    )
    message = mail(raw)
    assert (message.text, message.html) == (None, None)
    assert message.attachments[0].content_type == "message/rfc822"
    assert b"inner" in message.attachments[0].content


def test_images_in_the_html_are_inlines_not_attachments() -> None:
    raw = (
        b'Content-Type: multipart/related; boundary="x"\n\n'
        b"--x\nContent-Type: text/html\n\n<img src=cid:a>\n"
        b"--x\nContent-Type: image/png\nContent-ID: <a>\n\nPNG\n--x--\n"
    )
    message = mail(raw)
    assert message.html == "<img src=cid:a>"
    assert message.attachments == []
    assert message.inlines["a"].content == b"PNG"


# ---- spam: only headers above the first Received header count

SPAM = b"X-Postal-Spam: yes\nX-Postal-Spam-Score: 9.5\n"
CLEAN = b"X-Postal-Spam: no\nX-Postal-Spam-Score: 0.5\n"
RECEIVED = b"Received: from x by y\n"


@pytest.mark.parametrize(
    ("raw", "verdict", "score"),
    [
        (SPAM + RECEIVED, True, 9.5),
        (CLEAN + RECEIVED + SPAM, False, 0.5),
        (SPAM + RECEIVED + CLEAN, True, 9.5),
        (SPAM + CLEAN + RECEIVED, True, 9.5),
        (RECEIVED + CLEAN, None, None),
        (CLEAN, None, None),
        (b"X-Postal-Spam: perhaps\n" + RECEIVED, None, None),
        (b"X-Postal-Spam-Score: much\n" + RECEIVED, None, None),
        (b"Subject: x\n\n" + SPAM + RECEIVED, None, None),
    ],
)
def test_only_postals_own_spam_headers_count(
    raw: bytes, verdict: bool | None, score: float | None
) -> None:
    message = mail(raw + b"\nbody")
    assert (message.spam_detected, message.spam_score) == (verdict, score)


@pytest.mark.parametrize(
    ("headers", "automatic"),
    [
        (b"Auto-Submitted: auto-replied", True),
        (b"Auto-Submitted: auto-generated; x=y", True),
        (b"Auto-Submitted: no", False),
        (b"Precedence: auto_reply", True),
        (b"X-Autoreply: yes", True),
        (b"Subject: Auto-Submitted", False),
    ],
)
def test_auto_replies_are_recognised(headers: bytes, automatic: bool) -> None:
    assert mail(headers + b"\n\nx").is_auto_reply is automatic


@pytest.mark.parametrize(
    ("raw", "null_sender", "bounce"),
    [
        (b"Content-Type: multipart/report; report-type=delivery-status", True, True),
        (b"Content-Type: multipart/report; report-type=disposition", True, False),
        (b"From: MAILER-DAEMON@x.y", True, True),
        (b"From: MAILER-DAEMON@x.y", False, False),
        (b"From: ana@x.y", True, False),
    ],
)
def test_bounces_are_recognised(raw: bytes, null_sender: bool, bounce: bool) -> None:
    assert mail(raw + b"\n\nx", null_sender=null_sender).is_bounce is bounce


# ---- malicious mail


def nested(depth: int) -> bytes:
    return b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\n\n--%d\n' % (n, n)
        for n in range(depth)
    )


def parts(count: int) -> bytes:
    return b'Content-Type: multipart/mixed; boundary="x"\n\n' + b"--x\n\n\n" * count


HOSTILE = {
    "empty": b"",
    "no header": b"just text",
    "from": b"From: <\n\nx",
    "message-id": b"Message-ID: <[\n\nx",
    "parentheses": b"To: " + b"(" * 50_000 + b"\n\nx",
    "addresses": b"To: " + b"a@b.c, " * 50_000 + b"\n\nx",
    "charset": b"Content-Type: text/plain; charset=klingon\n\nx",
    "charset name": b"Content-Type: text/plain; charset=\xff\n\nx",
    "charset rfc2231": b"Content-Type: text/plain; charset*=utf-8''%FF\n\nx",
    "idna charset": b"Content-Type: text/plain; charset=idna\n\n\xff..",
    "zlib charset": b"Content-Type: text/plain; charset=zlib\n\nx",
    "8bit": b"Subject: Gr\xfc\xdfe\nContent-Type: text/plain\n\nGr\xfc\xdfe",
    "utf-8 header": "Subject: Grüße ✓\n\nx".encode(),
    "word charset": b"Subject: =?klingon?q?x?=\n\nx",
    "word base64": b"Subject: =?utf-8?b?x?=\n\nx",
    "word bytes": b"Subject: =?utf-8?q?=FF=FE?=\n\nx",
    "date": b"Date: Mon, 99 Foo 99999 99:99:99 +9999\n\nx",
    "date huge": b"Date: " + b"9" * 10_000 + b"\n\nx",
    "base64": b"Content-Transfer-Encoding: base64\n\n%%%=A",
    "unknown encoding": b"Content-Transfer-Encoding: x-uue\n\nx",
    "uuencode": b"Content-Transfer-Encoding: x-uuencode\n\nbegin 666 x\n\xff\nend",
    "no boundary": b"Content-Type: multipart/mixed\n\nx",
    "odd boundary": b'Content-Type: multipart/mixed; boundary="\xff"\n\n--\xff\n\nx',
    "filename": b"Content-Disposition: attachment; filename*=x'y\n\nx",
    "filename2": b"Content-Disposition: attachment; filename*0*=\xff''%\n\nx",
    "disposition": b"Content-Disposition: ;;;=\n\nx",
    "no type": b"Content-Type: /\n\nx",
    "message": b"Content-Type: message/rfc822\n\n" + nested(50),
    "message base64": b"Content-Type: message/rfc822\n"
    b"Content-Transfer-Encoding: base64\n\nRnJvbTogYQ==",
    "delivery-status": b"Content-Type: message/delivery-status\n\nx\n\ny",
    "partial": b"Content-Type: message/external-body\n\nx",
    "nested": nested(1000),
    "nested 150": nested(150) + b"\ntext",
    "parts": parts(100_000),
    "nul": b"Subject: a\0b\nFrom: \0@\0\n\n\0",
    "crs": b"Subject: a\rb\r\rTo: x\r\n\r\nx",
    "long line": b"Subject: " + b"x" * 1_000_000 + b"\n\nx",
    "headers": b"X: y\n" * 50_000 + b"\nx",
    "surrogates": b"Subject: =?utf-16?b?2AA=?=\n\nx",
}


@pytest.mark.parametrize("name", HOSTILE)
def test_no_accessor_raises_or_takes_long(name: str) -> None:
    started = time.monotonic()
    read_all(mail(HOSTILE[name]))
    assert time.monotonic() - started < 4


def test_limits_and_unreadable_values_are_noted_in_defects() -> None:
    message = mail(HOSTILE["parts"])
    assert len(message.attachments) <= 1000
    assert "more than 1000" in message.defects[0]
    message = mail(HOSTILE["nested"])
    read_all(message)
    assert "nested too deeply" in message.defects[0]
    message = mail(b"Date: never\n\nx")
    assert (message.date, message.defects) == (None, ["date: ValueError"])


def test_undeclared_8_bit_text_is_decoded() -> None:
    message = mail(HOSTILE["8bit"])
    assert (message.subject, message.text) == ("Grüße", "Grüße")
    assert mail(HOSTILE["utf-8 header"]).subject == "Grüße ✓"
    assert load("raw-json-latin1-body").message.text is not None


@pytest.mark.parametrize(
    ("written", "read"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?Gr=C3=BC=C3=9Fe?=", "Grüße"),
        ("Re: =?iso-8859-1?q?Gr=FC=DFe?= you", "Re: Grüße you"),
        ("=?utf-8?b?R3LDvMM=?= =?utf-8?b?n2U=?=", "Grüße"),  # split within a character
        ("=?utf-8?q?a?=\r\n =?utf-8?q?b?=", "ab"),
        ("=?utf-8?q?a?= b =?utf-8?q?c?=", "a b c"),
        ("\\u0041 =?utf-8?q?x?=", "\\u0041 x"),
        ("=?klingon?q?x?=", "x"),
        ("=?utf-8?x?y?=", "=?utf-8?x?y?="),
    ],
)
def test_only_encoded_words_are_decoded(written: str, read: str) -> None:
    assert mail(f"Subject: {written}\r\n\r\nx".encode()).subject == read


def test_dates_are_in_utc() -> None:
    date = mail(b"Date: Sun, 22 Nov 2026 10:00:00 +0200\n\nx").date
    assert date is not None
    assert date.isoformat() == "2026-11-22T08:00:00+00:00"


@pytest.mark.parametrize(
    ("filename", "safe"),
    [
        ("../../etc/passwd", "passwd"),
        ("C:\\x\\a.pdf", "a.pdf"),
        (".htaccess", "htaccess"),
        ("a\0b\n.txt", "a_b_.txt"),
        ("résumé.pdf", "résumé.pdf"),
        ("", "attachment"),
        (None, "attachment"),
        ("..", "attachment"),
        ("x" * 999, "x" * 150),
    ],
)
def test_safe_filename_is_a_name_without_a_path(
    filename: str | None, safe: str
) -> None:
    from flask_postal.webhooks.mail.attachment import InboundAttachment

    assert InboundAttachment(filename, "a/b", b"").safe_filename == safe


@settings(max_examples=400, deadline=None)
@given(st.binary(max_size=600))
def test_no_bytes_make_an_accessor_raise(raw: bytes) -> None:
    read_all(mail(raw))
    read_all(mail(b'Content-Type: multipart/mixed; boundary="x"\n\n--x\n' + raw))
    read_all(mail(b"From: " + raw.replace(b"\n", b"") + b"\nSubject: x\n\n" + raw))


# ---- bodies


def form(**fields: str) -> bytes:
    pairs = "&".join(f"{key}={quote_plus(value)}" for key, value in fields.items())
    return pairs.encode()


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"id=5",
        b"rcpt_to=a&id=5&token=x",
        b"id=x&rcpt_to=a&token=x",
        b"id=5&rcpt_to=a@b&token=x",
        b"id=5&rcpt_to=a&token=x\n",
        b"id=5&rcpt_to=\xc3\xa4&token=x",
        b"id=5&rcpt_to=a;token=x",
        b"id=5&rcpt_to=a&x=y",
        b"id=5&rcpt_to=a&message=%%%",
        b"id=5&" + b"a=b&" * 20_000 + b"rcpt_to=a&token=x",
    ],
    ids=lambda body: repr(body[:30]),
)
def test_a_form_that_postal_would_not_send_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadError, match=r"form|mail|message|base64"):
        parse_inbound(body, FORM)


def test_a_dkim_signed_header_block_is_refused_as_a_form() -> None:
    block = b"from:id=5&rcpt_to=a&token=x <a@b.c>\r\ndkim-signature:v=1; b="
    for body in (block, b"id=5&rcpt_to=a&token=x:" + block):
        with pytest.raises(PayloadError, match="Postal's encoder"):
            parse_inbound(body, FORM)


def test_form_fields_are_grouped_into_attachments() -> None:
    body = form(id="5", rcpt_to="a@b.c", token="t") + (
        b"&attachments%5B1%5D%5Bfilename%5D=b.txt&attachments%5B0%5D%5Bdata%5D=eA%3D%3D"
        b"&attachments%5B99999%5D%5Bdata%5D=x&mail_from"
    )
    message = parse_inbound(body, FORM).message
    assert [(a.filename, a.content) for a in message.attachments] == [
        (None, b"x"),
        ("b.txt", b""),
    ]
    assert message.envelope_sender is None


@pytest.mark.parametrize(
    "fields",
    [
        {"token": "t", "attachments": "x", "reply_to": [5], "to": []},
        {"token": "t", "attachments": [5, {}, {"data": "%"}, {"filename": 5}]},
        {"token": "t", "timestamp": "x", "bounce": [], "spam_status": "x"},
        {"token": "t", "plain_body": 5, "html_body": [], "date": "never", "id": "x"},
        {"token": "t", "subject": "a\ud800", "from": "\udfff <a@b.c>"},
        {"message": "", "id": []},
        {"message": "eA==", "mail_from": 5, "id": 1.5},
    ],
)
def test_fields_of_any_type_are_accepted(fields: dict[str, Any]) -> None:
    body = json.dumps({"rcpt_to": "a@b.c", **fields}).encode()
    read_all(parse_inbound(body, JSON).message)


@pytest.mark.parametrize(
    "body",
    [
        b"{}",
        b"[]",
        b'{"rcpt_to": "a@b.c"}',
        b'{"rcpt_to": "a@b.c", "message": 5}',
        b'{"rcpt_to": "a@b.c", "message": "%%%"}',
        b'{"rcpt_to": "a@b.c", "message": "eA=="',
    ],
)
def test_json_without_a_mail_is_refused(body: bytes) -> None:
    with pytest.raises(PayloadError, match=r"mail|message|base64|JSON"):
        parse_inbound(body, JSON)


def test_the_dedupe_key_tells_mails_apart() -> None:
    hash_mail = load("hash-json").dedupe_key
    assert hash_mail != load("hash-json-minimal").dedupe_key
    body = {"id": 5, "rcpt_to": "a@b.c", "message": base64.b64encode(b"one").decode()}
    one = parse_inbound(json.dumps(body).encode())
    again = parse_inbound(json.dumps({**body, "size": 3}).encode())
    other = parse_inbound(json.dumps({**body, "id": 6}).encode())
    assert one.dedupe_key == again.dedupe_key != other.dedupe_key


def test_mails_of_two_servers_with_the_same_id_differ_in_dedupe_key() -> None:
    body = {"id": 5, "rcpt_to": "a@b.c", "message": base64.b64encode(b"one").decode()}
    one = parse_inbound(json.dumps(body).encode())
    other = parse_inbound(json.dumps({**body, "rcpt_to": "d@e.f"}).encode())
    assert one.dedupe_key != other.dedupe_key


def test_a_large_mail_is_accepted(
    make_app: MakeApp, signing_key: SigningKey, inbound: list[Any]
) -> None:
    raw = b"Subject: large\n\n" + b"x" * 13_000_000
    body = json.dumps(
        {
            "id": 5,
            "rcpt_to": "a@b.c",
            "mail_from": None,
            "message": base64.encodebytes(raw).decode(),
        }
    ).encode()
    app, _ = make_app(POSTAL_WEBHOOK_KEY=signing_key.jwks())
    headers = {"Content-Type": JSON, **signing_key.headers(body)}
    answer = app.test_client().post("/postal/inbound/", data=body, headers=headers)
    assert answer.status_code == 200
    assert inbound[0].message.raw == raw


def postal_body(raw: bytes, **fields: Any) -> bytes:
    """Return a body as Postal writes it, with base64 in lines of 60 characters."""
    text = base64.b64encode(raw).decode()
    lines = [text[at : at + 60] + "\n" for at in range(0, len(text), 60)]
    content = {
        "id": 5,
        "rcpt_to": "a@b.c",
        "mail_from": None,
        "message": "".join(lines),
    }
    return serialize({**content, "base64": True, "size": len(raw), **fields})


@pytest.mark.parametrize("size", [0, 1, 2, 3, 44, 45, 46, 300_000, 300_001, 2_000_003])
def test_a_mail_cut_out_of_the_json_equals_the_parsed_one(size: int) -> None:
    raw = b"Subject: cut\r\n\r\n" + bytes(n * 7 % 256 for n in range(size))
    body = postal_body(raw)
    event = parse_inbound(body)
    assert (cut_out(body) is not None) is (size >= 300_000)
    assert event.message.subject == "cut"
    assert event.message.raw == raw
    assert event.id == 5
    assert event.dedupe_key == parse_inbound(body.replace(b":5,", b": 5,")).dedupe_key


LONG = b"Subject: x\r\n\r\n" + b"y" * 300_000


@pytest.mark.parametrize(
    ("body", "cut"),
    [
        (postal_body(LONG), True),
        (
            postal_body(LONG, mail_from='a"message":"b'),
            True,
        ),  # quotes are escaped in JSON
        (postal_body(LONG, message2="x"), True),
        (postal_body(LONG).replace(b'"message":"', b'"message": "'), False),
        (postal_body(LONG).replace(b"\\n", b""), False),
        (postal_body(LONG)[:-30], False),
        (
            postal_body(LONG).replace(b'","base64"', b'","message":"eA==","base64"'),
            False,
        ),
        (postal_body(LONG).replace(b'"base64"', b'"message":5,"base64"'), False),
    ],
    ids=range(8),
)
def test_the_mail_is_cut_out_only_of_json_in_postals_exact_form(
    body: bytes, cut: bool
) -> None:
    assert (cut_out(body) is not None) is cut
    try:
        expected = base64.b64decode(json.loads(body)["message"])
    except (ValueError, TypeError):
        return
    assert parse_inbound(body).message.raw == expected


def test_base64_in_lines_of_any_length_is_read() -> None:
    raw = b"Subject: x\r\n\r\n" + b"y" * 3_000_000
    text = base64.b64encode(raw).decode()
    even, odd = text[: 60 * 40], text[60 * 40 :]
    lines = [even[at : at + 60] for at in range(0, len(even), 60)]
    lines += [odd[at : at + 76] for at in range(0, len(odd), 76)]
    escaped = "".join(f"{line}\\n" for line in lines).encode()
    assert Base64Mail(text=memoryview(escaped)).all() == raw


def body_of(raw: bytes, spoil: Any = None) -> bytes:
    """Return a body as Postal writes it, with the 40th line changed by ``spoil``."""
    text = base64.b64encode(raw).decode()
    lines = [text[at : at + 60] for at in range(0, len(text), 60)]
    if spoil is not None:
        lines[40] = spoil(lines[40])
    message = "".join(f"{line}\\n" for line in lines)
    return (
        '{"id":5,"rcpt_to":"a@b.c","mail_from":null,"message":"' + message + '",'
        f'"base64":true,"size":{len(raw)}}}'
    ).encode()


LONG_MAIL = b"Subject: hi\r\n\r\n" + b"x" * 9000


@pytest.mark.parametrize(
    "spoil",
    [
        lambda line: line[:30] + "!!!!" + line[30:-4],
        lambda line: line[:30] + "==" + line[32:],
        lambda line: line[:30] + "\\q" + line[32:],
        lambda line: line[:30] + "\x01" + line[31:],
    ],
)
def test_damaged_base64_is_noted_and_read_as_far_as_possible(spoil: Any) -> None:
    message = parse_inbound(body_of(LONG_MAIL, spoil)).message
    assert message.subject == "hi"
    assert (message.text or "").startswith("xxx")
    assert "message: its base64 is damaged" in message.defects


def test_base64_lines_of_another_length_lose_nothing() -> None:
    body = body_of(LONG_MAIL, lambda line: line[:29] + "\\n" + line[29:])
    message = parse_inbound(body).message
    assert (message.subject, message.defects) == ("hi", [])
    assert message.raw == LONG_MAIL


def test_a_second_message_field_with_an_escaped_name_wins() -> None:
    body = body_of(LONG_MAIL)[:-1] + b',"m\\u0065ssage":""}'
    assert parse_inbound(body).message.raw == b""


@pytest.mark.parametrize(
    "raw",
    [
        b"Content-Type: text/plain" + b";" * 1_000_000 + b"\r\n\r\nx",
        b"Content-Type: multipart/mixed" + b"; a=b" * 200_000 + b"\r\n\r\nx",
        b"Subject: " + b"=?u?q?a?= " * 200_000 + b"\r\n\r\nx",
        b"".join(
            b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (n, n)
            for n in range(90)
        )
        + b"x\n" * 2_000_000,
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + b"--b\r\n" * 1_000_000,
    ],
    ids=["parameters", "multipart", "words", "nesting", "boundaries"],
)
def test_malicious_mails_are_read_in_limited_time(raw: bytes) -> None:
    began = time.process_time()
    read_all(mail(raw))
    assert time.process_time() - began < 5


def test_a_long_thread_with_a_large_file_is_read_completely() -> None:
    """All attached mails are found, though each is a multipart itself."""
    file = base64.encodebytes(bytes(3_000_000)).replace(b"\n", b"\r\n")
    raw = (
        b"Content-Type: multipart/mixed; boundary=b0\r\n\r\n--b0\r\n"
        b"Content-Type: application/zip\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + file
    )
    for number in range(1, 30):
        raw += (
            b"--b0\r\nContent-Type: message/rfc822\r\n\r\n"
            b"Content-Type: multipart/mixed; boundary=i%d\r\n\r\n"
            b"--i%d\r\n\r\nmail %d\r\n--i%d--\r\n" % ((number,) * 4)
        )
    message = mail(raw + b"--b0--\r\n")
    assert len(message.attachments) == 30
    assert message.attachments[0].size == 3_000_000
    assert message.defects == []
