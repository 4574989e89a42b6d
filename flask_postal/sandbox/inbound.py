"""Writes what Postal's HTTP endpoint posts about a mail, in its four formats."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote_plus

from ..address import Address
from .reading import base64_lines, read_mail
from .store import Mail
from .traffic import serialize

__all__ = ["FORMATS", "inbound_request", "receive_headers"]

#: Format -> media type.
FORMATS = {
    "raw-json": "application/json",
    "raw-form": "application/x-www-form-urlencoded",
    "hash-json": "application/json",
    "hash-form": "application/x-www-form-urlencoded",
}
#: What remains of a subject.
MAX_SUBJECT = 200
_PLAIN_NAME = re.compile(r"[A-Za-z0-9 !#$%&'*+/=?^_`{|}~-]+")
_QUOTED = re.compile(r"^(?:On .{1,200} wrote:|-{3,} ?Original Message)", re.M | re.S)


def receive_headers(timestamp: float, *, spam: bool = False) -> bytes:
    """Write the headers that Postal puts on top of a mail that comes in."""
    date = format_datetime(datetime.fromtimestamp(timestamp, UTC))
    return (
        f"X-Postal-Spam: {'yes' if spam else 'no'}\r\n"
        "X-Postal-Spam-Threshold: 5.0\r\n"
        f"X-Postal-Spam-Score: {'7.5' if spam else '0'}\r\n"
        "X-Postal-Threat: no\r\n"
        "Received: from mail.sandbox.localhost (127.0.0.1 [127.0.0.1]) by"
        f" sandbox.localhost with SMTP; {date}\r\n"
    ).encode()


def inbound_request(
    mail: Mail, format: str, *, strip_replies: bool = False
) -> tuple[bytes, str]:
    """Write the body of a request.

    :param format: One of :data:`FORMATS`.
    :param strip_replies: Whether the endpoint separates quoted replies, which only the
        Hash formats show.
    :returns: The body and its media type.
    :raises ValueError: for another format.
    """
    if format not in FORMATS:
        raise ValueError(f"no format {format!r}; there are {', '.join(FORMATS)}")
    kind, _, encoding = format.partition("-")
    if kind == "raw":
        fields: dict[str, Any] = {
            "id": mail.id,
            "rcpt_to": mail.recipient,
            "mail_from": mail.sender,
            "message": base64_lines(mail.raw),
            "base64": True,
            "size": len(mail.raw),
        }
    else:
        fields = _hash(mail, strip_replies=strip_replies)
    body = serialize(fields) if encoding == "json" else _form(fields)
    return body, FORMATS[format]


def _hash(mail: Mail, *, strip_replies: bool) -> dict[str, Any]:
    message = read_mail(mail.raw)
    reply_to = message.header("reply-to")
    text, quoted = message.text, None
    if strip_replies and text:
        found = _QUOTED.search(text)
        text, quoted = (
            (text[: found.start()].rstrip(), text[found.start() :].rstrip())
            if found
            else (text, "")
        )
    fields = {
        "id": mail.id,
        "rcpt_to": mail.recipient,
        "mail_from": mail.sender,
        "token": mail.token,
        "subject": (message.subject or "")[:MAX_SUBJECT] or None,
        "message_id": message.message_id,
        "timestamp": mail.timestamp,
        "size": str(len(mail.raw)),
        "spam_status": "Spam" if message.spam_detected else "NotSpam",
        "bounce": mail.bounce,
        "received_with_ssl": None,
        "to": _shown(message.to),
        "cc": _shown(message.cc),
        "from": _shown([message.from_email] if message.from_email else []),
        "date": message.header("date"),
        "in_reply_to": message.header("in-reply-to"),
        "references": message.header("references"),
        "html_body": message.html,
        "attachment_quantity": len(message.attachments),
        "auto_submitted": message.header("auto-submitted"),
        "reply_to": [reply_to] if reply_to else None,
        "plain_body": text,
    }
    if strip_replies:
        fields["replies_from_plain_body"] = quoted
    fields["attachments"] = [
        {
            "filename": attachment.filename,
            "content_type": attachment.content_type,
            "size": attachment.size,
            "data": base64_lines(attachment.content),
        }
        for attachment in message.attachments
        if attachment.filename
    ]
    return fields


def _shown(addresses: Iterable[Address]) -> str | None:
    """Write addresses as Ruby does once it has decoded them."""
    shown = []
    for address in addresses:
        name = address.display_name
        if name and not _PLAIN_NAME.fullmatch(name):
            escaped = name.replace("\\", "\\\\").replace('"', '\\"')
            name = f'"{escaped}"'
        shown.append(f"{name} <{address.addr_spec}>" if name else address.addr_spec)
    return ", ".join(shown) or None


def _form(fields: Mapping[str, Any]) -> bytes:
    """Write a form as Ruby does: null is a key without ``=``."""
    return "&".join(_pairs(fields)).encode("ascii")


def _pairs(fields: Mapping[str, Any]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, list):
            for index, item in enumerate(value):
                if isinstance(item, dict):
                    for key, of_file in item.items():
                        yield _pair(f"{name}[{index}][{key}]", of_file)
                else:
                    yield _pair(name, item)
        else:
            yield _pair(name, value)


def _pair(name: str, value: Any) -> str:
    key = quote_plus(name, safe="*-._").replace("~", "%7E")
    if value is None:
        return key
    if isinstance(value, bool):
        value = str(value).lower()
    return f"{key}={quote_plus(str(value), safe='*-._').replace('~', '%7E')}"
