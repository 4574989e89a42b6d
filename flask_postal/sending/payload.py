"""Serialize a validated message as a request to one of Postal's two endpoints.

``send/message`` takes fields, from which Postal writes the mail. ``send/raw`` takes a
complete mail in MIME. The first is used unless it would change the message
(:attr:`.Content.why_raw`), because attachments need not be held in memory then, and the
tag is not visible to recipients.
"""

from __future__ import annotations

import binascii
import json
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from email.utils import format_datetime, make_msgid
from typing import Any

from ..address import Address, parse_address, quote_name
from ..errors import MessageError
from ..text import header_text
from .attachment import Attachment
from .content import MAX_TAG, Content
from .mime import build_mime, encoded_words

__all__ = [
    "Base64",
    "Body",
    "BodyStream",
    "Prepared",
    "raw_body",
    "raw_fields",
    "serialize",
]

# Fields of send/message that send/raw does not have, and the parameters to use instead.
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
# Fields that esp_extra can't set, because they would bypass validation.
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
    """A validated and serialized message, ready to be sent.

    :param endpoint: The endpoint, ``"send/message"`` or ``"send/raw"``.
    :param recipients: The envelope recipients, each mailbox once, keyed by the address
        as the caller first wrote it.
    :param aliases: Maps every spelling that the caller used to such a key.
    :param message_id: The Message-ID, without angle brackets; ``None`` if Postal will
        generate it.
    :param body: The JSON of the request.
    :param left_out: Such a key -> the :class:`.SuppressionReason` why nothing is sent
        to this recipient.
    """

    endpoint: str
    recipients: dict[str, Address]
    aliases: dict[str, str]
    message_id: str | None
    body: Body = field(repr=False)
    left_out: dict[str, str] = field(default_factory=dict)


def serialize(content: Content) -> Prepared:
    """Write the request for a message.

    A mail for ``send/raw`` gets a Message-ID here, because Postal adds none.

    :raises MessageError: if ``esp_extra`` can't be merged, or a file can't be read.
    """
    if content.why_raw is None:
        return _prepared("send/message", content, None, _message_body(content))
    if content.message_id is None:
        content.message_id = make_msgid(domain=content.sender.domain)[1:-1]
    return _prepared("send/raw", content, content.message_id, _raw_body(content))


def _prepared(
    endpoint: str, content: Content, message_id: str | None, body: Body
) -> Prepared:
    return Prepared(
        endpoint,
        content.recipients,
        content.aliases,
        message_id,
        body,
        content.left_out,
    )


def raw_body(
    sender: str,
    recipients: Iterable[str],
    mime: bytes,
    *,
    extra: Mapping[str, Any] | None = None,
) -> Body:
    """Write a request to ``send/raw`` for a complete mail.

    :param sender: A bare address. Postal reports it as the sender in events and in its
        API; the envelope sender is always Postal's return path.
    :param recipients: The envelope recipients, as bare addresses: Postal does not
        strip names here.
    :param mime: The mail, as :func:`.build_mime` returns it.
    :param extra: Further fields of the request, as :func:`raw_fields` returns them.
    """
    fields: dict[str, Any] = {"mail_from": sender, "rcpt_to": list(recipients)}
    fields.update(extra or {})
    data = Attachment("mime", "message/rfc822", mime)
    return Body(_dump(fields)[:-1], b',"data":"', Base64(data), b'"}')


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


def raw_fields(content: Content) -> dict[str, Any]:
    """Return the fields of a request to ``send/raw`` beside mail and recipients.

    :raises MessageError: if ``esp_extra`` has one that ``send/raw`` does not take.
    """
    fields: dict[str, Any] = {"bounce": True} if content.bounce else {}
    refused = _NEVER | _NOT_RAW
    _merge_extra(fields, content.extra, refused, why_raw=content.why_raw)
    return fields


def _raw_body(content: Content) -> Body:
    return raw_body(
        content.sender.addr_spec,
        [address.addr_spec for address in content.recipients.values()],
        build_mime(content),
        extra=raw_fields(content),
    )


