"""Where the tables of a ledger are."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import nullcontext
from typing import Any

import sqlalchemy as sa
from flask import Flask, current_app, has_app_context

from .mapping import LedgerModels
from .sqlite import mend_savepoints

__all__ = ["Bind"]


class Bind:
    """The engine of the ledger's tables for an app, whatever it is at the moment."""

    def __init__(self, db: Any, app: Flask, models: LedgerModels) -> None:
        self._db = db
        self._app = app
        self._key = models.table("mail").metadata.info.get("bind_key")
        self._engines: Mapping[str | None, Any] | None = None

    def __call__(self) -> sa.Engine | sa.Connection:
        if self._engines is None:
            # The end of an app context removes sessions, perhaps the caller's.
            here = has_app_context() and current_app == self._app
            with nullcontext() if here else self._app.app_context():
                self._engines = self._db.engines
            mend_savepoints(self._engines[self._key])
        engine: sa.Engine | sa.Connection = self._engines[self._key]
        return engine
