"""Creates the stored messages and delivery records that Postal would create."""

from __future__ import annotations

import random
import string
import uuid
from typing import Any

from ..sending.result import new_token
from .clock import Clock
from .mail_reader import PostalMail
from .records import Mail
from .store import Store
from .webhook_bodies import message_payload

__all__ = ["Mailbox", "describe_mail", "new_message_id"]


class Mailbox:
    """Creates messages and delivery records in the store of one sandbox.

    :param store: Where they are stored.
    :param clock: The sandbox's clock, which their timestamps are read from.
    """

    def __init__(self, store: Store, clock: Clock) -> None:
        self._store = store
        self._clock = clock

    def add(self, raw: bytes, *, subject: str | None, **values: Any) -> Mail:
        """Store a message for one recipient, with a new token and status Pending.

        :param raw: The message in MIME.
        :param subject: The subject, of which Postal stores 200 characters.
        :param values: The other fields of a :class:`.Mail`; ``direction``,
            ``recipient``, ``sender`` and ``message_id`` are required.
        """
        return self._store.add_mail(
            **{"tag": None, "bounce": False, "bounce_for_id": 0, **values},
            token=new_token(),
            subject=subject[:200] if subject else subject,
            timestamp=self._clock.now(),
            status="Pending",
            raw=raw,
        )

    def add_incoming(
        self,
        raw: bytes,
        *,
        recipient: str,
        sender: str | None,
        bounce: bool = False,
        bounce_for_id: int = 0,
    ) -> Mail:
        """Store incoming mail; its subject and Message-ID are read from its headers."""
        message = PostalMail(raw)
        return self.add(
            raw,
            direction="incoming",
            recipient=recipient,
            sender=sender,
            subject=message.header("subject") or None,
            message_id=message.message_id,
            bounce=bounce,
            bounce_for_id=bounce_for_id,
        )

    def last_to(self, recipient: str | None) -> Mail:
        """Return the last message to a recipient; create a sample if there is none.

        :param recipient: ``None`` for the last message to anybody.
        """
        for mail in reversed(self._store.mails()):
            if mail.direction == "outgoing" and recipient in (None, mail.recipient):
                return mail
        recipient, message_id = recipient or "ana@example.com", new_message_id()
        text = (
            f"To: {recipient}\r\nSubject: Made up\r\nMessage-ID: <{message_id}>\r\n"
            "\r\nHi\r\n"
        )
        return self.add(
            text.encode("utf-8", "replace"),
            direction="outgoing",
            recipient=recipient,
            sender="app@example.com",
            subject="Made up",
            message_id=message_id,
        )

    def note_delivery(
        self, mail: Mail, status: str, details: str, output: str, *, attempted: bool
    ) -> dict[str, Any]:
        """Store a delivery record, and set the status of the message.

        Postal cuts details and output at 250 characters.

        :param status: Postal's status, such as ``"Sent"``.
        :param details: Postal's own words about the delivery.
        :param output: The response of the other server.

        :param attempted: Whether there was an SMTP or HTTP exchange, for which Postal
            stores a duration and a log id.
        :returns: The fields about the delivery for the payload of an event.
        """
        now = self._clock.now()
        took = round(random.uniform(0.01, 0.09), 2) if attempted else None  # noqa: S311
        alphabet = string.ascii_uppercase + string.digits
        log_id = "".join(random.choices(alphabet, k=8)) if attempted else None  # noqa: S311
        self._store.add_delivery(
            mail_id=mail.id,
            status=status,
            details=details[:250],
            output=output[:250] or None,
            sent_with_ssl=False,
            log_id=log_id,
            time=took,
            timestamp=now,
        )
        self._store.update_mail(mail.id, status=status, last_attempt=now)
        return {
            "status": status,
            "details": details[:250],
            "output": output[:250],
            "sent_with_ssl": False if attempted else None,
            "timestamp": now,
            "time": took,
        }


def describe_mail(mail: Mail) -> dict[str, Any]:
    """Build the dict that describes a message in the payload of webhooks."""
    return message_payload(
        id=mail.id,
        token=mail.token,
        message_id=mail.message_id,
        to=mail.recipient,
        sender=mail.sender,
        subject=mail.subject,
        timestamp=mail.timestamp,
        tag=mail.tag,
        direction=mail.direction,
        spam_status=mail.spam_status,
    )


def new_message_id() -> str:
    """Generate a Message-ID like Postal's, without angle brackets."""
    return f"{uuid.uuid4()}@rp.sandbox.localhost"
