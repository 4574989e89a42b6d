"""What Postal reports, and the mail that comes in."""

from __future__ import annotations

import re
from typing import Any

import nh3
from flask import Flask, current_app
from sqlalchemy import select
from sqlalchemy.exc import IntegrityError

from flask_postal import PostalError, RejectMail

from .mail import send_confirmation, ticket_number
from .models import Contact, Entry, Event, File, Ticket, db, now

__all__ = ["on_inbound", "on_server_event", "on_tracking", "open_ticket"]

#: What of a mail's HTML is shown. No images: they would tell its author who reads it.
_TAGS = nh3.ALLOWED_TAGS - {"img", "map", "area"}
_QUOTE = re.compile(r"^(?:On .{1,200} wrote:|-{3,} ?Original Message.*)$", re.M | re.S)


def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
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
            description=(words or "")[:500] or None,
            at=event.timestamp or now(),
        )
    )
    if event.event_type in ("bounced", "failed") and event.recipient:
        contact = find_contact(event.recipient)
        if contact is not None:
            contact.bounced = (words or "mail came back")[:500]
    elif event.event_type == "delivered" and event.recipient:
        contact = find_contact(event.recipient)
        if contact is not None:
            contact.bounced = None
    db.session.commit()


def on_server_event(app: Flask, event: Any, **extra: Any) -> None:
    """Tell about DNS and send limits, and how the app itself answered mail."""
    if event.problems or event.limit is not None:
        app.logger.warning("Postal: %s %s", event.event, event.domain or event.limit)


def on_inbound(app: Flask, event: Any, **extra: Any) -> None:
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
    author = message.from_email
    automatic = message.is_auto_reply or message.is_bounce
    entry = Entry(
        author=str(author or message.envelope_sender or "unknown"),
        is_automatic=automatic,
        text=_without_quotes(message.stripped_text or message.text or ""),
        html=nh3.clean(message.html, tags=_TAGS) if message.html else None,
        message_id=message.message_id,
        delivery_key=key,
        files=[
            File(name=part.safe_filename, content=part.content)
            for part in [*message.attachments, *message.inlines.values()]
        ],
    )
    ticket = db.session.get(Ticket, number) if number is not None else None
    if ticket is not None:
        ticket.entries.append(entry)
        ticket.changed = now()
        ticket.is_open = ticket.is_open or not automatic
        _commit()
        return
    if author is None or automatic:
        return  # nobody to answer, or a machine: no ticket of its own
    ticket = open_ticket(
        author.addr_spec, author.display_name, message.subject or "", entry
    )
    _confirm(ticket)


def open_ticket(email: str, name: str, subject: str, entry: Entry) -> Ticket:
    """Store a new conversation with its first entry."""
    contact = find_contact(email)
    if contact is None:
        contact = Contact(email=email[:255], name=name[:255])
        db.session.add(contact)
    ticket = Ticket(
        contact=contact, subject=_line(subject) or "(no subject)", entries=[entry]
    )
    db.session.add(ticket)
    _commit()
    return ticket


def find_contact(email: str) -> Contact | None:
    """Return who has an address."""
    return db.session.scalar(select(Contact).where(Contact.email == email))


def _commit() -> None:
    try:
        db.session.commit()
    except IntegrityError:
        # Another worker has stored the same mail in the same moment.
        db.session.rollback()
        raise


def _confirm(ticket: Ticket) -> None:
    """Confirm a ticket; that it can't be confirmed is no reason to lose it."""
    try:
        send_confirmation(ticket)
    except PostalError:
        current_app.logger.exception("ticket %d could not be confirmed", ticket.id)


def _without_quotes(text: str) -> str:
    """Cut off what the mail quotes."""
    found = _QUOTE.search(text)
    return (text[: found.start()] if found and found.start() else text).strip()


def _line(text: str) -> str:
    return " ".join(text.split())[:500]
