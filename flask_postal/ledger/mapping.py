"""The models of a ledger: the app's own, or default ones, joined by foreign keys."""

from __future__ import annotations

from dataclasses import dataclass, fields
from typing import Any

import sqlalchemy as sa
from sqlalchemy.orm import MappedAsDataclass, relationship

from ..errors import ConfigurationError
from .models import (
    ContentMixin,
    EventMixin,
    MailMixin,
    ReceiptMixin,
    RecipientMixin,
    SuppressionMixin,
)

__all__ = ["LedgerModels", "default_models", "join"]

_MIXINS: dict[str, type] = {
    "mail": MailMixin,
    "recipient": RecipientMixin,
    "event": EventMixin,
    "receipt": ReceiptMixin,
    "content": ContentMixin,
    "suppression": SuppressionMixin,
}
#: (model, column) -> the model whose id it holds, and what deleting that row does.
_REFERENCES = {
    ("recipient", "mail_id"): ("mail", "CASCADE"),
    ("event", "recipient_id"): ("recipient", "SET NULL"),
    ("receipt", "event_id"): ("event", "CASCADE"),
}
#: Sweeps look for what is due, events for a recipient, lists for an address.
_INDEXES = {
    "mail": (("state", "due_at"),),
    "recipient": (
        *(("mail_id",), ("server", "postal_id"), ("envelope",)),
        *(("poll_at",), ("bounce_at",)),
    ),
    "event": (("state", "due_at"), ("recipient_id",), ("token", "state"), ("address",)),
    "receipt": (),
    "content": (),
    "suppression": (),
}
_UNIQUE = {
    "receipt": ("event_id", "receiver"),
    "content": ("owner", "number"),
    "suppression": ("address", "list", "reason"),
}


@dataclass(frozen=True, slots=True)
class LedgerModels:
    """The models of a ledger, all in one bind.

    :param mail: Derived from :class:`.MailMixin`.
    :param recipient: Derived from :class:`.RecipientMixin`.
    :param event: Derived from :class:`.EventMixin`.
    :param receipt: Derived from :class:`.ReceiptMixin`.
    :param content: Derived from :class:`.ContentMixin`.
    :param suppression: Derived from :class:`.SuppressionMixin`. Without it nothing is
        suppressed.
    """

    mail: Any
    recipient: Any
    event: Any
    receipt: Any
    content: Any
    suppression: Any = None

    def given(self) -> dict[str, Any]:
        """Return the models by name, without one that is not used."""
        models = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: model for name, model in models.items() if model is not None}

    def table(self, name: str) -> sa.Table:
        """Return the table of one model, such as ``"mail"``."""
        table: sa.Table = getattr(self, name).__table__
        return table


def default_models(db: Any) -> LedgerModels:
    """Create models named ``postal_mail``, ``postal_recipient`` and so on.

    :param db: A Flask-SQLAlchemy object.
    :raises ConfigurationError: if it has them already, or has a base that they can't
        be derived from.
    """
    if issubclass(db.Model, MappedAsDataclass):
        raise ConfigurationError(
            "the models of this SQLAlchemy object are dataclasses, which the ledger's"
            " can't be; pass models of your own, derived from a base without"
            " MappedAsDataclass: Ledger(db, models=LedgerModels(...))"
        )
    if "postal_mail" in db.metadata.tables:
        raise ConfigurationError(
            "this SQLAlchemy object has a ledger already; use one Ledger(db) for all"
            " your Postals"
        )
    made = {
        name: type(
            f"Postal{name.capitalize()}",
            (mixin, db.Model),
            {"__tablename__": f"postal_{name}", "__module__": __name__},
        )
        for name, mixin in _MIXINS.items()
    }
    return LedgerModels(**made)


def join(models: LedgerModels) -> None:
    """Add foreign keys, indexes, unique constraints and the relationship.

    :raises ConfigurationError: if a model is not derived from its mixin, or if they are
        not all in one bind.
    """
    given = models.given()
    for name, model in given.items():
        mixin = _MIXINS[name]
        if not (isinstance(model, type) and issubclass(model, mixin)):
            raise ConfigurationError(
                f"LedgerModels: {name}= takes a model derived from {mixin.__name__}"
            )
    for name in _MIXINS.keys() - given.keys() - {"suppression"}:
        raise ConfigurationError(f"LedgerModels: {name}= is missing")
    tables = {name: models.table(name) for name in given}
    if len({id(table.metadata) for table in tables.values()}) > 1:
        raise ConfigurationError(
            "LedgerModels: all models must have the same __bind_key__, because"
            " they are written in one transaction"
        )
    for name in ("mail", "event"):
        # Else SQLite gives the number of a deleted row to the next one, and receipts
        # would be taken for those of another event.
        tables[name].kwargs["sqlite_autoincrement"] = True
    for (name, column), (target, on_delete) in _REFERENCES.items():
        if not tables[name].c[column].foreign_keys:
            tables[name].append_constraint(
                sa.ForeignKeyConstraint(
                    [column], [tables[target].c.id], ondelete=on_delete
                )
            )
    for name, indexes in _INDEXES.items():
        for columns in indexes if name in tables else ():
            if not _has_index(tables[name], columns):
                sa.Index(None, *(tables[name].c[column] for column in columns))
    for name, unique in _UNIQUE.items():
        if name in tables:
            tables[name].append_constraint(sa.UniqueConstraint(*unique))
    models.mail.recipients = relationship(
        models.recipient,
        primaryjoin=tables["mail"].c.id == tables["recipient"].c.mail_id,
        order_by=tables["recipient"].c.id,
        viewonly=True,
    )


def _has_index(table: sa.Table, columns: tuple[str, ...]) -> bool:
    return any(
        tuple(column.name for column in index.columns) == columns
        for index in table.indexes
    )
