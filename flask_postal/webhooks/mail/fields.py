"""Reads inbound mail in the Hash formats, in which Postal has parsed it already."""

from __future__ import annotations

import base64
import binascii
from collections.abc import Mapping
from datetime import datetime
from functools import cached_property
from typing import Any

from ...address import Address
from ...values import as_bool, as_dict, as_line, as_str
from .addresses import are_cut, author_of, read_addresses
from .attachment import InboundAttachment
from .headers import HeaderBlock, read_date
from .parameters import read_parameters

__all__ = ["FieldsMail"]

#: Postal's fields, with the headers that they come from.
_HEADERS = {
    "from": "From",
    "to": "To",
    "cc": "Cc",
    "reply_to": "Reply-To",
    "subject": "Subject",
    "date": "Date",
    "message_id": "Message-ID",
    "in_reply_to": "In-Reply-To",
    "references": "References",
    "auto_submitted": "Auto-Submitted",
}
_FIELDS = {header.lower(): field for field, header in _HEADERS.items()}


class FieldsMail:
    """The :class:`.MailSource` of the Hash formats.

    :param fields: The fields that Postal sent.
    :param null_sender: Whether the envelope has no sender.
    """

    def __init__(self, fields: Mapping[str, Any], *, null_sender: bool = False) -> None:
        self.defects: list[str] = []
        bounce = fields.get("bounce")
        # Postal sets it for mail to the return path of a message that it has sent.
        self.marked_bounce: bool = bounce == "true" or bool(as_bool(bounce))
        self.null_sender: bool = null_sender or self.marked_bounce
        self._fields = fields

    @property
    def head(self) -> HeaderBlock | None:
        return None  # Postal sends fields

    @property
    def raw(self) -> bytes | None:
        return None

    def header_items(self) -> list[tuple[str, str]]:
        items = []
        for field, name in _HEADERS.items():
            if (value := self._value(field)) is not None:
                items.append((name, value))
        return items

    def header(self, name: str) -> str | None:
        field = _FIELDS.get(name)
        return None if field is None else self._value(field)

    def addresses(self, name: str) -> list[Address]:
        # Postal has decoded the encoded words in names.
        value = self.header(name) or ""
        if are_cut(value):
            self.defects.append(
                f"{name}: too many addresses or too long; the rest is not read"
            )
        return read_addresses(value, encoded=False)

    def author(self) -> Address | None:
        return author_of(self.header("from") or "", encoded=False)

    def date(self) -> datetime | None:
        return read_date(self._value("date"))

    def text(self) -> str | None:
        text = as_str(self._fields.get("plain_body"))
        replies = as_str(self._fields.get("replies_from_plain_body"))
        return f"{text or ''}\n\n{replies}" if replies else text

    def html(self) -> str | None:
        return as_str(self._fields.get("html_body"))

    def stripped_text(self) -> str | None:
        if "replies_from_plain_body" not in self._fields:
            return None
        return as_str(self._fields.get("plain_body"))

    def attachments(self) -> list[InboundAttachment]:
        return self._attachments

    @cached_property
    def _attachments(self) -> list[InboundAttachment]:
        items = self._fields.get("attachments")
        if not isinstance(items, list):
            return []
        return [self._attachment(as_dict(item)) for item in items]

    def inlines(self) -> dict[str, InboundAttachment]:
        return {}  # Postal doesn't send Content-IDs

    def spam_detected(self) -> bool | None:
        status = self._fields.get("spam_status")
        return {"Spam": True, "NotSpam": False}.get(status) if status else None

    def spam_score(self) -> float | None:
        return None

    def part_types(self) -> list[str]:
        return [attachment.content_type for attachment in self._attachments]

    def part_of(self, types: frozenset[str], limit: int = 20_000) -> bytes:
        for attachment in self._attachments:
            if attachment.content_type in types:
                return attachment.content[:limit]
        return b""

    def _value(self, field: str) -> str | None:
        value = self._fields.get(field)
        if isinstance(value, list):
            value = ", ".join(item for item in value if isinstance(item, str))
        return as_str(value) or None

    def _attachment(self, item: Mapping[str, Any]) -> InboundAttachment:
        try:
            content = base64.b64decode(as_str(item.get("data")) or "")
        except (binascii.Error, ValueError):
            self.defects.append("attachment: not base64")
            content = b""
        claim = as_str(item.get("content_type")) or ""
        return InboundAttachment(
            as_line(item.get("filename")) or None,
            read_parameters(claim, media_type=True).value or "application/octet-stream",
            content,
        )
