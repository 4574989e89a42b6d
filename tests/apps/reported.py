"""An app whose errors Sentry reports: ``python -m tests.apps.reported``.

It prints what Sentry would send, and what must not be in it, as JSON.
"""

from __future__ import annotations

import json
import sys
from secrets import token_hex
from typing import Any

import sentry_sdk
from flask import Flask

from flask_postal import Message, Postal, inbound_received, tracking_received
from flask_postal.sandbox import Sandbox, compose_mail

ANA = "ana@example.com"


def main() -> None:
    events: list[Any] = []
    # Made here, because Sentry also shows lines of the source.
    key, content, body = token_hex(), token_hex(), token_hex()

    def keep(event: Any, hint: Any) -> None:
        events.append(event)

    def fail(app: Flask, **extra: Any) -> None:
        raise LookupError("a receiver failed")

    sentry_sdk.init(dsn="https://x@sentry.example/1", before_send=keep)
    with Sandbox() as sandbox:
        app = Flask("reported")
        settings = sandbox.settings()
        app.config.update(settings, POSTAL_API_KEY=key, THE_BODY=body)
        password = str(settings["POSTAL_WEBHOOK_SECRET"]).partition(":")[2]
        postal = Postal(app)
        app.register_blueprint(postal.blueprint)

        @app.get("/send")
        def send() -> str:
            postal.send(make_message(app.config["THE_BODY"]))
            return "sent"

        tracking_received.connect(fail, sender=app)
        inbound_received.connect(fail, sender=app)
        sandbox.deliver_to(app, postal.key)
        call(app, "/send")  # the key is refused
        sandbox.trigger("delivered", to=ANA)
        receive(sandbox, content)
    secrets = {"key": key, "password": password, "mail": content, "body": body}
    json.dump({"events": events, "secrets": secrets}, sys.stdout, default=repr)


# In functions of their own, so that frames above ours don't hold the secrets.


def make_message(body: str) -> Message:
    return Message("x", ANA, body, sender="news@example.com")


def call(app: Flask, path: str) -> None:
    app.test_client().get(path)


def receive(sandbox: Sandbox, content: str) -> None:
    sandbox.receive(compose_mail("x", content, to=ANA), to=ANA)


if __name__ == "__main__":
    main()
