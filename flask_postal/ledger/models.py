"""Mixins for the tables of the ledger.

An app that needs no columns of its own lets :class:`.Ledger` create the models. Else it
derives its models from all five mixins, and passes them as :class:`.LedgerModels`::

    class Mail(MailMixin, db.Model):
        __tablename__ = "outgoing_mail"
        order_id = mapped_column(ForeignKey("order.id"))

Foreign keys, indexes and unique constraints over several columns are added by
:class:`.Ledger`: a mixin can't know the names of the other tables, and a
``__table_args__`` of the app's own would replace one of the mixin's.
"""

from __future__ import annotations

import builtins
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any, ClassVar

import sqlalchemy as sa
from sqlalchemy.orm import Mapped, mapped_column, object_session

from .columns import aware, binary, exact, now, number, text, time
from .content import load, owner_of_event, owner_of_mail

__all__ = [
    "ContentMixin",
    "EventMixin",
    "MailMixin",
    "ReceiptMixin",
    "RecipientMixin",
    "SuppressionMixin",
]


class _Numbered:
    """A row with a number."""

    id: Mapped[int] = mapped_column(number(), primary_key=True, autoincrement=True)


class MailMixin(_Numbered):
    """One message: what will be sent, to whom, when, and how far it is.

    :ivar server: The extension key of the Postal that sends it.
    :ivar key: The caller's key; a second message with the same key is not stored.
    :ivar message_id: The Message-ID header, without angle brackets.
    :ivar sender: The envelope sender.
    :ivar subject: The subject, for lists; cut at 200 characters.
    :ivar size: The size of the message in bytes.
    :ivar state: ``queued``, ``claimed``, ``sending``, ``accepted``, ``doubtful``,
        ``failed`` or ``cancelled``.
    :ivar attempts: The number of attempts begun.
    :ivar error: Why the last attempt failed.
    :ivar meta: The metadata of the message; SQLAlchemy uses the name ``metadata``.
    :ivar options: Further fields of the request, such as ``bounce``.
    :ivar anchor: Mails that Postal was known to have when the attempt began, with id
        and token; the attempt's own have higher ids.
    :ivar waiting: What a doubtful message waits for, in a sentence.
    :ivar list: The list that it belongs to; see ``unsubscribe`` of :class:`.Message`.
    :ivar ignore_suppression: Whether it is sent to suppressed addresses too.
    :ivar recipient_count: How many recipients it had, though some may be forgotten.
    """

    #: Set by the ledger.
    ledger_models: ClassVar[Any] = None
    if TYPE_CHECKING:
        #: The recipients, in the order of the message.
        recipients: builtins.list[RecipientMixin]

    server: Mapped[str] = mapped_column(exact(100))
    key: Mapped[str | None] = mapped_column(exact(255), unique=True)
    message_id: Mapped[str] = mapped_column(exact(255), unique=True)
    sender: Mapped[str] = mapped_column(exact(255))
    subject: Mapped[str] = mapped_column(text(200))
    size: Mapped[int] = mapped_column(sa.Integer(), default=0)
    state: Mapped[str] = mapped_column(sa.String(20))
    due_at_: Mapped[datetime | None] = mapped_column("due_at", time())
    attempts: Mapped[int] = mapped_column(sa.Integer(), default=0)
    error: Mapped[str | None] = mapped_column(text())
    meta: Mapped[dict[str, Any]] = mapped_column(sa.JSON())
    options: Mapped[dict[str, Any]] = mapped_column(sa.JSON())
    anchor: Mapped[builtins.list[dict[str, Any]] | None] = mapped_column(
        sa.JSON(none_as_null=True)
    )
    waiting: Mapped[str | None] = mapped_column(text())
    list: Mapped[str | None] = mapped_column(exact(100))
    ignore_suppression: Mapped[bool | None] = mapped_column(sa.Boolean())
    recipient_count: Mapped[int | None] = mapped_column(sa.Integer())
    tried_at_: Mapped[datetime | None] = mapped_column("tried_at", time())
    began_at_: Mapped[datetime | None] = mapped_column("began_at", time())
    ended_at_: Mapped[datetime | None] = mapped_column("ended_at", time())
    created_at_: Mapped[datetime] = mapped_column("created_at", time(), default=now)
    finished_at_: Mapped[datetime | None] = mapped_column("finished_at", time())

    def mime(self) -> bytes | None:
        """Return the message as it is sent; ``None`` if its content has been purged."""
        session = object_session(self)
        models = type(self).ledger_models
        if session is None or models is None:
            raise RuntimeError("the record is not in a session")
        table = models.content.__table__
        return load(session, table, owner_of_mail(self.id))

    @property
    def due_at(self) -> datetime | None:
        """When there is something to do, aware, in UTC; ``None`` if nothing is left."""
        return aware(self.due_at_)

    @property
    def tried_at(self) -> datetime | None:
        """When the first attempt began, aware, in UTC; after ``retry`` the next one."""
        return aware(self.tried_at_)

    @property
    def began_at(self) -> datetime | None:
        """When the last attempt began, aware, in UTC."""
        return aware(self.began_at_)

    @property
    def ended_at(self) -> datetime | None:
        """When a doubtful message's attempt ended, or its lease, aware, in UTC."""
        return aware(self.ended_at_)

    @property
    def created_at(self) -> datetime:
        """When the message was stored, aware, in UTC."""
        return self.created_at_.replace(tzinfo=UTC)

    @property
    def finished_at(self) -> datetime | None:
        """When the message was accepted, failed or cancelled, aware, in UTC."""
        return aware(self.finished_at_)


