"""Views of the simulated Postal: its HTTP API, public keys and tracked links."""

from __future__ import annotations

import base64
import logging
import socket
import struct
import threading
import time
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import partial
from typing import Any

from flask import Blueprint, Flask, Response, redirect, request
from werkzeug.urls import iri_to_uri

from ..vocabulary import BY_NAME
from .current import bind, current_simulation
from .faults import Fault
from .incoming import MAX_MAIL
from .message_api import describe, describe_deliveries
from .outgoing import SERVER_TOKEN
from .params import (
    APIFailedError,
    APIRefusedError,
    api_params,
    read_request,
    ruby_blank,
)
from .records import Mail
from .send_api import send_message, send_raw
from .simulation import Simulation
from .webhook_bodies import serialize

__all__ = ["api", "create_app"]

_log = logging.getLogger("flask_postal.sandbox")

#: Seconds for which the fault "hang" delays an API call.
HANG = 60.0
#: Seconds after which the fault "late-store" stores the message.
LATE = 10.0
#: Seconds for which Postal keeps its rows by default.
RETENTION = 60 * 24 * 3600.0
_JSON = "application/json; charset=utf-8"

_PIXEL = base64.b64decode(
    "iVBORw0KGgoAAAANSUhEUgAAAAEAAAABCAQAAAC1HAwCAAAAC0lEQVR42mNkYAAAAAYAAjCB0C8AAAAASUVORK5CYII="
)


api: Blueprint = Blueprint("api", __name__)

#: Handler of an endpoint: (simulation, parameters) -> the ``data`` of the response.
Endpoint = Callable[[Simulation, Mapping[str, Any]], Any]


def create_app(simulation: Simulation, *blueprints: Blueprint) -> Flask:
    """Create the sandbox's Flask app, guarded against calls from foreign web pages.

    :param simulation: The simulated server that the views act on.
    :param blueprints: The API, the control routes and the web page.
    """
    app = Flask("flask_postal.sandbox", static_folder=None, template_folder=None)
    app.config["MAX_CONTENT_LENGTH"] = MAX_MAIL * 4 // 3 + 1024 * 1024
    bind(app, simulation)
    simulation.on("store", partial(_store, simulation))
    app.before_request(_guard)
    for status in (400, 404, 405, 413, 500):
        app.register_error_handler(status, partial(_error_page, status))
    for blueprint in blueprints:
        app.register_blueprint(blueprint)
    return app


def _guard() -> Response | None:
    """Refuse requests that a foreign web page may have caused.

    Listening on loopback is not enough: a page can let its own host name resolve to
    127.0.0.1 (DNS rebinding), or post a form to this server from its own origin.
    Checking the Host and Origin headers stops both.
    """
    host = request.host.rpartition(":")[0] if ":" in request.host else request.host
    host = host.strip("[]").lower()
    if host not in ("127.0.0.1", "localhost", "::1"):
        return _page(403)
    origin = request.headers.get("Origin")
    if origin is not None and origin != request.host_url.rstrip("/"):
        return _page(403)
    return None


# ---- the API


