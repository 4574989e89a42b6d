"""Records in the sandbox's store: messages, webhook requests, attempts and jobs."""

from __future__ import annotations

import json
import re
from dataclasses import dataclass, field
from typing import Any

from ..webhooks.mail.message import InboundMessage
from .mail_reader import read_mail

__all__ = ["Attempt", "Job", "Mail", "WebhookRequest"]

# Matches the headers with the result of the spam check, which Postal puts on top of
# incoming mail and does not count in its size.
_VERDICT = re.compile(rb"(?:X-Postal-[^\r\n]*\r\n)+")


@dataclass(frozen=True, slots=True)
class Mail:
    """Message to one recipient, as the sandbox stores it.

    Postal stores a message once per recipient, each with its own id and token.

    :param token: Postal's token, 16 characters.
    :param direction: ``"outgoing"`` or ``"incoming"``.
    :param message_id: The Message-ID, without angle brackets.
    :param recipient: The envelope recipient.
    :param sender: The envelope sender; ``None`` for ``<>``.
    :param subject: The first 200 characters of the subject.
    :param timestamp: When it was accepted, in seconds since 1970.
    :param bounce: Whether it is a bounce.
    :param bounce_for_id: The id of the message that bounced; 0 if none.
    :param status: One of Postal's: ``Pending``, ``Sent``, ``SoftFail``, ``HardFail``,
        ``Held``, ``Bounced`` and others; see :mod:`flask_postal.vocabulary`.
    :param last_attempt: When delivery was last attempted, in seconds since 1970.
    :param raw: The message in MIME, as the sandbox accepted it.
    :param delivered: The message in MIME as it was delivered, with tracked links;
        ``None`` before the first attempt.
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
        """The parsed message, with ``.text``, ``.html``, ``.attachments`` and so on."""
        return read_mail(self.raw)

    @property
    def size(self) -> int:
        """The size in bytes, without the headers that Postal adds to incoming mail."""
        verdict = _VERDICT.match(self.raw) if self.direction == "incoming" else None
        return len(self.raw) - (verdict.end() if verdict else 0)

    @property
    def spam_status(self) -> str:
        """Postal's result of the spam check, which it does for incoming mail only."""
        if self.direction == "outgoing" or self.bounce_for_id:
            return "NotChecked"
        return "Spam" if self.content.spam_detected else "NotSpam"

    @property
    def delivered_content(self) -> InboundMessage:
        """The parsed message as its recipient gets it, with tracked links and pixel."""
        return read_mail(self.delivered or self.raw)


@dataclass(frozen=True, slots=True)
class Attempt:
    """One attempt to post a webhook request, and the app's response.

    :param timestamp: Seconds since 1970.
    :param url: The URL, without a password.
    :param status: The HTTP status; negative if there was no response.
    :param answer: The first 250 characters of the response body, or of the error.
    :param verdict: What Postal does after such a response, in words.
    """

    timestamp: float
    url: str
    status: int
    answer: str
    verdict: str


@dataclass(frozen=True, slots=True)
class WebhookRequest:
    """Request to one of the app's webhooks, with all attempts to post it.

    :param mail_id: The id of the message it is about; ``None`` for none.
    :param hook: ``"tracking"`` or ``"inbound"``.
    :param event: Postal's name of the event, such as ``"MessageSent"``; the format for
        inbound mail.
    :param body: The body, the same in each attempt.
    :param created: Seconds since 1970.
    :param state: ``pending``, ``taken`` (the app answered 2xx), ``lost`` (Postal has
        given up) or ``dropped`` (by a fault).
    :param secret: Whether it carries the webhook secret. Requests of another tenant
        don't.
    :param url: The URL that attempts are posted to; ``None`` for the URL that is set
        when the attempt is made.
    :param attempts: The attempts so far, oldest first.
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
        """The payload of a tracking event; empty for other bodies."""
        try:
            content = json.loads(self.body) if self.hook == "tracking" else None
        except ValueError:
            content = None
        payload = content.get("payload") if isinstance(content, dict) else None
        return payload if isinstance(payload, dict) else {}

    @property
    def recipient(self) -> str | None:
        """The recipient of the message that the event is about, if there is one."""
        payload = self.payload
        message = payload.get("message") or payload.get("original_message")
        recipient = message.get("to") if isinstance(message, dict) else None
        return recipient if isinstance(recipient, str) else None


@dataclass(frozen=True, slots=True)
class Job:
    """Job of the schedule.

    :param due: When to run it, in seconds since 1970.
    :param name: The name of its worker; see :meth:`.Schedule.register`.
    :param arguments: The keyword arguments of the worker.
    """

    id: int
    due: float
    name: str
    arguments: dict[str, Any]
