"""Reads what a bounce mail says about each recipient.

A report of RFC 3464 has a part for programs, with a group of fields for each recipient.
Other bounce mails are read as text.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from email.parser import HeaderParser

from ...bounce_rules import BounceReason, BounceType
from ...bounce_types import BounceClass, classify_reply
from .base64_mail import Base64Mail
from .classify import STATUS_TYPES
from .message import InboundMessage
from .raw import RawMail

__all__ = ["BounceRecipient", "BounceReport", "read_bounce"]

#: Recipients and characters of text that are read.
MAX_RECIPIENTS = 100
MAX_TEXT = 20_000
_STATUS = re.compile(r"\s*([245]\.\d{1,3}\.\d{1,3})(?!\S)")
# Some servers repeat the code: 554 554 5.7.0 Header error.
_REPLY = re.compile(
    r"(?<![\d.])([45]\d\d)[ -]+(?:[45]\d\d[ -]+)?"
    r"(?:#?([45]\.\d{1,3}\.\d{1,3})(?!\S))?"
)
_NOT_FAILED = ("delayed", "delivered", "relayed", "expanded")
_ADDRESS = re.compile(r"[^\s<>\"(),:;]{1,64}@[^\s<>\"(),:;]{1,255}")
#: Where the returned message begins in the text of a bounce mail.
_RETURNED = re.compile(
    r"(?im)^(?:-+ ?(?:this is a copy|original message|below this line|returned message"
    r"|the header of|the body of|message header)|received: from |return-path: )"
)


@dataclass(frozen=True, slots=True)
class BounceRecipient:
    """What a bounce mail says about one recipient.

    :param address: The address; ``None`` if the mail doesn't name it.
    :param action: ``failed``, ``delayed``, ``delivered``, ``relayed`` or ``expanded``;
        ``None`` if the mail is no report of RFC 3464.
    :param status: The enhanced status code (RFC 3463), such as ``"5.1.1"``.
    :param diagnostic: The reply of the server that refused it.
    :param bounce_type: As in :class:`.Outcome`.
    :param bounce_reason: As in :class:`.Outcome`.
    :param bounce_rule: As in :class:`.Outcome`.
    """

    address: str | None
    action: str | None
    status: str | None
    diagnostic: str | None
    bounce_type: BounceType
    bounce_reason: BounceReason | None = None
    bounce_rule: str | None = None


@dataclass(frozen=True, slots=True)
class BounceReport:
    """What a bounce mail says.

    :param recipients: One for each recipient that it reports about.
    :param message: The bounce mail.
    """

    recipients: list[BounceRecipient]
    message: InboundMessage = field(repr=False)

    @property
    def bounce_type(self) -> BounceType:
        """That of the only recipient; ``unknown`` if they differ or there is none."""
        types = {recipient.bounce_type for recipient in self.recipients}
        return types.pop() if len(types) == 1 else BounceType.UNKNOWN


def read_bounce(raw: bytes) -> BounceReport:
    """Read a bounce mail.

    :param raw: The mail.
    """
    source = RawMail(Base64Mail(raw=raw))
    message = InboundMessage(source)
    text = (message.text or message.html or "")[:MAX_TEXT]
    status = source.part_of(STATUS_TYPES).decode("latin-1")
    found = list(_reported(status, text))
    return BounceReport(found or [_from_text(text)], message)


def _reported(status: str, text: str) -> Iterator[BounceRecipient]:
    """Read the groups of fields, which blank lines separate; the first is the server's.

    :param text: The text for people, which may say what a report leaves out.
    """
    parser = HeaderParser()
    groups = re.split(r"\r?\n[ \t]*\r?\n", status.strip())[: MAX_RECIPIENTS + 1]
    for group in groups:
        fields = parser.parsestr(group.lstrip("\r\n"))
        final = fields["Final-Recipient"] or fields["Original-Recipient"]
        if final is None:
            continue
        action = str(fields["Action"] or "").strip().lower().partition(" ")[0] or None
        code = _STATUS.match(str(fields["Status"] or ""))
        diagnostic = " ".join(str(fields["Diagnostic-Code"] or "").split())
        _, semicolon, reply = diagnostic.partition(";")
        reply = (reply if semicolon else diagnostic).strip()
        found = _classified(code[1] if code else None, reply or text)
        if action in _NOT_FAILED:  # some write other words for a failure
            is_late = action == "delayed"
            kind = BounceType.TEMPORARY if is_late else BounceType.UNKNOWN
            found = BounceClass(kind, found.reason if is_late else None, action)
        yield BounceRecipient(
            _address_in(str(final)),
            action,
            code[1] if code else None,
            reply or None,
            *found,
        )


def _classified(status: str | None, text: str) -> BounceClass:
    """Classify a reply; its own code says more than that of the report."""
    reply = _REPLY.search(text)
    code = int(reply[1]) if reply else None
    enhanced = (reply[2] if reply else None) or status
    return classify_reply(code, enhanced, text)


def _from_text(text: str) -> BounceRecipient:
    """Read a bounce mail that only people were meant to read."""
    returned = _RETURNED.search(text)
    text = text[: returned.start()] if returned else text
    reply = _REPLY.search(text)
    # From the reply on, if there is one: what stands before it is the same each time.
    said = text[reply.start() :] if reply else text
    return BounceRecipient(
        _address_in(text),
        None,
        reply[2] if reply else None,
        None,
        *_classified(None, said),
    )


def _address_in(text: str) -> str | None:
    found = _ADDRESS.search(text)
    return found[0] if found else None
