"""Prepares messages for tests, and reads what would go over the wire."""

from __future__ import annotations

import base64
import email
import email.policy
import json
import re
from email.header import decode_header, make_header
from email.message import EmailMessage
from typing import Any

from flask_postal import Message
from flask_postal.sending.payload import Prepared
from flask_postal.sending.pipeline import SendPipeline
from flask_postal.settings import Settings


def message(**changes: Any) -> Message:
    """A message that can be sent, but for the changes."""
    return Message(
        **{
            "subject": "Hi",
            "recipients": ["ana@example.com"],
            "body": "x",
            "sender": "hello@example.com",
            **changes,
        }
    )


def prepared(source: Message | None = None, **config: Any) -> Prepared:
    """Prepare a message with some settings."""
    settings = Settings.from_config(
        {f"POSTAL_{key.upper()}": value for key, value in config.items()}, "POSTAL_"
    )
    pipeline = SendPipeline(settings, postal=None)
    return pipeline.serialize(pipeline.check((source or message()).copy()))


def wire(source: Message | None = None, **config: Any) -> dict[str, Any]:
    """The JSON that would go over the wire."""
    body = prepared(source, **config).body
    data = b"".join(body.pieces())
    assert len(data) == body.length
    content: dict[str, Any] = json.loads(data)
    return content


def raw(source: Message, **config: Any) -> bytes:
    """The mail that would go to send/raw."""
    assert prepared(source, **config).endpoint == "send/raw"
    return base64.b64decode(wire(source, **config)["data"], validate=True)


def parse(data: bytes) -> EmailMessage:
    """Read a mail as a mail program does, which must find nothing to complain about."""
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    for part in mail.walk():
        assert part.defects == []
    return mail


def text_of(part: Any) -> str:
    """The text of a part, its line ends as in Python, without the last."""
    return str(part.get_content()).replace("\r\n", "\n").rstrip("\n")


def headers_of(data: bytes, name: str) -> list[str]:
    """The values of a header, unfolded and decoded by RFC 2047.

    By the older parts of the standard library: the newer ones of Python 3.11.7 put a
    blank between encoded words of a name.
    """
    mail = email.message_from_bytes(data, policy=email.policy.compat32)
    values = [re.sub(r"\r?\n(?=[ \t])", "", text) for text in mail.get_all(name, [])]
    return [str(make_header(decode_header(value))) for value in values]


def shape(part: Any) -> Any:
    """The structure of a mail: nested lists of media types."""
    if part.get_content_type() == "message/rfc822" or not part.is_multipart():
        return part.get_content_type()
    subtype = part.get_content_subtype()
    return [subtype, *(shape(child) for child in part.iter_parts())]
