"""The sandbox posts inbound mail in the same requests as a real Postal."""

from __future__ import annotations

import base64
import dataclasses
import json
import re
from typing import Any
from urllib.parse import parse_qsl, quote_plus

import pytest

from flask_postal.sandbox import Mail, Sandbox
from flask_postal.sandbox.endpoint import FORMATS, inbound_request
from flask_postal.sandbox.message_api import describe
from flask_postal.sandbox.verdicts import judge_inbound
from flask_postal.webhooks.inbound import JSON

from .captures import Recorded
from .hostile import SHAPES


def recorded_mail(raw_name: str, hash_name: str) -> tuple[Mail, bytes]:
    """Return a recorded mail as Postal stored it, and the recorded request body."""
    body = Recorded.load(f"inbound/{hash_name}").body
    if hash_name.startswith("hash-form"):
        pairs = (pair.partition(b"=") for pair in body.split(b"&"))
        values: Any = {key.decode(): value.decode() for key, _, value in pairs}
        values["bounce"] = values["bounce"] == "true"
        values["rcpt_to"] = values["rcpt_to"].replace("%40", "@")
        values["mail_from"] = values["mail_from"].replace("%40", "@")
    else:
        values = json.loads(body)
    source = json.loads(Recorded.load(f"inbound/{raw_name}").body)
    raw = base64.b64decode(source["message"])
    raw = re.sub(rb"(?:raw|hash)-json@example\.test", values["rcpt_to"].encode(), raw)
    hash_json = json.loads(Recorded.load("inbound/hash-json").body)
    long = raw_name == "raw-json"
    return (
        Mail(
            id=int(values["id"]),
            token=values["token"],
            direction="incoming",
            message_id="in-1@outside.test" if long else values["message_id"] or None,
            recipient=values["rcpt_to"],
            sender=values["mail_from"],
            subject=hash_json["subject"] if long else values["subject"],
            timestamp=float(values["timestamp"]),
            tag=None,
            bounce=values["bounce"],
            bounce_for_id=0,
            status="Pending",
            last_attempt=None,
            raw=raw,
            delivered=None,
        ),
        body,
    )


@pytest.mark.parametrize(
    ("raw_name", "hash_name"),
    [
        ("raw-json", "hash-json"),
        ("raw-json", "hash-json-basic-auth"),
        ("raw-json", "hash-json-returnpath"),
        ("raw-json", "hash-json-strip-replies"),
        ("raw-json", "hash-form"),
        ("raw-json", "hash-form-strip-replies"),
        ("raw-json-attachments", "hash-json-attachments"),
        ("raw-json-attachments", "hash-form-attachments"),
        ("raw-json-latin1-body", "hash-json-latin1"),
    ],
)
def test_a_recorded_mail_gives_the_recorded_request(
    raw_name: str, hash_name: str
) -> None:
    mail, recorded = recorded_mail(raw_name, hash_name)
    kind = "-".join(hash_name.split("-")[:2])
    strip = hash_name.endswith("strip-replies")
    body, _ = inbound_request(mail, kind, strip_replies=strip)
    assert masked(body) == masked(recorded)


def masked(body: bytes) -> bytes:
    """Mask values that Postal generates, and boundaries, which differ each time."""
    body = re.sub(rb'(size(?:":"|=))\d+(?="?[&,]"?spam)', rb"\1N", body)
    body = re.sub(rb"\d{1,8}\.eml", b"N.eml", body)
    return re.sub(rb"(N\.eml.*data(?:\":\"|%5D=)).{60}.*", rb"\1...", body, flags=re.S)


@pytest.mark.parametrize("name", ["raw-json", "raw-form", "raw-json-attachments"])
def test_a_recorded_raw_mail_gives_the_recorded_request(name: str) -> None:
    recorded = Recorded.load(f"inbound/{name}").body
    if name == "raw-form":
        fields = dict(parse_qsl(recorded.decode()))
    else:
        fields = json.loads(recorded)
    mail = Mail(
        id=int(fields["id"]),
        token="",
        direction="incoming",
        message_id=None,
        recipient=fields["rcpt_to"],
        sender=fields["mail_from"],
        subject=None,
        timestamp=0,
        tag=None,
        bounce=False,
        bounce_for_id=0,
        status="Pending",
        last_attempt=None,
        raw=base64.b64decode(fields["message"]),
        delivered=None,
    )
    # The size is that of the mail before the spam filter adds its headers.
    kind = "-".join(name.split("-")[:2])
    assert inbound_request(mail, kind)[0] == recorded


