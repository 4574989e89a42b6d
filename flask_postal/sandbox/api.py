"""The WSGI app: Postal's API and its keys."""

from __future__ import annotations

import time
import uuid
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Flask, Response, request

from ..sending.result import new_token
from .traffic import SigningKey, serialize

__all__ = ["StoredMessage", "create_app"]


@dataclass(frozen=True, slots=True)
class StoredMessage:
    """A mail that the sandbox accepted, for one recipient."""

    id: int
    token: str
    message_id: str
    to: str
    sender: str
    subject: str | None
    timestamp: float
    tag: str | None = None


class _RefusedError(Exception):
    """An error that Postal answers with HTTP 200."""

    def __init__(self, code: str, message: str, **more: Any) -> None:
        super().__init__(code)
        self.data = {"message": message, **more, "code": code}


def create_app(
    api_key: str, key: SigningKey, accepted: Callable[[StoredMessage], None]
) -> Flask:
    """Make the app.

    :param accepted: Called with every mail, once it has been answered for.
    """
    app = Flask(__name__)
    messages: list[StoredMessage] = []

    @app.get("/.well-known/jwks.json")
    def jwks() -> Response:
        return _json(key.jwks())

    @app.post("/api/v1/send/message")
    def send_message() -> Response:
        try:
            stored = _accept(api_key, len(messages))
        except _RefusedError as refusal:
            return _answer("error", refusal.data)
        messages.extend(stored)
        response = _answer(
            "success",
            {
                "message_id": stored[0].message_id,
                "messages": {m.to: {"id": m.id, "token": m.token} for m in stored},
            },
        )
        # After the answer has left, as mostly with a Postal.
        for message in stored:
            response.call_on_close(partial(accepted, message))
        return response

    return app


def _accept(api_key: str, count: int) -> list[StoredMessage]:
    given = request.headers.get("X-Server-API-Key")
    if not given:
        raise _RefusedError("AccessDenied", "Must be authenticated as a server.")
    if given != api_key:
        raise _RefusedError(
            "InvalidServerAPIKey",
            "The API token provided in X-Server-API-Key was not valid.",
            token=given,
        )
    content = request.get_json()
    recipients = content.get("to") or []
    if not recipients:
        raise _RefusedError(
            "NoRecipients", "There are no recipients defined to receive this message"
        )
    if not (content.get("plain_body") or content.get("html_body")):
        raise _RefusedError("NoContent", "There is no content defined for this e-mail")
    if not content.get("from"):
        raise _RefusedError(
            "FromAddressMissing", "The From address is missing and is required"
        )
    message_id = f"{uuid.uuid4()}@rp.sandbox.localhost"
    now = time.time()
    return [
        StoredMessage(
            id=count + number,
            token=new_token(),
            message_id=message_id,
            to=_bare(recipient),
            sender=_bare(content["from"]),
            subject=content.get("subject"),
            timestamp=now,
            tag=content.get("tag"),
        )
        for number, recipient in enumerate(recipients, start=1)
    ]


def _bare(address: str) -> str:
    """Cut the name off an address by Postal's own rule."""
    return address.rpartition("<")[2].partition(">")[0].strip()


def _answer(status: str, data: Any) -> Response:
    return _json({"status": status, "time": 0.0, "flags": {}, "data": data})


def _json(content: Any) -> Response:
    return Response(serialize(content), mimetype="application/json")
