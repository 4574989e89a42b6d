"""Small mails, one for each rule of reading inbound mail."""

from __future__ import annotations

import re
import unicodedata
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import flask_postal
from flask_postal import Address, Message, MessageError
from flask_postal.address import parse_address
from flask_postal.webhooks.inbound import FORM, parse_inbound
from flask_postal.webhooks.mail.addresses import author_of, read_addresses
from flask_postal.webhooks.mail.attachment import InboundAttachment
from flask_postal.webhooks.mail.base64_mail import Base64Mail
from flask_postal.webhooks.mail.charsets import codec_of, decode
from flask_postal.webhooks.mail.encoded_words import decode_words
from flask_postal.webhooks.mail.message import InboundMessage
from flask_postal.webhooks.mail.parameters import read_parameters
from flask_postal.webhooks.mail.raw import RawMail
from flask_postal.webhooks.mail.replies import strip_reply

MAILS = Path(__file__).parent / "data" / "mails"
ANA = Address("ana@example.com", "Ana")
EVIL = "evil@x.example"
PDF = ("application/pdf", b"PDF")


def read(raw: bytes, *, null_sender: bool = False) -> InboundMessage:
    return InboundMessage(
        RawMail(Base64Mail(raw=raw), null_sender=null_sender),
        envelope_sender=None if null_sender else "ana@example.com",
        envelope_recipient="desk@example.org",
    )


def load(name: str, *, null_sender: bool = False) -> InboundMessage:
    return read((MAILS / f"{name}.eml").read_bytes(), null_sender=null_sender)


