from __future__ import annotations

import copy
import inspect
import io
import json
import pickle
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from markupsafe import Markup

from flask_postal import Address, Attachment, Message, MessageError
from flask_postal.sending.message import FIELDS

# fmt: off
FLASK_MAIL = [
    "subject", "recipients", "body", "html", "alts", "sender", "cc", "bcc",
    "attachments", "reply_to", "date", "charset", "extra_headers", "mail_options",
    "rcpt_options",
]
# fmt: on


class Lazy:
    """A lazy string like Flask-Babel's: not a str, but with all its methods."""

    def __init__(self, text: str) -> None:
        self._text = text

    def __getattr__(self, name: str) -> Any:
        if name == "_text" or name.startswith("__"):
            raise AttributeError(name)
        return getattr(str(self), name)

    def __str__(self) -> str:
        return self._text


def full() -> Message:
    message = Message(
        "Grüße",
        ["a@example.com", ("Doe, Jane", "jane@example.com"), Address("c@d.e", "C")],
        "text",
        "<p>html</p>",
        {"text/calendar": "BEGIN:VCALENDAR"},
        ("Acme", "acme@example.com"),
        "cc@example.com",
        ["bcc@example.com"],
        [("a.bin", "application/octet-stream", b"\x00\xff")],
        "reply@example.com",
        datetime(2026, 11, 22, 10, tzinfo=UTC),
        "utf-8",
        {"X-One": "1", "X-Two": ["2", "3"]},
        message_id="<own@example.com>",
        tags="welcome",
        bounce=True,
        track_opens=False,
        track_clicks=False,
        template="email/welcome",
        context={"name": "Ana", "items": [1, 2.5, None, True]},
        esp_extra={"future": {"deep": [1]}},
    )
    message.embed("logo.png", "image/png", b"\x89PNG", cid="logo")
    return message


def test_parameters_have_the_names_and_order_of_flask_mail() -> None:
    parameters = list(inspect.signature(Message).parameters.values())
    positional = [p.name for p in parameters if p.kind is p.POSITIONAL_OR_KEYWORD]
    assert positional == FLASK_MAIL
    assert [p.name for p in parameters] == list(FIELDS)


def test_no_app_context_is_needed() -> None:
    message = Message("Hi", recipients="a@example.com")
    message.add_recipient("b@example.com")
    message.attach("a.txt", data="text")
    assert message.recipients == ["a@example.com", "b@example.com"]
    assert message.attachments[0].content_type == "text/plain"
    assert message.attachments[0].data == b"text"


@pytest.mark.parametrize(
    ("given", "kept"),
    [
        (None, []),
        ("a@b.c", ["a@b.c"]),
        (("Ana", "a@b.c"), [("Ana", "a@b.c")]),
        (Address("a@b.c"), [Address("a@b.c")]),
        (["a@b.c", ("D", "d@e.f")], ["a@b.c", ("D", "d@e.f")]),
        ((("A", "a@b.c"), ("D", "d@e.f")), [("A", "a@b.c"), ("D", "d@e.f")]),
        ((a for a in ["a@b.c", "d@e.f"]), ["a@b.c", "d@e.f"]),
        ({"a@b.c": 1}.keys(), ["a@b.c"]),
    ],
)
def test_addresses_may_be_one_or_several(given: Any, kept: list[Any]) -> None:
    assert Message(cc=given).cc == kept


def test_a_tuple_that_may_be_two_addresses_is_refused() -> None:
    with pytest.raises(MessageError, match="two addresses, or one with a name"):
        Message(recipients=("a@b.c", "d@e.f"))


@pytest.mark.parametrize(
    ("values", "field"),
    [
        ({"attachments": ["a.txt"]}, "attachments"),
        ({"attachments": 5}, "attachments"),
        ({"alts": "text"}, "alts"),
        ({"extra_headers": "X: y"}, "extra_headers"),
        ({"context": 5}, "context"),
        ({"attachments": [("a", "b/c", 5)]}, "attachments"),
    ],
)
def test_wrong_types_are_refused_with_their_field(
    values: dict[str, Any], field: str
) -> None:
    with pytest.raises(MessageError, match=field) as caught:
        Message(**values)
    assert caught.value.field == field


def test_embed_gives_the_content_id() -> None:
    message = Message()
    assert message.embed("a.png", "image/png", b"x", cid="given") == "given"
    made, other = message.embed(data=b"x"), message.embed(data=b"x")
    assert made != other
    assert [a.content_id for a in message.attachments] == ["given", made, other]


