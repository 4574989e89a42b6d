"""Prints how an event that was added to the table appears in everything that reads the
table: parser, lookup, sandbox, page, CLI and documentation."""

from __future__ import annotations

import runpy
import sys
from typing import Any

import requests
from flask import Flask

from flask_postal import Message, Postal, tracking_received
from flask_postal.outcome import read_outcome
from flask_postal.sandbox import ManualClock, Sandbox
from flask_postal.sandbox.webhook_bodies import webhook
from flask_postal.vocabulary import find_event
from flask_postal.webhooks.tracking import parse_tracking

body = webhook("MessageQuarantined", {"message": {"id": 5}}, 1.0)
print("parser:", parse_tracking(body).event_type)
print("failed still means:", getattr(find_event("failed"), "name", None))
print("lookup:", read_outcome("Quarantined", None, None)["event_type"])

seen: list[Any] = []


@tracking_received.connect
def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
    seen.append((event.event_type.value, event.description, event.recipient))


with Sandbox(clock=ManualClock()) as sandbox:
    app = Flask("made-up")
    app.testing = True
    app.config.update(sandbox.settings(), POSTAL_SUPPRESS_SEND=False)
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    sandbox.deliver_to(app)
    with app.app_context():
        message = Message("Hi", "ana@example.com", body="Hi", sender="a@example.com")
        postal.send(message)
        sandbox.wait_for("delivered")
        seen.clear()
        sandbox.happen(sandbox.messages[0], "quarantined")
        sandbox.wait_for("quarantined")
    print("sandbox:", seen, sandbox.messages[0].status)
    page = requests.get(f"{sandbox.url}/mail/1", timeout=5).text
    print("page button:", 'value="quarantined"' in page)
    print("page colour:", '<span class="chip wait">Quarantined</span>' in page)
    runner = app.test_cli_runner()
    print("CLI help:", runner.invoke(args=["postal", "trigger", "--help"]).output)
    print("CLI:", runner.invoke(args=["postal", "trigger", "quarantined"]).output)

print("docs:", runpy.run_path(sys.argv[1])["TABLES"]["message_events"])