EXPECTED: dict[str, dict[str, Any]] = {
    # The author and the recipients.
    "from-name-is-an-address": {
        "from_email": Address(EVIL, "service@bank.example"),
    },
    "from-name-with-comma": {"from_email": Address(EVIL, "Support")},
    "from-name-with-brackets": {
        "from_email": Address(EVIL, "[Bank; Ltd] service@bank.example")
    },
    "from-name-encoded-address": {
        "from_email": Address(EVIL, "service@bank.example>,")
    },
    "from-two-brackets": {"from_email": Address(EVIL, "Bank <service@bank.example>")},
    "from-words-and-address": {"from_email": None},
    "from-no-local-part": {"from_email": None},
    "from-literal": {
        "from_email": Address("j@[192.0.2.1]", "Jo"),
        "to": [Address("j@[192.0.2.1]"), ANA],
    },
    "to-odd-entries": {
        "to": [
            Address("bo@example.com", "Lima, Bo"),
            Address("cy@example.com"),
            Address("de@example.com", "D, E"),
        ]
    },
    "from-utf-8": {"from_email": Address("zoe@example.com", "Zoë Ångström")},
    "from-latin-1": {
        "from_email": Address("zoe@example.com", "Zoë"),
        "subject": "Grüße",
    },
    "from-idn": {"from_email": Address("joerg@bücher.example", "Jörg")},
    "from-obsolete": {
        "from_email": Address("ana@example.com"),
        "subject": "old",
        "message_id": "1@example.com",
        "references": ["a@example.com", "b@example.com", "c@example.com"],
    },
    # Headers without line breaks.
    "subject-encoded-line-break": {"subject": "x y Bcc: z"},
    "subject-nul": {"subject": "a\ufffdb \ufffd"},
    "subject-folded": {"subject": "one two three"},
    "subject-half-characters": {"subject": "Grüße"},
    "subject-damaged-byte": {"subject": "Gr\ufffdße"},
    "name-line-break": {
        "from_email": Address("ana@example.com", "Ana X-Evil: 1"),
        "message_id": "a b@example.com",
    },
    # Texts.
    "boundary-folded": {"text": "text"},
    "text-damaged-byte": {"text": "Grüße \ufffd and more"},
    "text-gb2312": {"text": "镕 and 深圳"},
    "text-shift-jis": {"text": "①㈱髙"},
    "text-euc-kr": {"text": "똠방각하"},
    "text-latin-1": {"text": "“Grüße” €"},
    "text-us-ascii-utf-8": {"text": "Grüße ✓"},
    "text-us-ascii-latin-1": {"text": "Grüße"},
    "text-iso-2022-jp-nec": {"text": "①日本 ok"},
    "text-utf-16": {"text": "Grüße 🎉"},
    "text-punycode": {"text": "Bcher-kva", "defects": []},
    "text-nul": {"text": "a\ufffdb"},
    "text-with-a-name": {"text": "the text", "attachments": []},
    "text-blank-first": {
        "text": "the text",
        "attachments": [InboundAttachment(None, "text/plain", b"the footer")],
    },
    "text-inner-without-boundary": {
        "text": "inner text",
        "attachments": [InboundAttachment("a.pdf", *PDF)],
    },
    "reply-quoted": {"stripped_text": "Yes, please."},
    "reply-outlook": {"stripped_text": "Ja, gerne."},
    "reply-between": {"stripped_text": "Yes.\nNo."},
}
FILES = {
    "file-name-raw-utf-8": ("Grüße.pdf", *PDF),
    "file-name-both": ("Grüße.pdf", *PDF),
    "file-name-both-turned": ("Grüße.pdf", *PDF),
    "file-name-pieces": ("Grüße.pdf", *PDF),
    "file-name-encoded-word": ("Grüße.pdf", *PDF),
    "file-name-punycode": ("Gre-eda1g.pdf", *PDF),
    "file-name-control": ("a b\ufffdc.pdf", *PDF),
    "file-name-quoted": ('a"b\\c;d.pdf', *PDF),
    "file-name-no-semicolon": ("a b.pdf", *PDF),
    "file-name-folded": ("a b.pdf", *PDF),
    "type-folded": ("a.pdf", *PDF),
    "type-invalid": ("a.pdf", "application/x", b"PDF"),
    "type-nonsense": ("a.pdf", "application/octet-stream", b"PDF"),
    "attached-mail": (None, "message/rfc822", b"From: a@example.com\n\nGr\xfc\xdfe\n"),
    "attached-mail-base64": (
        None,
        "message/rfc822",
        b"From: a@example.com\n\nGr\xfc\xdfe\n",
    ),
}
#: is_bounce, is_auto_reply and may_be_answered, for mail with an envelope sender.
KINDS = {
    "bounce-dsn": (True, True, False),
    "bounce-mixed": (True, True, False),
    "complaint": (False, True, False),
    "receipt": (False, True, False),
    "vacation-auto-submitted": (False, True, False),
    "vacation-subject": (False, True, False),
    "vacation-precedence": (False, True, False),
    "vacation-exchange": (False, True, False),
    "list": (False, False, False),
    "suppress": (False, False, False),
    "suppress-none": (False, False, True),
    "from-ourselves": (False, False, False),
    "from-no-local-part": (False, False, False),
    "person-on-vacation": (False, False, True),
    "person-re-bounce": (False, False, True),
}
#: The same for mail without an envelope sender.
NULL_SENDER_KINDS = {
    "from-mailer-daemon": (True, True, False),
    "bounce-dsn": (True, True, False),
    "bounce-mixed": (True, True, False),
    "bounce-qmail": (True, True, False),
    "bounce-subject": (True, True, False),
    "complaint": (False, True, False),
    "vacation-subject": (False, True, False),
    "person-on-vacation": (False, True, False),
    "text-latin-1": (False, False, False),
}


def test_every_mail_has_expected_values() -> None:
    known = {*EXPECTED, *FILES, *KINDS, *NULL_SENDER_KINDS}
    assert {path.stem for path in MAILS.glob("*.eml")} == known


@pytest.mark.parametrize("name", EXPECTED)
def test_a_mail_has_the_expected_attributes(name: str) -> None:
    message = load(name)
    expected = EXPECTED[name]
    assert {
        attribute: getattr(message, attribute) for attribute in expected
    } == expected


@pytest.mark.parametrize("name", FILES)
def test_an_attachment_has_the_expected_name_type_and_content(name: str) -> None:
    message = load(name)
    (file,) = message.attachments
    assert (file.filename, file.content_type, file.content) == FILES[name]
    assert message.text == "see"
    assert file.as_file().read() == file.content


@pytest.mark.parametrize("name", KINDS)
def test_kinds_of_mail_with_an_envelope_sender(name: str) -> None:
    mail = load(name)
    found = (mail.is_bounce, mail.is_auto_reply, mail.may_be_answered)
    assert found == KINDS[name]


@pytest.mark.parametrize("name", NULL_SENDER_KINDS)
def test_kinds_of_mail_without_an_envelope_sender(name: str) -> None:
    mail = load(name, null_sender=True)
    found = (mail.is_bounce, mail.is_auto_reply, mail.may_be_answered)
    assert found == NULL_SENDER_KINDS[name]


