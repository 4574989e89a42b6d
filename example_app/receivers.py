"""What Postal reports, and the mail that comes in."""

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
from .models import Contact, Entry, Event, File, Ticket, db, now
from .text import line, safe_html, text

__all__ = ["on_inbound", "on_server_event", "on_tracking", "open_ticket"]


def on_tracking(app: Flask, event: TrackingEvent, **extra: Any) -> None:
    """Store what became of a mail, and mark an address whose mail came back."""
    if not event.token or not event.event_id:
        return
    known = select(Event).where(Event.event_id == event.event_id)
    if db.session.scalar(known) is not None:
        return
    words = event.mta_response or event.description or event.click_url
    db.session.add(
        Event(
            event_id=event.event_id,
            token=event.token,
            kind=str(event.event_type),
            description=line(words) or None,
            at=event.timestamp or now(),
        )
    )
    contact = find_contact(event.recipient or "")
    at = event.timestamp or now()
    if contact is not None and event.event_type in ("bounced", "failed"):
        contact.bounced, contact.bounced_at = line(words) or str(event.event_type), at
    elif (
        contact is not None
        and event.event_type == "delivered"
        and contact.bounced_at is not None
        # Events come in any order: what was delivered before says nothing.
        and at > _aware(contact.bounced_at)
    ):
        contact.bounced = contact.bounced_at = None
    db.session.commit()


def on_server_event(app: Flask, event: ServerEvent, **extra: Any) -> None:
    """Tell about DNS and send limits, and how the app itself answered mail."""
    if event.problems or event.limit is not None:
        app.logger.warning("Postal: %s %s", event.event, event.domain or event.limit)


def on_inbound(app: Flask, event: InboundEvent, **extra: Any) -> None:
    """Put a mail into its ticket, or open one."""
    message = event.message
    if message.spam_detected:
        raise RejectMail("spam", bounce=False)
    key = f"{event.format}:{event.dedupe_key}"
    if db.session.scalar(select(Entry).where(Entry.delivery_key == key)) is not None:
        return  # delivered twice
    try:
        number = ticket_number(message.envelope_recipient or "")
    except ValueError as error:
        raise RejectMail(str(error)) from error
    author = message.reply_to[0] if message.reply_to else message.from_email
    address = author.addr_spec if author else message.envelope_sender
    automatic = message.is_auto_reply
    html = safe_html(message.html)
    entry = Entry(
        author=line(str(message.from_email or address or "unknown")),
        is_automatic=automatic,
        text=text(message.stripped_text or message.text),
        html=html,
        message_id=line(message.message_id) or None,
        delivery_key=key,
        files=[
            File(name=part.safe_filename, content=part.content)
            for part in [*message.attachments, *message.inlines.values()]
        ],
    )
    if message.html and html is None:
        content = message.html.encode("utf-8", "replace")
        entry.files.append(File(name="message.html", content=content))
    ticket = db.session.get(Ticket, number) if number is not None else None
    if ticket is not None:
        ticket.entries.append(entry)
        ticket.changed = now()
        ticket.is_open = ticket.is_open or not automatic
        db.session.commit()
        return
    if automatic:
        app.logger.info("an automatic mail to nobody's ticket is not kept")
        return
    if not address:
        raise RejectMail("there is nobody to answer")
    name = author.display_name if author else ""
    ticket = open_ticket(address, name, message.subject or "", entry)
    if _may_confirm(message, ticket):
        confirm(ticket)


def open_ticket(email: str, name: str, subject: str, entry: Entry) -> Ticket:
    """Store a new conversation with its first entry."""
    for last in (False, True):
        contact = find_contact(email)
        if contact is None:
            contact = Contact(email=_normal(email), name=line(name, 100))
        subject = line(subject) or "(no subject)"
        ticket = Ticket(contact=contact, subject=subject, entries=[entry])
        db.session.add(ticket)
        try:
            db.session.commit()
        except IntegrityError:
            # Another request has stored the contact, or this mail, in the same moment.
            db.session.rollback()
            if last:
                raise
        else:
            break
    return ticket


def _may_confirm(message: InboundMessage, ticket: Ticket) -> bool:
    """Tell whether a confirmation can't end in a loop (RFC 3834)."""
    return message.may_be_answered and may_confirm(ticket)


def find_contact(email: str) -> Contact | None:
    """Return who has an address."""
    return db.session.scalar(select(Contact).where(Contact.email == _normal(email)))


def _normal(email: str) -> str:
    return line(email, 255).lower()


def _aware(at: datetime) -> datetime:
    """SQLite forgets the time zone."""
    return at if at.tzinfo else at.replace(tzinfo=UTC)
