"""What Flask-Mail does, ours does: each case is run with both."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from flask import Flask
from flask_babel.speaklater import LazyString

from flask_postal.integrations import flask_mail as ours

TO = ["to@example.com"]


@pytest.fixture
def theirs() -> Iterator[Any]:
    """The real Flask-Mail, whatever else has the name."""
    kept = sys.modules.pop("flask_mail", None)
    import flask_mail

    assert flask_mail is not ours
    yield flask_mail
    del sys.modules["flask_mail"]
    if kept is not None:
        sys.modules["flask_mail"] = kept


def observe(module: Any, case: Callable[[Any, Any], Any], **config: Any) -> Any:
    """Return what a case returns, or the kind of its error."""
    app = Flask("same")
    app.config.update(TESTING=True, MAIL_DEFAULT_SENDER="support@example.com", **config)
    with app.test_request_context():
        mail = module.Mail(app)
        try:
            return case(module, mail)
        except AssertionError:
            return "AssertionError"
        except module.BadHeaderError:
            return "BadHeaderError"
        except (RuntimeError, TypeError) as error:
            return type(error).__name__
        except ValueError as error:
            return "ValueError", str(error)


def written(message: Any) -> str:
    """The mail, without what is different each time."""
    text = str(message.as_string())
    assert text == str(message)
    assert text.encode() == message.as_bytes() == bytes(message)
    for boundary in re.findall(r'boundary="([^"]+)"', text):
        text = text.replace(boundary, "BOUNDARY")
    text = text.replace(message.msgId, "<id>")
    return re.sub(r"(?m)^(Message-ID:)\s*", r"\1 ", text)


def message(module: Any, **arguments: Any) -> Any:
    values = {"subject": "subject", "recipients": list(TO), "date": 1780000000}
    return module.Message(**{**values, **arguments})


WRITTEN: dict[str, dict[str, Any]] = {
    "plain": {"body": "Hello Joe,\nHow are you?"},
    "no body": {},
    "html alone": {"html": "<p>Hi</p>"},
    "text and html": {"body": "Hi", "html": "<p>Hi</p>"},
    "an alternative": {"body": "Hi", "alts": {"json": '{"a": 1}'}},
    "alternatives as pairs": {"body": "Hi", "alts": [("html", "<b>x</b>")]},
    "text of other languages": {"body": "Öö ←→ ✓ 内容", "html": "<p>Ö</p>"},
    "a long line": {"body": "ö" * 1000},
    "cc": {"body": "x", "cc": ["Ö <c@example.com>"]},
    "bcc is hidden": {"body": "x", "bcc": ["hidden@example.com"]},
    "a reply address": {"body": "x", "reply_to": "Re <re@example.com>"},
    "a reply address as a pair": {"body": "x", "reply_to": ("Ré", "re@example.com")},
    "a sender as a pair": {"body": "x", "sender": ("tester", "tester@example.com")},
    "a sender of other languages": {"sender": ("ÄÜÖ → ✓", "from@example.com")},
    "a sender with a stray bracket": {"sender": "ÄÜÖ → ✓ <from@example.com>>"},
    "recipients as pairs": {"recipients": [("Ana", "a@example.com")]},
    "a domain of other languages": {"recipients": ["ana@bücher.example"]},
    "a subject of other languages": {"subject": "sübject"},
    "no subject": {"subject": ""},
    "a lazy subject": {"subject": LazyString(lambda: "sübject")},
    "a folded subject": {"subject": "a\r\n b\r\n c \r\n \td", "body": "x"},
    "a sender with a line break": {"sender": "sender\r\n@example.com"},
    "headers": {"extra_headers": {"X-Extra": "Yes"}, "body": "x"},
    "us-ascii": {"charset": "us-ascii", "body": "normal"},
    "us-ascii with html": {"charset": "us-ascii", "html": "<h1>hello</h1>"},
    "latin-1": {"charset": "iso-8859-1", "body": "Grüße", "subject": "Grüße"},
    "shift_jis": {
        "charset": "shift_jis",
        "sender": ("送信者", "from@example.com"),
        "subject": "表題",
        "reply_to": "返信先 <somebody@example.com>",
        "body": "内容",
    },
}


@pytest.mark.parametrize("name", WRITTEN)
def test_a_mail_is_written_the_same(theirs: Any, name: str) -> None:
    def case(module: Any, mail: Any) -> str:
        return written(message(module, **WRITTEN[name]))

    assert observe(ours, case) == observe(theirs, case)


ATTACHED: dict[str, dict[str, Any]] = {
    "nameless": {"data": b"this is a test", "content_type": "text/plain"},
    "text": {"data": "this is a test", "filename": "a.txt"},
    "guessed": {"data": b"x", "filename": "a.pdf"},
    "unknown": {"data": b"x"},
    "a name with a blank": {"data": b"x", "filename": "test doc.txt"},
    "a name of other languages": {"data": b"x", "filename": "ünicöde ←→ ✓.txt"},
    "inline": {
        "data": b"x",
        "content_type": "image/png",
        "disposition": "inline",
        "filename": "logo.png",
        "headers": {"Content-ID": "<logo>", "X-Attachment-Id": "logo"},
    },
    "without data": {"filename": "a.txt"},
}


@pytest.mark.parametrize("ascii_names", [False, True])
@pytest.mark.parametrize("name", ATTACHED)
def test_a_file_is_attached_the_same(theirs: Any, name: str, ascii_names: bool) -> None:
    def case(module: Any, mail: Any) -> Any:
        made = message(module, body="hello")
        made.attach(**ATTACHED[name])
        file = made.attachments[0]
        seen = (file.filename, file.content_type, file.data, file.disposition)
        return written(made), seen

    config = {"MAIL_ASCII_ATTACHMENTS": ascii_names}
    assert observe(ours, case, **config) == observe(theirs, case, **config)


SENT: dict[str, dict[str, Any]] = {
    "plain": {"body": "x"},
    "no body": {},
    "no recipients": {"recipients": [], "body": "x"},
    "bcc alone": {"recipients": [], "bcc": ["b@example.com"], "body": "x"},
    "an empty sender": {"sender": ("", "a@example.com"), "body": "x"},
    "a name with a comma": {"sender": ("Doe, Jane", "a@example.com"), "body": "x"},
    "a subject that ends in a line": {"subject": "testing\r\n", "body": "x"},
    "a subject with a line feed": {"subject": "testing\n\r", "body": "x"},
    "a subject of two lines": {"subject": "a\r\nBcc: x@example.com", "body": "x"},
    "a folded subject": {"subject": "a\r\n b\r\n c \r\n \td", "body": "x"},
    "a fold of blanks": {"subject": "a\r\n b\r\n ", "body": "x"},
    "a fold of a tab": {"subject": "a\r\n b\r\n\t", "body": "x"},
    "a fold and a line feed": {"subject": "a\r\n b\r\n\n", "body": "x"},
    "an empty first line": {"subject": "\r\n a", "body": "x"},
    "a sender with a line": {"sender": "a@example.com\r\n", "body": "x"},
    "a recipient with a line": {"recipients": ["a\r\n@example.com"], "body": "x"},
    "a pair with a line": {"recipients": [("a\n", "a@example.com")], "body": "x"},
    "a reply address with a line": {"reply_to": "a@example.com\r", "body": "x"},
    "latin-1": {"charset": "iso-8859-1", "body": "Grüße"},
}


@pytest.mark.parametrize("name", SENT)
def test_sending_ends_the_same(theirs: Any, name: str) -> None:
    def case(module: Any, mail: Any) -> Any:
        made = message(module, **SENT[name])
        bad = made.has_bad_headers()
        made.date = None
        with mail.record_messages() as outbox:
            mail.send(made)
        assert outbox == [made]
        assert isinstance(made.date, float)
        return bad, made.subject, made.sender, made.send_to, made.recipients

    assert observe(ours, case) == observe(theirs, case)


def test_attributes_are_the_same(theirs: Any) -> None:
    def case(module: Any, mail: Any) -> Any:
        made = module.Message("s")
        made.add_recipient("a@example.com")
        made.html = "<p>"
        made.html = None
        state = mail.app.extensions["mail"]
        return (
            (made.subject, made.recipients, made.sender, made.cc, made.bcc, made.body),
            (made.html, made.alts, made.date, made.charset, made.extra_headers),
            (made.mail_options, made.rcpt_options, made.attachments, made.reply_to),
            (state.default_sender, state.server, state.port, state.max_emails),
            (mail.default_sender, mail.no_such_thing, mail.ascii_attachments),
            mail.state.__dict__.keys()
            == mail.init_mail(
                mail.app.config, debug=False, testing=True
            ).__dict__.keys(),
        )

    assert observe(ours, case) == observe(theirs, case)


def test_a_connection_counts_the_same(theirs: Any) -> None:
    def case(module: Any, mail: Any) -> Any:
        counted = []
        with mail.connect() as connection:
            for _ in range(5):
                connection.send_message("s", TO, "x")
                counted.append(connection.num_emails)
            connection.send(message(module, body="x"), envelope_from=None)
        return counted

    for config in ({}, {"MAIL_MAX_EMAILS": 2}):
        assert observe(ours, case, **config) == observe(theirs, case, **config)


def test_outside_of_an_app_it_is_an_error_in_both(theirs: Any) -> None:
    for module in (ours, theirs):
        with pytest.raises(RuntimeError):
            module.Message("s")
        with Flask("none").app_context(), pytest.raises((RuntimeError, KeyError)):
            module.Message("s")
        with (
            Flask("none").app_context(),
            pytest.raises(RuntimeError, match="not configured with Flask-Mail"),
        ):
            module.Mail().connect()
