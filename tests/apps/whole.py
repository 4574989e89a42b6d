"""An app that sends messages and logs the events and mails it receives. Its settings
come from the environment."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from flask import Flask, request

from flask_postal import Message, Postal, inbound_received, tracking_received

LOG = Path(os.environ["EVENTS"])

app = Flask(__name__)
app.config.from_prefixed_env()
postal = Postal(app)
app.register_blueprint(postal.blueprint)


def write(**content: Any) -> None:
    with LOG.open("a") as file:
        file.write(json.dumps({**content, "worker": os.getpid()}) + "\n")


@app.post("/send/<address>")
def send(address: str) -> dict[str, Any]:
    message = Message(
        "Hello", address, body="Hi", html="<a href='https://x.test/'>x</a>"
    )
    message.reply_to = ["ticket+7@example.com"]
    if request.args.get("inline"):
        cid = message.embed("logo.png", "image/png", b"\x89PNG")
        message.html = f"<img src='cid:{cid}'>"
    sent = postal.send(message).recipients[address]
    return {"id": sent.id, "token": sent.token}


@tracking_received.connect
def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
    write(event=event.event_type, to=event.recipient, id=event.id, token=event.token)


@inbound_received.connect
def on_inbound(app: Flask, event: Any, **extra: Any) -> None:
    write(mail=event.message.text, to=event.message.envelope_recipient)
