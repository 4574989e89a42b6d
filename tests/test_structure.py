"""A mail is split into the same parts as by the standard library's parser, except where
that parser is wrong."""

from __future__ import annotations

import email
from email.message import EmailMessage
from email.message import Message as Part
from email.policy import SMTP, compat32
from typing import Any

import pytest
from hypothesis import assume, example, given, settings
from hypothesis import strategies as st

from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.mail.base64_mail import Base64Mail
from flask_postal.webhooks.mail.headers import read_headers
from flask_postal.webhooks.mail.message import InboundMessage
from flask_postal.webhooks.mail.raw import RawMail
from flask_postal.webhooks.mail.structure import MAX_DEPTH, MAX_MARKS, MAX_PARTS, cut

from .captures import CAPTURES, Recorded

Leaf = tuple[str, str, bytes]

RECORDED = sorted(path.stem for path in (CAPTURES / "inbound").glob("*raw*.body"))
PIECES = [
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b'Content-Type: multipart/alternative;\r\n boundary="bb"\r\n',
    b"Content-Type: multipart/mixed\r\n",
    b"Content-Type: text/html; charset=latin-1\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: Quoted-Printable\r\n",
    b"Subject: caf\xe9\r\n",
    b"A: b\r\n folded\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"--b\r\n",
    b"\r\n--b\r\n",
    b"\r\n--bb\r\n",
    b"\r\n--bb--",
    b"\r\n--b--\r\n",
    b"\r\n--b--",
    b"--b \r\n",
    b"--b\n",
    b"aGVsbG8=\r\n",
    b"aGVs\r\nbG8h",
    b"aGVs!bG8h",
    b"aGVs=bG8h\r\n",
    b"caf=C3=A9 =\r\n",
    b"text",
]


def by_the_parser(raw: bytes) -> list[Leaf]:
    leaves: list[Leaf] = []

    def walk(part: Any, parent: str) -> None:
        payload = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(payload, list):
            for child in payload:
                walk(child, part.get_content_subtype())
            return
        content = part.get_payload(decode=True)
        leaves.append(leaf(parent, part.get_content_type(), content))

    walk(email.message_from_bytes(raw, Part, policy=compat32), "")
    return leaves


def by_cutting(raw: bytes) -> list[Leaf]:
    return [leaf(part.parent, part.kind, part.content()) for part in cut(raw).parts]


def leaf(parent: str, kind: str, content: bytes) -> Leaf:
    """Return what is compared. The content of a multipart without parts is left out,
    as the parser is inconsistent about the line break before a closing boundary."""
    return parent, kind, b"" if kind.startswith("multipart/") else content