def test_an_open_file_is_read_when_it_is_attached(tmp_path: Path) -> None:
    message = Message()
    message.attach("a.bin", data=io.BytesIO(b"bytes"))
    message.attach("b.txt", data=io.StringIO("téxt"))
    assert [a.data for a in message.attachments] == [b"bytes", "téxt".encode()]


@pytest.mark.parametrize("way", ["pickle", "json"])
def test_a_message_goes_through_a_queue_unchanged(way: str) -> None:
    message = full()
    if way == "pickle":
        came = pickle.loads(pickle.dumps(message))
    else:
        came = Message.from_dict(json.loads(json.dumps(message.to_dict())))
    assert came == message
    assert came is not message


def test_lazy_strings_and_files_are_resolved_in_a_queue(tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_bytes(b"report")
    message = Message(Lazy("Grüße"), "a@b.c", Lazy("text"))  # type: ignore[arg-type]
    message.extra_headers["X-Lazy"] = Lazy("value")
    message.context = {"name": Lazy("Ana"), "list": [Lazy("x")]}
    message.attach_file(path)
    for came in (
        pickle.loads(pickle.dumps(message)),
        Message.from_dict(json.loads(json.dumps(message.to_dict()))),
    ):
        assert (came.subject, came.body) == ("Grüße", "text")
        assert type(came.subject) is str
        assert came.extra_headers == {"X-Lazy": "value"}
        assert came.context == {"name": "Ana", "list": ["x"]}
        (attachment,) = came.attachments
        assert attachment == Attachment("report.txt", "text/plain", b"report")


def test_lazy_strings_of_flask_babel_are_resolved() -> None:
    from flask_babel import Babel, lazy_gettext

    app = Flask("tests")
    Babel(app)
    message = Message(lazy_gettext("Hello"), "a@b.c", lazy_gettext("Text"))
    with app.test_request_context():
        assert message.to_dict()["subject"] == "Hello"
        assert pickle.loads(pickle.dumps(message)).body == "Text"


@pytest.mark.parametrize(
    "value",
    [object(), datetime.now(UTC), Markup("<b>"), {1: "x"}, float("nan"), b"x", {1, 2}],
    ids=["object", "datetime", "markup", "int key", "nan", "bytes", "set"],
)
@pytest.mark.parametrize("way", [pickle.dumps, Message.to_dict], ids=["pickle", "dict"])
def test_a_context_that_is_not_json_is_refused_with_a_hint(
    value: Any, way: Any
) -> None:
    message = Message(template="x", context={"value": value})
    with pytest.raises(MessageError, match=r"postal.render\(message\)") as caught:
        way(message)
    assert caught.value.field == "context"


def test_values_that_json_can_not_represent_are_refused() -> None:
    with pytest.raises(MessageError, match="body can't be written as JSON"):
        Message(body=b"bytes").to_dict()  # type: ignore[arg-type]


def test_an_unknown_key_is_refused() -> None:
    with pytest.raises(MessageError, match="a message has no field colour"):
        Message.from_dict({"subject": "x", "colour": "red"})


def test_a_copy_is_independent() -> None:
    message = full()
    for other in (message.copy(), copy.deepcopy(message)):
        assert other == message
        other.recipients.append("x@y.z")
        other.extra_headers["X"] = "y"
        other.tags.append("t")
    assert message == full()


def test_a_copy_normalizes_assigned_values() -> None:
    message = Message("Hi")
    message.recipients = "a@b.c"  # type: ignore[assignment]
    message.tags = "t"  # type: ignore[assignment]
    message.extra_headers = None  # type: ignore[assignment]
    other = message.copy()
    assert (other.recipients, other.tags, other.extra_headers) == (["a@b.c"], ["t"], {})


def test_repr_is_short() -> None:
    assert repr(Message("Hi", "a@b.c", "x" * 999)) == "<Message 'Hi' to ['a@b.c']>"


def test_a_message_pickled_by_an_earlier_version_gets_the_fields_it_lacks() -> None:
    """Messages wait in queues while an app is upgraded."""
    state = Message("old", "ana@example.com", body="x").__getstate__()
    del state["esp_extra"], state["track_opens"]
    restored = Message.__new__(Message)
    restored.__setstate__(state)
    assert (restored.subject, restored.track_opens) == ("old", None)
    assert "esp_extra" not in restored.to_dict()
