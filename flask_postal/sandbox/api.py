"""Postal's HTTP API, its keys and its tracked links, as a Flask app."""

from __future__ import annotations

import base64
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from typing import Any

from flask import Flask, Response, redirect, request
from werkzeug.urls import iri_to_uri

from .engine import MAX_MAIL, SERVER_TOKEN, Engine
from .faults import Fault
from .message_api import describe, describe_deliveries
from .params import api_params, read_request, ruby_blank
from .refusals import APIFailedError, APIRefusedError
from .send_api import send_message, send_raw
from .store import Mail
from .traffic import serialize

__all__ = ["create_app"]

_log = logging.getLogger("flask_postal.sandbox")

#: Seconds for which a call hangs that is to hang.
HANG = 60.0
_JSON = "application/json; charset=utf-8"

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


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
                content = read_request()
                _authenticate(api_key())
                if fault is Fault.SUSPENDED:
                    raise APIRefusedError("ServerSuspended", None)
                status, data = "success", answer(api_params(content))
            except APIRefusedError as refusal:
                status, data = refusal.status, refusal.data
            except (APIFailedError, TypeError, AttributeError, ValueError):
                # As Postal does with values of types that it has not thought of.
                return _page(500)
            took = round(time.monotonic() - began, 3)
            body = serialize(
                {"status": status, "time": took, "flags": {}, "data": data}
            )
            if fault is Fault.RESET_STORED:
                return _reset()
            if fault is Fault.TRUNCATED:
                half = Response(body[: len(body) // 2], content_type=_JSON)
                half.headers["Content-Length"] = str(len(body))
                half.automatically_set_content_length = False
                return half
            return Response(body, content_type=_JSON)

        app.add_url_rule(
            f"/api/v1/{name}",
            name,
            view,
            methods=["GET", "POST", "PUT", "PATCH"],
            provide_automatic_options=False,
        )

    endpoint("send/message", partial(send_message, engine, allowed))
    endpoint("send/raw", partial(send_raw, engine, allowed))
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
    # Postal has no limit of its own for a body: its database fails first.
    return _page({405: 404, 413: 500}.get(status, status))


def _page(status: int) -> Response:
    """Answer as Rails does around the API: HTML, or JSON for who asks for it."""
    if status != 403 and request.headers.get("Accept") == "application/json":
        names = {400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
        content = {"status": status, "error": names.get(status, "Error")}
        # Written by Rails itself, unlike the answers of the API.
        return Response(
            serialize(content), status, content_type="application/json; charset=UTF-8"
        )
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


def _authenticate(api_key: str) -> None:
    given = request.headers.get("X-Server-API-Key")
    if ruby_blank(given):
        raise APIRefusedError("AccessDenied", "Must be authenticated as a server.")
    if given != api_key:
        raise APIRefusedError(
            "InvalidServerAPIKey",
            "The API token provided in X-Server-API-Key was not valid.",
            token=given,
        )


def _find(engine: Engine, content: Mapping[str, Any]) -> Mail:
    number = content.get("id")
    if ruby_blank(number):
        raise APIRefusedError(None, "`id` parameter is required but is missing")
    if type(number) is not int:
        raise APIFailedError
    mail = engine.store.mail(number) if abs(number) < 2**63 else None
    if mail is None:
        raise APIRefusedError(
            "MessageNotFound", "No message found matching provided ID", id=number
        )
    return mail
