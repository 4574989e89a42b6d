"""Answers stay in their conversation, and their answers find back."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import pytest
from flask import Flask
from hypothesis import given
from hypothesis import strategies as st

from flask_postal import (
    ConfigurationError,
    InboundMessage,
    Message,
    MessageError,
    Postal,
    inbound_received,
    read_reply_address,
    reply,
    reply_address,
)
from flask_postal.sandbox import Sandbox, SigningKey, compose_mail
from flask_postal.testing import sandboxed
from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.mail.base64_mail import Base64Mail
from flask_postal.webhooks.mail.raw import RawMail

BASE = "ticket@example.com"


def mail(
    head: str = "",
    *,
    sender: str | None = "ana@example.net",
    to: str = "help@example.com",
) -> InboundMessage:
    head = head if "From:" in head else f"From: Ana <ana@example.net>\r\n{head}"
    source = RawMail(
        Base64Mail(raw=f"{head}\r\n\r\nHi".encode()), null_sender=not sender
    )
    return InboundMessage(source, envelope_sender=sender, envelope_recipient=to)


@pytest.fixture
def context() -> Iterator[Flask]:
    app = Flask("conversations")
    app.config.update(SECRET_KEY="secret", POSTAL_DEFAULT_SENDER="help@example.com")
    with app.app_context():
        yield app


# ---- the message


def test_an_answer_goes_to_the_author_in_the_conversation() -> None:
    answer = reply(
        mail("Subject: Printer\r\nMessage-ID: <2@x>\r\nReferences: <0@x> <1@x>"),
        "It works again.",
        tags="answer",
        extra_headers={"X-Ticket": "7"},
    )
    assert [str(to) for to in answer.recipients] == ["Ana <ana@example.net>"]
    assert (answer.subject, answer.body, answer.tags) == (
        *("Re: Printer", "It works again."),
        ["answer"],
    )
    assert answer.extra_headers == {
        "In-Reply-To": "<2@x>",
        "References": "<0@x> <1@x> <2@x>",
        "X-Ticket": "7",
    }


@pytest.mark.parametrize(
    ("subject", "expected"),
    [
        ("Printer", "Re: Printer"),
        ("Re: Printer", "Re: Printer"),
        ("RE: AW: Antw: SV: Printer", "Re: Printer"),
        ("Re[2]: re^3: RE(4): Printer", "Re: Printer"),
        ("VS: Odp: Ynt: RES: RIF: R: Printer", "Re: Printer"),
        ("回复\uff1aRe\uff1a Отв: ΑΠ: Printer", "Re: Printer"),
        ("Fwd: Printer", "Re: Fwd: Printer"),
        ("Re: Fwd: Re: Printer", "Re: Fwd: Re: Printer"),
        ("Request: Printer", "Re: Request: Printer"),
        ("Ref: 4711", "Re: Ref: 4711"),
        ("Re-opened: Printer", "Re: Re-opened: Printer"),
        ("Re", "Re: Re"),
        ("", "Re:"),
        ("Re:", "Re:"),
        ("re:re:re:", "Re:"),
        ("a \t b", "Re: a b"),
    ],
)
def test_the_subject_has_one_re(subject: str, expected: str) -> None:
    assert reply(None, to="ana@example.net", subject=subject).subject == expected


@given(st.text(max_size=300))
def test_answering_an_answer_changes_no_subject(subject: str) -> None:
    first = reply(None, to="ana@example.net", subject=subject).subject
    assert reply(None, to="ana@example.net", subject=first).subject == first
    assert str(first).startswith("Re:")


def test_replies_go_where_the_author_wants_them() -> None:
    wanted = mail("Reply-To: bo@example.net, Cy <cy@example.net>")
    assert [a.addr_spec for a in reply(wanted).recipients] == [
        *("bo@example.net", "cy@example.net")
    ]
    automatic = reply(wanted, automatic=True)
    assert [a.addr_spec for a in automatic.recipients] == ["bo@example.net"]


def test_an_automatic_answer_says_so() -> None:
    answer = reply(mail(), automatic=True)
    assert answer.extra_headers["Auto-Submitted"] == "auto-replied"
    assert "Auto-Submitted" not in reply(mail()).extra_headers


@pytest.mark.parametrize("automatic", [False, True])
@pytest.mark.parametrize(
    ("head", "sender"),
    [
        ("", None),
        ("List-Id: <list.example>", "ana@example.net"),
        ("Precedence: list", "ana@example.net"),
        ("Content-Type: multipart/report; report-type=delivery-status", "m@x.example"),
        ("From: help+x@example.com", "ana@example.net"),
        ("Reply-To: desk@example.com", "ana@example.net"),
        ("From: MAILER-DAEMON", "ana@example.net"),
        ("From: help@example.com", "ana@example.net"),
        ("Reply-To: HELP@example.com", "ana@example.net"),
    ],
)
def test_lists_bounces_and_ourselves_get_no_answer(
    head: str, sender: str | None, automatic: bool
) -> None:
    app = Flask("desk")
    app.config["POSTAL_DEFAULT_SENDER"] = ("Desk", "desk@example.com")
    with app.app_context(), pytest.raises(MessageError):
        reply(mail(head, sender=sender), automatic=automatic)


@pytest.mark.parametrize(
    "head",
    [
        *(
            "Auto-Submitted: auto-replied",
            "Precedence: bulk",
            "From: noreply@x.example",
        ),
        "List-Unsubscribe: <mailto:x@y.example>",
    ],
)
def test_programs_get_no_automatic_answer_and_people_may_write_to_them(
    head: str,
) -> None:
    with pytest.raises(MessageError, match="may_be_answered"):
        reply(mail(head), automatic=True)
    assert reply(mail(head)).recipients


def test_a_long_conversation_keeps_its_beginning_and_its_end() -> None:
    ids = [f"{number}@x" for number in range(1000)]
    head = f"References: {' '.join(f'<{i}>' for i in ids)}\r\nMessage-ID: <end@x>"
    kept = reply(mail(head)).extra_headers["References"].split()
    assert (kept[0], kept[-1], len(kept)) == ("<0@x>", "<end@x>", 20)


@pytest.mark.parametrize(
    "head",
    [
        "Message-ID: nonsense\r\nReferences: <a b@x> <é@x> <@> <x>",
        "Message-ID: <a@x\r\n y>",
    ],
)
def test_what_is_no_message_id_is_left_out(head: str) -> None:
    headers = reply(mail(head)).extra_headers
    assert all(value.isascii() and value.isprintable() for value in headers.values())
    assert "nonsense" not in str(headers)


def test_an_answer_can_be_made_from_what_was_stored() -> None:
    answer = reply(
        None,
        "Hi",
        to=("Ana", "ana@example.net"),
        subject="Printer",
        references=["1@x", "2@x", "1@x"],
    )
    assert answer.extra_headers["In-Reply-To"] == "<1@x>"
    assert answer.extra_headers["References"] == "<2@x> <1@x>"
    one: Any = ["1@x", None, 7]
    for references in ("<1@x>", one):
        headers = reply(None, to="a@b.example", references=references).extra_headers
        assert headers["In-Reply-To"] == "<1@x>"
    with pytest.raises(MessageError, match="no address"):
        reply(None, "Hi")


def test_a_conversation_from_end_to_end(context: Flask) -> None:
    postal = Postal(context)
    context.register_blueprint(postal.blueprint)
    found: list[tuple[str | None, str | None]] = []

    def on_mail(app: Flask, event: Any, **extra: Any) -> None:
        message = event.message
        key = read_reply_address(message.envelope_recipient, BASE)
        found.append((key, message.stripped_text))
        if key is None:
            address = ("Help desk", reply_address(7, BASE))
            postal.send(reply(message, "Have you tried?", reply_to=address))

    with (
        inbound_received.connected_to(on_mail, sender=context),
        sandboxed(context, key=SigningKey.generate(1024)) as sandbox,
    ):
        first = compose_mail("Printer", "It blinks", to="help@example.com")
        sandbox.receive(first, to="help@example.com")
        (answer,) = sandbox.messages
        _answer_back(sandbox, answer)
    assert found == [(None, "It blinks"), ("7", "Yes!")]
    assert answer.subject == "Re: Printer"


def _answer_back(sandbox: Sandbox, answer: Any) -> None:
    from flask_postal.sandbox import reply_to

    raw, to = reply_to(answer, "Yes!")
    assert sandbox.receive(raw, to=to.upper()).state == "taken"


def test_the_answered_mail_is_the_last_one() -> None:
    twice = mail("Message-ID: <2@x>\r\nReferences: <2@x> <1@x>")
    headers = reply(twice).extra_headers
    assert headers["In-Reply-To"] == "<2@x>"
    assert headers["References"] == "<1@x> <2@x>"
    without = mail("References: <0@x> <1@x>")
    assert reply(without).extra_headers == {"References": "<0@x> <1@x>"}


def test_own_headers_win_in_any_case() -> None:
    own = {"auto-submitted": "auto-generated", "IN-REPLY-TO": "<x@y>"}
    headers = reply(mail("Message-ID: <1@x>"), automatic=True, extra_headers=own)
    names = [name.lower() for name in headers.extra_headers]
    assert len(names) == len(set(names))
    assert headers.extra_headers["IN-REPLY-TO"] == "<x@y>"


def test_a_hash_mail_that_is_marked_as_a_bounce_gets_no_answer() -> None:
    body = {
        "id": 1,
        "rcpt_to": "help@example.com",
        "mail_from": "m@x.example",
        "token": "t",
        "bounce": True,
        "from": "mailer-daemon@x.example",
        "subject": "Undelivered",
        "plain_body": "x",
    }
    message = parse_inbound(json.dumps(body).encode()).message
    with pytest.raises(MessageError, match="bounce"):
        reply(message)


# ---- addresses


@pytest.mark.parametrize("key", [7, "7", "a-b_c.d", "x" * 30])
def test_an_address_brings_its_key_back(context: Flask, key: Any) -> None:
    address = reply_address(key, BASE)
    assert address == address.lower()
    assert len(address.partition("@")[0]) <= 64
    for spelling in (
        address,
        address.upper(),
        f"<{address}>",
        address.replace("com", "org"),
    ):
        assert read_reply_address(spelling, BASE) == str(key)
    assert read_reply_address(address, "Ticket@EXAMPLE.com") == str(key)
    assert Postal(context).prepare(Message("x", address, body="x")).recipients


@pytest.mark.parametrize(
    "key",
    [
        "",
        "A",
        "a b",
        "a@b",
        ".a",
        "a.",
        "a..b",
        "a+b",
        "é",
        "x" * 41,
        -1,
        None,
        1.5e300,
    ],
)
def test_a_key_that_mail_would_change_is_refused(context: Flask, key: Any) -> None:
    with pytest.raises(ValueError, match="key"):
        reply_address(key, BASE)


@pytest.mark.parametrize(
    "address",
    ["ticket@example.com", "help+7@example.com", "tickets+7.00@x.y", "", None, "@"],
)
def test_another_address_has_no_key(context: Flask, address: str | None) -> None:
    assert read_reply_address(address, BASE) is None


def test_a_guessed_address_is_refused(context: Flask) -> None:
    right = reply_address(7, BASE)
    signature = right.partition(".")[2].partition("@")[0]
    for local in (
        *(f"ticket+8.{signature}", f"ticket+7.{'0' * 16}", "ticket+7", "ticket+"),
        *(f"ticket+7.{signature[:-1]}", f"ticket+7.{signature}0", "ticket+7."),
        f"ticket+7.{signature}{'0' * 48}",
        *(f"ticket+x+7.{signature}", f"ticket+7.{'a' * 500}", f"ticket+.{signature}"),
    ):
        with pytest.raises(ValueError, match="signature"):
            read_reply_address(f"{local}@example.com", BASE)
    other = reply_address(7, "sales@example.com").replace("sales", "ticket")
    with pytest.raises(ValueError, match="signature"):
        read_reply_address(other, BASE)


def test_addresses_live_as_long_as_their_secret_is_kept(context: Flask) -> None:
    address = reply_address(7, BASE)
    context.config.update(SECRET_KEY=b"new", SECRET_KEY_FALLBACKS=["older", "secret"])
    assert read_reply_address(address, BASE) == "7"
    assert reply_address(7, BASE) != address
    context.config["SECRET_KEY_FALLBACKS"] = None
    with pytest.raises(ValueError, match="signature"):
        read_reply_address(address, BASE)
    context.config["SECRET_KEY"] = None
    with pytest.raises(ConfigurationError, match="SECRET_KEY"):
        reply_address(7, BASE)


def test_an_address_that_takes_no_key_is_refused(context: Flask) -> None:
    with pytest.raises(ValueError, match="can't be added"):
        reply_address(7, '"a b"@example.com')
