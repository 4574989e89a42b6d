"""A mail that is cut gives what the standard library's parser gives, or is not cut."""

from __future__ import annotations

import email
from email.message import Message as Part
from email.parser import BytesHeaderParser
from email.policy import compat32
from typing import Any

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.raw_mail import _content
from flask_postal.webhooks.sections import cut, read_head

from .captures import CAPTURES, Recorded

Leaf = tuple[list[tuple[str, Any]], str, bytes]

RECORDED = sorted(path.stem for path in (CAPTURES / "inbound").glob("*raw*.body"))
PIECES = [
    b"Content-Type: multipart/mixed; boundary=b\r\n",
    b'Content-Type: multipart/alternative;\r\n boundary="bb"\r\n',
    b"Content-Type: multipart/digest; boundary=b\r\n",
    b"Content-Type: multipart/mixed\r\n",
    b"Content-Type: text/html; charset=latin-1\r\n",
    b"Content-Type: message/rfc822\r\n",
    b"Content-Transfer-Encoding: base64\r\n",
    b"Content-Transfer-Encoding: Quoted-Printable\r\n",
    b"Content-Transfer-Encoding: uuencode\r\n",
    b"Subject: caf\xe9\r\n",
    b"From a@b.c\r\n",
    b": nameless\r\n",
    b" folded\r\n",
    b"\r\n",
    b"\r\n\r\n",
    b"\n",
    b"\r",
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
    b"\x0b\x0c\x85\x00",
]


def by_the_parser(raw: bytes) -> list[Leaf]:
    leaves: list[Leaf] = []

    def walk(part: Any, parent: str) -> None:
        payload = part.get_payload()
        if part.get_content_maintype() == "multipart" and isinstance(payload, list):
            for child in payload:
                walk(child, part.get_content_subtype())
        else:
            leaves.append((list(part.raw_items()), parent, _content(part)))

    walk(email.message_from_bytes(raw, Part, policy=compat32), "")
    return leaves


def by_cutting(raw: bytes) -> list[Leaf] | None:
    sections = cut(raw, 500)
    if sections is None:
        return None
    return [(list(s.part.raw_items()), s.parent, s.content()) for s in sections]


def multipart(*parts: bytes, boundary: bytes = b"b", end: bytes = b"--\r\n") -> bytes:
    head = b"Content-Type: multipart/mixed; boundary=" + boundary + b"\r\n\r\n"
    return (
        head
        + b"".join(b"--" + boundary + b"\r\n" + part + b"\r\n" for part in parts)
        + b"--"
        + boundary
        + end
    )


USUAL = [
    b"Subject: x\r\n\r\nbody\r\n",
    b"\r\nno headers",
    b"A: b\r\n c\r\n\r\n",
    multipart(b"\r\nplain", b"Content-Type: text/html\r\n\r\n<p>"),
    multipart(b"A: b\r\n\r\n", b"\r\n\r\n\r\n", end=b"--"),
    multipart(multipart(b"\r\ninner", boundary=b"in"), b"\r\nouter", end=b"--\r\n\r\n"),
    multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVs\r\nbG8=\r\n"),
    multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVs!bG8h"),
    multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVs=bG8hYWFh"),
    multipart(b"Content-Transfer-Encoding: base64\r\n\r\naGVsbG8"),
    multipart(b"Content-Transfer-Encoding: quoted-printable\r\n\r\ncaf=C3=A9 =\r\nx"),
    multipart(b"Content-Transfer-Encoding: uuencode\r\n\r\nbegin 6 x\r\n#:&D*\r\nend"),
]
UNUSUAL = [
    b"Subject: x\n\nbody",  # line feeds alone
    b"Subject: x\r\n",  # no end of the headers
    b"no header\r\n\r\nbody",
    b"From a@b.c\r\nA: b\r\n\r\nbody",
    b"A: b\rc\r\n\r\nbody",
    b"Content-Type: multipart/mixed\r\n\r\nno boundary",
    multipart(),
    multipart(b"\r\na", end=b"\r\n"),  # not closed
    multipart(b"\r\na", end=b"--\r\n--b\r\n"),  # goes on after its end
    multipart(b"\r\na", end=b"-- \r\n"),
    multipart(b"\r\na").replace(b"--b\r\n", b"--b \r\n"),
    multipart(b"\r\na\r\n--b", b"\r\nb"),
    multipart(b"\r\nsome --b text"),
    multipart(b"\r\n\n--b\n"),
    multipart(b"A: b"),
    multipart(multipart(b"\r\nsame boundary")),
    multipart(multipart(b"\r\ninner", boundary=b"b1")),  # begins like the outer one
    multipart(b"Content-Type: message/rfc822\r\n\r\nSubject: x\r\n\r\ny"),
    multipart(b"\r\na").replace(b"mixed", b"digest"),
    multipart(b"\r\na", boundary=b'"a\r\n b"').replace(b'--"a\r\n b"', b"--a\r\n b"),
]


@pytest.mark.parametrize("raw", USUAL)
def test_a_mail_of_the_usual_shape_is_cut(raw: bytes) -> None:
    cut_out = by_cutting(raw)
    assert cut_out is not None
    assert cut_out == by_the_parser(raw)


@pytest.mark.parametrize("raw", UNUSUAL)
def test_what_is_in_doubt_is_left_to_the_parser(raw: bytes) -> None:
    assert cut(raw, 500) is None


@pytest.mark.parametrize("name", RECORDED)
def test_recorded_mails_are_cut_as_the_parser_reads_them(name: str) -> None:
    recorded = Recorded.load(f"inbound/{name}")
    event = parse_inbound(recorded.body, recorded.headers["Content-Type"])
    raw = event.message.raw
    assert raw
    parts = by_cutting(raw)
    assert parts is None or parts == by_the_parser(raw)


@settings(max_examples=2000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=14).map(b"".join))
@example(multipart(b"\r\n" + b"A: b\r\n"))
def test_any_mail_gives_what_the_parser_gives(raw: bytes) -> None:
    parts = by_cutting(raw)
    assert parts is None or parts == by_the_parser(raw)


@settings(max_examples=1000, deadline=None)
@given(
    st.lists(
        st.lists(st.sampled_from(PIECES), max_size=6).map(b"".join),
        min_size=1,
        max_size=4,
    ),
    st.sampled_from([b"b", b"bb"]),
)
def test_any_parts_give_what_the_parser_gives(
    contents: list[bytes], boundary: bytes
) -> None:
    raw = multipart(*contents, boundary=boundary)
    parts = by_cutting(raw)
    assert parts is None or parts == by_the_parser(raw)


@settings(max_examples=1000, deadline=None)
@given(st.lists(st.sampled_from(PIECES), max_size=8).map(b"".join))
def test_headers_are_those_the_parser_reads(head: bytes) -> None:
    items = read_head(head)
    if items is not None:
        parser = BytesHeaderParser(policy=compat32)
        parsed = parser.parsebytes(head + b"\r\nx")
        assert items == list(parsed.raw_items())
        assert parsed.get_payload() == "x"
