"""The WSGI app: Postal's API and its keys."""

from __future__ import annotations

import base64
import email
import time
import uuid
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from email.header import decode_header, make_header
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

    def __init__(self, code: str | None, message: str, **more: Any) -> None:
        super().__init__(message)
        self.status = "error" if code else "parameter-error"
        self.data = {"message": message, **more}
        if code:
            self.data["code"] = code


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

    def send(read: Callable[[Mapping[str, Any]], _Sent]) -> Response:
        try:
            _authenticate(api_key)
            sent = read(request.get_json())
        except _RefusedError as refusal:
            return _answer(refusal.status, refusal.data)
        stored = list(sent.stored(len(messages)))
        messages.extend(stored)
        named = {m.to: {"id": m.id, "token": m.token} for m in stored}
        response = _answer(
            "success", {"message_id": sent.message_id, "messages": named}
        )
        # After the answer has left, as mostly with a Postal.
        for message in stored:
            response.call_on_close(partial(accepted, message))
        return response

    app.add_url_rule(
        "/api/v1/send/message",
        "send_message",
        partial(send, _read_message),
        methods=["POST"],
    )

    @app.post("/api/v1/messages/message")
    def message() -> Response:
        try:
            _authenticate(api_key)
        except _RefusedError as refusal:
            return _answer(refusal.status, refusal.data)
        number = request.get_json().get("id")
        for stored in messages:
            if stored.id == number:
                return _answer("success", {"id": stored.id, "token": stored.token})
        text = "No message found matching provided ID"
        missing = {"message": text, "id": number, "code": "MessageNotFound"}
        return _answer("error", missing)

    app.add_url_rule(
        "/api/v1/send/raw", "send_raw", partial(send, _read_raw), methods=["POST"]
    )
    return app


def _authenticate(api_key: str) -> None:
    given = request.headers.get("X-Server-API-Key")
    if not given:
        raise _RefusedError("AccessDenied", "Must be authenticated as a server.")
    if given != api_key:
        raise _RefusedError(
            "InvalidServerAPIKey",
            "The API token provided in X-Server-API-Key was not valid.",
            token=given,
        )


@dataclass(frozen=True, slots=True)
class _Sent:
    """What a call wants to send."""

    recipients: list[str]
    sender: str
    subject: str | None
    tag: str | None
    message_id: str | None

    def stored(self, count: int) -> Iterator[StoredMessage]:
        """Make a mail for each recipient, numbered from there."""
        now = time.time()
        for number, recipient in enumerate(self.recipients, start=count + 1):
            yield StoredMessage(
                id=number,
                token=new_token(),
                message_id=self.message_id or "",
                to=recipient,
                sender=self.sender,
                subject=self.subject,
                timestamp=now,
                tag=self.tag,
            )


def _read_message(content: Mapping[str, Any]) -> _Sent:
    """Read the fields of send/message, in the order of Postal's checks."""
    recipients = [
        _bare(address)
        for name in ("to", "cc", "bcc")
        for address in content.get(name) or []
    ]
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
    return _Sent(
        recipients,
        _bare(content["from"]),
        content.get("subject"),
        content.get("tag"),
        f"{uuid.uuid4()}@rp.sandbox.localhost",
    )


def _read_raw(content: Mapping[str, Any]) -> _Sent:
    """Read the mail of send/raw."""
    for name in ("rcpt_to", "mail_from", "data"):
        if name not in content:
            raise _RefusedError(None, f"`{name}` parameter is required but is missing")
    mail = email.message_from_bytes(base64.b64decode(content["data"]))
    headers = {
        name: str(make_header(decode_header(mail[name]))) if mail[name] else None
        for name in ("Subject", "X-Postal-Tag")
    }
    message_id = mail["Message-ID"]
    return _Sent(
        list(dict.fromkeys(content["rcpt_to"])),
        content["mail_from"],
        headers["Subject"],
        headers["X-Postal-Tag"],
        message_id.strip("<> ") if message_id else None,
    )


def _bare(address: str) -> str:
    """Cut the name off an address by Postal's own rule."""
    return address.rpartition("<")[2].partition(">")[0].strip()


def _answer(status: str, data: Any) -> Response:
    return _json({"status": status, "time": 0.0, "flags": {}, "data": data})


def _json(content: Any) -> Response:
    return Response(serialize(content), mimetype="application/json")
