"""The messages that the help desk sends, and the addresses for replies to them."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import timedelta
from pathlib import Path

from flask import current_app
from sqlalchemy import func, or_, select

from flask_postal import Message, PostalError, SendError

from . import postal
from .models import Contact, Entry, Ticket, db, now

__all__ = [
    "MAX_CONFIRMED",
    "confirm",
    "may_confirm",
    "reply_address",
    "send_answer",
    "ticket_number",
]

#: Maximum number of confirmations that one mailbox gets in an hour.
MAX_CONFIRMED = 5
LOGO = Path(__file__).parent / "static" / "logo.png"
_ADDRESS = re.compile(r"ticket\+(\d{1,9})\.([0-9a-f]{16})@", re.IGNORECASE)


def reply_address(ticket: Ticket) -> str:
    """Return the reply address of a ticket, such as ``ticket+7.1f..@example.com``."""
    domain = current_app.config["MAIL_DOMAIN"]
    return f"ticket+{ticket.id}.{_signature(ticket.id)}@{domain}"


def ticket_number(address: str) -> int | None:
    """Return the number of the ticket that a reply address belongs to.

    :returns: ``None`` if it isn't a reply address.
    :raises ValueError: if it looks like one but its signature is missing or wrong.
    """
    found = _ADDRESS.match(address)
    if found is None:
        if address.lower().startswith("ticket+"):
            raise ValueError("no such address")
        return None
    number = int(found[1])
    if not hmac.compare_digest(found[2].lower(), _signature(number)):
        raise ValueError("the signature is wrong")
    return number


def _signature(number: int) -> str:
    key = str(current_app.config["SECRET_KEY"]).encode()
    return hmac.new(key, b"ticket %d" % number, hashlib.sha256).hexdigest()[:16]


def _send_confirmation(ticket: Ticket) -> Entry:
    """Tell the author of a new ticket that we have received it."""
    message = _message(
        ticket, f"We have your message: {ticket.subject}", "mail/confirmation"
    )
    message.tags = ["confirmation"]
    # Asks programs, such as out-of-office replies, not to answer.
    message.extra_headers["Auto-Submitted"] = "auto-generated"
    entry = Entry(
        author="Help desk",
        is_ours=True,
        is_automatic=True,
        text="We have your message, and will answer it as soon as we can.",
    )
    return _send(ticket, message, entry)


def may_confirm(ticket: Ticket) -> bool:
    """Return whether the author of a new ticket may get a confirmation.

    One mailbox gets at most :data:`MAX_CONFIRMED` in an hour, for tickets by mail and
    by the contact form together. Otherwise two programs could answer each other for
    ever, and anybody could use the form to flood somebody else's mailbox.
    """
    # Ignore what follows a "+": another help desk uses a different address for each
    # ticket, such as ticket+18.4f58@other.example, but all belong to one mailbox.
    local, _, domain = ticket.contact.email.rpartition("@")
    mailbox = local.partition("+")[0]
    recent = (
        select(func.count(Ticket.id))
        .join(Contact)
        .where(
            or_(
                Contact.email == f"{mailbox}@{domain}",
                Contact.email.startswith(f"{mailbox}+", autoescape=True)
                & Contact.email.endswith(f"@{domain}", autoescape=True),
            ),
            Ticket.changed > now() - timedelta(hours=1),
        )
    )
    # The new ticket itself is counted too.
    return (db.session.scalar(recent) or 0) <= MAX_CONFIRMED


def confirm(ticket: Ticket) -> str | None:
    """Send a confirmation, and keep the ticket even if that fails.

    :returns: An error message for the author of the ticket; ``None`` on success.
    """
    try:
        _send_confirmation(ticket)
    except PostalError as error:
        current_app.logger.warning("ticket %d is not confirmed: %s", ticket.id, error)
        unsure = isinstance(error, SendError) and error.maybe_sent
        may = "may not have been" if unsure else "could not be"
        ticket.problem = f"the confirmation {may} sent: {error}"[:500]
        db.session.commit()
        return f"We have your message. The confirmation mail {may} sent to you."
    return None


def send_answer(ticket: Ticket, text: str) -> Entry:
    """Send the answer that somebody at the desk wrote."""
    message = _message(ticket, f"Re: {ticket.subject}", "mail/answer", text=text)
    message.tags = ["answer"]
    last = next((e for e in reversed(ticket.entries) if e.message_id), None)
    if last is not None:
        message.extra_headers["In-Reply-To"] = f"<{last.message_id}>"
        message.extra_headers["References"] = f"<{last.message_id}>"
    entry = Entry(author="Help desk", is_ours=True, text=text)
    return _send(ticket, message, entry)


def _message(ticket: Ticket, subject: str, template: str, **context: str) -> Message:
    message = Message(
        subject,
        [(ticket.contact.name, ticket.contact.email)],
        reply_to=("Help desk", reply_address(ticket)),
        template=template,
    )
    logo = message.embed("logo.png", "image/png", LOGO.read_bytes())
    message.context = {"ticket": ticket, "logo": logo, **context}
    return message


def _send(ticket: Ticket, message: Message, entry: Entry) -> Entry:
    """Send a message and store it with the ticket.

    :raises PostalError: if sending failed. Nothing is stored then.
    """
    result = postal.send(message)
    (sent,) = result.recipients.values()
    entry.postal_id, entry.token = sent.id, sent.token
    entry.message_id = result.message_id
    ticket.entries.append(entry)
    ticket.problem = None
    db.session.commit()
    return entry