HEAD = b"From: a@outside.test\r\n"
MULTIPART = HEAD + b"Content-Type: multipart/mixed; boundary=b\r\n\r\n"


def multipart(*parts: bytes) -> bytes:
    return (
        MULTIPART + b"".join(b"--b\r\n%b\r\n" % part for part in parts) + b"--b--\r\n"
    )


def posted(
    sandbox: Sandbox, raw: bytes, format: str = "hash-json", **options: Any
) -> Any:
    """Return the fields of the request in which the sandbox posts a mail."""
    request = sandbox.receive(
        raw,
        to="in@example.test",
        sender="a@outside.test",
        format=format,
        **options,
    )
    if format == "hash-form":
        return request.body.decode().split("&")
    return json.loads(request.body)


TEXT = b"Content-Type: text/plain\r\n\r\ntext\r\n"


@pytest.mark.parametrize(
    ("part", "listed"),
    [
        (b"Content-Disposition: attachment\r\n\r\nx", []),
        (b"Content-Type: image/png\r\nContent-ID: <c>\r\n\r\nx", []),
        (b'Content-Type: image/png; name="a.png"\r\n\r\nx', ["a.png"]),
        (b"Content-Disposition: inline; filename=a.png\r\n\r\nx", ["a.png"]),
        (b"Content-Type: text/plain; name=t.txt\r\n\r\nx", ["t.txt"]),
        (
            b"Content-Type: a/b; name=c\r\nContent-Disposition: x; filename=d\r\n\r\n",
            ["c"],
        ),
        (b"Content-Location: http://a/b.png\r\n\r\nx", ["http://a/b.png"]),
    ],
)
def test_only_parts_with_a_name_are_attachments(
    sandbox: Sandbox, part: bytes, listed: list[str]
) -> None:
    fields = posted(sandbox, multipart(TEXT, part))
    assert [file["filename"] for file in fields["attachments"]] == listed
    assert fields["attachment_quantity"] == len(listed)
    assert fields["plain_body"] == "text\n"


def test_an_attached_mail_gets_a_file_name(sandbox: Sandbox) -> None:
    part = b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ny"
    (file,) = posted(sandbox, multipart(TEXT, part))["attachments"]
    assert re.fullmatch(r"\d+\.eml", file["filename"])


@pytest.mark.parametrize(
    ("encoding", "content", "expected"),
    [
        (b"", b"a\r\nb", b"a\nb"),
        (b"7bit", b"a\r\nb", b"a\nb"),
        (b"8bit", b"a\r\nb", b"a\r\nb"),
        (b"base64", b"YQ0KYg==", b"a\r\nb"),
        (b"quoted-printable", b"a\r\nb=3D", b"a\nb="),
        (b"quoted-printable", b"a\r\n=C3=A9", b"a\r\n\xc3\xa9"),
    ],
)
def test_line_ends_depend_on_the_encoding(
    sandbox: Sandbox, encoding: bytes, content: bytes, expected: bytes
) -> None:
    part = b"Content-Type: text/plain; charset=utf-8; name=t.txt\r\n"
    part += b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + content
    (file,) = posted(sandbox, multipart(TEXT, part))["attachments"]
    assert base64.b64decode(file["data"]) == expected
    assert file["size"] == len(expected)


def test_only_forms_contain_parameters_of_a_content_type(sandbox: Sandbox) -> None:
    part = b'Content-Type: text/plain; charset="utf-8"; name="a b.txt"\r\n\r\nx'
    raw = multipart(TEXT, part)
    assert posted(sandbox, raw)["attachments"][0]["content_type"] == "text/plain"
    shown = "text%2Fplain%3B+charset%3Dutf-8%3B+name%3D%22a+b.txt%22"
    pair = f"attachments%5B0%5D%5Bcontent_type%5D={shown}"
    assert pair in posted(sandbox, raw, "hash-form")


