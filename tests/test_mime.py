"""The mail that is sent to send/raw, parsed as a mail program does."""

from __future__ import annotations

import email
import re
from datetime import UTC, datetime
from email.header import decode_header, make_header
from email.utils import collapse_rfc2231_value, getaddresses, parsedate_to_datetime
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_postal import Attachment, Message, MessageError

from .mails import headers_of, message, parse, prepared, raw, shape, text_of, wire

BINARY = bytes(range(256))
ICS = "BEGIN:VCALENDAR\r\nSUMMARY:Grüße\r\nEND:VCALENDAR"


def mail(**changes: Any) -> Message:
    """A message that needs send/raw."""
    return message(**{"message_id": "own@example.com", **changes})


def picture(content_id: str = "logo") -> Attachment:
    return Attachment("a.png", "image/png", BINARY, "inline", content_id)


PDF = Attachment("a.pdf", "application/pdf", BINARY)
CSV = Attachment("a.csv", "text/csv", b"a,b\nc,d\n")


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        (mail(), "text/plain"),
        (mail(body=None, html="<p>"), "text/html"),
        (mail(html="<p>"), ["alternative", "text/plain", "text/html"]),
        (
            mail(html="<p>", alts={"calendar": ICS}),
            ["alternative", "text/plain", "text/html", "text/calendar"],
        ),
        (
            mail(body=None, html="<p>", attachments=[picture()]),
            ["related", "text/html", "image/png"],
        ),
        (
            mail(html="<p>", attachments=[picture()]),
            ["alternative", "text/plain", ["related", "text/html", "image/png"]],
        ),
        (mail(attachments=[PDF]), ["mixed", "text/plain", "application/pdf"]),
        (
            mail(html="<p>", attachments=[picture(), PDF]),
            [
                "mixed",
                ["alternative", "text/plain", ["related", "text/html", "image/png"]],
                "application/pdf",
            ],
        ),
        (message(body=None, attachments=[PDF]), ["mixed", "application/pdf"]),
        # An inline image without HTML is a file.
        (mail(attachments=[picture()]), ["mixed", "text/plain", "image/png"]),
        # Postal would track links in text files, but not two levels down.
        (mail(attachments=[CSV]), ["mixed", "text/plain", ["mixed", "text/csv"]]),
        (message(body=None, attachments=[CSV]), ["mixed", ["mixed", "text/csv"]]),
        (
            mail(attachments=[PDF, CSV]),
            ["mixed", "text/plain", ["mixed", "application/pdf", "text/csv"]],
        ),
        # Without tracking, everything is nested two levels down.
        (
            message(track_opens=False, track_clicks=False),
            ["mixed", ["mixed", "text/plain"]],
        ),
        (
            message(
                html="<p>", track_opens=False, track_clicks=False, attachments=[CSV]
            ),
            [
                "mixed",
                ["mixed", ["alternative", "text/plain", "text/html"], "text/csv"],
            ],
        ),
    ],
)
def test_parts_are_nested_correctly(source: Message, expected: Any) -> None:
    assert shape(parse(raw(source))) == expected


def test_all_headers_are_written_except_bcc() -> None:
    source = mail(
        subject="Grüße ✓",
        recipients=["Ana <ana@example.com>", ("Dœ, Jane", "jane@bücher.example")],
        cc=[("Doe, J", "j@example.com")],
        bcc="hidden@example.com",
        reply_to=["r@example.com", ("R", "s@example.com")],
        tags="täg",
        extra_headers={"X-A": ["one", "zwö"], "Sender": ("S", "s@example.com")},
    )
    data = raw(source)
    parsed = parse(data)
    assert parsed["From"] == "hello@example.com"
    assert parsed["Sender"] == "S <s@example.com>"
    assert [a.display_name for a in parsed["To"].addresses] == ["Ana", "Dœ, Jane"]
    assert [a.addr_spec for a in parsed["To"].addresses] == [
        "ana@example.com",
        "jane@xn--bcher-kva.example",
    ]
    assert parsed["Cc"] == '"Doe, J" <j@example.com>'
    assert parsed["Reply-To"] == "r@example.com, R <s@example.com>"
    assert parsed["Subject"] == "Grüße ✓"
    assert parsed["X-Postal-Tag"] == "täg"
    assert parsed["Message-ID"] == "<own@example.com>"
    assert parsed.get_all("X-A") == ["one", "zwö"]
    assert parsed["MIME-Version"] == "1.0"
    assert b"hidden@example.com" not in data
    sent = wire(source)
    assert sent["mail_from"] == "hello@example.com"
    assert sent["rcpt_to"] == [
        "ana@example.com",
        "jane@xn--bcher-kva.example",
        "j@example.com",
        "hidden@example.com",
    ]
    assert prepared(source).message_id == "own@example.com"


