"""The mails the help desk sends, and the addresses that answers come back to."""

from __future__ import annotations

import hashlib
import hmac
import re
from pathlib import Path

from flask import current_app

from flask_postal import Message

from . import postal
from .models import Entry, Ticket, db

__all__ = ["reply_address", "send_answer", "send_confirmation", "ticket_number"]

LOGO = Path(__file__).parent / "static" / "logo.png"
_ADDRESS = re.compile(r"ticket\+(\d{1,9})\.([0-9a-f]{16})@", re.IGNORECASE)


def reply_address(ticket: Ticket) -> str:
    """Return the address that belongs to a ticket: ``ticket+7.1f..@example.com``."""
    domain = current_app.config["MAIL_DOMAIN"]
    return f"ticket+{ticket.id}.{_signature(ticket.id)}@{domain}"


def ticket_number(address: str) -> int | None:
    """Read the number of a ticket from an address.

    :raises ValueError: if it looks like one of ours and its signature is wrong.
    """
    found = _ADDRESS.match(address)
    if found is None:
        if address.lower().startswith("ticket+"):
            raise ValueError("not an address of ours")
        return None
    number = int(found[1])
    if not hmac.compare_digest(found[2].lower(), _signature(number)):
        raise ValueError("the signature is wrong")
    return number


def _signature(number: int) -> str:
    key = str(current_app.config["SECRET_KEY"]).encode()
    return hmac.new(key, b"ticket %d" % number, hashlib.sha256).hexdigest()[:16]


def send_confirmation(ticket: Ticket) -> Entry:
    """Tell the author of a new ticket that it has arrived."""
    message = _message(
        ticket, f"We have your message: {ticket.subject}", "mail/confirmation"
    )
    message.tags = ["confirmation"]
    # Nobody's out-of-office note answers this.
    message.extra_headers["Auto-Submitted"] = "auto-generated"
    entry = Entry(
        author="Help desk",
        is_ours=True,
        is_automatic=True,
        text="We have your message, and will answer it as soon as we can.",
    )
    return _send(ticket, message, entry)


def send_answer(ticket: Ticket, text: str) -> Entry:
    """Send an answer that somebody at the desk wrote."""
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
    """Send a mail and store it with the ticket.

    :raises PostalError: if it was not sent; nothing is stored then.
    """
    result = postal.send(message)
    (sent,) = result.recipients.values()
    entry.postal_id, entry.token = sent.id, sent.token
    entry.message_id = result.message_id
    ticket.entries.append(entry)
    db.session.commit()
    return entry
