"""Outgoing mail: accepts messages, and applies the events of their scenarios."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from typing import Any

from ..sending.result import new_token
from ..vocabulary import BY_NAME, BY_STATUS, EventType, PostalEvent
from .clock import Clock
from .link_tracking import insert_tracking
from .mailbox import Mailbox, describe_mail, new_message_id
from .records import Mail, WebhookRequest
from .scenarios import scenario_for
from .schedule import Schedule
from .store import Store
from .webhook_sender import WebhookSender

__all__ = ["SERVER_TOKEN", "OutgoingMail"]

_log = logging.getLogger("flask_postal.sandbox")

#: Identifies the mail server in tracked links and return paths.
SERVER_TOKEN = "sndbox"  # noqa: S105


class OutgoingMail:
    """Handles the outgoing mail of one sandbox.

    :param url: Returns the sandbox's own URL, for tracked links. It is a function
        because the port is not known before the sandbox has started.
    :param tracking: Whether links are tracked and a pixel is added to HTML.
    :param changed: Called after each change that the sandbox's page shows.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        schedule: Schedule,
        mailbox: Mailbox,
        webhooks: WebhookSender,
        *,
        url: Callable[[], str],
        tracking: bool,
        changed: Callable[[], None],
    ) -> None:
        self._store = store
        self._clock = clock
        self._schedule = schedule
        self._mailbox = mailbox
        self._webhooks = webhooks
        self._url = url
        self._tracking = tracking
        self._changed = changed
        schedule.register("step", self._do_step)

    def accept(
        self,
        recipients: Sequence[str],
        raw: bytes,
        *,
        sender: str | None,
        subject: str | None,
        message_id: str | None,
        tag: str | None,
        bounce: bool = False,
        bounce_for_id: int = 0,
        broken: bool = False,
    ) -> list[Mail]:
        """Accept a message: store it once for each recipient, and plan its events.

        :param recipients: The envelope recipients.
        :param raw: The message in MIME.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param message_id: The Message-ID, without angle brackets.
        :param bounce: Whether the message is marked as a bounce.
        :param bounce_for_id: The id of the message that bounced; 0 if none.
        :param broken: Whether Postal's worker fails to process the message. It then
            ends in status Error, which no webhook reports.
        :returns: The stored message for each recipient.
        """
        mails = []
        for recipient in recipients:
            now = self._clock.now()
            mail = self._mailbox.add(
                raw,
                direction="outgoing",
                recipient=recipient,
                sender=sender,
                subject=subject,
                message_id=message_id,
                tag=tag,
                bounce=bounce,
                bounce_for_id=bounce_for_id,
            )
            mails.append(mail)
            _log.info("message %d to %s: %a", mail.id, ascii(recipient), subject)
            steps = scenario_for(recipient).steps
            if broken:
                due = now + steps[0].after
                self._schedule.plan(due, "step", mail=mail.id, event="Error")
                continue
            for step in steps:
                due = now + step.after
                self._schedule.plan(due, "step", mail=mail.id, event=step.event)
        self._changed()
        return mails

    def happen(
        self, mail: Mail, event: PostalEvent, **seen: Any
    ) -> WebhookRequest | None:
        """Apply an event to a message, and plan the webhook that reports it.

        :param seen: ``url``, ``ip_address`` and ``user_agent``, as for :meth:`note`.
        :returns: The planned request; ``None`` if no webhook reports the event, or no
            tracking URL is set.
        """
        payload = self.note(mail, event, **seen)
        if event.name is None:
            self._changed()
            return None
        return self._webhooks.report(event.name, payload, mail)

    def note(
        self,
        mail: Mail,
        event: PostalEvent,
        *,
        url: str | None = None,
        ip_address: str = "203.0.113.9",
        user_agent: str | None = "Mozilla/5.0 (Sandbox)",
    ) -> dict[str, Any]:
        """Apply an event to a message without reporting it.

        :param url: The link that was clicked; the first link of the message if not
            given.
        :param ip_address: The address of whoever opened the message or clicked.
        :returns: The payload of the event's webhook.
        """
        if event.event_type is EventType.BOUNCED:
            return self._note_bounce(mail)
        payload: dict[str, Any] = {"message": describe_mail(mail)}
        if event.status is not None:
            return payload | self._note_attempt(mail, event)
        if event.event_type not in (EventType.OPENED, EventType.CLICKED):
            return payload
        clicked = event.event_type is EventType.CLICKED
        seen = {"ip_address": ip_address, "user_agent": user_agent}
        if clicked:
            links = self._store.links(mail.id)
            token, known = links[0] if links else (new_token(), None)
            url = url or known or "https://example.com/"
            payload |= {"url": url, "token": token}
        self._store.add_activity(
            mail_id=mail.id,
            kind="click" if clicked else "load",
            url=url,
            timestamp=self._clock.now(),
            **seen,
        )
        return payload | seen

    def resend(self, mail: Mail) -> Mail:
        """Accept the same message again, which gives it a new id and token."""
        (again,) = self.accept(
            [mail.recipient],
            mail.raw,
            sender=mail.sender,
            subject=mail.subject,
            message_id=mail.message_id,
            tag=mail.tag,
        )
        return again

    def _do_step(self, mail: int, event: str) -> None:
        found = self._store.mail(mail)
        row = BY_NAME.get(event) or BY_STATUS.get(event)
        if found is not None and row is not None:
            self.happen(found, row)

    def _note_attempt(self, mail: Mail, event: PostalEvent) -> dict[str, Any]:
        if event.attempted and mail.delivered is None:
            self._store.update_mail(mail.id, delivered=self._delivered(mail))
        return self._mailbox.note_delivery(
            mail,
            str(event.status),
            event.details.format(to=mail.recipient),
            event.output.format(to=mail.recipient),
            attempted=event.attempted,
        )

    def _delivered(self, mail: Mail) -> bytes:
        """Return the MIME that leaves Postal, with tracked links and its own header."""
        raw = mail.raw

        def link(url: str) -> str:
            token = new_token()
            self._store.add_link(token, mail.id, url)
            return f"{self._url()}/{SERVER_TOKEN}/{token}"

        if self._tracking:
            pixel = f"{self._url()}/img/{SERVER_TOKEN}/{mail.token}"
            try:
                raw = insert_tracking(raw, link, pixel)
            except (RecursionError, LookupError, ValueError, TypeError):
                # The standard library can't parse every mail; deliver it unchanged.
                _log.warning("message %d can't be parsed; it is not tracked", mail.id)
        return f"X-Postal-MsgID: {mail.token}\r\n".encode() + raw

    def _note_bounce(self, mail: Mail) -> dict[str, Any]:
        """Store the bounce with which the recipient's server returned a message."""
        bounce = self._mailbox.add_incoming(
            _bounce_mail(mail.recipient),
            recipient=f"{SERVER_TOKEN}@rp.sandbox.localhost",
            sender=None,
            bounce=True,
            bounce_for_id=mail.id,
        )
        self._mailbox.note_delivery(
            bounce,
            "Processed",
            f"This has been detected as a bounce message for <msg:{mail.id}>.",
            "",
            attempted=False,
        )
        self._mailbox.note_delivery(
            mail,
            "Bounced",
            f"We've received a bounce message for this e-mail. See <msg:{bounce.id}>"
            " for details.",
            "",
            attempted=False,
        )
        return {
            "original_message": describe_mail(mail),
            "bounce": describe_mail(bounce),
        }