@pytest.mark.parametrize(
    ("raw", "field", "expected"),
    [
        (HEAD + b"\r\n", "plain_body", ""),
        (HEAD + b"Content-Type: text/html\r\n\r\n<p>", "plain_body", None),
        (HEAD + b"Content-Type: text/html\r\n\r\n<p>", "html_body", "<p>"),
        (HEAD + b"Content-Type: a/b; name=c\r\n\r\nx", "attachments", []),
        (HEAD + b"Content-Type: multipart/x\r\n\r\nx", "plain_body", None),
        (HEAD + b"Subject:\r\n\r\n", "subject", None),
        (HEAD + b"Cc:\r\n\r\n", "cc", ""),
        (HEAD + b"\r\n", "cc", None),
        (HEAD + b"Subject: a\r\nSubject: b\r\n\r\n", "subject", "b"),
        (HEAD + b"From: b@outside.test\r\n\r\n", "from", "b@outside.test"),
        (HEAD + b"Message-ID: <a@b>\r\nMessage-ID: <c@d>\r\n\r\n", "message_id", "c@d"),
        (HEAD + b"Reply-To: a@b.c\r\nReply-To: d@e.f\r\n\r\n", "reply_to", None),
        (HEAD + b"References: <a@b>\r\n\t<c@d>\r\n\r\n", "references", "<a@b> <c@d>"),
        (
            HEAD + b"Date: 1 Jan 2024 00:00 GMT (x)\r\n\r\n",
            "date",
            "Mon, 01 Jan 2024 00:00:00 +0000",
        ),
        (HEAD + b"Date: 2 Feb 24 1:2:3 EST\r\n\r\n", "date", None),
        (HEAD + b"Date: soon\r\n\r\n", "date", "soon"),
    ],
)
def test_headers_and_bodies_are_interpreted_as_by_postal(
    sandbox: Sandbox, raw: bytes, field: str, expected: Any
) -> None:
    found = posted(sandbox, raw)[field]
    if field == "reply_to":
        expected = ["a@b.c", "d@e.f"]
    if b"EST" in raw:
        expected = "Fri, 02 Feb 2024 01:02:03 -0500"
    assert found == expected


@pytest.mark.parametrize(
    ("raw", "text", "quoted"),
    [
        (HEAD + b"\r\nnew\r\n", "new", None),
        (HEAD + b"\r\nnew\r\n\r\nOn Monday, Ana wrote:\r\n> old\r\n", "new", "On Mon"),
        (HEAD + b"Content-Type: text/html\r\n\r\n<p>", "", None),
    ],
)
def test_quoted_text_is_separated_from_replies(
    sandbox: Sandbox, raw: bytes, text: str, quoted: str | None
) -> None:
    fields = posted(sandbox, raw, strip_replies=True)
    assert fields["plain_body"] == text
    assert (fields["replies_from_plain_body"] or "")[:6] == (quoted or "")
    if quoted is None:
        assert fields["replies_from_plain_body"] is None


@pytest.mark.parametrize("spam", [False, True])
def test_the_spam_status_is_reported_everywhere(sandbox: Sandbox, spam: bool) -> None:
    status = "Spam" if spam else "NotSpam"
    assert posted(sandbox, HEAD + b"\r\nx", spam=spam)["spam_status"] == status
    (mail,) = sandbox.store.mails()
    described = describe(sandbox.store, mail, ["inspection", "details"])
    score = 7.5 if spam else 0.0
    inspection = described["inspection"]
    assert (inspection["inspected"], inspection["spam"]) == (True, spam)
    assert inspection["spam_score"] == score
    assert described["details"]["received_with_ssl"] is None


@pytest.mark.parametrize("shape", SHAPES)
def test_malicious_mail_can_be_posted_in_any_format(shape: str) -> None:
    mail = recorded_mail("raw-json", "hash-json")[0]
    mail = dataclasses.replace(mail, raw=SHAPES[shape](50_000))
    for name in FORMATS:
        body, media_type = inbound_request(mail, name, strip_replies=True)
        if media_type == JSON:
            assert json.loads(body)["rcpt_to"] == mail.recipient
        else:
            assert f"rcpt_to={quote_plus(mail.recipient)}".encode() in body.split(b"&")


def test_a_status_of_600_bounces() -> None:
    assert judge_inbound(600, 1).bounces
    assert judge_inbound(599, 1).state == "pending"
