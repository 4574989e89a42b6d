"""Validate a message, and decide which of Postal's endpoints can send it.

Postal reports success for many messages that it then changes or can't deliver: it
drops some headers, rewrites others and validates no address. Whatever Postal would
refuse, lose or change is refused here, or sent through ``send/raw``, where Postal keeps
the bytes of the mail.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from werkzeug.datastructures import Headers

from ..address import Address, parse_address
from ..errors import MessageError
from ..settings import Settings
from ..text import header_text, is_text, list_name, plain_text
from .attachment import MEDIA_TYPE, Attachment, check_attachment, why_not_json
from .message import Message

__all__ = ["Content", "read_content", "why_reserved"]

#: Addresses that Postal accepts in each of to, cc and bcc of send/message; send/raw has
#: no limit.
MAX_ADDRESSES = 50
#: Longest tag, in characters. Postal answers HTTP 500 to a longer one.
MAX_TAG = 255

#: Total size of attachments, in bytes, up to which a message is sent through send/raw
#: only to keep its line ends; see :func:`_loses_line_ends`. A mail for send/raw is
#: built in memory.
MAX_RAW_FOR_TEXT = 1024 * 1024

_HEADER_NAME = re.compile(r"[!-9;-~]{1,76}", re.ASCII)

#: Headers that Postal overwrites, drops or interprets, and the parameters to use
#: instead.
_OURS = {
    "from": "Postal overwrites it; use sender=",
    "to": "Postal overwrites it; use recipients=",
    "cc": "Postal overwrites it; use cc=",
    "bcc": "it would reveal the hidden recipients to all; use bcc=",
    "subject": "Postal overwrites it; use subject=",
    "reply-to": "Postal drops it; use reply_to=",
    "message-id": "Postal drops it; use message_id=",
    "mime-version": "it belongs to the structure of the mail; leave it out",
    "x-postal-tag": "Postal reads the tag from it; use tags=",
}
_STRUCTURE = "it corrupts the mail; use body=, html=, alts= or attach()"
_POSTALS = (
    "headers of this kind control Postal (X-Postal-MsgID switches off DKIM and bounce"
    " matching); leave it out"
)
_MESSAGE_ID = re.compile(r"[^\s<>@]+@[^\s<>@]+", re.ASCII)


@dataclass(slots=True)
class Content:
    """A validated message, from which the request or the MIME is written.

    Addresses are parsed, lazy strings evaluated, defaults of the settings applied.

    :param header_sender: The ``Sender`` header. The envelope sender is always Postal's.
    :param date: The ``Date`` header; ``None`` for the time of sending.
    :param message_id: The Message-ID, without angle brackets; ``None`` if Postal or
        :func:`.serialize` is to generate it.
    :param tracked: Whether Postal may track the mail.
    :param extra: The message's ``esp_extra``.
    :param recipients: The envelope recipients, each mailbox once, keyed by the address
        as the caller first wrote it. Postal does not remove duplicates.
    :param aliases: Maps every spelling that the caller used to such a key.
    :param mailing_list: The list that the message belongs to, if any.
    :param member: The address that may leave this list.
    :param ignore_suppression: Whether it is sent to suppressed addresses too.
    :param left_out: Such a key -> the reason why nothing is sent to this recipient.
    :param addresses: As ``recipients``, with those that are left out.
    :param why_raw: Why ``send/message`` can't be used, for error messages; ``None`` if
        it can.
    """

    sender: Address
    to: list[Address] = field(default_factory=list)
    cc: list[Address] = field(default_factory=list)
    bcc: list[Address] = field(default_factory=list)
    reply_to: list[Address] = field(default_factory=list)
    subject: str = ""
    text: str | None = None
    html: str | None = None
    alternatives: list[tuple[str, str]] = field(default_factory=list)
    attachments: list[Attachment] = field(default_factory=list)
    headers: Headers = field(default_factory=Headers)
    header_sender: Address | None = None
    date: datetime | None = None
    message_id: str | None = None
    tag: str | None = None
    tracked: bool = True
    bounce: bool = False
    extra: Mapping[str, Any] = field(default_factory=dict)
    recipients: dict[str, Address] = field(default_factory=dict)
    aliases: dict[str, str] = field(default_factory=dict)
    mailing_list: str | None = None
    member: str = ""
    ignore_suppression: bool = False
    left_out: dict[str, str] = field(default_factory=dict)
    addresses: dict[str, Address] = field(default_factory=dict)
    why_raw: str | None = None


def read_content(message: Message, settings: Settings) -> Content:
    """Validate a message and parse its fields.

    :param message: The message, with templates rendered and defaults merged.
    :param settings: The settings with the default sender and ``POSTAL_REDIRECT_TO``.
    :raises MessageError: if Postal would refuse, lose or change a part of the message.
    """
    content = Content(_sender(message, settings))
    _read_recipients(message, content)
    _read_text(message, content)
    _read_headers(message, content)
    _read_attachments(message, content)
    content.ignore_suppression = bool(message.ignore_suppression)
    if message.unsubscribe is not None:
        _read_list(message, content)
    if not (content.text or content.html or content.alternatives) and not (
        content.attachments
    ):
        if not message.may_be_blank:
            raise MessageError(
                "no content; pass body=, html= or template=, or attach something",
                field="body",
            )
        content.text = ""
    if settings.redirect_to is not None:
        _redirect(content, settings.redirect_to)
    content.addresses = dict(content.recipients)
    for name in ("to", "cc", "bcc"):
        if len(getattr(content, name)) > MAX_ADDRESSES:
            content.why_raw = f"more than {MAX_ADDRESSES} addresses in {name}"
    if content.why_raw is None and _loses_line_ends(content):
        content.why_raw = "lines of non-ASCII text"
    return content


def _loses_line_ends(content: Content) -> bool:
    """Return whether the message needs ``send/raw`` to keep the line ends of its text.

    If Postal tracks a mail that it wrote itself (``send/message``), non-ASCII text
    arrives with CR CR LF at the end of each line. ``send/raw`` can prevent it; see
    :func:`.mime.build_mime`. It is not used where it has a worse side effect: a tag
    would be visible to the recipients, ``esp_extra`` may contain fields that only
    ``send/message`` knows, and large attachments would be held in memory.
    """
    if content.tag is not None or content.extra:
        return False
    texts = (content.text, content.html)
    if not any(text and not text.isascii() and "\n" in text for text in texts):
        return False
    return sum(file.size() for file in content.attachments) <= MAX_RAW_FOR_TEXT


def _sender(message: Message, settings: Settings) -> Address:
    if message.sender:
        return parse_address(message.sender, "sender")[0]
    if settings.default_sender is None:
        raise MessageError(
            f"no sender; pass sender= or set {settings.prefix}DEFAULT_SENDER",
            field="sender",
        )
    return settings.default_sender


def _read_recipients(message: Message, content: Content) -> None:
    """Parse the addresses. A mailbox that is listed twice gets one mail."""
    keys: dict[tuple[str, str], str] = {}
    for name in ("recipients", "cc", "bcc"):
        place = content.to if name == "recipients" else getattr(content, name)
        for item in getattr(message, name):
            address, written = parse_address(item, name)
            key = keys.get(address.key)
            if key is None:
                key = keys[address.key] = written
                content.recipients[key] = address
                place.append(address)
            content.aliases[written] = content.aliases[address.addr_spec] = key
            if isinstance(item, str):
                content.aliases[item] = key
    if not content.recipients:
        raise MessageError("no recipients; pass recipients=", field="recipients")
    content.reply_to = [parse_address(item, "reply_to")[0] for item in message.reply_to]


def _redirect(content: Content, address: Address) -> None:
    """Replace all recipients by one, and list them in the X-Original-To header.

    The original addresses stay valid keys of the result's ``recipients``.
    """
    originals = ", ".join(a.addr_spec for a in content.recipients.values())
    content.headers["X-Original-To"] = originals
    content.to, content.cc, content.bcc = [address], [], []
    content.recipients = {address.addr_spec: address}
    content.aliases = dict.fromkeys(content.aliases, address.addr_spec)


def _read_list(message: Message, content: Content) -> None:
    """Check that a message of a list goes to one recipient, and writes no own link."""
    content.mailing_list = list_name(message.unsubscribe, "unsubscribe")
    if len(content.recipients) != 1:
        raise MessageError(
            "unsubscribe: the link to unsubscribe belongs to one recipient, and the"
            f" message has {len(content.recipients)}; use send_batch()",
            field="unsubscribe",
        )
    for name in ("List-Unsubscribe", "List-Unsubscribe-Post"):
        if name in content.headers:
            raise MessageError(
                f"extra_headers: {name} is what unsubscribe= writes; leave one of the"
                " two out",
                field="extra_headers",
            )
    (address,) = content.recipients.values()
    content.member = address.addr_spec


def _read_text(message: Message, content: Content) -> None:
    content.subject = header_text(
        "" if message.subject is None else message.subject, "subject"
    )
    content.text = _text(message.body, "body")
    content.html = _text(message.html, "html")
    for name, value in message.alts.items():
        media_type = header_text(name, "alts", "a media type")
        if "/" not in media_type:
            media_type = f"text/{media_type}"  # as Flask-Mail has it
        if not MEDIA_TYPE.fullmatch(media_type):
            raise MessageError(f"alts: {name!r} is not a media type", field="alts")
        if (text := _text(value, "alts")) is None:
            continue
        if media_type == "text/html" and content.html is None:
            content.html = text
        else:
            content.alternatives.append((media_type, text))
            content.why_raw = f"an alternative of type {media_type}"
    if content.text is None and content.html is None:
        content.why_raw = "no text and no HTML"


def _text(value: Any, name: str) -> str | None:
    """Evaluate a text; return ``None`` if it is blank.

    Postal treats a blank body as missing (``NoContent``).
    """
    if value is None:
        return None
    text = plain_text(value, name)
    return None if not text or text.isspace() else text


def _read_headers(message: Message, content: Content) -> None:
    headers, sender = _check_headers(message.extra_headers)
    if sender is not None:
        content.header_sender = parse_address(sender, "extra_headers")[0]
    content.headers = headers
    for name in {name for name, _ in headers}:
        if len(headers.getlist(name)) > 1:
            content.why_raw = f"several values of {name}"
    if message.date is not None:
        content.date = _date(message.date)
        content.headers.remove("Date")
    if message.message_id is not None:
        content.message_id = _message_id(message.message_id)
        content.why_raw = "a Message-ID of its own"
    if message.tags:
        content.tag = _tag(message.tags[0])
    if message.track_opens is False and message.track_clicks is False:
        content.tracked = False
        content.why_raw = "tracking is off"
    for name in ("bounce", "track_opens", "track_clicks", "ignore_suppression"):
        # Strings are refused, because Postal takes "false" for true.
        if not isinstance(getattr(message, name), bool | None):
            raise MessageError(f"{name} must be True, False or None", field=name)
    content.bounce = bool(message.bounce)
    content.extra = message.esp_extra


def _check_headers(headers: Mapping[str, Any]) -> tuple[Headers, Any]:
    """Validate extra headers. Names are compared case-insensitively.

    :param headers: Values, or lists of values, by name.
    :returns: The headers, without ``Sender``; and the value of ``Sender`` or ``None``,
        because Postal has a separate field for it.
    :raises MessageError: for a header that Postal would drop, overwrite or interpret,
        that would corrupt the mail, or that contains line breaks.
    """
    field = "extra_headers"
    checked = Headers()
    sender = None
    for raw_name, value in headers.items():
        name = header_text(raw_name, field, "a header name")
        if not _HEADER_NAME.fullmatch(name):
            raise MessageError(
                f"{field}: {name!r} is not a valid header name; use ASCII without"
                " whitespace and colons, at most 76 characters",
                field=field,
            )
        low = name.lower()
        if low == "sender":
            sender = value
            continue
        problem = why_reserved(low)
        if problem is not None:
            raise MessageError(f"{field}: {name}: {problem}", field=field)
        values = [value] if is_text(value) else value
        if not isinstance(values, (list, tuple)):
            raise MessageError(
                f"{field}: the value of {name} must be a string or a list of strings,"
                f" not {type(value).__name__}",
                field=field,
            )
        for item in values:
            checked.add(name, header_text(item, field, f"the value of {name}"))
    return checked, sender


def why_reserved(name: str) -> str | None:
    """Return why ``extra_headers`` can't set a header; ``None`` if it can.

    :param name: The name in lower case.
    """
    if name in _OURS:
        return _OURS[name]
    if name.startswith("content-"):
        return _STRUCTURE
    return _POSTALS if name.startswith("x-postal-") else None


def _date(value: Any) -> datetime:
    if isinstance(value, datetime) and value.utcoffset() is not None:
        return value
    if isinstance(value, (int, float)) and not isinstance(value, bool):
        try:
            if math.isfinite(value):
                return datetime.fromtimestamp(value, UTC)
        except (OverflowError, OSError, ValueError):
            pass
    raise MessageError(
        "date must be an aware datetime, such as datetime.now(UTC), or seconds since"
        f" 1970; not {value!r}",
        field="date",
    )


def _message_id(value: Any) -> str:
    text = header_text(value, "message_id").strip()
    if text.startswith("<") and text.endswith(">"):
        text = text[1:-1]
    if not (_MESSAGE_ID.fullmatch(text) and text.isascii() and len(text) <= 250):
        raise MessageError(
            "message_id must look like unique@your.domain, in ASCII, without whitespace"
            " and with at most 250 characters",
            field="message_id",
        )
    return text


def _tag(value: Any) -> str | None:
    tag = header_text(value, "tags", "a tag").strip()
    if len(tag) > MAX_TAG:
        raise MessageError(
            f"tags: a tag of {len(tag)} characters is too long; Postal accepts at most"
            f" {MAX_TAG}",
            field="tags",
        )
    return tag or None


def _read_attachments(message: Message, content: Content) -> None:
    for index, attachment in enumerate(message.attachments):
        media_type = check_attachment(attachment, index)
        content.attachments.append(attachment)
        if content.why_raw is None:
            content.why_raw = why_not_json(attachment, media_type)