def _call(name: str, answer: Endpoint) -> Response:
    """Answer an API call as Postal does, or apply the active fault.

    Postal answers HTTP 200 for a refusal too and reports it in the field ``status`` of
    the body. The sandbox must do the same: a client that looks at the HTTP status alone
    would take a refusal for success in production, so it must fail here as well.
    """
    simulation = current_simulation()
    fault = simulation.take_api_fault()
    if fault is not None:
        _log.info("fault %s applies to a call of %s", fault, name)
        if (failed := _fail(fault, simulation.stopping)) is not None:
            return failed
    began = time.monotonic()
    try:
        content = read_request()
        _authenticate(simulation.api_key)
        if fault is Fault.SUSPENDED:
            raise APIRefusedError("ServerSuspended", None)
        if fault is Fault.LATE_STORE and name.startswith("send/"):
            simulation.plan(
                LATE, "store", endpoint=name, params=dict(api_params(content))
            )
            return _reset()
        if fault is Fault.PARTIAL:
            _store(simulation, name, _first_recipient(api_params(content)))
            return _page(500)
        status, data = "success", answer(simulation, api_params(content))
    except APIRefusedError as refusal:
        status, data = refusal.status, refusal.data
    except (APIFailedError, TypeError, AttributeError, ValueError):
        # Postal also answers HTTP 500 to values of unexpected types.
        return _page(500)
    took = round(time.monotonic() - began, 3)
    body = serialize({"status": status, "time": took, "flags": {}, "data": data})
    if fault in (Fault.RESET_STORED, Fault.LATE_STORE):
        return _reset()
    if fault is Fault.TRUNCATED:
        half = Response(body[: len(body) // 2], content_type=_JSON)
        half.headers["Content-Length"] = str(len(body))
        half.automatically_set_content_length = False
        return half
    return Response(body, content_type=_JSON)


def _store(simulation: Simulation, endpoint: str, params: Mapping[str, Any]) -> None:
    """Do a call that nobody gets an answer to."""
    with suppress(APIRefusedError, APIFailedError):
        _ENDPOINTS[endpoint](simulation, params)


def _first_recipient(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return the parameters of a call without all recipients but the first."""
    lists = ("rcpt_to", "to", "cc", "bcc")
    given = [name for name in lists if params.get(name)]
    first = {name: params[name][:1] for name in given[:1]}
    return {name: params[name] for name in params if name not in lists} | first


def _message(simulation: Simulation, content: Mapping[str, Any]) -> Any:
    mail = _find(simulation, content)
    return describe(simulation.store, mail, content.get("_expansions"))


def _deliveries(simulation: Simulation, content: Mapping[str, Any]) -> Any:
    return describe_deliveries(simulation.store, _find(simulation, content))


_ENDPOINTS: dict[str, Endpoint] = {
    "send/message": send_message,
    "send/raw": send_raw,
    "messages/message": _message,
    "messages/deliveries": _deliveries,
}
for _name, _answer in _ENDPOINTS.items():
    api.add_url_rule(
        f"/api/v1/{_name}",
        _name,
        partial(_call, _name, _answer),
        methods=["GET", "POST", "PUT", "PATCH"],
        provide_automatic_options=False,
    )


# ---- keys and tracked links


@api.get("/.well-known/jwks.json")
def jwks() -> Response:
    """Return the public half of the signing key."""
    return Response(
        serialize(current_simulation().key.jwks()), mimetype="application/json"
    )


@api.get(f"/img/{SERVER_TOKEN}/<token>")
def pixel(token: str) -> Response:
    """Return the tracking pixel, and note that the message was opened."""
    simulation = current_simulation()
    if (mail := simulation.store.mail_by_token(token)) is not None:
        simulation.outgoing.happen(mail, BY_NAME["MessageLoaded"], **_visitor())
    return Response(_PIXEL, mimetype="image/png")


@api.get(f"/{SERVER_TOKEN}/<token>")
def click(token: str) -> Any:
    """Redirect from a tracked link to its original URL, and note the click."""
    simulation = current_simulation()
    link = simulation.store.link(token)
    mail = simulation.store.mail(link[0]) if link else None
    try:
        target = iri_to_uri(link[1]) if link else ""
    except ValueError:
        target = ""
    if link is None or mail is None or not target:
        return Response("Invalid link", 404, mimetype="text/plain")
    clicked = BY_NAME["MessageLinkClicked"]
    simulation.outgoing.happen(mail, clicked, url=link[1], **_visitor())
    return redirect(target, 307)


def _visitor() -> dict[str, Any]:
    return {
        "ip_address": request.remote_addr or "127.0.0.1",
        "user_agent": request.headers.get("User-Agent"),
    }


def _error_page(status: int, error: Exception) -> Response:
    # Postal sets no limit for a body. Its database fails first, which gives HTTP 500.
    return _page({405: 404, 413: 500}.get(status, status))


def _page(status: int) -> Response:
    """Respond as Rails does outside of the API: with HTML, or with JSON on request."""
    if status != 403 and request.headers.get("Accept") == "application/json":
        names = {400: "Bad Request", 404: "Not Found", 500: "Internal Server Error"}
        content = {"status": status, "error": names.get(status, "Error")}
        # Rails itself writes "UTF-8" in upper case, unlike the responses of the API.
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
    """Reset the connection, so that the client gets no response at all."""
    connection: socket.socket = request.environ["werkzeug.socket"]
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    # A shutdown() would close it gracefully; closing with SO_LINGER 0 sends RST.
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


def _find(simulation: Simulation, content: Mapping[str, Any]) -> Mail:
    number = content.get("id")
    if ruby_blank(number):
        raise APIRefusedError(None, "`id` parameter is required but is missing")
    if type(number) is not int:
        raise APIFailedError
    mail = simulation.store.mail(number) if abs(number) < 2**63 else None
    if mail is None or simulation.clock.now() - mail.timestamp > RETENTION:
        raise APIRefusedError(
            "MessageNotFound", "No message found matching provided ID", id=number
        )
    return mail
