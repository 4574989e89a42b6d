"""The messages that the help desk sends, and the addresses for replies to them."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

from flask import current_app
from sqlalchemy import func, or_, select

import flask_postal
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


def reply_address(ticket: Ticket) -> str:
    """Return the reply address of a ticket, such as ``ticket+7.1f..@example.com``."""
    return flask_postal.reply_address(ticket.id, _tickets())


def ticket_number(address: str) -> int | None:
    """Return the number of the ticket that a reply address belongs to.

    :returns: ``None`` if it isn't a reply address.
    :raises ValueError: if it looks like one but its signature is missing or wrong.
    """
    key = flask_postal.read_reply_address(address, _tickets())
    return None if key is None else int(key)


def _tickets() -> str:
    return f"ticket@{current_app.config['MAIL_DOMAIN']}"


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
    message = _reply(ticket, "mail/confirmation", automatic=True)
    message.subject = f"We have your message: {ticket.subject}"
    message.tags = ["confirmation"]
    text = "We have your message, and will answer it as soon as we can."
    entry = Entry(author="Help desk", is_ours=True, is_automatic=True, text=text)
    _enqueue(ticket, message, entry)


def answer(ticket: Ticket, text: str) -> None:
    """Send the answer that somebody at the desk wrote.

    :raises MessageError: if no mail can be sent to the author of the ticket.
    """
    message = _reply(ticket, "mail/answer", text=text)
    message.tags = ["answer"]
    _enqueue(ticket, message, Entry(author="Help desk", is_ours=True, text=text))


def _reply(
    ticket: Ticket, template: str, *, automatic: bool = False, **context: str
) -> Message:
    db.session.flush()  # gives a new ticket its number
    message = flask_postal.reply(
        None,
        to=[(ticket.contact.name, ticket.contact.email)],
        subject=ticket.subject,
        references=[e.message_id for e in ticket.entries if e.message_id],
        automatic=automatic,
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
