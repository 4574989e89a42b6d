"""The normalized events that receivers get."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from ..outcome import Outcome
from .mail.message import InboundMessage

__all__ = ["InboundEvent", "MailEvent", "ServerEvent", "TrackingEvent"]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailEvent(Outcome):
    """What all events about a mail tell, beside an :class:`.Outcome`.

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
    :param esp_event: Postal's dict as it came, passwords in URLs aside.
    :param dedupe_key: What is equal for two deliveries of one event.
    """

    event_id: str | None = None
    created_at: datetime | None = None
    timestamp: datetime | None = None
    id: int | None = None
    token: str | None = None
    message_id: str | None = None
    recipient: str | None = None
    sender: str | None = None
    subject: str | None = None
    esp_event: Mapping[str, Any] = field(default_factory=dict, repr=False)
    dedupe_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class TrackingEvent(MailEvent):
    """Something became of a mail that was sent.

    Postal makes no promise about order, and repeats some: ``deferred`` up to 18 times,
    ``opened`` and ``clicked`` with every hit. What is not told here is told in
    :class:`MailEvent` and :class:`.Outcome`.

    :param tags: The tag, as a list of none or one.
    :param click_url: The link that was clicked.
    :param user_agent: The browser that opened or clicked.
    :param ip_address: Where it did so from.
    :param bounce: Postal's dict of the bounce mail, for a bounce.
    :param metadata: Always ``{}``: Postal keeps none.
    """

    tags: list[str] = field(default_factory=list)
    click_url: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    bounce: Mapping[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent(MailEvent):
    """Something about the mail server itself, or about mail that came in.

    :param event: Postal's name: ``DomainDNSError``, ``SendLimitApproaching``,
        ``SendLimitExceeded``; or a ``Message...`` event about incoming mail, that is,
        how an endpoint of ours answered.
    :param server: The permalink of the mail server.
    :param organization: The permalink of its organization.
    :param domain: The domain whose DNS is wrong.
    :param problems: ``spf``, ``dkim``, ``mx``, ``return_path`` -> what is wrong.
    :param volume: Mails sent in the last hour.
    :param limit: How many may be.
    """

    event: str
    server: str | None = None
    organization: str | None = None
    domain: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    volume: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundEvent:
    """A mail has come in.

    :param message: The mail.
    :param id: Postal's number of the mail, unique within one mail server.
    :param token: Postal's token of the mail; ``None`` in the RawMessage formats.
    :param timestamp: When Postal took the mail, aware, in UTC; ``None`` in the
        RawMessage formats.
    :param format: Which of Postal's formats it came in: ``"raw-json"``, ``"raw-form"``,
        ``"hash-json"`` or ``"hash-form"``.
    :param digest: Makes a digest of the mail, where it has no token.
    """

    message: InboundMessage
    id: int | None = None
    token: str | None = None
    timestamp: datetime | None = None
    format: str = "raw-json"
    digest: Callable[[], str] = field(default=str, repr=False, compare=False)

    @property
    def dedupe_key(self) -> str:
        """What is equal for two deliveries of one mail: its token, or its number and
        a digest of its bytes."""
        return self.token or f"{self.id}:{self.digest()}"
