"""Incoming mail: posts it to the app, and reports and bounces as Postal does."""

from __future__ import annotations

from typing import Any

from ..vocabulary import BY_STATUS
from .clock import Clock
from .endpoint import inbound_request, receive_headers
from .mailbox import Mailbox, describe_mail, new_message_id
from .outgoing import OutgoingMail
from .records import Attempt, Mail, WebhookRequest
from .verdicts import Verdict
from .webhook_sender import WebhookSender

__all__ = ["MAX_MAIL", "IncomingMail"]

#: Maximum size of an email in bytes; Postal's SMTP server has a limit (14 MB) too.
MAX_MAIL = 25 * 1024 * 1024


class IncomingMail:
    """Handles the incoming mail of one sandbox."""

    def __init__(
        self,
        clock: Clock,
        mailbox: Mailbox,
        webhooks: WebhookSender,
        outgoing: OutgoingMail,
    ) -> None:
        self._clock = clock
        self._mailbox = mailbox
        self._webhooks = webhooks
        self._outgoing = outgoing
        webhooks.inbound_answered = self._report

    def receive(
        self,
        raw: bytes,
        *,
        recipient: str,
        sender: str | None,
        format: str = "raw-json",
        strip_replies: bool = False,
        spam: bool = False,
        client: str = "127.0.0.1",
    ) -> WebhookRequest:
        """Store an email from outside, and post it to the app now.

        :param recipient: The envelope recipient.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param client: The IP address of the server that it came from.
        :raises ValueError: for an unknown format, or an email of over 25 MB.
        """
        if len(raw) > MAX_MAIL:
            raise ValueError(
                f"the mail has {len(raw):,} bytes; at most {MAX_MAIL:,} are accepted"
            )
        top = receive_headers(self._clock.now(), spam=spam, client=client)
        mail = self._mailbox.add_incoming(top + raw, recipient=recipient, sender=sender)
        return self.post(mail, format, strip_replies=strip_replies)

    def post(
        self, mail: Mail, format: str, *, strip_replies: bool = False
    ) -> WebhookRequest:
        """Post stored incoming mail to the app now."""
        body, media_type = inbound_request(mail, format, strip_replies=strip_replies)
        return self._webhooks.post("inbound", format, media_type, body, mail)

    def _report(self, mail: Mail, attempt: Attempt, verdict: Verdict) -> None:
        """Report the app's response as a tracking event, as Postal does.

        Postal reports incoming mail with the same events as outgoing mail, with the
        direction "incoming".
        """
        status = {"taken": "Sent", "pending": "SoftFail"}.get(verdict.state, "HardFail")
        details = f"Received a {attempt.status} from {attempt.url}"
        if verdict.bounces and mail.sender and not mail.bounce:
            bounce = self._bounce_to_author(mail)
            details += (
                f". Sent bounce message to sender (see message <msg:{bounce.id}>)"
            )
        payload: dict[str, Any] = {
            "message": describe_mail(mail),
            **self._mailbox.note_delivery(
                mail, status, details, attempt.answer, attempted=True
            ),
        }
        self._webhooks.report(str(BY_STATUS[status].name), payload, mail)

    def _bounce_to_author(self, mail: Mail) -> Mail:
        message_id = new_message_id()
        subject = f"Mail Delivery Failed ({mail.subject or ''})"
        text = (
            "From: Mail Delivery Service <postmaster@sandbox.localhost>\r\n"
            f"To: {mail.sender}\r\n"
            f"Subject: {subject}\r\n"
            f"Message-ID: <{message_id}>\r\n"
            "Auto-Submitted: auto-replied\r\n\r\n"
            f"Your message to {mail.recipient} could not be delivered.\r\n"
        )
        (bounce,) = self._outgoing.accept(
            [mail.sender or ""],
            text.encode("utf-8", "replace"),
            sender=None,
            subject=subject,
            message_id=message_id,
            tag=None,
            bounce=True,
            bounce_for_id=mail.id,
        )
        return bounce
