"""An app whose mails and events are worked on by Celery.

Its settings come from the environment. ``-A tests.apps.celery_shop:celery`` is the
Celery app.
"""

from __future__ import annotations

import os
import time
from typing import Any

import sqlalchemy as sa
from celery import Celery
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column

from flask_postal import Postal, tracking_received
from flask_postal.integrations.celery import init_celery
from flask_postal.ledger import Ledger


class Base(DeclarativeBase):
    pass


db: Any = SQLAlchemy(model_class=Base)
ledger = Ledger(db)
postal = Postal(ledger=ledger)


class Effect(db.Model):  # type: ignore[misc]
    """What the receiver has done for an event; it may be there twice."""

    __tablename__ = "effect"
    id: Mapped[int] = mapped_column(primary_key=True)
    event: Mapped[str] = mapped_column(sa.String(80))


def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
    db.session.add(Effect(event=f"{event.metadata['number']} {event.event_type}"))
    db.session.flush()
    time.sleep(0.02)


app = Flask(__name__)
app.config.from_prefixed_env()
tracking_received.connect(on_tracking, app)
celery = Celery("shop", broker=os.environ["SHOP_BROKER"])
celery.conf.update(
    worker_prefetch_multiplier=1,
    broker_connection_retry_on_startup=True,
    broker_connection_max_retries=None,
    beat_max_loop_interval=1,
)
app.config["POSTAL_DISPATCH"] = init_celery(celery, ledger, app, every=2.0)
db.init_app(app)
postal.init_app(app)
app.register_blueprint(postal.blueprint)
