"""An app that enqueues a message per request, and delivers it by itself."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask
from flask_sqlalchemy import SQLAlchemy

from flask_postal import Message, Postal
from flask_postal.ledger import Ledger

app = Flask(__name__)
app.config.from_prefixed_env()
db = SQLAlchemy(app)
postal = Postal(app, ledger=Ledger(db))
with app.app_context():
    db.create_all()


def enqueue(address: str) -> None:
    postal.enqueue(Message("Hi", address, body="x", sender="a@example.com"))
    db.session.commit()


@app.get("/<address>")
def view(address: str) -> dict[str, Any]:
    enqueue(address)
    return {"pid": os.getpid()}


@app.cli.command("order")
def order() -> None:
    """Enqueue a message and end at once."""
    enqueue("ana@example.com")


if os.environ.get("ENQUEUE_ON_IMPORT"):
    with app.app_context():
        enqueue("master@example.com")
