"""Postal's HTTP API, its keys and its tracked links, as a Flask app."""

from __future__ import annotations

import base64
import binascii
import json
import logging
import re
import socket
import struct
import threading
import time
import uuid
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, redirect, request
from werkzeug.urls import iri_to_uri

from .compose import compose
from .engine import MAX_MAIL, SERVER_TOKEN, Engine
from .faults import Fault
from .reading import read_mail
from .store import Mail
from .stored import describe, describe_deliveries
from .traffic import serialize

__all__ = ["create_app"]

_log = logging.getLogger("flask_postal.sandbox")

#: Addresses in each of to, cc and bcc.
MAX_ADDRESSES = 50
#: Characters that Postal's database has room for.
MAX_TEXT = 255
#: Seconds for which a call hangs that is to hang.
HANG = 60.0

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


class _RefusedError(Exception):
    """What Postal says with HTTP 200."""

    def __init__(self, code: str | None, message: str | None, **more: Any) -> None:
        super().__init__(message)
        self.status = "error" if code else "parameter-error"
        self.data = {"message": message, **more} if message else dict(more)
        if code:
            self.data["code"] = code


class _FailedError(Exception):
    """What makes Postal answer HTTP 500."""


def create_app(
    engine: Engine,
    *,
    api_key: Callable[[], str],
    domains: Iterable[str],
    stopping: threading.Event,
) -> Flask:
    """Make the app.

    :param domains: The domains that may send; all if there are none.
    :param stopping: Ends the calls that hang.
    """
    app = Flask("flask_postal.sandbox", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_MAIL * 4 // 3 + 1024 * 1024
    allowed = frozenset(domain.lower() for domain in domains)

    @app.before_request
    def guard() -> Response | None:
        """Let in nobody but this machine's own programs.

        A page in a browser can make it call us under a name of its own (DNS
        rebinding), or post to us from another origin.
        """
        host = request.host.rpartition(":")[0] if ":" in request.host else request.host
        host = host.strip("[]").lower()
        if host not in ("127.0.0.1", "localhost", "::1"):
            return _page(403)
        origin = request.headers.get("Origin")
        if origin is not None and origin != request.host_url.rstrip("/"):
            return _page(403)
        return None

    def endpoint(name: str, answer: Callable[[Mapping[str, Any]], Any]) -> None:
        def view() -> Response:
            fault = engine.faults.take(api=True)
            if fault is not None:
                _log.info("fault: %s befalls a call of %s", fault, name)
            if fault is not None and (failed := _fail(fault, stopping)) is not None:
                return failed
            began = time.monotonic()
            try:
                content = _content()
                _authenticate(api_key())
                if fault is Fault.SUSPENDED:
                    raise _RefusedError("ServerSuspended", None)
                status, data = "success", answer(content)
            except _RefusedError as refusal:
                status, data = refusal.status, refusal.data
            except (_FailedError, TypeError, AttributeError, ValueError):
                # As Postal does with values of types that it has not thought of.
                return _page(500)
            took = round(time.monotonic() - began, 3)
            body = serialize(
                {"status": status, "time": took, "flags": {}, "data": data}
            )
            if fault is Fault.RESET_STORED:
                return _reset()
            if fault is Fault.TRUNCATED:
                half = Response(body[: len(body) // 2], mimetype="application/json")
                half.headers["Content-Length"] = str(len(body))
                half.automatically_set_content_length = False
                return half
            return Response(body, mimetype="application/json")

        app.add_url_rule(f"/api/v1/{name}", name, view, methods=["POST"])

    endpoint("send/message", partial(_send_message, engine, allowed))
    endpoint("send/raw", partial(_send_raw, engine, allowed))
    endpoint(
        "messages/message",
        lambda content: describe(
            engine.store, _find(engine, content), content.get("_expansions")
        ),
    )
    endpoint(
        "messages/deliveries",
        lambda content: describe_deliveries(engine.store, _find(engine, content)),
    )

    @app.get("/.well-known/jwks.json")
    def jwks() -> Response:
        return Response(serialize(engine.key.jwks()), mimetype="application/json")

    @app.get(f"/img/{SERVER_TOKEN}/<token>")
    def pixel(token: str) -> Response:
        if (mail := engine.store.mail_by_token(token)) is not None:
            engine.happen(mail, "Loaded", **_visitor())
        return Response(_PIXEL, mimetype="image/png")

    @app.get(f"/{SERVER_TOKEN}/<token>")
    def click(token: str) -> Any:
        link = engine.store.link(token)
        mail = engine.store.mail(link[0]) if link else None
        try:
            target = iri_to_uri(link[1]) if link else ""
        except ValueError:
            target = ""
        if link is None or mail is None or not target:
            return Response("Invalid link", 404, mimetype="text/plain")
        engine.happen(mail, "Clicked", url=link[1], **_visitor())
        return redirect(target, 307)

    for status in (400, 404, 405, 413, 500):
        app.register_error_handler(status, partial(_error_page, status))
    return app


def _visitor() -> dict[str, Any]:
    return {
        "ip_address": request.remote_addr or "127.0.0.1",
        "user_agent": request.headers.get("User-Agent"),
    }


def _error_page(status: int, error: Exception) -> Response:
    return _page(404 if status == 405 else status)


def _page(status: int) -> Response:
    """Answer as Rails does around the API: HTML, or JSON for who asks for it."""
    if status != 403 and request.headers.get("Accept") == "application/json":
        names = {400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
        content = {"status": status, "error": names.get(status, "Error")}
        return Response(serialize(content), status, mimetype="application/json")
    return Response(b"", status, content_type="text/html; charset=UTF-8")


def _fail(fault: Fault, stopping: threading.Event) -> Response | None:
    if fault is Fault.ERROR_500:
        return _page(500)
    if fault is Fault.FORBIDDEN:
        return _page(403)
    if fault is Fault.BAD_GATEWAY:
        page = "<html><body><h1>502 Bad Gateway</h1></body></html>"
        return Response(page, 502, mimetype="text/html")
    if fault is Fault.HANG:
        stopping.wait(HANG)
    if fault in (Fault.HANG, Fault.RESET):
        return _reset()
    return None


def _reset() -> Response:
    """Reset the connection: the client sees no answer, not even an end."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    # Not shut down, which would end it in peace.
    socket.close(connection.detach())
    return Response()


def _content() -> Mapping[str, Any]:
    """Read the JSON; a body of another type is ignored, as Postal does."""
    if not request.headers.get("Content-Type", "").startswith("application/json"):
        return {}
    try:
        content = json.loads(request.get_data().decode("utf-8"))
    except (ValueError, RecursionError):
        from werkzeug.exceptions import BadRequest

        raise BadRequest from None
    return content if isinstance(content, dict) else {}


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


def _find(engine: Engine, content: Mapping[str, Any]) -> Mail:
    number = content.get("id")
    if "id" not in content:
        raise _RefusedError(None, "`id` parameter is required but is missing")
    if type(number) is not int:
        raise _FailedError
    mail = engine.store.mail(number) if abs(number) < 2**63 else None
    if mail is None:
        raise _RefusedError(
            "MessageNotFound", "No message found matching provided ID", id=number
        )
    return mail


def _send_message(
    engine: Engine, allowed: frozenset[str], content: Mapping[str, Any]
) -> dict[str, Any]:
    """Check the fields of send/message in Postal's order, and take the mail."""
    fields = dict(content)
    for name in ("to", "cc", "bcc"):
        fields[name] = _list(fields.get(name))
    recipients = [_bare(item) for name in ("to", "cc", "bcc") for item in fields[name]]
    if not recipients:
        raise _RefusedError(
            "NoRecipients", "There are no recipients defined to receive this message"
        )
    for name, shown in (("to", "To"), ("cc", "CC"), ("bcc", "BCC")):
        if len(fields[name]) > MAX_ADDRESSES:
            raise _RefusedError(
                f"TooMany{shown}Addresses",
                f"The maximum number of {shown} addresses has been reached (maximum"
                f" {MAX_ADDRESSES})",
            )
    if _blank(fields.get("plain_body")) and _blank(fields.get("html_body")):
        raise _RefusedError("NoContent", "There is no content defined for this e-mail")
    if _blank(fields.get("from")):
        raise _RefusedError(
            "FromAddressMissing", "The From address is missing and is required"
        )
    sender = _bare(fields["from"])
    if not _may_send(sender, allowed):
        raise _RefusedError(
            "UnauthenticatedFromAddress",
            "The From address is not authorised to send mail from this server",
        )
    _check_attachments(fields.get("attachments"))
    headers = fields.get("headers") or {}
    if not isinstance(headers, dict) or any(":" in name for name in headers):
        raise _FailedError
    tag = next(
        (str(v) for k, v in headers.items() if k.lower() == "x-postal-tag"), None
    )
    tag = str(fields["tag"]) if fields.get("tag") else tag
    if any(len(text) > MAX_TEXT for text in (*recipients, sender, tag or "")):
        raise _FailedError
    message_id = f"{uuid.uuid4()}@rp.sandbox.localhost"
    raw = compose(fields, message_id=message_id, timestamp=engine.clock.now())
    subject = fields.get("subject")
    return _taken(
        engine.accept(
            recipients,
            _small(raw),
            sender=sender,
            subject=None if subject is None else str(subject),
            message_id=message_id,
            tag=tag or None,
            bounce=bool(fields.get("bounce")),
        ),
        message_id,
    )


def _send_raw(
    engine: Engine, allowed: frozenset[str], content: Mapping[str, Any]
) -> dict[str, Any]:
    """Check the fields of send/raw, and take the mail as it is."""
    if not isinstance(content.get("rcpt_to"), list):
        raise _RefusedError(None, "`rcpt_to` parameter is required but is missing")
    for name in ("mail_from", "data"):
        if _blank(content.get(name)):
            raise _RefusedError(None, f"`{name}` parameter is required but is missing")
    try:
        raw = _small(base64.b64decode(str(content["data"])))
    except (binascii.Error, ValueError):
        raw = b""
    head, separator, _ = raw.partition(b"\r\n\r\n")
    if not separator or not _is_utf8(head):
        raise _FailedError
    message = read_mail(raw)
    if message.from_email is None or not _may_send(
        message.from_email.addr_spec, allowed
    ):
        raise _RefusedError("UnauthenticatedFromAddress", None)
    recipients = list(dict.fromkeys(str(item) for item in content["rcpt_to"]))
    sender, tag = str(content["mail_from"]), message.header("x-postal-tag")
    if any(len(text) > MAX_TEXT for text in (*recipients, sender, tag or "")):
        raise _FailedError
    message_id = message.message_id if recipients else None
    mails = engine.accept(
        recipients,
        raw,
        sender=sender,
        subject=message.subject,
        message_id=message_id,
        tag=tag,
        bounce=bool(content.get("bounce")),
    )
    return _taken(mails, message_id)


def _taken(mails: Iterable[Mail], message_id: str | None) -> dict[str, Any]:
    named = {mail.recipient: {"id": mail.id, "token": mail.token} for mail in mails}
    return {"message_id": message_id, "messages": named}


def _small(raw: bytes) -> bytes:
    if len(raw) > MAX_MAIL:
        raise _FailedError
    return raw


def _check_attachments(attachments: Any) -> None:
    for attachment in attachments or []:
        if not isinstance(attachment, dict):
            raise _FailedError
        if _blank(attachment.get("name")):
            raise _RefusedError(
                "AttachmentMissingName", "An attachment is missing a name"
            )
        if _blank(attachment.get("data")):
            raise _RefusedError(
                "AttachmentMissingData", "An attachment is missing data"
            )


def _list(value: Any) -> list[str]:
    """Read addresses; a string is split at every comma, even inside quotes."""
    if value is None:
        return []
    items = value.rstrip(",").split(",") if isinstance(value, str) else value
    if items == [""] and isinstance(value, str):
        return []
    if not isinstance(items, list) or not all(isinstance(i, str) for i in items):
        raise _FailedError
    return items


def _bare(address: Any) -> str:
    """Cut the name off an address by Postal's own rule."""
    if not isinstance(address, str):
        raise _FailedError
    text = re.sub(r"(?s).*<", "", address)
    return re.sub(r"\(.+?\)", "", re.sub(r"(?s)>.*", "", text)).strip()


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _blank(value: Any) -> bool:
    return value is None or not str(value).strip()


def _may_send(address: str, allowed: frozenset[str]) -> bool:
    domain = address.rpartition("@")[2].lower()
    return bool(domain) and (not allowed or domain in allowed)
