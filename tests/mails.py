"""Prepares messages for tests, and parses what would be sent to Postal."""

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
    """Return a valid message with some fields changed."""
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
    """Return the JSON that would be sent to Postal."""
    body = prepared(source, **config).body
    data = b"".join(body.pieces())
    assert len(data) == body.length
    content: dict[str, Any] = json.loads(data)
    return content


def raw(source: Message, **config: Any) -> bytes:
    """Return the mail that would be sent to send/raw."""
    assert prepared(source, **config).endpoint == "send/raw"
    return base64.b64decode(wire(source, **config)["data"], validate=True)


def parse(data: bytes) -> EmailMessage:
    """Parse a mail as a mail program does, and check that it has no defects."""
    mail = email.message_from_bytes(data, policy=email.policy.default)
    assert isinstance(mail, EmailMessage)
    for part in mail.walk():
        assert part.defects == []
    return mail


def text_of(part: Any) -> str:
    """Return the text of a part with LF line ends, without the last ones."""
    return str(part.get_content()).replace("\r\n", "\n").rstrip("\n")


def headers_of(data: bytes, name: str) -> list[str]:
    """Return the values of a header, unfolded and decoded by RFC 2047.

    This uses the older API of the standard library, because the newer one of Python
    3.11.7 inserts a space between the encoded words of a name.
    """
    mail = email.message_from_bytes(data, policy=email.policy.compat32)
    values = [re.sub(r"\r?\n(?=[ \t])", "", text) for text in mail.get_all(name, [])]
    return [str(make_header(decode_header(value))) for value in values]


def shape(part: Any) -> Any:
    """Return the structure of a mail as nested lists of media types."""
    if part.get_content_type() == "message/rfc822" or not part.is_multipart():
        return part.get_content_type()
    subtype = part.get_content_subtype()
    return [subtype, *(shape(child) for child in part.iter_parts())]
