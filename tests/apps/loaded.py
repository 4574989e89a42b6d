"""An app whose receiver writes one row: with a ledger, or with a Redis cache.

With ``LOAD_CACHE`` in the environment, there is no ledger: duplicates are recognised by
the cache, and the receiver commits itself.
"""

from __future__ import annotations

import os
from typing import Any

import sqlalchemy as sa
from cachelib import RedisCache
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_postal import Postal, tracking_received
from flask_postal.ledger import Ledger

CACHE = os.environ.get("LOAD_CACHE")


class Base(DeclarativeBase):
    pass


db: Any = SQLAlchemy(model_class=Base)
postal = Postal() if CACHE else Postal(ledger=Ledger(db))


class Effect(db.Model):  # type: ignore[misc]
    """What the receiver has done for an event; it may be there twice."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    token: Mapped[str] = mapped_column(sa.String(40))


def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
    db.session.add(Effect(token=event.token))
    if CACHE:
        db.session.commit()


app = Flask(__name__)
app.config.from_prefixed_env()
tracking_received.connect(on_tracking, app)
if CACHE:
    app.config["POSTAL_DEDUPE_CACHE"] = RedisCache(port=int(CACHE))
db.init_app(app)
postal.init_app(app)
app.register_blueprint(postal.blueprint)
