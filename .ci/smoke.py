"""An app, one mail and one signed event, with nothing but the installed wheel."""

from __future__ import annotations

from importlib.resources import files

from flask import Flask

import flask_postal
from flask_postal import Message, Postal, tracking_received
from flask_postal.sandbox import Sandbox
from flask_postal.sandbox.traffic import webhook

if "site-packages" not in str(flask_postal.__file__):
    raise SystemExit(f"not the installed package: {flask_postal.__file__}")
if not files(flask_postal).joinpath("py.typed").is_file():
    raise SystemExit("py.typed is missing")

app = Flask(__name__)
events = []
with Sandbox() as sandbox:
    app.config.update(sandbox.settings())
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)

    @tracking_received.connect
    def on_tracking(app: Flask, event: object, **extra: object) -> None:
        events.append(event)

    with app.app_context():
        result = postal.send(
            Message("Hi", ["ana@example.com"], body="Hi", sender="hello@example.com")
        )
    body = webhook("MessageSent", {"message": {}, "status": "Sent"}, 1.0)
    answer = app.test_client().post(
        "/postal/tracking/",
        data=body,
        content_type="application/json",
        headers=sandbox.key.headers(body),
    )
if result.recipients["ana@example.com"].id != 1 or answer.status_code != 200:
    raise SystemExit(f"failed: {result} {answer}")
if len(events) != 1:
    raise SystemExit("no event")
print("the wheel works")
