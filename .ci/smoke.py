"""An app, one mail and one signed event, with nothing but the installed wheel."""

from __future__ import annotations

from importlib.resources import files

import requests
from flask import Flask

import flask_postal
from flask_postal import Message, Postal, tracking_received
from flask_postal.sandbox import Sandbox

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

    sandbox.deliver_to(app)
    with app.app_context():
        result = postal.send(
            Message("Hi", ["ana@example.com"], body="Hi", sender="hello@example.com")
        )
    answer = sandbox.wait_for("delivered").attempts[0]
    page = requests.get(f"{sandbox.url}/mail/1", timeout=5).text
    style = requests.get(f"{sandbox.url}/page-static/sandbox.css", timeout=5).text
if result.recipients["ana@example.com"].id != 1 or answer.status != 200:
    raise SystemExit(f"failed: {result} {answer}")
if "ana@example.com" not in page or "--accent" not in style:
    raise SystemExit("the sandbox's page is not in the wheel")
if len(events) != 1:
    raise SystemExit("no event")
print("the wheel works")
