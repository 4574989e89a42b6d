"""The messages that the help desk sends, and the addresses for replies to them."""

from __future__ import annotations

import hashlib
import hmac
import re
from datetime import timedelta
from pathlib import Path

from flask import current_app
from sqlalchemy import func, or_, select

from flask_postal import Message

from . import postal
from .models import Contact, Entry, Ticket, db, now

__all__ = [
    "MAX_CONFIRMED",
    "answer",
    "confirm",
    "may_confirm",
    "reply_address",
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


def confirm(ticket: Ticket) -> None:
    """Tell the author of a new ticket that we have received it."""
    message = _message(
        ticket, f"We have your message: {ticket.subject}", "mail/confirmation"
    )
    message.tags = ["confirmation"]
    # Asks programs, such as out-of-office replies, not to answer.
    message.extra_headers["Auto-Submitted"] = "auto-generated"
    text = "We have your message, and will answer it as soon as we can."
    entry = Entry(author="Help desk", is_ours=True, is_automatic=True, text=text)
    _enqueue(ticket, message, entry)


def answer(ticket: Ticket, text: str) -> None:
    """Send the answer that somebody at the desk wrote.

    :raises MessageError: if no mail can be sent to the author of the ticket.
    """
    message = _message(ticket, f"Re: {ticket.subject}", "mail/answer", text=text)
    message.tags = ["answer"]
    last = next((e for e in reversed(ticket.entries) if e.message_id), None)
    if last is not None:
        message.extra_headers["In-Reply-To"] = f"<{last.message_id}>"
        message.extra_headers["References"] = f"<{last.message_id}>"
    _enqueue(ticket, message, Entry(author="Help desk", is_ours=True, text=text))


def _message(ticket: Ticket, subject: str, template: str, **context: str) -> Message:
    db.session.flush()  # gives a new ticket its number
    message = Message(
        subject,
        [(ticket.contact.name, ticket.contact.email)],
        reply_to=("Help desk", reply_address(ticket)),
        template=template,
        metadata={"contact": ticket.contact_id},  # events about the mail bring it back
    )
    logo = message.embed("logo.png", "image/png", LOGO.read_bytes())
    message.context = {"ticket": ticket, "logo": logo, **context}
    return message


def _enqueue(ticket: Ticket, message: Message, entry: Entry) -> None:
    """Add a mail to the ticket. It is sent after the caller's commit."""
    record = postal.enqueue(message)
    entry.mail_id, entry.message_id = record.id, record.message_id
    ticket.entries.append(entry)