def _bounce_mail(recipient: str) -> bytes:
    """Return a bounce mail as Postfix writes it (RFC 3464)."""
    address = " ".join(recipient.split())
    reply = f"550 5.1.1 <{address}>: Recipient address rejected: User unknown"
    lines = [
        "From: Mail Delivery System <MAILER-DAEMON@sandbox.localhost>",
        f"To: {SERVER_TOKEN}@rp.sandbox.localhost",
        "Subject: Undelivered Mail Returned to Sender",
        f"Message-ID: <{new_message_id()}>",
        "Auto-Submitted: auto-replied",
        "MIME-Version: 1.0",
        "Content-Type: multipart/report; report-type=delivery-status; boundary=bounce",
        "",
        "--bounce",
        "Content-Type: text/plain; charset=utf-8",
        "",
        "This is the mail system of the sandbox. Your message could not be delivered.",
        "",
        f"<{address}>: {reply}",
        "",
        "--bounce",
        "Content-Type: message/delivery-status",
        "",
        "Reporting-MTA: dns; sandbox.localhost",
        "",
        f"Final-Recipient: rfc822; {address}",
        "Action: failed",
        "Status: 5.1.1",
        f"Diagnostic-Code: smtp; {reply}",
        "",
        "--bounce--",
        "",
    ]
    return "\r\n".join(lines).encode("utf-8", "replace")
