"""The normalized events that receivers get."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..outcome import EventType, HoldReason, RejectReason
from .inbound_message import InboundMessage

__all__ = ["InboundEvent", "TrackingEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingEvent:
    """Something became of a mail that was sent.

    Postal makes no promise about order, and repeats some: ``deferred`` up to 18 times,
    ``opened`` and ``clicked`` with every hit.

    :param event_type: What happened.
    :param event_id: The event's UUID, the same in every attempt to deliver it.
    :param created_at: When Postal wrote the event, aware, in UTC.
    :param timestamp: When it happened, as far as Postal tells; else ``created_at``.
    :param id: Postal's number of the mail, unique within one mail server:
        ``result.recipients[...].id``. (Anymail calls this message_id.)
    :param token: Postal's token of the mail, unique everywhere.
    :param message_id: The Message-ID header, without angle brackets.
    :param recipient: The envelope recipient.
    :param sender: The address in From, ``None`` for a null sender.
    :param subject: The subject, cut by Postal at 200 characters.
    :param tags: The tag, as a list of none or one.
    :param reject_reason: Why it failed or bounced.
    :param hold_reason: Why it is held.
    :param smtp_code: The code of the other server's reply, such as 550.
    :param enhanced_status: Its enhanced status code, such as ``"5.1.1"``.
    :param description: Postal's own words, cut by it at 250 characters.
    :param mta_response: The other server's words, cut by Postal at 250 characters.
    :param click_url: The link that was clicked.
    :param user_agent: The browser that opened or clicked.
    :param ip_address: Where it did so from.
    :param bounce: Postal's dict of the bounce mail, for a bounce.
    :param metadata: Always ``{}``: Postal keeps none.
    :param esp_event: Postal's dict as it came, passwords in URLs aside.
    """

    event_type: EventType
    event_id: str | None = None
    created_at: datetime | None = None
    timestamp: datetime | None = None
    id: int | None = None
    token: str | None = None
    message_id: str | None = None
    recipient: str | None = None
    sender: str | None = None
    subject: str | None = None
    tags: list[str] = field(default_factory=list)
    reject_reason: RejectReason | None = None
    hold_reason: HoldReason | None = None
    smtp_code: int | None = None
    enhanced_status: str | None = None
    description: str | None = None
    mta_response: str | None = None
    click_url: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    bounce: Mapping[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    esp_event: Mapping[str, Any] = field(default_factory=dict, repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundEvent:
    """A mail has come in.

    :param message: The mail.
    :param id: Postal's number of the mail, unique within one mail server.
    :param format: Which of Postal's four formats it came in: ``"raw-json"``.
    """

    message: InboundMessage
    id: int | None = None
    format: str = "raw-json"