def mail_with(*headers: str, body: str = "x", null_sender: bool = False) -> Any:
    return read("\r\n".join([*headers, "", body]).encode(), null_sender=null_sender)


@pytest.mark.parametrize(
    "headers",
    [
        "Subject: Automatic reply does not work any more",
        "Subject: Automated response times too slow",
        "Subject: Out of office party on Friday?",
        "Subject: Abwesenheitsnotiz einrichten",
        "Subject: Auto: Versicherung",
        "Subject: Who is out of the office?",
        "Subject: Semester fees\r\nX-Auto-Response-Suppress: None",
        "Subject: Vacation request\r\nX-Auto-Response-Suppress: OOF, AutoReply",
        "Delivered-To: autohaus@dealer.example",
        "Subject: Ferie\r\nPrecedence: bulk\r\nList-Id: <a.b>",
        "X-Autoreply: no\r\nAuto-Submitted: no (by hand)",
        "Subject: Delivery status of my parcel?",
    ],
)
def test_mail_from_people_is_not_an_auto_reply(headers: str) -> None:
    message = mail_with("From: Ana <ana@example.com>", headers)
    assert (message.is_bounce, message.is_auto_reply) == (False, False)


@pytest.mark.parametrize(
    "subject", ["Delivery status of my parcel?", "Zustellung meines Pakets", "Hello"]
)
def test_a_null_sender_alone_does_not_make_a_bounce(subject: str) -> None:
    message = mail_with("From: a@b.c", f"Subject: {subject}", null_sender=True)
    assert (message.is_bounce, message.is_auto_reply) == (False, False)
    assert message.may_be_answered is False


@pytest.mark.parametrize(
    "subject",
    [
        *("Automatic reply: Hi", "Out of Office AutoReply: Hi", "Auto-Response"),
        *("Bo Lima is out of the office. (returning 30.11.2026)", "Autosvar: Hi"),
        *("Automatische Antwort: Hi", "Abwesend: Re: Hi", "[Automatic reply]: Hi"),
    ],
)
def test_auto_replies_are_recognised_by_their_subject(subject: str) -> None:
    assert mail_with("From: a@b.c", f"Subject: {subject}").is_auto_reply is True


def test_a_bounce_from_a_daemon_may_have_an_envelope_sender() -> None:
    daemon = "From: Mail Delivery System <MAILER-DAEMON@mx.example.com>"
    message = mail_with(daemon, "Subject: failure notice")
    assert (message.is_bounce, message.may_be_answered) == (True, False)


def test_a_report_of_success_is_not_a_bounce() -> None:
    raw = (MAILS / "bounce-dsn.eml").read_bytes()
    message = read(raw.replace(b"Action: failed", b"Action: delivered"))
    assert (message.is_bounce, message.is_auto_reply) == (False, True)


def test_mail_with_an_attached_report_is_not_a_bounce() -> None:
    raw = (MAILS / "bounce-mixed.eml").read_bytes()
    raw = raw.replace(b"postmaster@", b"ana@").replace(
        b"message/delivery-status",
        b"message/delivery-status; name=details.txt\r\n"
        b"Content-Disposition: attachment; filename=details.txt",
    )
    assert read(raw).is_bounce is False


# ---- which part is a text, an inline or an attachment


def parts(subtype: str, *parts: str) -> InboundMessage:
    body = "".join(f"--b\r\n{part}\r\n" for part in parts) + "--b--\r\n"
    head = f"Content-Type: multipart/{subtype}; boundary=b\r\n\r\n"
    return read((head + body).encode())


def test_text_with_a_file_name_is_the_body_if_there_is_no_other() -> None:
    text = "Content-Type: text/plain; name=text_0.txt\r\n\r\nthe text"
    image = "Content-Type: image/jpeg; name=a.jpg\r\n\r\nJPG"
    message = parts("mixed", text, image)
    assert message.text == "the text"
    assert [file.filename for file in message.attachments] == ["a.jpg"]
    html = "Content-Type: text/html; name=a.html\r\nContent-ID: <r>\r\n\r\n<p>x</p>"
    assert parts("related", html, image).html == "<p>x</p>"
    message = parts("alternative", text, html)
    assert (message.text, message.html) == ("the text", "<p>x</p>")
    assert message.attachments == []
    note = text.replace("\r\n\r\n", "\r\nContent-Disposition: attachment\r\n\r\n")
    message = parts("mixed", note, image)
    assert message.text is None
    assert len(message.attachments) == 2


