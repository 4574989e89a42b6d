"""The database models of the help desk."""

from __future__ import annotations

from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from flask_sqlalchemy import SQLAlchemy
from sqlalchemy import DateTime, ForeignKey, LargeBinary, String, Text
from sqlalchemy.dialects import mysql
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship

from flask_postal.ledger import Ledger

__all__ = ["Contact", "Entry", "File", "Ticket", "db", "ledger"]


class Base(DeclarativeBase):
    """Base class of all models."""


db = SQLAlchemy(model_class=Base)
#: Adds its tables to ours: the mail that we send, and the events that Postal sends.
ledger = Ledger(db)
if TYPE_CHECKING:
    Model = Base
else:
    Model = db.Model


#: MariaDB's TEXT and BLOB take 64 kB only.
LONG_TEXT = Text().with_variant(mysql.LONGTEXT(), "mysql", "mariadb")
FILE = LargeBinary().with_variant(mysql.LONGBLOB(), "mysql", "mariadb")


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
    #: Whether its author's domain answers for it: pass, fail, none or unknown.
    verdict: Mapped[str | None] = mapped_column(String(10), default=None)
    text: Mapped[str] = mapped_column(LONG_TEXT, default="")
    #: Sanitised, so it can be shown.
    html: Mapped[str | None] = mapped_column(LONG_TEXT, default=None)
    created: Mapped[datetime] = mapped_column(DateTime(timezone=True), default=now)
    message_id: Mapped[str | None] = mapped_column(String(500), default=None)
    #: For a mail of ours, its record in the ledger, until that is purged.
    mail_id: Mapped[int | None] = mapped_column(
        ForeignKey("postal_mail.id", ondelete="SET NULL"), default=None
    )
    ticket: Mapped[Ticket] = relationship(back_populates="entries")
    files: Mapped[list[File]] = relationship(order_by="File.id")
    mail: Mapped[Any] = relationship(ledger.models.mail)
    #: What Postal has told about that mail.
    events: Mapped[list[Any]] = relationship(
        ledger.models.event,
        secondary=ledger.models.table("recipient"),
        primaryjoin="Entry.mail_id == postal_recipient.c.mail_id",
        secondaryjoin="PostalEvent.recipient_id == postal_recipient.c.id",
        order_by="PostalEvent.id",
        viewonly=True,
    )

    @property
    def is_stuck(self) -> bool:
        """Whether it is a mail that has not been sent, or perhaps not."""
        return self.mail is not None and self.mail.state in ("failed", "doubtful")


class File(Model):
    """A file that was attached to inbound mail."""

    __tablename__ = "file"

    id: Mapped[int] = mapped_column(primary_key=True)
    entry_id: Mapped[int] = mapped_column(ForeignKey("entry.id"))
    name: Mapped[str] = mapped_column(String(255))
    content: Mapped[bytes] = mapped_column(FILE)
