"""An app whose mails and events are worked on by RQ, as in docs/scaling-out.md."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from redis import Redis
from rq import Queue
from sqlalchemy.orm import DeclarativeBase

from flask_postal import Postal
from flask_postal.ledger import Ledger


class Base(DeclarativeBase):
    pass


db: Any = SQLAlchemy(model_class=Base)
ledger = Ledger(db)
postal = Postal(ledger=ledger)
app = Flask(__name__)
app.config.from_prefixed_env()

# --- recipe
queue = Queue(connection=Redis.from_url(os.environ["SHOP_BROKER"]))


def work(kind: str, number: int) -> None:
    with app.app_context():
        {"mail": ledger.deliver, "event": ledger.process}[kind](number)


def sweep() -> None:  # every minute, from cron or a scheduler
    with app.app_context():
        for kind, number in ledger.sweep():
            queue.enqueue(work, kind, number)
        ledger.settle()


app.config["POSTAL_DISPATCH"] = lambda *args: queue.enqueue(work, *args)
# --- end of the recipe

db.init_app(app)
postal.init_app(app)
app.register_blueprint(postal.blueprint)
