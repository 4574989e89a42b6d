"""Tracking changes a mail as a real Postal does, including the damage it causes."""

from __future__ import annotations

import email
import email.policy
from typing import Any

import pytest

from flask_postal import Attachment, Message
from flask_postal.sandbox.link_tracking import insert_tracking
from flask_postal.sandbox.mail_builder import compose

from .mails import message, raw

LINES = "Grüße aus Köln\nhttps://example.com/a b\n"
HTML = "<p>Grüße\n<a href='https://example.com/a'>x</a></p>\n"


def tracked(mail: bytes) -> Any:
    data = insert_tracking(mail, lambda url: "https://t.example/x", "https://p.example")
    return email.message_from_bytes(data, policy=email.policy.compat32)


def content_of(mail: Any, media_type: str) -> bytes:
    (part,) = (p for p in mail.walk() if p.get_content_type() == media_type)
    data = part.get_payload(decode=True)
    assert isinstance(data, bytes)
    return data


def written_by_postal(**fields: str) -> bytes:
    fields = {"from": "a@b.c", **fields}
    return compose(fields, message_id="x@y.z", timestamp=0.0)


def written_by_the_extension(**changes: Any) -> bytes:
    return raw(message(**{"message_id": "x@y.z", **changes}))


def test_non_ascii_text_that_postal_writes_gets_cr_cr_lf() -> None:
    text = content_of(tracked(written_by_postal(plain_body=LINES)), "text/plain")
    assert text == "Grüße aus Köln\r\r\nhttps://t.example/x b\r\r\n".encode()


def test_ascii_text_keeps_its_lines() -> None:
    mail = tracked(written_by_postal(plain_body="see\nhttps://example.com/a b\n"))
    assert content_of(mail, "text/plain") == b"see\r\nhttps://t.example/x b\r\n"


@pytest.mark.parametrize("encoding", ["quoted-printable", "8bit", "base64"])
def test_other_encodings_than_base64_of_lf_lines_get_cr_cr_lf_too(
    encoding: str,
) -> None:
    from email.base64mime import body_encode
    from quopri import encodestring

    data = LINES.replace("\n", "\r\n").encode()
    body = {
        "quoted-printable": encodestring(data.replace(b"\r", b"")),
        "8bit": data,
        "base64": body_encode(data).encode(),
    }[encoding]
    head = f"Content-Type: text/plain\r\nContent-Transfer-Encoding: {encoding}\r\n\r\n"
    assert b"\r\r\n" in content_of(tracked(head.encode() + body), "text/plain")


def test_text_written_by_the_extension_keeps_its_lines() -> None:
    mail = tracked(written_by_the_extension(body=LINES, html=HTML))
    assert b"\r\r" not in content_of(mail, "text/plain")
    assert "Grüße\r\n<a" in content_of(mail, "text/html").decode()
    assert b"https://t.example/x" in content_of(mail, "text/html")


def test_a_related_part_with_a_type_parameter_arrives_as_source() -> None:
    source = (
        b"Content-Type: multipart/alternative; boundary=a\r\n\r\n--a\r\n"
        b"Content-Type: text/plain\r\n\r\ntext\r\n--a\r\n"
        b'Content-Type: multipart/related; type="text/html"; boundary="=b="\r\n\r\n'
        b"--=b=\r\nContent-Type: text/html\r\n\r\n<p>x</p>\r\n--=b=--\r\n--a--\r\n"
    )
    related = tracked(source).get_payload()[1]
    assert not related.is_multipart()
    assert b"Content-Type: text/html" in related.get_payload(decode=True)
    sound = tracked(source.replace(b'type="text/html"', b'type="TEXT/HTML"'))
    assert b"https://p.example" in content_of(sound, "text/html")


@pytest.mark.parametrize("text", ["text", None])
@pytest.mark.parametrize("file", [True, False])
def test_inline_images_written_by_the_extension_survive(
    text: str | None, file: bool
) -> None:
    source = Message("x", ["a@b.c"], body=text, html=HTML, sender="a@b.c")
    source.embed("logo.png", "image/png", b"\x89PNG", cid="logo")
    if file:
        source.attachments.append(Attachment("a.txt", "text/plain", LINES))
    mail = tracked(raw(source))
    assert content_of(mail, "image/png") == b"\x89PNG"
    assert b"https://t.example/x" in content_of(mail, "text/html")
    if file:
        names = {p.get_filename(): p for p in mail.walk()}
        assert names["a.txt"].get_payload(decode=True) == LINES.encode()


@pytest.mark.parametrize(
    ("written", "arrives"), [('a"b.pdf', 'a\\"b.pdf'), ("a\\b.pdf", "a\\\\b.pdf")]
)
def test_a_quoted_name_with_a_quote_or_backslash_gains_a_backslash(
    written: str, arrives: str
) -> None:
    escaped = written.replace("\\", "\\\\").replace('"', '\\"')
    source = (
        b"Content-Type: multipart/mixed; boundary=a\r\n\r\n--a\r\n"
        b"Content-Type: text/plain\r\n\r\nhttps://example.com/a \r\n--a\r\n"
        b'Content-Disposition: attachment; filename="%b"\r\n\r\nx\r\n--a--\r\n'
    ) % escaped.encode()
    assert tracked(source).get_payload()[1].get_filename() == arrives
    ours = written_by_the_extension(
        body="https://example.com/a b",
        attachments=[Attachment(written, "x/y", b"\xff")],
    )
    assert tracked(ours).get_payload()[1].get_filename() == written