def test_a_second_part_with_the_same_content_id_is_an_attachment() -> None:
    html = "Content-Type: text/html\r\n\r\n<p>x</p>"
    image = "Content-Type: image/png\r\nContent-ID: <a>\r\n\r\n"
    message = parts("related", html, image + "one", image + "two")
    assert message.inlines["a"].content == b"one"
    assert [file.content for file in message.attachments] == [b"two"]


def test_a_damaged_byte_in_undeclared_utf_8_costs_one_character() -> None:
    raw = "Subject: Grüße aus Köln ".encode() + b"\xc3\r\n\r\n" + "Grüße ".encode()
    message = read(raw + b"\xff")
    assert message.subject == "Grüße aus Köln \ufffd"
    assert message.text == "Grüße \ufffd"


def test_backslashes_in_a_file_name_are_kept() -> None:
    message = parts(
        "mixed",
        'Content-Disposition: attachment; filename="C:\\Users\\ana\\a.pdf"\r\n\r\nx',
    )
    (file,) = message.attachments
    assert file.filename == "C:\\Users\\ana\\a.pdf"
    assert file.safe_filename == "a.pdf"


# ---- addresses


@pytest.mark.parametrize(
    "brackets",
    [
        *("évil@x.example", "evil@x.example.", "a@b@x.example", "evil@x..example", ""),
        *('"e(v)il"@x.example', "evil@-x.example", "e" * 300 + "@x.example"),
        "a\0b@[192.0.2.1]",
    ],
    ids=lambda value: repr(value[:20]),
)
def test_an_address_before_invalid_brackets_is_not_the_author(brackets: str) -> None:
    value = f"service@bank.example, Support <{brackets}>"
    assert author_of(value, encoded=True) is None


@pytest.mark.parametrize("before", ["x" * 60_000, "x, " * 3_000])
def test_an_author_beyond_the_parsing_limits_is_none(before: str) -> None:
    value = f"service@bank.example, {before} <evil@x.example>"
    assert author_of(value, encoded=True) is None


def test_names_decoded_by_postal_may_contain_brackets() -> None:
    value = "<service@bank.example>, [x] <evil@x.example>"
    assert author_of(value, encoded=False) is None
    assert read_addresses("To <@a, b@x.org, c@x.org", encoded=True)


@pytest.mark.parametrize(
    ("value", "addresses"),
    [
        ("ana@x.org", [("", "ana@x.org")]),
        (
            "Ana Lima <ana@x.org>, bo@x.org",
            [("Ana Lima", "ana@x.org"), ("", "bo@x.org")],
        ),
        ("a@x.org; b@x.org", [("", "a@x.org"), ("", "b@x.org")]),
        ("ana@x.org (Ana Lima)", [("Ana Lima", "ana@x.org")]),
        ("Bob (the (old) one) <bob@x.org>", [("Bob (the (old) one)", "bob@x.org")]),
        ('"q@q, <x@y.z>" <a@b.c>', [("q@q, <x@y.z>", "a@b.c")]),
        ('"\\"Ana\\" L" <a@b.c>', [('"Ana" L', "a@b.c")]),
        ("<@relay,@other:ana@x.org>", [("", "ana@x.org")]),
        ("Ana <ana@x.org", [("Ana", "ana@x.org")]),
        ('"Ana <ana@x.org>', [('"Ana', "ana@x.org")]),
        ('"a b"@x.org', [("", '"a b"@x.org')]),
        ("undisclosed-recipients:;", []),
        ("a@b@c.org, ok@x.org", [("", "ok@x.org")]),
        ("jörg@x.org, ok@x.org", [("", "ok@x.org")]),
        ("=?utf-8?q?A=2C?= <a@b.c>, d@e.f", [("A,", "a@b.c"), ("", "d@e.f")]),
        ("a@b.c, d@e.f" + "," * 9000, [("", "a@b.c"), ("", "d@e.f")]),
    ],
    ids=lambda value: str(value)[:40],
)
def test_addresses_are_read(value: str, addresses: list[tuple[str, str]]) -> None:
    found = read_addresses(value, encoded=True)
    assert [(a.display_name, a.addr_spec) for a in found] == addresses


