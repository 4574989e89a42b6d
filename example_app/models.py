"""The database models of the help desk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, ForeignKey, String
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

__all__ = ["Contact", "Entry", "Event", "File", "Ticket", "db"]


class Base(DeclarativeBase):
    """Base class of all models."""


db = SQLAlchemy(model_class=Base)
if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


def now() -> datetime:
    return datetime.now(UTC)


class Contact(Model):
    """A person who writes to us."""

    __tablename__ = "contact"

    id: Mapped[int] = mapped_column(primary_key=True)
    email: Mapped[str] = mapped_column(String(255), unique=True)
    name: Mapped[str] = mapped_column(String(255), default="")
    #: Why mail to this address bounced; ``None`` if it didn't.
    bounced: Mapped[str | None] = mapped_column(String(500), default=None)
    bounced_at: Mapped[datetime | None] = mapped_column(
        DateTime(timezone=True), default=None
    )
    tickets: Mapped[list[Ticket]] = relationship(back_populates="contact")


class Ticket(Model):
    """A conversation."""

    __tablename__ = "ticket"

    id: Mapped[int] = mapped_column(primary_key=True)
    contact_id: Mapped[int] = mapped_column(ForeignKey("contact.id"))
    subject: Mapped[str] = mapped_column(String(500))
    #: Why the confirmation could not be sent.
    problem: Mapped[str | None] = mapped_column(String(500), default=None)
    is_open: Mapped[bool] = mapped_column(default=True)
    changed: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    contact: Mapped[Contact] = relationship(back_populates="tickets")
    entries: Mapped[list[Entry]] = relationship(
        back_populates="ticket", order_by="Entry.id"
    )


class Entry(Model):
    """One email of a ticket, or the text of the contact form."""

    __tablename__ = "entry"

    id: Mapped[int] = mapped_column(primary_key=True)
    ticket_id: Mapped[int] = mapped_column(ForeignKey("ticket.id"))
    author: Mapped[str] = mapped_column(String(500))
    #: Whether we wrote it.
    is_ours: Mapped[bool] = mapped_column(default=False)
    #: Whether a program wrote it. Such mail never gets an automatic reply.
    is_automatic: Mapped[bool] = mapped_column(default=False)
    text: Mapped[str] = mapped_column(default="")
    #: Sanitised, so it can be shown.
    html: Mapped[str | None] = mapped_column(default=None)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    message_id: Mapped[str | None] = mapped_column(String(500), default=None)
    #: Postal's number and token, for a message that we sent.
    postal_id: Mapped[int | None] = mapped_column(default=None)
    token: Mapped[str | None] = mapped_column(String(64), default=None, index=True)
    #: For inbound mail: unique, so that a mail that is delivered twice is stored once.
    delivery_key: Mapped[str | None] = mapped_column(
        String(255), default=None, unique=True
    )
    ticket: Mapped[Ticket] = relationship(back_populates="entries")
    files: Mapped[list[File]] = relationship(order_by="File.id")
    events: Mapped[list[Event]] = relationship(
        primaryjoin="foreign(Event.token) == Entry.token",
        order_by="Event.at",
        viewonly=True,
    )


class File(Model):
    """A file that was attached to inbound mail."""

    __tablename__ = "file"

    id: Mapped[int] = mapped_column(primary_key=True)
    entry_id: Mapped[int] = mapped_column(ForeignKey("entry.id"))
    name: Mapped[str] = mapped_column(String(255))
    content: Mapped[bytes]


class Event(Model):
    """A tracking event about a message.

    It refers to the message by its token, and not by a foreign key, because the first
    event can arrive before the call that sent the message has returned.
    """

    __tablename__ = "event"

    id: Mapped[int] = mapped_column(primary_key=True)
    event_id: Mapped[str] = mapped_column(String(64), unique=True)
    token: Mapped[str] = mapped_column(String(64), index=True)
    kind: Mapped[str] = mapped_column(String(32))
    description: Mapped[str | None] = mapped_column(String(500), default=None)
    at: Mapped[datetime] = mapped_column(DateTime(timezone=True))
