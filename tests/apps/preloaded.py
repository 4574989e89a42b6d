"""An app that sends one message while it is imported, and one per request."""

from __future__ import annotations

import os
from typing import Any

from flask import Flask

from flask_postal import Message, Postal

app = Flask(__name__)
app.config.from_prefixed_env()
postal = Postal(app)


def send(address: str) -> list[str]:
    result = postal.send(Message("Hi", address, "x", sender="a@example.com"))
    return [status.address for status in result.recipients.values()]


@app.get("/<address>")
def view(address: str) -> dict[str, Any]:
    return {"pid": os.getpid(), "sent": send(address)}


with app.app_context():
    send("master@example.com")