def test_the_number_of_addresses_is_limited() -> None:
    assert len(read_addresses("a@b.c," * 10_000, encoded=True)) == 2_000
    assert len(read_addresses("a b <a@b.c>;" * 10_000, encoded=True)) == 2_000


PIECES = [
    *("Ana", "Lima", " ", '"Lima, Ana"', "<", ">", "a@b.c", "x.y+z@d-e.f", ", ", ","),
    *('"', ".", "=?utf-8?q?x=40y=2C?=", "(c)", ":", ";", "@", "\\", '""', "é", "\r\n"),
    *("[1]", "<a@b.c>", "\0", "(", ")", "b@[192.0.2.1]"),
]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=10).map("".join))
def test_messages_can_be_sent_to_any_address_that_was_read(value: str) -> None:
    for address in (
        author_of(value, encoded=True),
        *read_addresses(value, encoded=True),
    ):
        if address is not None and not address.addr_spec.endswith("]"):
            Message("x", [address], body="x", sender=address)
            parse_address(address, "sender")


@pytest.mark.parametrize("value", ["a@b.c.", "Ana <a@b.c.>"])
def test_an_address_with_a_trailing_dot_is_refused(value: str) -> None:
    # Python before 3.11.5 matched the dot too (gh-106052).
    assert author_of(value, encoded=True) is None
    assert read_addresses(value, encoded=True) == []


def test_no_pattern_repeats_a_group_possessively() -> None:
    """Python before 3.11.5 backtracks incorrectly in such groups (gh-106052)."""
    package = Path(flask_postal.__file__).parent
    lines = [
        (path.name, line)
        for path in package.rglob("*.py")
        for line in path.read_text().splitlines()
        if re.search(r"\)(?:[*+?]|\{[0-9,]+\})\+", line)
    ]
    # This one is safe: its group can't fail after its first two, literal, characters.
    assert [name for name, line in lines] == ["headers.py"]


# ---- charsets, words, parameters


@pytest.mark.parametrize(
    ("label", "codec"),
    [
        ("UTF-8", "utf-8"),
        ("utf8", "utf-8"),
        ("gb2312", "gb18030"),
        ("GBK", "gb18030"),
        ("Shift_JIS", "cp932"),
        ("ks_c_5601-1987", "cp949"),
        ("iso-8859-1", "cp1252"),
        ("ISO_8859-1:1987", "cp1252"),
        ("us-ascii", "cp1252"),
        ("iso-8859-9", "cp1254"),
        ("tis-620", "cp874"),
        ("big5", "big5hkscs"),
        ("cp850", "cp850"),
        *((name, None) for name in ("punycode", "idna", "unicode_escape", "zlib")),
        *((name, None) for name in ("raw_unicode_escape", "hex", "rot13", "undefined")),
        *((name, None) for name in ("mbcs", "base64", "bz2", "uu", "quopri", "")),
        ("x" * 100_000, None),
        (None, None),
    ],
    ids=lambda value: str(value)[:20],
)
def test_charset_labels_follow_the_encoding_standard(
    label: str | None, codec: str | None
) -> None:
    assert codec_of(label) == codec


@settings(max_examples=500, deadline=None)
@given(
    st.binary(max_size=200), st.sampled_from(["utf-16", "utf-7", "gb2312", "hz", "x"])
)
def test_any_bytes_are_decoded_in_any_charset(data: bytes, label: str) -> None:
    decode(data, label)[0].encode()


@pytest.mark.parametrize("label", ["utf-7", "utf-16", "utf-32"])
def test_damaged_text_in_a_slow_charset_is_cut_short(label: str) -> None:
    text, problem = decode(b"\x00\xd8\xff\xff" * 100_000, label)
    assert 50_000 < len(text) < 110_000
    assert problem is not None
    assert "the rest is not read" in problem


@pytest.mark.parametrize(
    ("written", "decoded"),
    [
        ("plain", "plain"),
        ("=?utf-8?q?a_b?= c", "a b c"),
        ("=?UTF-8*en?Q?a?=", "a"),
        ("=?utf-8?b?w7w?=", "ü"),
        ("=?utf-8?q?a?==?utf-8?q?b?=", "ab"),
        ("=?punycode?q?a-b9c?=", "a-b9c"),
        ("=?utf-8?q?no end", "=?utf-8?q?no end"),
        ("=?iso-2022-jp?b?GyRCLSEbKEI=?=", "①"),
    ],
)
def test_encoded_words(written: str, decoded: str) -> None:
    assert decode_words(written) == decoded