def multipart(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--\r\n") -> bytes:
    head = b"Content-Type: multipart/mixed; boundary=" + boundary + b"\r\n\r\n"
    return (
        head
        + b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
        + b"--"
        + boundary
        + end
    )


SAME = {
    "text": b"Subject: x\r\n\r\nbody\r\n",
    "no headers": b"\r\nno headers",
    "no content": b"A: b\r\n c\r\n\r\n",
    "no end of the headers": b"Subject: x\r\n",
    "two texts": multipart(b"\r\nplain", b"Content-Type: text/html\r\n\r\n<p>"),
    "empty parts": multipart(b"A: b\r\n\r\n", b"\r\n\r\n\r\n", end=b"--"),
    "nested": multipart(multipart(b"\r\ninner", boundary=b"in"), b"\r\nouter"),
    "base64": multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVs\r\nbG8=\r\n"),
    "foreign in base64": multipart(
        b"Content-Transfer-Encoding: base64\r\n\r\naGVs!bG8h"
    ),
    "padding in base64": multipart(
        b"Content-Transfer-Encoding: base64\r\n\r\naGVs=bG8hYWFh"
    ),
    "no padding": multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVsbG8"),
    "one letter too many": multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVsb"),
    "quoted-printable": multipart(
        b"Content-Transfer-Encoding: quoted-printable\r\n\r\ncaf=C3=A9 =\r\nx"
    ),
    "uuencode": multipart(
        b"Content-Transfer-Encoding: uuencode\r\n\r\nbegin 666 x\r\n#:&D*\r\n`\r\nend"
    ),
    "line feeds": multipart(b"\r\nplain", b"\r\nmore").replace(b"\r\n", b"\n"),
    "preamble": multipart(b"\r\na").replace(b"\r\n\r\n--b", b"\r\n\r\npre\r\n--b", 1),
    "epilogue": multipart(b"\r\na", end=b"--\r\n--b\r\n\r\nmore"),
    "not closed": multipart(b"\r\na", end=b"\r\n"),
    "blanks behind a boundary": multipart(b"\r\na", end=b"-- \t\r\n").replace(
        b"--b\r\n", b"--b \r\n"
    ),
    "a line like a boundary": multipart(b"\r\nsome --b text\r\n--bx\r\nx--b"),
    "boundary twice": multipart(b"\r\na").replace(b"--b\r\n", b"--b\r\n--b\r\n"),
    "no parts": multipart(),
    "no boundary": b"Content-Type: multipart/mixed\r\n\r\nno boundary",
    "wrong boundary": multipart(b"\r\na").replace(b"boundary=b", b"boundary=c"),
    "same boundary within": multipart(multipart(b"\r\nsame boundary")),
    "longer boundary within": multipart(multipart(b"\r\ninner", boundary=b"b1")),
    "shorter boundary within": multipart(
        multipart(b"\r\ninner", boundary=b"b"), boundary=b"b1"
    ),
    "no blank line in a part": multipart(b"A: b"),
    "mbox": b"From a@b.c Sun Nov 22\r\nSubject: x\r\n\r\nbody",
}


@pytest.mark.parametrize("name", SAME)
def test_the_parts_are_those_of_the_parser(name: str) -> None:
    assert by_cutting(SAME[name]) == by_the_parser(SAME[name])


@pytest.mark.parametrize(
    ("raw", "parts"),
    [
        pytest.param(
            b'Content-Type: multipart/mixed; boundary="simple\r\n boundary"\r\n\r\n'
            b"--simple boundary\r\n\r\na\r\n--simple boundary--",
            [("mixed", "text/plain", b"a")],
            id="a boundary that is folded",
        ),
        pytest.param(
            b'Content-Type: multipart/mixed\r\n boundary="b"\r\n\r\n'
            b"--b\r\n\r\na\r\n--b--",
            [("mixed", "text/plain", b"a")],
            id="no semicolon",
        ),
        pytest.param(
            multipart(b"Content-Type: message/rfc822\r\n\r\nA:b\n\n\xffx\r\n"),
            [("mixed", "message/rfc822", b"A:b\n\n\xffx\r\n")],
            id="a mail, byte for byte",
        ),
        pytest.param(
            multipart(
                b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64"
                b"\r\n\r\nQTpiCgr/eA=="
            ),
            [("mixed", "message/rfc822", b"A:b\n\n\xffx")],
            id="a mail in base64, byte for byte",
        ),
        pytest.param(
            multipart(b"\r\nA: b\r\n\r\nx").replace(b"mixed", b"digest"),
            [("digest", "message/rfc822", b"A: b\r\n\r\nx")],
            id="a digest holds mails",
        ),
        pytest.param(
            multipart(b"\r\na").replace(b"boundary=b", b"boundary=c"),
            [("", "multipart/mixed", b"")],
            id="a multipart in name only",
        ),
        pytest.param(
            multipart(b"\r\na").replace(b"\r\n", b"\r\r\n"),
            [("mixed", "text/plain", b"a\r")],
            id="CR CR LF",
        ),
    ],
)
def test_the_parts_are_right_where_the_parser_is_wrong(
    raw: bytes, parts: list[Leaf]
) -> None:
    assert by_cutting(raw) == parts


@pytest.mark.parametrize("name", RECORDED)
def test_the_parts_of_recorded_mails_are_those_of_the_parser(name: str) -> None:
    recorded = Recorded.load(f"inbound/{name}")
    event = parse_inbound(recorded.body, recorded.headers["Content-Type"])
    raw = event.message.raw
    assert raw
    theirs = by_the_parser(raw)
    ours = by_cutting(raw)
    # The parser writes attached mails again, with other bytes.
    mails = {"message/rfc822"}
    assert [x for x in ours if x[1] not in mails] == [
        x for x in theirs if x[1] not in mails
    ]


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
@example(multipart(b"\r\n" + b"A: b\r\n"))
def test_the_parts_of_any_mail_are_those_of_the_parser(raw: bytes) -> None:
    raw = b"Subject: x\r\n" + raw
    assume(not any("left out" in problem for problem in cut(raw).problems))
    assume(read_headers(raw).problem is None)
    assert by_cutting(raw) == by_the_parser(raw)


@settings(max_examples=300, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([b"b", b"bb"]),
)
def test_the_parts_of_any_multipart_are_those_of_the_parser(
    contents: list[bytes], boundary: bytes
) -> None:
    raw = multipart(*(b"A: b\r\n" + c for c in contents), boundary=boundary)
    # For the parser, a line that is not a header ends the headers.
    assume(not any("left out" in problem for problem in cut(raw).problems))
    assert by_cutting(raw) == by_the_parser(raw)


TEXT = st.text(
    st.characters(codec="utf-8", categories=("L", "N", "P", "S", "Zs")), max_size=40
)
#: Charsets, and letters that they can encode.
CHARSETS = [
    ("utf-8", "aß€漢🎉 <=?"),
    ("utf-7", "aß€漢 +-"),
    ("iso-8859-1", "aßé =?"),
    ("iso-8859-15", "aß€"),
    ("windows-1251", "aБя"),
    ("koi8-r", "aБя"),
    ("shift_jis", "aカ漢字"),
    ("euc-jp", "aカ漢字"),
    ("iso-2022-jp", "aカ漢字"),
    ("gb2312", "a汉字"),
    ("big5", "a漢字"),
    ("euc-kr", "a한글"),
]
LINES = st.lists(TEXT, max_size=5).map("\n".join)


@st.composite
def composed(draw: st.DrawFn) -> EmailMessage:
    """Generate a mail as the standard library writes it."""
    mail = EmailMessage()
    mail["Subject"] = draw(TEXT)
    charset, letters = draw(st.sampled_from(CHARSETS))
    encoding = draw(st.sampled_from(["base64", "quoted-printable"]))
    text = draw(st.lists(st.text(letters, max_size=40), max_size=5).map("\n".join))
    mail.set_content(text, charset=charset, cte=encoding)
    if draw(st.booleans()):
        mail.add_alternative(draw(LINES), "html", cte=encoding)
    for _ in range(draw(st.integers(0, 3))):
        mail.add_attachment(
            draw(st.binary(max_size=200)),
            "application",
            "pdf",
            filename=draw(TEXT.filter(str.strip)),
        )
    return mail


def filename(part: Any) -> str:
    """Return a file name; ``get_filename()`` takes away the brackets of ``<name>``."""
    name: str = part["Content-Disposition"].params["filename"]
    return name.strip()


@settings(max_examples=300, deadline=None)
@given(composed(), st.booleans())
def test_mails_written_by_the_standard_library_are_read_unchanged(
    mail: EmailMessage, crlf: bool
) -> None:
    raw = mail.as_bytes(policy=SMTP if crlf else SMTP.clone(linesep="\n"))
    message = InboundMessage(RawMail(Base64Mail(raw=raw)))
    body, html = mail.get_body(("plain",)), mail.get_body(("html",))
    assert body is not None
    assert (message.text or "").strip() == body.get_content().strip()
    if html is not None:
        assert (message.html or "").strip() == html.get_content().strip()
    assert (message.subject or "").split() == mail["Subject"].split()
    theirs = [(filename(a), a.get_content()) for a in mail.iter_attachments()]
    assert [(a.filename, a.content) for a in message.attachments] == theirs
    assert message.defects == []


# ---- headers


@pytest.mark.parametrize(
    ("head", "items"),
    [
        ("A: b\r\nC:d\r\n\r\nx", [("A", "b"), ("C", "d")]),
        ("A: b\nC: d\n\nx", [("A", "b"), ("C", "d")]),
        ("A: b\r\n c\r\n\td\r\n\r\nx", [("A", "b c\td")]),
        (
            "From  : a@b.c\r\nSubject\t: x\r\n\r\nx",
            [("From", "a@b.c"), ("Subject", "x")],
        ),
        ("A: b\r\njunk\r\nC: d\r\n\r\nx", [("A", "b"), ("C", "d")]),
        ("A: b\r\n: nameless\r\nC: d\r\n\r\nx", [("A", "b"), ("C", "d")]),
        ("A: b\r\njunk\r\nmore junk\r\nC: d\r\n\r\nx", [("A", "b"), ("C", "d")]),
        ("A: b\r\r\nC: d\r\r\n\r\r\nx", [("A", "b"), ("C", "d")]),
        ("A: Grüße\r\n\r\nx", [("A", "Grüße")]),
        ("\r\nx", []),
    ],
    ids=repr,
)
def test_headers_are_read(head: str, items: list[tuple[str, str]]) -> None:
    raw = head.encode()
    block = read_headers(raw)
    assert (block.items, raw[block.end :]) == (items, b"x")


@pytest.mark.parametrize(
    ("raw", "body"),
    [
        (b"just text\r\n\r\nmore", b"just text\r\n\r\nmore"),
        (b"A: b\r\nHello Ana,\r\n\r\nmore", b"Hello Ana,\r\n\r\nmore"),
        (
            b"A: b\r\nsee\r\nhttp://x.example\r\n\r\n.",
            b"see\r\nhttp://x.example\r\n\r\n.",
        ),
    ],
)
def test_text_is_kept_if_the_blank_line_before_it_is_missing(
    raw: bytes, body: bytes
) -> None:
    assert raw[read_headers(raw).end :] == body


def test_latin_1_in_a_header_is_read_as_windows_1252() -> None:
    assert read_headers(b"A: Gr\xfc\xdfe \x80\r\n\r\n").items == [("A", "Grüße €")]


# ---- limits


def test_the_number_of_headers_is_limited() -> None:
    block = read_headers(b"a: b\r\n" * 20_000 + b"\r\nx")
    assert len(block.items) == 10_000
    assert block.end == 120_002
    assert block.problem is not None
    assert "10000" in block.problem
    block = read_headers(b"a: " + b"x" * 2_000_000 + b"\r\n\r\nx")
    assert len(block.items[0][1]) < 1024 * 1024


def test_the_headers_of_all_parts_together_are_limited() -> None:
    part = b"Content-Type: text/plain;a=" + b'"' + b";" * 16_000 + b'"\r\n\r\nx'
    structure = cut(multipart(*[part] * 490))
    assert 60 < len(structure.parts) < 70
    problem = "parts: too long headers; the rest is not read"
    assert problem in structure.problems


def test_parts_boundaries_and_depth_are_limited() -> None:
    structure = cut(multipart(*[b"\r\n"] * (MAX_PARTS + 500)))
    assert len(structure.parts) == MAX_PARTS
    assert structure.problems == ["parts: more than 1000; the rest is not read"]
    structure = cut(multipart(b"\r\n" + b"--bx\r\n" * 2 * MAX_MARKS))
    assert structure._marks == MAX_MARKS + 1
    assert structure.problems == ["parts: too many boundaries; the rest is not read"]
    raw = b"".join(
        b"Content-Type: multipart/mixed; boundary=%d\r\n\r\n--%d\r\n" % (n, n)
        for n in range(100, 100 + MAX_DEPTH + 5)
    )
    structure = cut(raw + b"\r\ntext")
    assert structure.parts == []
    assert structure.problems == [
        "parts: nested too deeply; the innermost are not read"
    ]
