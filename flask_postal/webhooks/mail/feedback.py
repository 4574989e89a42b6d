"""Reads complaints: reports by which other servers tell that a mail is unwanted.

Whoever reads mail presses "this is spam", and the server of the mailbox sends a report
(RFC 5965) to the address that the sender has registered with it. Anybody can write such
a mail, so that what it says is a claim.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Protocol

from ...values import as_line
from .headers import read_headers

__all__ = ["FeedbackReport", "read_feedback"]

_REPORT_TYPES = frozenset({"message/feedback-report"})
_RETURNED_TYPES = frozenset(
    {
        *("message/rfc822", "message/rfc822-headers", "message/global"),
        *("text/rfc822-headers", "text/rfc822", "message/global-headers"),
    }
)
_MESSAGE_ID = re.compile(r"<?([!-;=?A-~]{1,250}@[!-;=?A-~]{1,250})(?:>|$)")
_WORD = re.compile(r"[A-Za-z0-9-]{1,100}")
#: Bytes of the headers of the mail that is complained about.
MAX_HEADERS = 256 * 1024
_TOKEN = re.compile(r"[A-Za-z0-9]{1,64}")


class Source(Protocol):
    """How a report is read; see :class:`.MailSource`."""

    def header(self, name: str) -> str | None: ...
    def part_of(self, types: frozenset[str], limit: int = ...) -> bytes: ...


@dataclass(frozen=True, slots=True)
class FeedbackReport:
    """What a complaint says.

    :param feedback_type: ``abuse``, ``fraud``, ``virus``, ``opt-out``, ``not-spam`` or
        another word, in lower case.
    :param message_id: The Message-ID of the mail that it is about, without angle
        brackets.
    :param token: Postal's token of that mail, which only its recipient knows.
    :param recipient: The address that the report names as its recipient.
    :param fields: All fields of the report, by their lower-case names; the first one of
        each.
    :param headers: The headers of the mail that it is about, in the same way.
    """

    feedback_type: str
    message_id: str | None
    token: str | None
    recipient: str | None
    fields: Mapping[str, str] = field(repr=False)
    headers: Mapping[str, str] = field(repr=False)


def read_feedback(mail: Source) -> FeedbackReport | None:
    """Read a complaint; ``None`` if a mail is none."""
    if not (mail.header("content-type") or "").lower().startswith("multipart/report"):
        return None
    fields = _fields(mail.part_of(_REPORT_TYPES))
    kind = _WORD.match(fields.get("feedback-type", "").strip())
    if kind is None:
        return None
    headers = _fields(mail.part_of(_RETURNED_TYPES, MAX_HEADERS))
    message_id = _MESSAGE_ID.match(headers.get("message-id", "").strip())
    token = _TOKEN.fullmatch(headers.get("x-postal-msgid", "").strip())
    named = fields.get("original-rcpt-to") or fields.get("removal-recipient") or ""
    return FeedbackReport(
        kind[0].lower(),
        message_id[1] if message_id else None,
        token[0] if token else None,
        as_line(named.strip(" <>")[:255]) or None,
        fields,
        headers,
    )


def _fields(part: bytes) -> dict[str, str]:
    items = read_headers(part.lstrip(b"\r\n")).items if part else []
    return {name.lower(): value for name, value in reversed(items)}
