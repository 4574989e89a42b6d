"""Chooses the endpoint and makes what goes over the wire.

Postal has two endpoints. ``send/message`` takes fields and writes the mail itself;
``send/raw`` takes a whole mail. The first is used wherever it can say what is wanted.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from email.utils import format_datetime, make_msgid
from typing import Any

from ..address import Address, parse_address
from ..errors import MessageError
from ..settings import Settings
from ..text import header_text
from .attachment import Attachment
from .body import Base64, Body
from .capabilities import settle
from .content import MAX_TAG, Content, read_content
from .encoding import json_address, json_text
from .message import Message

__all__ = ["Prepared", "prepare"]

_NOT_RAW = {
    "from": "sender=",
    "sender": 'extra_headers={"Sender": ...}',
    "subject": "subject=",
    "reply_to": "reply_to=",
    "plain_body": "body=",
    "html_body": "html=",
    "tag": "tags=",
}
_to_json = json.JSONEncoder(ensure_ascii=False, allow_nan=False).encode
_NEVER = {
    "to": "recipients=",
    "cc": "cc=",
    "bcc": "bcc=",
    "rcpt_to": "recipients=",
    "headers": "extra_headers=",
    "attachments": "attach()",
    "data": "body=, html=, alts= and attach()",
    "mail_from": "sender=",
}


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked message, ready to be delivered.

    :param endpoint: ``"send/message"`` or ``"send/raw"``.
    :param recipients: The envelope recipients, each mailbox once, by the address as
        the caller first wrote it.
    :param aliases: Every spelling the caller used -> that address.
    :param message_id: The Message-ID, if it is ours.
    :param body: The JSON.
    """

    endpoint: str
    recipients: dict[str, Address]
    aliases: dict[str, str]
    message_id: str | None
    body: Body = field(repr=False)


def prepare(message: Message, settings: Settings) -> Prepared:
    """Check a message and serialize it. Nothing is sent.

    :raises MessageError: if Postal would refuse, lose or change it.
    """
    message = settle(
        message,
        ignore=settings.ignore_unsupported_features,
        setting=f"{settings.prefix}IGNORE_UNSUPPORTED_FEATURES",
    )
    content = read_content(message, settings)
    if content.why_raw is None:
        endpoint, body = "send/message", _message_body(content)
    else:
        if content.message_id is None:
            content.message_id = make_msgid(domain=content.sender.domain)[1:-1]
        endpoint, body = "send/raw", _raw_body(content)
    return Prepared(
        endpoint, content.recipients, content.aliases, content.message_id, body
    )


def _message_body(content: Content) -> Body:
    fields: dict[str, Any] = {"from": json_address(content.sender)}
    for name in ("to", "cc", "bcc"):
        if addresses := getattr(content, name):
            fields[name] = [json_address(address) for address in addresses]
    fields["subject"] = json_text(content.subject)
    if content.text is not None:
        fields["plain_body"] = content.text
    if content.html is not None:
        fields["html_body"] = content.html
    if content.reply_to:
        fields["reply_to"] = ", ".join(json_address(a) for a in content.reply_to)
    if content.header_sender is not None:
        fields["sender"] = json_address(content.header_sender)
    if content.tag is not None:
        fields["tag"] = content.tag
    if content.bounce:
        fields["bounce"] = True
    headers = {name: json_text(value) for name, value in content.headers}
    if content.date is not None:
        headers["Date"] = format_datetime(content.date)
    if headers:
        fields["headers"] = headers
    _merge_extra(fields, content.extra, _NEVER)
    opening = _dump(fields)
    if not content.attachments:
        return Body(opening)
    parts: list[bytes | Base64] = [opening[:-1], b',"attachments":[']
    for index, attachment in enumerate(content.attachments):
        about = {
            "name": str(attachment.filename),
            "content_type": attachment.content_type,
        }
        parts += [
            (b"," if index else b"") + _dump(about)[:-1] + b',"data":"',
            Base64(attachment),
            b'"}',
        ]
    return Body(*parts, b"]}")


def _raw_body(content: Content) -> Body:
    from .mime import build_mime

    fields: dict[str, Any] = {
        "mail_from": content.sender.addr_spec,
        "rcpt_to": [address.addr_spec for address in content.recipients.values()],
    }
    if content.bounce:
        fields["bounce"] = True
    refused = _NEVER | _NOT_RAW
    _merge_extra(fields, content.extra, refused, why_raw=content.why_raw)
    mime = Attachment("mime", "message/rfc822", build_mime(content))
    return Body(_dump(fields)[:-1], b',"data":"', Base64(mime), b'"}')


def _merge_extra(
    fields: dict[str, Any],
    extra: Mapping[str, Any],
    refused: Mapping[str, str],
    *,
    why_raw: str | None = None,
) -> None:
    for key, value in extra.items():
        if key in refused:
            where = f"send/raw, which this message needs ({why_raw})"
            if key in _NEVER:
                where = "esp_extra, where nothing would check it"
            raise MessageError(
                f"esp_extra: {key!r} can't be said in {where}; use {refused[key]}",
                field="esp_extra",
            )
        if key == "bounce" and not isinstance(value, bool):
            raise MessageError(
                "esp_extra: bounce must be True or False", field="esp_extra"
            )
        if key in ("from", "sender"):
            parse_address(value, "esp_extra")
        if key == "tag" and len(str(value)) > MAX_TAG:
            raise MessageError(
                f"esp_extra: a tag has at most {MAX_TAG} characters", field="esp_extra"
            )
        if key in _NOT_RAW and key not in ("plain_body", "html_body"):
            value = header_text(value, "esp_extra", key)
        fields[key] = value


def _dump(fields: Mapping[str, Any]) -> bytes:
    try:
        return _to_json(fields).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # All other fields have been checked.
        problem = f"esp_extra can't be written as JSON: {error}"
    raise MessageError(problem, field="esp_extra")
