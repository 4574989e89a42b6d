"""The ledger: messages that are part of the caller's transaction. An extra.

It needs ``Flask-Postal[ledger]``, which brings Flask-SQLAlchemy. Nothing else of
Flask-Postal imports this package.
"""

from __future__ import annotations

from .ledger import Ledger
from .mapping import LedgerModels
from .models import (
    ContentMixin,
    EventMixin,
    MailMixin,
    ReceiptMixin,
    RecipientMixin,
    SuppressionMixin,
)

__all__ = [
    "ContentMixin",
    "EventMixin",
    "Ledger",
    "LedgerModels",
    "MailMixin",
    "ReceiptMixin",
    "RecipientMixin",
    "SuppressionMixin",
]