class RecipientMixin(_Numbered):
    """One envelope recipient of a message.

    :ivar address: The address as the caller wrote it.
    :ivar envelope: The address as it is sent, its domain in A-label form.
    :ivar server: As in :class:`MailMixin`, for look-ups by Postal's id.
    :ivar postal_id: Postal's id of the mail, once it is known.
    :ivar token: Postal's token of the mail.
    :ivar status: The event type of the latest event, such as ``delivered``.
    :ivar reason: Why it failed or is held.
    :ivar bounce_type: Whether to try the address again, if it failed; see
        :class:`.Outcome`.
    :ivar bounce_id: Postal's id of the bounce mail.
    :ivar suppressed: Why nothing is sent to it; a :class:`.SuppressionReason`.
    :ivar polls: How often Postal's API has been asked for events since the last one.
    """

    mail_id: Mapped[int] = mapped_column(number())
    address: Mapped[str] = mapped_column(exact(255))
    envelope: Mapped[str] = mapped_column(exact(255))
    server: Mapped[str] = mapped_column(exact(100))
    postal_id: Mapped[int | None] = mapped_column(number())
    token: Mapped[str | None] = mapped_column(exact(64))
    told_at_: Mapped[datetime | None] = mapped_column("told_at", time())
    status: Mapped[str | None] = mapped_column(sa.String(20))
    status_at_: Mapped[datetime | None] = mapped_column("status_at", time())
    reason: Mapped[str | None] = mapped_column(text())
    bounce_type: Mapped[str | None] = mapped_column(sa.String(20))
    bounce_id: Mapped[int | None] = mapped_column(number())
    bounce_at_: Mapped[datetime | None] = mapped_column("bounce_at", time())
    suppressed: Mapped[str | None] = mapped_column(sa.String(20))
    poll_at_: Mapped[datetime | None] = mapped_column("poll_at", time())
    polls: Mapped[int] = mapped_column(sa.Integer(), default=0)

    @property
    def poll_at(self) -> datetime | None:
        """When Postal's API is asked for missing events, aware, in UTC."""
        return aware(self.poll_at_)

    @property
    def bounce_at(self) -> datetime | None:
        """When the bounce mail is fetched from Postal, aware, in UTC."""
        return aware(self.bounce_at_)

    @property
    def told_at(self) -> datetime | None:
        """When Postal's API told the id, aware, in UTC; ``None`` if an event did."""
        return aware(self.told_at_)

    @property
    def status_at(self) -> datetime | None:
        """When the status was reached, aware, in UTC."""
        return aware(self.status_at_)


