"""Composes the email that Postal's ``send/message`` builds from its fields."""

from __future__ import annotations

import quopri
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from email.base64mime import header_encode
from email.message import Message
from email.policy import compat32
from email.utils import format_datetime, formataddr, parseaddr
from secrets import token_hex
from typing import Any

from .mail_reader import base64_lines
from .params import ruby_text

__all__ = ["compose"]

#: Names that are ignored in ``headers``, most of them because Postal writes them.
_OURS = frozenset(
    {
        *("message-id", "from", "to", "cc", "bcc", "subject", "sender", "reply-to"),
        *("content-type", "content-transfer-encoding", "mime-version", "received"),
    }
)


def compose(fields: Mapping[str, Any], *, message_id: str, timestamp: float) -> bytes:
    """Compose the email.

    :param fields: The checked parameters of send/message, with ``data`` of each
        attachment decoded to bytes.
    :param message_id: The Message-ID, without angle brackets.
    :param timestamp: When it was posted, in seconds since 1970.
    :returns: The email in MIME.
    """
    date = format_datetime(datetime.fromtimestamp(timestamp, UTC))
    extra = {str(k): ruby_text(v) for k, v in (fields.get("headers") or {}).items()}
    dates = [extra.pop(name) for name in list(extra) if name.lower() == "date"]
    mail = _multipart("mixed")
    headers: dict[str, Any] = {
        "Received": f"from api (127.0.0.1 [127.0.0.1]) by localhost with HTTP; {date}",
        "Date": dates[0] if dates else date,
        "From": _addresses([fields["from"]]),
        "Sender": _addresses([fields["sender"]]) if fields.get("sender") else None,
        "To": _addresses(fields.get("to") or []),
        "Cc": _addresses(fields.get("cc") or []),
        "Reply-To": _addresses([fields["reply_to"]]) if fields.get("reply_to") else "",
        "Message-ID": f"<{message_id}>",
        "Subject": _text(fields.get("subject") or ""),
        "X-Postal-Tag": None,
        **{k: _text(v) for k, v in extra.items() if k.lower() not in _OURS},
    }
    content = mail.items()
    top = Message(compat32)
    for name, value in headers.items():
        if value:
            top[_line(name)] = value
    top["MIME-Version"] = "1.0"
    for name, value in content:
        top[name] = value
    alternative = _multipart("alternative")
    for subtype, key in (("plain", "plain_body"), ("html", "html_body")):
        if fields.get(key):
            alternative.attach(_text_part(subtype, str(fields[key])))
    top.attach(alternative)
    for attachment in fields.get("attachments") or []:
        top.attach(_file(attachment))
    return top.as_bytes(policy=compat32.clone(linesep="\r\n", max_line_length=0))


def _multipart(subtype: str) -> Message:
    part = Message(compat32)
    boundary = f"--==_mimepart_{token_hex(12)}"
    charset = "; charset=UTF-8" if subtype == "mixed" else ""
    part["Content-Type"] = f'multipart/{subtype}; boundary="{boundary}"{charset}'
    part["Content-Transfer-Encoding"] = "7bit"
    part.set_payload([])
    return part


def _text_part(subtype: str, text: str) -> Message:
    part = Message(compat32)
    part["Content-Type"] = f"text/{subtype}; charset=UTF-8"
    text = text.replace("\r\n", "\n")
    if text.isascii() and all(len(line) < 900 for line in text.split("\n")):
        part["Content-Transfer-Encoding"] = "7bit"
        part.set_payload(text)
    else:
        part["Content-Transfer-Encoding"] = "quoted-printable"
        part.set_payload(quopri.encodestring(text.encode()).decode("ascii"))
    return part


def _file(attachment: Mapping[str, Any]) -> Message:
    part = Message(compat32)
    name = str(attachment["name"])
    part["Content-Type"] = _line(
        str(attachment.get("content_type") or "application/octet-stream")
    )
    part["Content-Transfer-Encoding"] = "base64"
    shown = name if name.isascii() else _word(name)
    part["Content-Disposition"] = f'attachment; filename="{_line(shown)}"'
    data: bytes = attachment["data"]
    if data.isascii() or part.get_content_type() == "message/rfc822":
        # Ruby's mail library, which Postal uses, converts line ends to CRLF here.
        data = data.replace(b"\r\n", b"\n").replace(b"\n", b"\r\n")
    part.set_payload(base64_lines(data))
    return part


def _addresses(items: str | Sequence[Any]) -> str:
    return ", ".join(_address(item) for item in items)


def _address(item: Any) -> str:
    """Encode the display name of an address, and leave the rest unchanged."""
    text = _line(str(item))
    if text.isascii():
        return text
    name, address = parseaddr(text)
    return formataddr((name, address)) if address.isascii() else _text(text)


def _text(value: str) -> str:
    value = _line(value)
    return value if value.isascii() else _word(value)


def _word(value: str) -> str:
    return header_encode(value.encode("utf-8", "replace"), "utf-8")


def _line(value: str) -> str:
    return value.replace("\r", "=0D").replace("\n", "=0A")
