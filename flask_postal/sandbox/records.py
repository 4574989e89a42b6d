"""The records of the sandbox: mails, webhook requests, attempts and jobs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ..webhooks.mail.message import InboundMessage
from .mail_reader import read_mail

__all__ = ["Attempt", "Job", "Mail", "WebhookRequest"]

# Postal puts the result of its spam check on top of an incoming mail, and does not
# count these headers in the mail's size.
_VERDICT = re.compile(rb"(?:X-Postal-[^\r\n]*\r\n)+")


@dataclass(frozen=True, slots=True)
class Mail:
    """A mail, for one recipient.

    :param recipient: The envelope recipient.
    :param sender: The envelope sender; ``None`` for ``<>``.
    :param status: One of Postal's: ``Pending``, ``Sent``, ``SoftFail``, ``HardFail``,
        ``Held``, ``Bounced`` and others; see :mod:`flask_postal.vocabulary`.
    :param raw: The mail as it was given to the sandbox.
    :param delivered: The mail as it was delivered, with tracking put in.
    """

    id: int
    token: str
    direction: str
    message_id: str | None
    recipient: str
    sender: str | None
    subject: str | None
    timestamp: float
    tag: str | None
    bounce: bool
    bounce_for_id: int
    status: str
    last_attempt: float | None
    raw: bytes = field(repr=False)
    delivered: bytes | None = field(repr=False)

    @property
    def content(self) -> InboundMessage:
        """The mail, read: ``.text``, ``.html``, ``.attachments``, ``.headers`` ..."""
        return read_mail(self.raw)

    @property
    def size(self) -> int:
        """The bytes that came in, without what Postal puts on top later."""
        verdict = _VERDICT.match(self.raw) if self.direction == "incoming" else None
        return len(self.raw) - (verdict.end() if verdict else 0)

    @property
    def spam_status(self) -> str:
        """What Postal says about spam; it looks at mail for the app only."""
        if self.direction == "outgoing" or self.bounce_for_id:
            return "NotChecked"
        return "Spam" if self.content.spam_detected else "NotSpam"

    @property
    def delivered_content(self) -> InboundMessage:
        """The mail as its recipient gets it, with tracked links and the pixel."""
        return read_mail(self.delivered or self.raw)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One call of a webhook.

    :param status: The HTTP status; negative if there was no answer.
    :param answer: The beginning of the answer's body, or what went wrong.
    :param verdict: What Postal makes of it.
    """

    timestamp: float
    url: str
    status: int
    answer: str
    verdict: str


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """A request to one of the app's webhooks.

    :param hook: ``"tracking"`` or ``"inbound"``.
    :param event: Postal's name of the event, such as ``"MessageSent"``; the format for
        inbound mail.
    :param state: ``pending``, ``taken``, ``lost`` (Postal has given up) or ``dropped``.
    :param attempts: How the app answered so far.
    """

    id: int
    mail_id: int | None
    hook: str
    event: str
    content_type: str
    body: bytes = field(repr=False)
    created: float = 0.0
    state: str = "pending"
    secret: bool = True
    url: str | None = None
    attempts: tuple[Attempt, ...] = ()

    @property
    def payload(self) -> dict[str, Any]:
        """The payload of a tracking event; empty where the body holds none."""
        try:
            content = json.loads(self.body) if self.hook == "tracking" else None
        except ValueError:
            content = None
        payload = content.get("payload") if isinstance(content, dict) else None
        return payload if isinstance(payload, dict) else {}

    @property
    def recipient(self) -> str | None:
        """Whom the event is about."""
        payload = self.payload
        message = payload.get("message") or payload.get("original_message")
        recipient = message.get("to") if isinstance(message, dict) else None
        return recipient if isinstance(recipient, str) else None


@dataclass(frozen=True, slots=True)
class Job:
    """Something to do at a time."""

    id: int
    due: float
    name: str
    arguments: dict[str, Any]