def _merge_extra(
    fields: dict[str, Any],
    extra: Mapping[str, Any],
    refused: Mapping[str, str],
    *,
    why_raw: str | None = None,
) -> None:
    for key, value in extra.items():
        if key in refused:
            where = f"with send/raw, which this message needs ({why_raw})"
            if key in _NEVER:
                where = "here, where it would not be validated"
            raise MessageError(
                f"esp_extra: {key!r} can't be set {where}; use {refused[key]}",
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
                f"esp_extra: Postal accepts at most {MAX_TAG} characters for a tag",
                field="esp_extra",
            )
        if key in _NOT_RAW and key not in ("plain_body", "html_body"):
            value = header_text(value, "esp_extra", key)
        fields[key] = value


def _dump(fields: Mapping[str, Any]) -> bytes:
    try:
        return _to_json(fields).encode()
    except (TypeError, ValueError, RecursionError) as error:
        # It can only be esp_extra: all other fields have been validated.
        problem = f"esp_extra can't be written as JSON: {error}"
    raise MessageError(problem, field="esp_extra")


def json_text(text: str) -> str:
    """Return header text for the JSON of ``send/message``.

    Postal encodes non-ASCII text itself. Text that looks like an encoded word is
    encoded here, because Postal would take it for one and show the decoded text.
    """
    return encoded_words(text) if "=?" in text else text


def json_address(address: Address) -> str:
    """Return an address for the JSON of ``send/message``."""
    name = address.display_name
    if "=?" in name:
        return f"{encoded_words(name)} <{address.addr_spec}>"
    return f"{quote_name(name)} <{address.addr_spec}>" if name else address.addr_spec


# ---- the body of a request

#: Most bytes in one piece of a body: the base64 of :data:`.attachment.READ_SIZE`. The
#: time-out applies to each piece, so that a large mail can be sent over a slow
#: connection.
PIECE = 76 * 1024


class Base64:
    """The base64 of an attachment, encoded while it is sent.

    Only one piece is in memory at a time.

    :param attachment: The attachment. Its size is read now, for the Content-Length.
    """

    __slots__ = ("_attachment", "_size")

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._size = attachment.size()

    def __len__(self) -> int:
        return (self._size + 2) // 3 * 4

    def pieces(self) -> Iterator[bytes]:
        """Iterate over the base64 in pieces.

        :raises MessageError: if a file can't be read, or has another size than when the
            request was prepared. The Content-Length would be wrong.
        """
        size = 0
        for piece in self._attachment.pieces():
            size += len(piece)
            if size > self._size:
                break
            yield binascii.b2a_base64(piece, newline=False)
        if size != self._size:
            raise MessageError(
                f"attachments: {self._attachment.path} was changed while it was being"
                " sent",
                field="attachments",
            )


class Body:
    """The body of a request. It can be sent any number of times.

    :param parts: JSON, interspersed with attachments that are encoded while the body is
        sent.
    :ivar length: Bytes of the whole body.
    """

    __slots__ = ("_parts", "length")

    def __init__(self, *parts: bytes | Base64) -> None:
        self._parts = parts
        self.length: int = sum(len(part) for part in parts)

    def pieces(self) -> Iterator[bytes]:
        """Iterate over the body in pieces of at most :data:`PIECE` bytes."""
        for part in self._parts:
            if isinstance(part, Base64):
                yield from part.pieces()
            elif len(part) <= PIECE:
                yield part
            else:
                view = memoryview(part)
                for start in range(0, len(part), PIECE):
                    yield bytes(view[start : start + PIECE])


class BodyStream:
    """The body of one attempt to send: an iterable that records when it is begun.

    ``maybe_sent`` is derived from it. A network error alone doesn't reveal whether the
    message may have been sent: a reset during the TLS handshake raises the same error
    as one after the last byte. But as long as urllib3 has not taken the first piece, no
    part of the message can have left, and the request can be retried without causing a
    duplicate.

    :ivar begun: Whether the first piece has been taken.
    :ivar error: The error that ended the body early. Postal has received less than the
        Content-Length announced, and queues nothing.
    """

    __slots__ = ("_body", "begun", "error")

    def __init__(self, body: Body) -> None:
        self._body = body
        self.begun: bool = False
        self.error: MessageError | None = None

    def whole(self) -> bytes:
        """Return the body in one piece, for mocks. It does not count as begun.

        :raises MessageError: if a file can't be read.
        """
        return b"".join(self._body.pieces())

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True  # runs when the first piece is asked for
        try:
            yield from self._body.pieces()
        except MessageError as error:
            # Raised from here, its traceback would include urllib3's frames, which
            # have the API key in local variables. ConnectionPool.post raises it later.
            self.error = error.with_traceback(None)
        else:
            return
        raise OSError("the body could not be read")
