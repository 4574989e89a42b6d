"""The body of an inbound request, in any of Postal's four formats ->
:class:`.InboundEvent`."""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import PayloadError
from ..values import as_str, read_json_object, utc_time
from .events import InboundEvent
from .mail.base64_mail import Base64Mail, cut_out, decode
from .mail.fields import FieldsMail
from .mail.message import InboundMessage, MailSource
from .mail.raw import RawMail

__all__ = ["FORM", "JSON", "parse_inbound"]

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

# All that Postal's encoder writes. A DKIM-signed block of headers, which carries a
# signature by the same key, has other characters.
_FORM_BODY = re.compile(rb"id=\d+&[A-Za-z0-9*\-._+%=&]*")
_BROKEN_CODE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ATTACHMENT = re.compile(r"attachments\[(\d{1,4})\]\[(\w{1,20})\]")
#: Fields of a form that are read; the largest mails have a few hundred.
_MAX_FIELDS = 10_000
#: Bytes at the beginning and at the end of a mail in base64 that, with its envelope and
#: its length, tell it from others of the same number, which a second mail server may
#: give: the Received headers with their times are among them.
_SAMPLE = 32 * 1024


def parse_inbound(body: bytes, content_type: str = JSON) -> InboundEvent:
    """Read the body of an inbound request.

    :param body: The raw body, whose signature has been verified.
    :param content_type: ``application/json`` or ``application/x-www-form-urlencoded``.
    :raises PayloadError: if it is no mail from Postal; ``.misdirected`` if it is a
        tracking event.
    """
    form = content_type == FORM
    mail: Base64Mail | None = None
    text = memoryview(b"")
    if form:
        fields = _read_form(body)
    elif cut := cut_out(body):
        rest, text = cut
        mail = Base64Mail(text=text)
        fields = read_json_object(rest)
        if fields.get("message") != "":  # there is a second one
            fields, mail = read_json_object(body), None
    else:
        fields = read_json_object(body)
    if "rcpt_to" not in fields:
        raise PayloadError(
            "the body is no mail", misdirected="event" in fields and "uuid" in fields
        )
    kind = "form" if form else "json"
    sender = as_str(fields.get("mail_from")) or None
    message, token = fields.get("message"), as_str(fields.get("token"))
    source: MailSource
    if isinstance(message, str):
        if mail is None:
            mail = decode(message)
            text = memoryview(message.replace("\n", "\\n").encode())
        source, name = RawMail(mail, null_sender=sender is None), f"raw-{kind}"
    elif token:
        source, name = FieldsMail(fields, null_sender=sender is None), f"hash-{kind}"
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
        digest=partial(_digest, text, f"{sender}:{fields.get('rcpt_to')}"),
    )


def _digest(text: bytes | memoryview, envelope: str) -> str:
    """Tell a mail in base64 from others, in a time that does not grow with it.

    Retries of the raw formats are byte for byte the same. The signature would be a
    digest too, but not the same one after Postal has got a new key.
    """
    digest = hashlib.sha256(f"{envelope}:{len(text)}:".encode("utf-8", "replace"))
    digest.update(text[:_SAMPLE])
    digest.update(text[-_SAMPLE:])
    return digest.hexdigest()


def _read_form(body: bytes) -> Mapping[str, Any]:
    """Read a form as Postal writes it: a key without ``=`` is null."""
    if not _FORM_BODY.fullmatch(body) or _BROKEN_CODE.search(body):
        raise PayloadError("the form is not what Postal's encoder writes")
    pairs = body.decode("ascii").split("&", _MAX_FIELDS)
    if len(pairs) > _MAX_FIELDS:
        raise PayloadError(f"the form has more than {_MAX_FIELDS} fields")
    fields: dict[str, Any] = {}
    attachments: dict[int, dict[str, str | None]] = {}
    for pair in pairs:
        key, equals, text = pair.partition("=")
        key = _unquote(key)
        value = _unquote(text) if equals else None
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


def _unquote(text: str) -> str:
    """Do what ``urllib.parse.unquote_plus`` does, which takes 40 times the memory of a
    text in which all is quoted: ``%41`` is ``=41`` in quoted-printable."""
    if "%" not in text:
        return text.replace("+", " ")
    quoted = text.replace("+", " ").replace("=", "%3D").replace("%", "=")
    return binascii.a2b_qp(quoted.encode("ascii")).decode("utf-8", "replace")


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