def test_date_and_message_id_are_added_if_missing() -> None:
    source = message(attachments=[CSV])
    parsed = parse(raw(source))
    now = datetime.now(UTC)
    assert abs((parsedate_to_datetime(str(parsed["Date"])) - now).total_seconds()) < 60
    assert re.fullmatch(r"<\S+@example\.com>", parsed["Message-ID"])
    given = mail(date=datetime(2026, 11, 22, 10, tzinfo=UTC))
    assert parse(raw(given))["Date"] == "Sun, 22 Nov 2026 10:00:00 +0000"
    header = mail(extra_headers={"Date": "Sun, 22 Nov 2026 11:00:00 +0000"})
    assert parse(raw(header)).get_all("Date") == ["Sun, 22 Nov 2026 11:00:00 +0000"]


def test_lines_end_in_crlf_and_are_short_enough_for_smtp() -> None:
    source = mail(
        subject="ü" * 300,
        body="x" * 3000 + "\r\nü\rq\n.",
        html="<p>" + "y" * 3000,
        recipients=[(f"Näme {n}", f"u{n}@example.com") for n in range(60)],
        extra_headers={"X-Long": "word " * 300, "X-Solid": "z" * 2000},
        attachments=[Attachment("ü" * 255, "application/pdf", BINARY * 99), CSV],
    )
    data = raw(source)
    assert b"\r\n" in data
    assert not re.search(rb"(?<!\r)\n|\r(?!\n)", data)
    assert max(map(len, data.split(b"\r\n"))) <= 998
    assert data.isascii()
    parsed = parse(data)
    assert headers_of(data, "Subject") == ["ü" * 300]
    assert headers_of(data, "X-Solid") == ["z" * 2000]
    assert len(parsed["To"].addresses) == 60
    name = next(p for p in parsed.walk() if p.get_content_type() == "application/pdf")
    assert name.get_filename() == "ü" * 255


@pytest.mark.parametrize(
    "text",
    [
        "plain",
        "Grüße ✓ 🎉",
        "a\nb\n",
        "trailing blank \n",
        "= & =20",
        ".",
        "From x",
        "\t",
    ],
)
def test_text_arrives_unchanged(text: str) -> None:
    source = mail(
        body=text + "x", html=f"<p>{text}</p>", alts={"text/x-own": text + "y"}
    )
    plain, html, own = parse(raw(source)).iter_parts()
    assert text_of(plain) == text + "x"
    assert text_of(html) == f"<p>{text}</p>"
    assert text_of(own) == text + "y"


def test_a_calendar_keeps_its_parameters() -> None:
    source = message(alts={"text/calendar; method=REQUEST": ICS})
    _, calendar = parse(raw(source)).iter_parts()
    assert calendar.get_content_type() == "text/calendar"
    assert calendar.get_param("method") == "REQUEST"
    assert calendar.get_content().splitlines() == ICS.splitlines()


@pytest.mark.parametrize(
    "name", ["a.pdf", "résumé ☃ 履歴書.pdf", 'quo"te\\.pdf', "ü" * 200, "a\tb", None]
)
@pytest.mark.parametrize("data", [BINARY, b"", b"a\nb\r\nc\rd", b" "])
def test_attachments_keep_their_names_and_bytes(name: str | None, data: bytes) -> None:
    source = mail(attachments=[Attachment(name, "application/x-own", data)])
    part = list(parse(raw(source)).iter_attachments())[-1]
    assert part.get_filename() == name
    assert part.get_content_disposition() == "attachment"
    assert part.get_content() == data