@pytest.mark.parametrize(
    ("text", "value", "parameters"),
    [
        ("Text/Plain; CharSet=UTF-8", "text/plain", {"charset": "UTF-8"}),
        ("text/plain (a comment); charset=a", "text/plain", {"charset": "a"}),
        ('a/b; x="1;2"; y=3', "a/b", {"x": "1;2", "y": "3"}),
        ("a/b; charset=utf-8 name=c", "a/b", {"charset": "utf-8", "name": "c"}),
        ("a/b; name=a b.pdf", "a/b", {"name": "a b.pdf"}),
        ('a/b; name="open', "a/b", {"name": "open"}),
        ("a/b;;;; =;x", "a/b", {}),
        ("a/b; x*=nonsense; x=plain", "a/b", {"x": "nonsense"}),
        ("a/b; x*0=one; x*1=two", "a/b", {"x": "onetwo"}),
        ("plain", "", {}),
        ("a/b\x00c", "", {}),
    ],
)
def test_parameters(text: str, value: str, parameters: dict[str, str]) -> None:
    read = read_parameters(text, media_type=True)
    assert (read.value, read.parameters) == (value, parameters)


# ---- replies


@pytest.mark.parametrize(
    ("text", "stripped"),
    [
        ("Just a text.\n\nWith two parts.", "Just a text.\n\nWith two parts."),
        ("Yes.\n\nSent from my iPhone", "Yes."),
        ("Yes.\n\n-- \nAna\nLima Ltd", "Yes."),
        ("Yes.\n-----Original Message-----\nFrom: x", "Yes."),
        ("Ja.\n-----Ursprüngliche Nachricht-----\nVon: x", "Ja."),
        ("Oui.\n\nLe 23 nov. 2026 à 10:00, Ana <a@b.c> a écrit :\n> x", "Oui."),
        ("Ja.\n\nAm 23.11.2026 um 10:00 schrieb Ana <a@b.c>:\n\nx", "Ja."),
        ("On Monday Ana wrote:\nwe shall see.", "On Monday Ana wrote:\nwe shall see."),
        ("From: the beginning it was\nclear.", "From: the beginning it was\nclear."),
        ("> all of it\n> is quoted", ""),
        (
            "On 23/11/2026 10:00, Desk Team wrote:\n> Tuesday?\n\nYes, Tuesday.",
            "Yes, Tuesday.",
        ),
        (
            "On Mon, Nov 23, 2026 at 10:00 AM Desk <d@e.org>\nwrote:\n\n> One?\n\nYes."
            "\n\n> Two?\n\nNo.",
            "Yes.\n\n\nNo.",
        ),
        ("Ja.\n\npon., 23 lis 2026 o 10:00 Ana <a@b.c> napisał(a):\n\n> x", "Ja."),
        ("Да.\n\nпн, 23 нояб. 2026 в 10:00, Ana <a@b.c>:\n\n> x", "Да."),
        ("Sent from my iPhone\n\nYes.\n\nOn 1.1.2026, A <a@b.c> wrote:\n> x", "Yes."),
        ("Two options:\n--\nA: now\n--\nB: later", None),
        ("Sent from my work address last week.\nPlease refund.", None),
        ("Flight:\nFrom: Berlin\nTo: Rome\nDate: 5 June 2026\n\nThanks", None),
        ("At 10:30 on 5 May 2026 the customer wrote:\nIt is broken.\nSo I came.", None),
        ("I ran\n> make install\nand it failed.", None),
        ("From: a@b.c\nSubject: Question\nDate: 2024-01-01\n\nI want to buy.", None),
        ("List:\nFrom: Berlin\nTo: Paris\nSubject: train\nPlease book it.", None),
        ("--\nfoo", None),
        (
            "FYI.\n\n---------- Forwarded message ---------\nFrom: Bo <b@c.de>\n"
            "Date: today\nSubject: broken\nTo: a@b.c\n\nIt broke.",
            None,
        ),
        ("x" * 1_100_000 + "\n> y", None),
        ("", ""),
        ("---------- Forwarded message ----------\nx", None),
    ],
)
def test_quoted_text_is_stripped_from_replies(text: str, stripped: str | None) -> None:
    assert strip_reply(text) == (text if stripped is None else stripped)


