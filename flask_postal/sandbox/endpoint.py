"""Builds the requests of Postal's HTTP endpoint for inbound mail, in all formats."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from email.utils import format_datetime
from typing import Any
from urllib.parse import quote_plus

from ..webhooks.inbound import FORM, JSON
from .mail_reader import PostalMail, base64_lines
from .records import Mail
from .webhook_bodies import serialize

__all__ = ["FORMATS", "inbound_request", "receive_headers"]

#: Format -> media type. The names join Postal's settings of an HTTP endpoint: "format"
#: (RawMessage or Hash) and "encoding" (BodyAsJSON or FormData).
FORMATS = {
    "raw-json": JSON,
    "raw-form": FORM,
    "hash-json": JSON,
    "hash-form": FORM,
}
_QUOTED = re.compile(r"^(?:On .{1,200} wrote:|-{3,} ?Original Message)", re.M | re.S)


def receive_headers(
    timestamp: float, *, spam: bool = False, client: str = "127.0.0.1"
) -> bytes:
    """Build the headers that Postal puts on top of incoming mail.

    :param timestamp: When it arrived, in seconds since 1970.
    :param spam: The result of the simulated spam check.
    :param client: The IP address of the server that it came from.
    """
    date = format_datetime(datetime.fromtimestamp(timestamp, UTC))
    return (
        f"X-Postal-Spam: {'yes' if spam else 'no'}\r\n"
        "X-Postal-Spam-Threshold: 5.0\r\n"
        f"X-Postal-Spam-Score: {'7.5' if spam else '0'}\r\n"
        "X-Postal-Threat: no\r\n"
        f"Received: from mail.sandbox.localhost ({client} [{client}]) by"
        f" sandbox.localhost with SMTP; {date}\r\n"
    ).encode()


def inbound_request(
    mail: Mail, format: str, *, strip_replies: bool = False
) -> tuple[bytes, str]:
    """Build the body of a request that posts incoming mail to the app.

    :param format: One of :data:`FORMATS`.
    :param strip_replies: Whether the endpoint is set to separate quoted replies. Only
        the Hash formats have fields for it.
    :returns: The body and its media type.
    :raises ValueError: for an unknown format.
    """
    if format not in FORMATS:
        raise ValueError(f"unknown format {format!r}; use one of {', '.join(FORMATS)}")
    kind, _, encoding = format.partition("-")
    if kind == "raw":
        fields: dict[str, Any] = {
            "id": mail.id,
            "rcpt_to": mail.recipient,
            "mail_from": mail.sender,
            "message": base64_lines(mail.raw),
            "base64": True,
            "size": mail.size,
        }
    else:
        fields = _parsed_fields(mail, encoding=encoding, strip_replies=strip_replies)
    body = serialize(fields) if encoding == "json" else _form(fields)
    return body, FORMATS[format]


def _parsed_fields(mail: Mail, *, encoding: str, strip_replies: bool) -> dict[str, Any]:
    message = PostalMail(mail.raw)
    text, quoted = message.plain_body, None
    if strip_replies:
        text, quoted = _separate(text)
    fields = {
        "id": mail.id,
        "rcpt_to": mail.recipient,
        "mail_from": mail.sender,
        "token": mail.token,
        "subject": mail.subject,
        "message_id": mail.message_id,
        "timestamp": mail.timestamp,
        "size": str(mail.size),
        "spam_status": mail.spam_status,
        "bounce": mail.bounce,
        "received_with_ssl": None,
        "to": message.addresses("to"),
        "cc": message.addresses("cc"),
        "from": message.addresses("from"),
        "date": message.date,
        "in_reply_to": message.message_ids("in-reply-to"),
        "references": message.message_ids("references"),
        "html_body": message.html_body,
        "attachment_quantity": len(message.attachments),
        "auto_submitted": message.header("auto-submitted"),
        "reply_to": message.address_lists("reply-to") or None,
        "plain_body": text,
    }
    if strip_replies:
        fields["replies_from_plain_body"] = quoted
    fields["attachments"] = [
        {
            "filename": file.filename,
            # Postal calls different methods of Ruby's mail library for the two
            # encodings; only the one for forms includes the parameters.
            "content_type": file.media_type
            if encoding == "json"
            else file.content_type,
            "size": len(file.content),
            "data": base64_lines(file.content),
        }
        for file in message.attachments
    ]
    return fields


def _separate(text: str | None) -> tuple[str, str | None]:
    """Split a text into its new part and the quoted part, ``None`` if there is none.

    For mail without a text, Postal then posts an empty string, not null.
    """
    text = (text or "").replace("\r", "")
    found = _QUOTED.search(text)
    at = found.start() if found else len(text)
    return text[:at].strip(), text[at:].strip() or None


def _form(fields: Mapping[str, Any]) -> bytes:
    """Encode a form as Ruby does: null is a key without ``=``."""
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