def test_inline_images_are_found_by_their_content_id() -> None:
    source = message(html='<img src="cid:logo">')
    source.embed("logo.png", "image/png", BINARY, cid="logo")
    related = parse(raw(source)).get_payload()[1]  # type: ignore[index]
    # Otherwise Postal treats the part as HTML, and its source arrives as the text.
    assert "text/html" not in str(related["Content-Type"])  # type: ignore[index]
    image = related.get_payload()[1]  # type: ignore[union-attr,index]
    assert image["Content-ID"] == "<logo>"  # type: ignore[index]
    assert image.get_content_disposition() == "inline"  # type: ignore[union-attr]
    assert image.get_content() == BINARY  # type: ignore[union-attr]


def test_an_attached_mail_is_not_encoded_and_keeps_its_parts() -> None:
    inner = raw(mail(subject="inner", attachments=[PDF])).replace(b"\r\n", b"\n")
    latin = b"Subject: 8bit\n\nGr\xfc\xdfe\n"
    signed = b"DKIM-Signature: b=" + b"A" * 90 + b"; h=a:b\nX:  two  blanks\n\nx\n"
    for data in (inner, latin, signed):
        source = message(attachments=[Attachment("a.eml", "message/rfc822", data)])
        sent = raw(source)
        assert data.replace(b"\n", b"\r\n").rstrip() in sent


def test_an_attached_mail_of_any_depth_is_unchanged() -> None:
    deep = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n)
        for n in range(1000)
    )
    deep += b"\xfc"
    source = message(attachments=[Attachment("a.eml", "message/rfc822", deep)])
    assert deep in raw(source)


# ---- content that Postal's tracking does not damage


def parts_of(source: Message) -> list[Any]:
    data = raw(source)
    return list(email.message_from_bytes(data, policy=email.policy.compat32).walk())


LINES = "Grüße\naus Köln\n"


@pytest.mark.parametrize(
    ("media_type", "changes"),
    [
        ("text/plain", {"body": LINES}),
        ("text/html", {"html": f"<pre>{LINES}</pre>"}),
        ("text/calendar", {"alts": {"text/calendar; method=REQUEST": LINES}}),
        ("text/plain", {"body": "long " * 300 + "\nx", "message_id": "a@b.c"}),
    ],
)
def test_texts_that_need_encoding_are_base64_with_lf_line_ends(
    media_type: str, changes: dict[str, Any]
) -> None:
    (part,) = (
        p for p in parts_of(message(**changes)) if p.get_content_type() == media_type
    )
    assert part["Content-Transfer-Encoding"] == "base64"
    data = part.get_payload(decode=True)
    assert b"\n" in data
    assert b"\r" not in data


@pytest.mark.parametrize("claimed", ["iso-8859-1", '"utf-16"', "UTF-8"])
def test_an_alternative_declares_utf_8_whatever_its_type_claims(claimed: str) -> None:
    alts = {f"text/x-own; charset={claimed}; a=b": "é\n"}
    (part,) = (
        p for p in parts_of(message(alts=alts)) if p.get_content_type() == "text/x-own"
    )
    assert part.get_content_charset() == "utf-8"
    assert part.get_param("a") == "b"
    assert part.get_payload(decode=True) == "é\n".encode()


@pytest.mark.parametrize("name", ['a"b.pdf', "a\\b.pdf"])
def test_a_file_name_with_a_quote_or_backslash_uses_rfc_2231(name: str) -> None:
    source = message(attachments=[Attachment(name, "application/pdf", b"%PDF")])
    (part,) = (p for p in parts_of(source) if "Content-Disposition" in p)
    assert "filename*=utf-8''a%" in part["Content-Disposition"]
    assert part.get_filename() == name


