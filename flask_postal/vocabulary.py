"""The table of Postal's webhook events and delivery statuses.

The webhook parser, the API client, the sandbox and its page, the CLI and the
documentation all use this table. To support a new event of Postal's, add a row to
:data:`EVENTS`. Where several events have the same event type, that word alone means the
first of them, and the others need an alias.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from types import MappingProxyType
from typing import Any, Literal

__all__ = [
    "BY_NAME",
    "BY_STATUS",
    "EVENTS",
    "MESSAGE_EVENTS",
    "SERVER_EVENTS",
    "EventType",
    "PostalEvent",
    "find_event",
    "known_events",
    "names_of",
]


class EventType(StrEnum):
    """What happened to a mail. The values are those of django-anymail."""

    QUEUED = "queued"  #: Postal holds the mail; see ``hold_reason``.
    DELIVERED = "delivered"  #: The recipient's server accepted the mail.
    DEFERRED = "deferred"  #: A temporary failure; Postal retries up to 18 times.
    FAILED = "failed"  #: A permanent failure; see ``reject_reason``.
    BOUNCED = "bounced"  #: Accepted at first, and later returned by a bounce mail.
    OPENED = "opened"  #: The tracking pixel was loaded.
    CLICKED = "clicked"  #: A tracked link was clicked.
    COMPLAINED = "complained"  #: Reported as spam; from a feedback report, not Postal.
    UNKNOWN = "unknown"  #: An event that this version doesn't know; see ``esp_event``.


@dataclass(frozen=True, slots=True, kw_only=True)
class PostalEvent:
    """A webhook event or a delivery status of Postal, or both.

    :param name: The name of the event in webhooks; ``None`` for a status that no
        webhook reports.
    :param status: The status of the delivery that Postal records with the event;
        ``None`` if it records none.
    :param event_type: The type of the event as receivers see it.
    :param alias: Another name for it in the sandbox and the CLI.
    :param about: Whether it concerns one message or the whole mail server.
    :param meaning: What happened, for documentation and tooltips.
    :param attributes: The event's attributes with more details, for documentation.
    :param tone: The colour on the sandbox's page.
    :param attempted: Whether there was an SMTP session with the recipient's server.
    :param details: A sample of Postal's description; ``{to}`` is replaced by the
        recipient.
    :param output: A sample of the remote server's reply.
    :param payload: A sample of the payload of a server event, without ``server``.
    """

    name: str | None
    status: str | None = None
    event_type: EventType = EventType.UNKNOWN
    alias: str | None = None
    about: Literal["message", "server"] = "message"
    meaning: str = ""
    attributes: str = ""
    tone: Literal["good", "wait", "bad", "calm"] = "bad"
    attempted: bool = False
    details: str = ""
    output: str = ""
    payload: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def word(self) -> str:
        """The shortest name of the event: its alias, event type or Postal's name."""
        if self.alias is not None:
            return self.alias
        if self.about == "server":
            return str(self.name)
        return str(self.event_type)


_HOST = "sandbox.localhost (127.0.0.1)"

