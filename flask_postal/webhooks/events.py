"""The normalized events that are passed to receivers."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal

from ..outcome import Outcome
from .mail.message import InboundMessage

__all__ = [
    "InboundEvent",
    "MailEvent",
    "ServerEvent",
    "TrackingEvent",
    "UnsubscribeEvent",
]


@dataclass(frozen=True, slots=True, kw_only=True)
class MailEvent(Outcome):
    """Base class of the events of the tracking webhook.

    Together with the fields of :class:`.Outcome` these are the fields that all events
    about a message have. A field is ``None`` if Postal doesn't send it.

    :param event_id: The event's UUID, the same in all of Postal's retries.
    :param created_at: When Postal created the event, as an aware datetime in UTC.
    :param timestamp: When it happened, as an aware datetime in UTC; the same as
        ``created_at`` if Postal doesn't say.
    :param id: Postal's number of the message, unique within one mail server. Compare it
        with ``result.recipients[...].id``. (Anymail calls this message_id.)
    :param token: Postal's token of the message, unique across mail servers.
    :param message_id: The Message-ID header, without angle brackets.
    :param recipient: The envelope recipient.
    :param sender: The address in From; ``None`` for a null sender.
    :param subject: The subject, which Postal cuts at 200 characters.
    :param esp_event: The whole body as a dict, with passwords in URLs redacted.
    :param dedupe_key: A string that is the same for each delivery of one event.
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
    """An event about a message that was sent, such as a delivery, a bounce or a click.

    Events arrive in any order. Postal sends ``deferred`` up to 18 times for a message,
    and ``opened`` and ``clicked`` for every hit. The other fields are documented in
    :class:`MailEvent` and :class:`.Outcome`.

    :param tags: The tag of the message, as a list of at most one.
    :param click_url: The link that was clicked.
    :param user_agent: The User-Agent that opened the message or clicked a link.
    :param ip_address: The IP address that it came from.
    :param bounce: Postal's dict about the bounce mail, if the message bounced.
    :param metadata: The metadata of a message that was enqueued with a ledger, and
        ``{}`` for every other message, because Postal has none.
    :param source: ``"webhook"``; ``"poll"``, if its webhook never came and the ledger
        has read it from Postal's API; or ``"report"``, if it was read from a complaint
        that came as a mail. The last two have no ``event_id``.
    """

    tags: list[str] = field(default_factory=list)
    click_url: str | None = None
    user_agent: str | None = None
    ip_address: str | None = None
    bounce: Mapping[str, Any] | None = None
    metadata: dict[str, Any] = field(default_factory=dict)
    source: Literal["webhook", "poll", "report"] = "webhook"


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerEvent(MailEvent):
    """An event about the mail server itself, or about an inbound mail.

    Postal also sends ``Message...`` events for inbound mail, which report how the app
    responded to it. They are not a :class:`TrackingEvent`, because the app hasn't sent
    the mail that they are about.

    :param event: Postal's name of the event: ``DomainDNSError``,
        ``SendLimitApproaching``, ``SendLimitExceeded``, or a ``Message...`` event about
        an inbound mail.
    :param server: The permalink of the mail server.
    :param organization: The permalink of its organization.
    :param domain: The domain whose DNS records are wrong.
    :param problems: The wrong DNS records: ``spf``, ``dkim``, ``mx`` or
        ``return_path``, each with what is wrong.
    :param volume: Messages sent in the last hour.
    :param limit: Messages that may be sent in an hour.
    """

    event: str
    server: str | None = None
    organization: str | None = None
    domain: str | None = None
    problems: Mapping[str, str] = field(default_factory=dict)
    volume: int | None = None
    limit: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class UnsubscribeEvent:
    """Somebody wants no more mail of a list.

    :param recipient: The address; ``None`` if a report doesn't prove whose it is.
    :param list: The list, as in ``Message(unsubscribe=...)``; ``None`` if a report is
        about a message without one.
    :param timestamp: When it happened, as an aware datetime in UTC.
    :param source: ``"link"`` for the link in a message; ``"report"`` for a report that
        came as a mail (RFC 5965, ``opt-out``).
    :param message_id: The Message-ID of the message that a report is about.
    :param token: Postal's token of that message.
    :param dedupe_key: A string that is the same for each delivery of one event.
    """

    recipient: str | None
    list: str | None
    timestamp: datetime | None = None
    source: Literal["link", "report"] = "link"
    message_id: str | None = None
    token: str | None = None
    dedupe_key: str = field(default="", repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class InboundEvent:
    """An inbound mail that Postal has delivered to the app.

    :param message: The mail.
    :param id: Postal's number of the mail, unique within one mail server.
    :param token: Postal's token of the mail; ``None`` in the RawMessage formats.
    :param timestamp: When Postal received the mail, as an aware datetime in UTC;
        ``None`` in the RawMessage formats.
    :param format: The format of Postal's request: ``"raw-json"``, ``"raw-form"``,
        ``"hash-json"`` or ``"hash-form"``.
    :param digest: Returns a digest of the mail, which identifies a mail without token.
    """

    message: InboundMessage
    id: int | None = None
    token: str | None = None
    timestamp: datetime | None = None
    format: str = "raw-json"
    digest: Callable[[], str] = field(default=str, repr=False, compare=False)

    @property
    def dedupe_key(self) -> str:
        """A string that is the same for each delivery of one mail.

        It is the token or, in the RawMessage formats, the number and a digest.
        """
        return self.token or f"{self.id}:{self.digest()}"
