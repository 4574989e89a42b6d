"""Parses inbound requests in any of Postal's four formats into :class:`.InboundEvent`.

Postal sends an email either as raw MIME ("RawMessage") or as the fields that it has
parsed itself ("Hash"), each as JSON or as a form.
"""

from __future__ import annotations

import binascii
import hashlib
import re
from collections.abc import Mapping
from functools import partial
from typing import Any

from ..errors import PayloadError
from ..values import as_int, as_str, read_json_object, utc_time
from .events import InboundEvent
from .mail.base64_mail import Base64Mail, cut_out, decode
from .mail.fields import FieldsMail
from .mail.message import InboundMessage, MailSource
from .mail.raw import RawMail

__all__ = ["FORM", "JSON", "parse_inbound"]

JSON = "application/json"
FORM = "application/x-www-form-urlencoded"

# Exactly what Postal's encoder writes; not every valid form. Postal makes its DKIM
# signatures with the same key, so a DKIM-signed block of headers that is posted as a
# form has a valid signature. But it contains other characters, or no "id=".
_FORM_BODY = re.compile(rb"id=\d+&[A-Za-z0-9*\-._+%=&]*")
_BROKEN_CODE = re.compile(rb"%(?![0-9A-Fa-f]{2})")
_ATTACHMENT = re.compile(r"attachments\[(\d{1,4})\]\[(\w{1,20})\]")
#: Accepted fields of a form; even mails with many attachments have only a few hundred.
_MAX_FIELDS = 10_000
#: Bytes of base64 at the beginning and at the end of a mail that go into its digest,
#: besides envelope and length. A second mail server may have a mail with the same
#: number, but not with the same Received headers, which contain times.
_SAMPLE = 32 * 1024


def parse_inbound(body: bytes, content_type: str = JSON) -> InboundEvent:
    """Parse the body of an inbound request.

    Only the request is parsed here. The email in it is parsed when an attribute of
    ``event.message`` is used, and however broken it is, that is never an error: a
    PayloadError would make Postal retry a mail that can't get better.

    :param body: The raw body. Its signature must have been verified.
    :param content_type: ``application/json`` or ``application/x-www-form-urlencoded``.
    :raises PayloadError: if it isn't a mail from Postal; ``.misdirected`` is true if it
        is a tracking event.
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
        if fields.get("message") != "":  # there is a second "message"
            fields, mail = read_json_object(body), None
    else:
        fields = read_json_object(body)
    if "rcpt_to" not in fields:
        raise PayloadError(
            "the body is not a mail", misdirected="event" in fields and "uuid" in fields
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
        raise PayloadError("the body contains neither a message nor a token")
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
    """Return a digest of a mail, in a time that doesn't depend on its size.

    Retries of the RawMessage formats are identical byte for byte. The signature would
    identify a mail too, but it changes if Postal gets a new key between two retries.

    :param text: The mail in base64.
    :param envelope: The envelope sender and recipient.
    """
    digest = hashlib.sha256(f"{envelope}:{len(text)}:".encode("utf-8", "replace"))
    digest.update(text[:_SAMPLE])
    digest.update(text[-_SAMPLE:])
    return digest.hexdigest()


def _read_form(body: bytes) -> Mapping[str, Any]:
    """Parse a form as Postal writes it, where a key without ``=`` means null.

    :raises PayloadError: if Postal can't have written it.
    """
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
    """Decode a value of a form, like ``urllib.parse.unquote_plus``.

    That function needs 40 times the memory of a text in which every byte is quoted.
    Rewritten as quoted-printable (``%41`` becomes ``=41``), the text is decoded in C.
    """
    if "%" not in text:
        return text.replace("+", " ")
    quoted = text.replace("+", " ").replace("=", "%3D").replace("%", "=")
    return binascii.a2b_qp(quoted.encode("ascii")).decode("utf-8", "replace")


def _number(value: Any) -> int | None:
    if isinstance(value, str) and value.isascii() and value.isdigit():
        return int(value) if len(value) < 19 else None
    return as_int(value)


def _float(value: Any) -> Any:
    if not isinstance(value, str):
        return value
    try:
        return float(value)
    except ValueError:
        return None