EVENTS: tuple[PostalEvent, ...] = (
    PostalEvent(
        name="MessageSent",
        status="Sent",
        event_type=EventType.DELIVERED,
        meaning="the recipient's server accepted the mail",
        attributes="`mta_response`, `smtp_code`",
        tone="good",
        attempted=True,
        details=f"Message for {{to}} accepted by {_HOST}",
        output="250 2.0.0 OK queued",
    ),
    PostalEvent(
        name="MessageDelayed",
        status="SoftFail",
        event_type=EventType.DEFERRED,
        meaning="a temporary failure; Postal retries up to 18 times",
        attributes="`mta_response`, `smtp_code`",
        tone="wait",
        attempted=True,
        details=f"Temporary SMTP delivery error when sending to {_HOST}",
        output="450 4.2.0 Greylisted, try again later",
    ),
    PostalEvent(
        name="MessageDeliveryFailed",
        status="HardFail",
        event_type=EventType.FAILED,
        meaning="a permanent failure; Postal has given up",
        attributes="`reject_reason`: invalid, bounced, timed_out, blocked, spam, other",
        attempted=True,
        details=f"Permanent SMTP delivery error when sending to {_HOST}",
        output="550 5.1.1 No such user <{to}> here",
    ),
    PostalEvent(
        name="MessageHeld",
        status="Held",
        event_type=EventType.QUEUED,
        alias="held",
        meaning="Postal holds the mail until somebody releases it",
        attributes="`hold_reason`: suppressed, credential, development, send_limit,"
        " suspended, spam, other",
        tone="wait",
        details="Server is in development mode.",
    ),
    PostalEvent(
        name="MessageBounced",
        status="Bounced",
        event_type=EventType.BOUNCED,
        meaning="the mail was accepted, and returned by a bounce mail later",
        attributes="`bounce`, Postal's dict of the bounce mail",
    ),
    PostalEvent(
        name="MessageLoaded",
        event_type=EventType.OPENED,
        meaning="the tracking pixel was loaded",
        attributes="`ip_address`, `user_agent`",
        tone="good",
    ),
    PostalEvent(
        name="MessageLinkClicked",
        event_type=EventType.CLICKED,
        meaning="a tracked link was clicked",
        attributes="`click_url`, `ip_address`, `user_agent`",
        tone="good",
    ),
    PostalEvent(
        name="DomainDNSError",
        about="server",
        meaning="the DNS records of a sending domain are wrong",
        attributes="`domain`, `problems`",
        payload={
            "domain": "example.com",
            "uuid": "5a9d0b0c-0000-4000-8000-0000000000bb",
            "dns_checked_at": None,
            "spf_status": "Missing",
            "spf_error": "No SPF record exists for this domain",
            "dkim_status": "OK",
            "dkim_error": None,
            "mx_status": "Missing",
            "mx_error": "There are no MX records for example.com",
            "return_path_status": "OK",
            "return_path_error": None,
        },
    ),
    PostalEvent(
        name="SendLimitApproaching",
        about="server",
        meaning="the mail server has nearly reached its send limit",
        attributes="`volume`, `limit`",
        payload={"volume": 90, "limit": 100},
    ),
    PostalEvent(
        name="SendLimitExceeded",
        about="server",
        meaning="the mail server has reached its send limit and holds further mail",
        attributes="`volume`, `limit`",
        payload={"volume": 100, "limit": 100},
    ),
    # ---- statuses that no webhook reports
    PostalEvent(
        name=None,
        status="Pending",
        event_type=EventType.QUEUED,
        meaning="Postal has accepted the message and not yet tried to deliver it",
        tone="calm",
    ),
    PostalEvent(
        name=None,
        status="HoldCancelled",
        event_type=EventType.QUEUED,
        meaning="somebody released a held mail",
        tone="calm",
    ),
    PostalEvent(
        name=None,
        status="Error",
        event_type=EventType.DEFERRED,
        meaning="Postal failed at the mail itself and retries",
        tone="wait",
        details="An internal error occurred while sending this message. This message"
        " will be retried automatically.",
        output="Mysql2::Error: Data too long for column 'tag' at row 1",
    ),
    PostalEvent(
        name=None,
        status="Processed",
        event_type=EventType.DELIVERED,
        meaning="an incoming mail, such as a bounce, has been dealt with",
        tone="good",
    ),
)

#: The webhook events about one message, in the order of the table.
MESSAGE_EVENTS: tuple[PostalEvent, ...] = tuple(
    event for event in EVENTS if event.name is not None and event.about == "message"
)
#: The webhook events about the mail server.
SERVER_EVENTS: tuple[PostalEvent, ...] = tuple(
    event for event in EVENTS if event.about == "server"
)
#: Rows by Postal's name of the event.
BY_NAME: Mapping[str, PostalEvent] = MappingProxyType(
    {event.name: event for event in EVENTS if event.name is not None}
)
#: Rows by Postal's status of the delivery.
BY_STATUS: Mapping[str, PostalEvent] = MappingProxyType(
    {event.status: event for event in EVENTS if event.status is not None}
)
_BY_WORD: Mapping[str, PostalEvent] = MappingProxyType(
    {
        **{str(event.event_type): event for event in MESSAGE_EVENTS},
        # Again, so that the first event of a type wins.
        **{str(event.event_type): event for event in reversed(MESSAGE_EVENTS)},
        **{event.alias: event for event in EVENTS if event.alias is not None},
        **BY_NAME,
    }
)


def find_event(word: str) -> PostalEvent | None:
    """Look up an event by any of its names.

    :param word: Postal's name (``"MessageSent"``), an event type (``"delivered"``) or
        an alias (``"held"``).
    :returns: The row, or ``None`` if there is no such event.
    """
    return _BY_WORD.get(word)


def names_of(word: str) -> frozenset[str]:
    """Return Postal's names of the events that a word stands for.

    That is one for a name or an alias, and all events of the type for an event type;
    for an unknown word it is the word itself.
    """
    names = {
        str(event.name) for event in MESSAGE_EVENTS if str(event.event_type) == word
    }
    event = find_event(word)
    return frozenset(names or {str(event.name) if event is not None else word})


def known_events() -> str:
    """Return the names that :func:`find_event` accepts, for error messages."""
    return ", ".join(_BY_WORD)
