"""Interpret how Postal describes a delivery: its status, details and output.

Webhook events and the deliveries that the API returns carry the same three values, and
are both interpreted here.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from .bounce_rules import BounceReason, BounceType
from .bounce_types import BounceClass, classify_reply
from .vocabulary import BY_STATUS, EventType

__all__ = [
    "BounceReason",
    "BounceType",
    "HoldReason",
    "Outcome",
    "RejectReason",
    "read_outcome",
    "redact",
    "redact_all",
]


class RejectReason(StrEnum):
    """Why delivery of a mail failed. The values are those of django-anymail."""

    INVALID = "invalid"  #: The mailbox or domain does not exist.
    BOUNCED = "bounced"  #: Returned by a bounce mail, or refused with another 5xx.
    TIMED_OUT = "timed_out"  #: Postal gave up after its last attempt.
    BLOCKED = "blocked"  #: Refused by policy: reputation, authentication, a block list.
    SPAM = "spam"  #: Classified as spam by Postal or by the recipient's server.
    OTHER = "other"  #: Any other reason.


class HoldReason(StrEnum):
    """Why Postal holds a mail that its API accepted.

    A held mail stays in Postal until somebody releases it.
    """

    SUPPRESSED = "suppressed"  #: The recipient is on the suppression list.
    CREDENTIAL = "credential"  #: The API credential holds all its mail.
    DEVELOPMENT = "development"  #: The mail server is in development mode.
    SEND_LIMIT = "send_limit"  #: The mail server has reached its send limit.
    SUSPENDED = "suspended"  #: The mail server is suspended.
    SPAM = "spam"  #: Postal classified it as spam, or found a threat in it.
    OTHER = "other"  #: Any other reason.


# Postal has no code for the reason, so it is recognized by words in the details.
_HOLD_WORDS = (
    ("suppression list", HoldReason.SUPPRESSED),
    ("development mode", HoldReason.DEVELOPMENT),
    ("send limit", HoldReason.SEND_LIMIT),
    ("credential", HoldReason.CREDENTIAL),
    ("suspended", HoldReason.SUSPENDED),
    ("spam", HoldReason.SPAM),
    ("threat", HoldReason.SPAM),
)

_BLOCKING = frozenset(
    {
        BounceReason.AUTHENTICATION,
        BounceReason.POLICY,
        BounceReason.RELAY,
        BounceReason.REPUTATION,
        BounceReason.SENDER,
    }
)

_SMTP_REPLY = re.compile(r"\s*([245]\d\d)(?:[ -]+([245]\.\d{1,3}\.\d{1,3})(?!\S))?")
_URL = re.compile(r"([A-Za-z][A-Za-z0-9+.-]{0,20}://)([^ \t\r\n?]*)(\?\S*)?")


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """The outcome of a delivery attempt. The base of tracking events and deliveries.

    :param event_type: What happened.
    :param reject_reason: Why the mail failed or bounced; ``None`` if it did neither.
    :param hold_reason: Why Postal holds the mail; ``None`` if it does not.
    :param smtp_code: The SMTP code of the remote server's reply, such as 550.
    :param enhanced_status: Its enhanced status code (RFC 3463), such as ``"5.1.1"``.
    :param bounce_type: Whether to try the address again: ``permanent``, ``temporary``
        or ``unknown``; ``None`` if the mail neither failed nor bounced. It is read from
        the remote server's reply; an event about a bounce mail has none, see
        :meth:`.Postal.bounce_report`.
    :param bounce_reason: Why it was refused; ``None`` if that is not known.
    :param bounce_rule: The rule that has decided, or ``"status 5.1.1"``.
    :param description: Postal's description of the outcome. Postal cuts it at 250
        characters.
    :param mta_response: The remote server's reply, cut in the same way.
    """

    event_type: EventType = EventType.UNKNOWN
    reject_reason: RejectReason | None = None
    hold_reason: HoldReason | None = None
    smtp_code: int | None = None
    enhanced_status: str | None = None
    bounce_type: BounceType | None = None
    bounce_reason: BounceReason | None = None
    bounce_rule: str | None = None
    description: str | None = None
    mta_response: str | None = None


def read_outcome(
    status: str | None, details: str | None, output: str | None
) -> dict[str, Any]:
    """Interpret a delivery's status, details and output.

    :param status: Postal's status, such as ``"HardFail"``.
    :param details: Postal's description.
    :param output: The remote server's reply.
    :returns: The fields of an :class:`Outcome`, so that its subclasses can be created
        from them.
    """
    row = BY_STATUS.get(status or "")
    event_type = row.event_type if row is not None else EventType.UNKNOWN
    details = redact(details) if details else None
    output = redact(output) if output else None
    code, enhanced = _smtp_reply(output)
    reject_reason = hold_reason = None
    bounce: BounceClass | None = None
    if event_type is EventType.FAILED:
        bounce = classify_reply(code, enhanced, output or details or "")
        reject_reason = _reject_reason(code, bounce, details or "", output or "")
    elif event_type is EventType.BOUNCED:
        bounce = BounceClass(BounceType.UNKNOWN)
        reject_reason = RejectReason.BOUNCED
    elif status == "Held":
        words = (details or "").lower()
        hold_reason = next(
            (reason for word, reason in _HOLD_WORDS if word in words),
            HoldReason.OTHER,
        )
    return {
        "event_type": event_type,
        "reject_reason": reject_reason,
        "hold_reason": hold_reason,
        "smtp_code": code,
        "enhanced_status": enhanced,
        "bounce_type": None if bounce is None else bounce.type,
        "bounce_reason": None if bounce is None else bounce.reason,
        "bounce_rule": None if bounce is None else bounce.rule,
        "description": details,
        "mta_response": output,
    }


def redact(text: str) -> str:
    """Hide the user, password and query string of every URL in a text.

    Postal writes the URL of an HTTP endpoint into the details of a delivery, including
    its password.
    """
    return _URL.sub(_redacted, text) if "://" in text else text


def redact_all(content: Mapping[str, Any]) -> dict[str, Any]:
    """Return a copy of a payload with every ``details`` and ``output`` redacted.

    Values nested more than 200 levels deep become ``None``: no payload of Postal's
    nests that deep, and the limit keeps the recursion within Python's.
    """
    return {key: _redact_value(key, value, 200) for key, value in content.items()}


def _redact_value(key: str, value: Any, depth: int) -> Any:
    if isinstance(value, str):
        return redact(value) if key in ("details", "output") else value
    if depth and isinstance(value, dict):
        return {k: _redact_value(k, v, depth - 1) for k, v in value.items()}
    if depth and isinstance(value, list):
        return [_redact_value(key, item, depth - 1) for item in value]
    return None if isinstance(value, (dict, list)) else value


def _redacted(match: re.Match[str]) -> str:
    scheme, address, query = match.groups()
    # The last @, because a password may contain an @ or a slash that should have been
    # percent-encoded.
    _, at, rest = address.rpartition("@")
    host = re.split("[/#]", rest, maxsplit=1)[0]
    path = rest[len(host) :]
    _, colon, port = host.partition(":")
    # Postal cuts the text at 250 characters. A cut within "user:password@" loses the @
    # and makes the password look like a port, which has at most five digits.
    if not at and colon and not (port.isdigit() and len(port) <= 5):
        host = "***"
    return f"{scheme}{'***@' if at else ''}{host}{path}{'?***' if query else ''}"


def _smtp_reply(output: str | None) -> tuple[int | None, str | None]:
    found = _SMTP_REPLY.match(output or "")
    return (int(found[1]), found[2]) if found else (None, None)


def _reject_reason(
    code: int | None, bounce: BounceClass, details: str, output: str
) -> RejectReason:
    ours, theirs = details.lower(), output.lower()
    if "maximum number of delivery attempts" in ours:
        return RejectReason.TIMED_OUT
    if "likely spam" in ours or "threat" in ours:
        return RejectReason.SPAM
    if code is None or code < 500:
        return RejectReason.OTHER
    if "spam" in theirs:
        return RejectReason.SPAM
    if bounce.type is BounceType.PERMANENT:
        return RejectReason.INVALID
    if bounce.reason in _BLOCKING:
        return RejectReason.BLOCKED
    return RejectReason.BOUNCED
