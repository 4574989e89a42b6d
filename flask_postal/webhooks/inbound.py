"""The body of an inbound request, in any of Postal's four formats ->
:class:`.InboundEvent`."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote_plus

from ..errors import PayloadError
from ..values import as_str, utc_time
from .encoded import cut_out, decode
from .events import InboundEvent
from .hash_mail import HashMail
from .inbound_message import InboundMessage, MailSource
from .payload import read_json
from .raw_mail import RawMail

__all__ = ["FORM", "JSON", "parse_inbound"]

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

# All that Postal's encoder writes. A DKIM-signed block of headers, which carries a
# signature by the same key, has other characters.
_FORM_BODY = re.compile(rb"id=\d+&[A-Za-z0-9*\-._+%=&]*")
_ATTACHMENT = re.compile(r"attachments\[(\d{1,4})\]\[(\w{1,20})\]")
#: Fields of a form that are read; the largest mails have a few hundred.
_MAX_FIELDS = 10_000


def parse_inbound(body: bytes, content_type: str = JSON) -> InboundEvent:
    """Read the body of an inbound request.

    :param body: The raw body, whose signature has been verified.
    :param content_type: ``application/json`` or ``application/x-www-form-urlencoded``.
    :raises PayloadError: if it is no mail from Postal; ``.misdirected`` if it is a
        tracking event.
    """
    form = content_type == FORM
    mail = None
    if form:
        fields = _read_form(body)
    elif cut := cut_out(body):
        rest, mail = cut
        fields = read_json(rest)
        if fields.get("message") != "":  # there is a second one
            fields, mail = read_json(body), None
    else:
        fields = read_json(body)
    if "rcpt_to" not in fields:
        raise PayloadError(
            "the body is no mail", misdirected="event" in fields and "uuid" in fields
        )
    kind = "form" if form else "json"
    sender = as_str(fields.get("mail_from")) or None
    message, token = fields.get("message"), as_str(fields.get("token"))
    source: MailSource
    if isinstance(message, str):
        mail = mail if mail is not None else decode(message)
        source, name = RawMail(mail, null_sender=sender is None), f"raw-{kind}"
    elif token:
        source, name = HashMail(fields), f"hash-{kind}"
    else:
        raise PayloadError("the body holds neither a message nor a token")
    return InboundEvent(
        message=InboundMessage(
            source,
            envelope_sender=sender,
            envelope_recipient=as_str(fields.get("rcpt_to")),
        ),
        id=_number(fields.get("id")),
        token=token,
        timestamp=utc_time(_float(fields.get("timestamp"))),
        format=name,
    )


def _read_form(body: bytes) -> Mapping[str, Any]:
    """Read a form as Postal writes it: a key without ``=`` is null."""
    if not _FORM_BODY.fullmatch(body):
        raise PayloadError("the form is not what Postal's encoder writes")
    pairs = body.decode("ascii").split("&", _MAX_FIELDS)
    if len(pairs) > _MAX_FIELDS:
        raise PayloadError(f"the form has more than {_MAX_FIELDS} fields")
    fields: dict[str, Any] = {}
    attachments: dict[int, dict[str, str | None]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = unquote_plus(key)
        value = unquote_plus(text) if equals else None
        if of_file := _ATTACHMENT.fullmatch(key):
            attachments.setdefault(int(of_file[1]), {})[of_file[2]] = value
        elif key in fields and key == "reply_to":
            earlier = fields[key]
            fields[key] = [
                *(earlier if isinstance(earlier, list) else [earlier]),
                value,
            ]
        elif key not in fields:
            fields[key] = value
    if attachments:
        fields["attachments"] = [attachments[index] for index in sorted(attachments)]
    return fields


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value) if len(value) < 19 else None
    return value if type(value) is int else None


def _float(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return None