# ---- no line breaks, and nothing that a database refuses


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=60), st.sampled_from(["q", "b"]))
def test_single_line_values_contain_no_control_characters(
    text: str, encoding: str
) -> None:
    import base64
    import quopri

    data = text.encode("utf-8", "surrogatepass")
    coded = (
        base64.b64encode(data)
        if encoding == "b"
        else quopri.encodestring(data, quotetabs=True, header=True)
        .replace(b"?", b"=3F")
        .replace(b"=\n", b"")
        .replace(b"\n", b"=0A")
    )
    word = b"=?utf-8?" + encoding.encode() + b"?" + coded + b"?="
    message = read(
        b"From: "
        + word
        + b" <a@b.c>\r\nSubject: "
        + word
        + b"\r\nMessage-ID: <"
        + word
        + b">\r\nContent-Type: x/"
        + word
        + b"; name="
        + word
        + b"\r\n\r\n\0"
    )
    lines = [message.subject, message.message_id, *(v for _, v in message.headers)]
    lines += [message.from_email.display_name] if message.from_email else []
    lines += [file.filename for file in message.attachments]
    for line in lines:
        assert not any(unicodedata.category(c) in ("Cc", "Cs") for c in line or "")
    for file in message.attachments:
        file.as_file()
    assert "\0" not in (message.text or "")


def test_unicode_line_separators_are_replaced_too() -> None:
    message = mail_with("From: a@b.c", "Subject: a\u2028b\u2029c\x85d")
    assert message.subject == "a b c d"


def test_mail_from_an_address_literal_is_not_answered() -> None:
    message = mail_with("From: ana@[192.0.2.1]", "Subject: Hi")
    assert message.from_email == Address("ana@[192.0.2.1]")
    assert message.may_be_answered is False


def test_a_subject_with_an_encoded_line_break_can_be_used_in_a_reply() -> None:
    message = load("subject-encoded-line-break")
    author = message.from_email
    assert author is not None
    Message(f"Re: {message.subject}", [author], body="x", sender="a@b.c")


# ---- the Hash formats


def form(*pairs: str) -> InboundMessage:
    return parse_inbound("&".join(pairs).encode(), FORM).message


def test_content_types_of_attachments_have_no_parameters() -> None:
    begin = ("id=5", "rcpt_to=a%40b.c", "token=t", "mail_from=a%40b.c")
    name = "attachments%5B0%5D%5Bfilename%5D"
    kind = "attachments%5B0%5D%5Bcontent_type%5D=text%2Fplain%3B+charset%3Dutf-8"
    (file,) = form(*begin, kind, f"{name}=a%0Ab.txt").attachments
    assert (file.filename, file.content_type) == ("a b.txt", "text/plain")
    (file,) = form(*begin, kind.replace("text%2Fplain", "nonsense"), name).attachments
    assert (file.filename, file.content_type) == (None, "application/octet-stream")


@pytest.mark.parametrize(
    ("pairs", "bounce"),
    [
        (["mail_from", "from=MAILER-DAEMON%40x.y"], True),
        (["mail_from", "from=MAILER-DAEMON"], True),
        (["mail_from", "subject=Undelivered+Mail"], True),
        (
            [
                "mail_from",
                "attachments%5B0%5D%5Bcontent_type%5D=message%2Fdelivery-status",
            ],
            True,
        ),
        (["mail_from=a%40b.c", "bounce=true"], True),
        (["mail_from", "subject=Automatic+reply%3A+x", "bounce=false"], False),
        (["mail_from=a%40b.c", "subject=Undelivered+Mail"], False),
    ],
)
def test_bounces_in_the_hash_formats(pairs: list[str], bounce: bool) -> None:
    assert form("id=5", "rcpt_to=a%40b.c", "token=t", *pairs).is_bounce is bounce


def test_an_invalid_author_is_refused_as_a_sender() -> None:
    for value in ("@p.com", "Big Bug bb@bug.com"):
        with pytest.raises(MessageError, match="not an address"):
            parse_address(value, "sender")


@pytest.mark.parametrize("count", [2000, 2001, 3000])
def test_addresses_over_the_limit_are_noted_in_defects(count: int) -> None:
    to = ",\r\n ".join(f"user{number}@example.com" for number in range(count))
    found = read(f"To: {to}\r\n\r\nHi".encode())
    assert len(found.to) == 2000
    assert [d for d in found.defects if d.startswith("to: too many")] == (
        ["to: too many addresses or too long; the rest is not read"] * (count > 2000)
    )