class EventMixin(_Numbered):
    """One webhook as it was received, or one event that was fetched from Postal.

    :ivar identity: Equal for two deliveries of the same event.
    :ivar server: The extension key of the Postal that it came from.
    :ivar source: ``webhook`` or ``poll``; see :class:`.TrackingEvent`.
    :ivar kind: ``tracking`` or ``inbound``.
    :ivar event_type: Such as ``delivered``; ``inbound`` for a mail, ``server`` for an
        event about the mail server.
    :ivar token: Postal's token of the mail.
    :ivar address: The recipient, or the envelope sender of an inbound mail, in lower
        case; it is what :meth:`.Ledger.forget` looks for.
    :ivar media_type: The media type of the body.
    :ivar body: The body, unless it is large; see :meth:`content`.
    :ivar state: ``queued`` (for receivers), ``claimed``, ``done`` or ``dead``.
    :ivar verdict: The status that Postal was answered with.
    :ivar attempts: How often receivers were called.
    :ivar error: Why the last attempt failed, in a line.
    :ivar failures: The last failed attempts: ``at``, ``receiver`` and ``traceback``.
    :ivar recipient_id: The row of the recipient, if the app has sent the mail.
    """

    #: Set by the ledger.
    ledger_models: ClassVar[Any] = None

    identity: Mapped[str] = mapped_column(exact(255), unique=True)
    server: Mapped[str] = mapped_column(exact(100))
    source: Mapped[str] = mapped_column(sa.String(10), default="webhook")
    kind: Mapped[str] = mapped_column(sa.String(20))
    event_type: Mapped[str] = mapped_column(sa.String(20))
    token: Mapped[str | None] = mapped_column(exact(64))
    address: Mapped[str | None] = mapped_column(exact(255))
    media_type: Mapped[str] = mapped_column(sa.String(100))
    body: Mapped[bytes | None] = mapped_column(binary())
    state: Mapped[str] = mapped_column(sa.String(20))
    verdict: Mapped[int | None] = mapped_column(sa.Integer())
    due_at_: Mapped[datetime | None] = mapped_column("due_at", time())
    attempts: Mapped[int] = mapped_column(sa.Integer(), default=0)
    tried_at_: Mapped[datetime | None] = mapped_column("tried_at", time())
    error: Mapped[str | None] = mapped_column(text())
    failures: Mapped[list[dict[str, Any]] | None] = mapped_column(
        sa.JSON(none_as_null=True)
    )
    recipient_id: Mapped[int | None] = mapped_column(number())
    created_at_: Mapped[datetime] = mapped_column("created_at", time(), default=now)

    def content(self) -> bytes | None:
        """Return the body as Postal sent it; ``None`` if it has been purged."""
        session = object_session(self)
        models = type(self).ledger_models
        if session is None or models is None:
            raise RuntimeError("the record is not in a session")
        if self.body is not None:
            return bytes(self.body)
        return load(session, models.content.__table__, owner_of_event(self.id))

    @property
    def due_at(self) -> datetime | None:
        """When there is something to do, aware, in UTC; ``None`` if nothing is left."""
        return aware(self.due_at_)

    @property
    def tried_at(self) -> datetime | None:
        """When receivers were called first, aware, in UTC; after ``retry`` again."""
        return aware(self.tried_at_)

    @property
    def created_at(self) -> datetime:
        """When the event was stored, aware, in UTC."""
        return self.created_at_.replace(tzinfo=UTC)


class ReceiptMixin(_Numbered):
    """States that a receiver has handled an event.

    :ivar receiver: The module and qualified name of the receiver.
    """

    event_id: Mapped[int] = mapped_column(number())
    receiver: Mapped[str] = mapped_column(exact(255))
    created_at_: Mapped[datetime] = mapped_column("created_at", time(), default=now)


class SuppressionMixin(_Numbered):
    """A reason why nothing is sent to an address.

    :ivar address: The address in lower case, its domain in A-label form.
    :ivar list: The list that it is suppressed for; ``""`` for all mail.
    :ivar reason: A :class:`.SuppressionReason`.
    :ivar detail: What decided it, such as the reply of the other server.
    :ivar event_id: The event that told it, which may have been purged since.
    """

    address: Mapped[str] = mapped_column(exact(255))
    list: Mapped[str] = mapped_column(exact(100), default="")
    reason: Mapped[str] = mapped_column(sa.String(20))
    detail: Mapped[str | None] = mapped_column(text())
    event_id: Mapped[int | None] = mapped_column(number())
    since_: Mapped[datetime] = mapped_column("since", time(), default=now)
    until_: Mapped[datetime | None] = mapped_column("until", time())

    @property
    def since(self) -> datetime:
        """When it was suppressed, aware, in UTC."""
        return self.since_.replace(tzinfo=UTC)

    @property
    def until(self) -> datetime | None:
        """When it ends, aware, in UTC; ``None`` for never."""
        return aware(self.until_)


class ContentMixin(_Numbered):
    """A piece of a message or of a webhook's body.

    MariaDB stores 8 MB in one statement by default and not 9, so that an inbound mail
    of 18 MB could not be stored in one row.

    :ivar owner: What it belongs to: ``mail:5``, ``event:7``, or a Postal, such as
        ``seen:postal``.
    :ivar number: Its place, from 0.
    :ivar data: At most 1 MB.
    """

    owner: Mapped[str] = mapped_column(exact(120))
    number: Mapped[int] = mapped_column(sa.Integer())
    data: Mapped[bytes] = mapped_column(binary())
