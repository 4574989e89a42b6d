"""Receivers for tracking events, server events and inbound mail.

None of them commits, or looks whether an event has come before: the ledger calls each
once, and commits what it has done in ``db.session``.
"""

from __future__ import annotations

from datetime import UTC, datetime
from typing import Any

from flask import Flask
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from flask_postal import (
    InboundEvent,
    InboundMessage,
    RejectMail,
    ServerEvent,
    TrackingEvent,
)

from .mail import confirm, may_confirm, ticket_number
from .models import Contact, Entry, File, Ticket, db, now
from .text import line, safe_html, text

__all__ = ["on_inbound", "on_server_event", "on_tracking", "open_ticket"]


def on_tracking(app: Flask, event: TrackingEvent, **extra: Any) -> None:
    """Mark the contact if mail to it came back, until mail arrives there again."""
    contact = db.session.get(Contact, event.metadata.get("contact", 0))
    if contact is None:
        return
    at = event.timestamp or now()
    if event.event_type in ("bounced", "failed"):
        words = line(event.mta_response or event.description)
        contact.bounced, contact.bounced_at = words or str(event.event_type), at
    elif (
        event.event_type == "delivered"
        and contact.bounced_at is not None
        # Events arrive in any order: only a delivery after the bounce counts.
        and at > _aware(contact.bounced_at)
    ):
        contact.bounced = contact.bounced_at = None


def on_server_event(app: Flask, event: ServerEvent, **extra: Any) -> None:
    """Log DNS problems and send limits."""
    if event.problems or event.limit is not None:
        app.logger.warning("Postal: %s %s", event.event, event.domain or event.limit)


def on_inbound(app: Flask, event: InboundEvent, **extra: Any) -> None:
    """Add inbound mail to its ticket, or open a new ticket."""
    message = event.message
    if message.spam_detected:
        raise RejectMail("spam", bounce=False)
    number = _number_of_ticket(message)
    entry = _make_entry(message)
    ticket = db.session.get(Ticket, number) if number is not None else None
    if ticket is not None:
        _add_to_ticket(ticket, entry)
    elif entry.is_automatic:
        app.logger.info("dropped an automatic reply that belongs to no ticket")
    else:
        _open_and_confirm(message, entry)


def _number_of_ticket(message: InboundMessage) -> int | None:
    """Return the number of the ticket that a mail was sent to, if any.

    :raises RejectMail: for an address with a forged signature.
    """
    try:
        return ticket_number(message.envelope_recipient or "")
    except ValueError as error:
        raise RejectMail(str(error)) from error


def _make_entry(message: InboundMessage) -> Entry:
    """Create the entry for a mail, with its attachments as files."""
    address, _ = _reply_to(message)
    html = safe_html(message.html)
    entry = Entry(
        author=line(str(message.from_email or address or "unknown")),
        is_automatic=message.is_auto_reply,
        verdict=message.authentication.verdict,
        text=text(message.stripped_text or message.text),
        html=html,
        message_id=line(message.message_id) or None,
        files=[
            File(name=part.safe_filename, content=part.content)
            for part in [*message.attachments, *message.inlines.values()]
        ],
    )
    if message.html and html is None:
        # It can't be shown, but somebody may want to download it.
        content = message.html.encode("utf-8", "replace")
        entry.files.append(File(name="message.html", content=content))
    return entry


def _reply_to(message: InboundMessage) -> tuple[str | None, str]:
    """Return the address and the name that a reply to a mail goes to."""
    author = message.reply_to[0] if message.reply_to else message.from_email
    if author:
        return author.addr_spec, author.display_name
    return message.envelope_sender, ""


def _add_to_ticket(ticket: Ticket, entry: Entry) -> None:
    """Add a reply. It reopens the ticket, unless a program wrote it."""
    ticket.entries.append(entry)
    ticket.changed = now()
    ticket.is_open = ticket.is_open or not entry.is_automatic


def _open_and_confirm(message: InboundMessage, entry: Entry) -> None:
    """Open a ticket, and confirm it unless that could cause a mail loop.

    :raises RejectMail: if there is no address to reply to.
    """
    address, name = _reply_to(message)
    if not address:
        raise RejectMail("there is no address to reply to")
    ticket = open_ticket(address, name, message.subject or "", entry)
    if message.may_be_answered and may_confirm(ticket):  # RFC 3834
        confirm(ticket)


def open_ticket(email: str, name: str, subject: str, entry: Entry) -> Ticket:
    """Add a new ticket with its first entry to the current transaction."""
    ticket = Ticket(
        contact=_contact(line(email, 255).lower(), line(name, 100)),
        subject=line(subject) or "(no subject)",
        entries=[entry],
    )
    db.session.add(ticket)
    return ticket


def _contact(email: str, name: str) -> Contact:
    """Find the contact with an address, or add one."""
    known = select(Contact).where(Contact.email == email)
    contact = db.session.scalar(known)
    if contact is None:
        contact = Contact(email=email, name=name)
        try:
            with db.session.begin_nested():
                db.session.add(contact)
        except IntegrityError:
            # Another request has just added it. MariaDB shows it to a locking read
            # only, because this transaction began earlier.
            contact = db.session.scalars(known.with_for_update()).one()
    return contact


def _aware(at: datetime) -> datetime:
    """Add the time zone, which SQLite doesn't store."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)
