"""A small Flask app that sends a mail and shows what becomes of it."""

from __future__ import annotations

import os
import secrets
from collections import deque
from collections.abc import Mapping
from typing import Any

from flask import Flask, current_app, flash, redirect, render_template, request, url_for
from werkzeug.wrappers import Response

from flask_postal import (
    Message,
    Postal,
    PostalError,
    inbound_received,
    tracking_received,
)

__all__ = ["create_app"]

postal = Postal()


def create_app(config: Mapping[str, Any] | None = None) -> Flask:
    """Make the app.

    :param config: Settings over those of the environment (``POSTAL_API_URL``, ...).
    """
    app = Flask(__name__)
    app.config.update(
        SECRET_KEY=secrets.token_hex(),
        POSTAL_DEFAULT_SENDER="Example App <hello@example.com>",
    )
    app.config.from_mapping(
        {key: value for key, value in os.environ.items() if key.startswith("POSTAL_")}
    )
    app.config.from_mapping(config or {})
    postal.init_app(app)
    app.register_blueprint(postal.blueprint)
    tracking_received.connect(on_tracking, sender=app)
    inbound_received.connect(on_inbound, sender=app)
    app.extensions["example_app"] = deque(maxlen=50)
    app.add_url_rule("/", "index", index)
    app.add_url_rule("/send", "send", send, methods=["POST"])
    return app


def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
    """Keep what became of a mail, for the page to show."""
    app.extensions["example_app"].appendleft(("tracking", event))


def on_inbound(app: Flask, event: Any, **extra: Any) -> None:
    """Keep a mail that came in."""
    app.extensions["example_app"].appendleft(("inbound", event))


def index() -> str:
    """Show the form and the events."""
    return render_template(
        "index.html",
        events=list(current_app.extensions["example_app"]),
        api_url=postal.settings.api_url,
        default_sender=postal.settings.default_sender,
    )


def send() -> Response:
    """Send the mail of the form."""
    form = request.form
    message = Message(
        form.get("subject", ""),
        [form.get("recipient", "")],
        body=form.get("body", ""),
        sender=form.get("sender") or None,
    )
    try:
        result = postal.send(message)
    except PostalError as error:
        flash(str(error), "error")
    else:
        for status in result.recipients.values():
            flash(f"Postal has queued mail {status.id} to {status.address}.", "ok")
    return redirect(url_for("index"))