@pytest.mark.parametrize(
    ("changes", "endpoint"),
    [
        ({"body": LINES}, "send/raw"),
        ({"html": f"<p>{LINES}</p>"}, "send/raw"),
        ({"body": LINES, "attachments": [Attachment("a", "x/y", b"\xff")]}, "send/raw"),
        ({"body": "Grüße"}, "send/message"),
        ({"body": "a\nb\n"}, "send/message"),
        ({"body": LINES, "tags": "welcome"}, "send/message"),
        ({"body": LINES, "esp_extra": {"future": 1}}, "send/message"),
        (
            {"body": LINES, "attachments": [Attachment("a", "x/y", b"\xff" * 1048577)]},
            "send/message",
        ),
    ],
    ids=[
        *("text", "HTML", "a file", "one line", "ASCII", "a tag", "esp_extra"),
        "a large file",
    ],
)
def test_multiline_non_ascii_text_uses_send_raw_if_nothing_is_lost(
    changes: dict[str, Any], endpoint: str
) -> None:
    assert prepared(message(**changes)).endpoint == endpoint


def test_attachments_are_nested_where_postal_does_not_rewrite_them() -> None:
    odd = Attachment("a.bin", 'application/x-own; x="text/html"', b"\xff")
    shapes = shape(parse(raw(message(attachments=[odd, PDF], message_id="a@b.c"))))
    inner = ["mixed", "application/x-own", "application/pdf"]
    assert shapes == ["mixed", "text/plain", inner]


# ---- any content parses back to the same, or is refused

TEXT = st.text(max_size=120)
NAMES = st.from_regex(r"X-[A-Za-z0-9-]{1,20}", fullmatch=True)


def filename_of(part: Any) -> str:
    """Return a file name; ``get_filename()`` takes quotes and brackets away twice."""
    value = part.get_param("filename", "", "Content-Disposition")
    name = collapse_rfc2231_value(value) if isinstance(value, tuple) else value
    return name.strip()


@settings(max_examples=300)
@example("s", "n", "X-A", "v", "t", "<>")
@given(subject=TEXT, name=TEXT, header=NAMES, value=TEXT, tag=TEXT, filename=TEXT)
def test_headers_parse_back_to_the_same_or_are_refused(
    subject: str, name: str, header: str, value: str, tag: str, filename: str
) -> None:
    source = mail(
        subject=subject,
        recipients=[(name, "ana@example.com")],
        extra_headers={header: value},
        tags=tag,
        attachments=[Attachment(filename, "application/x-own", BINARY)],
    )
    everything = subject + name + value + tag + filename
    try:
        data = raw(source)
    except MessageError:
        assert re.search("[\r\n\0\ud800-\udfff]", everything) or (
            header.lower().startswith("x-postal-")
        )
        return
    parsed = parse(data)
    assert headers_of(data, "Subject") == [subject]
    assert headers_of(data, header) == [value]
    assert headers_of(data, "X-Postal-Tag") == ([tag.strip()] if tag.strip() else [])
    (to,) = email.message_from_bytes(data).get_all("To", [])
    ((written_name, bare),) = getaddresses([re.sub("\r\n(?=[ \t])", "", to)])
    assert str(make_header(decode_header(written_name))) == name.strip()
    assert bare == "ana@example.com"
    attached = list(email.message_from_bytes(data).walk())[-1]
    assert filename_of(attached) == filename.strip()
    assert len(parsed.keys()) == len(set(parsed.keys()))


@settings(max_examples=300)
@given(st.text(min_size=1), st.binary(max_size=500))
def test_contents_parse_back_to_the_same(text: str, data: bytes) -> None:
    body = text.replace("\0", "") + "."
    if re.search("[\ud800-\udfff]", body):
        return
    part = Attachment("a.bin", "application/octet-stream", data)
    plain, attached = parse(raw(mail(body=body, attachments=[part]))).iter_parts()
    expected = body.replace("\r\n", "\n").replace("\r", "\n")
    assert text_of(plain) == expected
    assert attached.get_content() == data
