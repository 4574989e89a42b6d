"""The sandbox's control routes, which the commands of ``flask postal`` call."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from flask import Blueprint, Response, jsonify, request

from .current import current_simulation
from .records import WebhookRequest
from .simulation import Simulation

__all__ = ["control"]

control: Blueprint = Blueprint("control", __name__, url_prefix="/sandbox")

Content = Mapping[str, Any]


def describe_request(made: WebhookRequest) -> dict[str, Any]:
    """Describe a webhook request and the app's last response, for the CLI."""
    last = made.attempts[-1] if made.attempts else None
    return {
        "event": made.event,
        "hook": made.hook,
        "recipient": made.recipient,
        "state": made.state,
        "url": last.url if last else None,
        "status": last.status if last else None,
        "answer": last.answer if last else None,
        "verdict": last.verdict if last else None,
    }


def _call(do: Callable[[Simulation, Content], Any]) -> tuple[Response, int] | Response:
    """Check the API key and the JSON of a control request, and run its handler."""
    simulation = current_simulation()
    given = request.headers.get("X-Server-API-Key", "")
    if not hmac.compare_digest(given.encode(), simulation.api_key.encode()):
        return jsonify(error="the API key is not this sandbox's"), 403
    content = request.get_json(silent=True)
    if not isinstance(content, dict):
        return jsonify(error="JSON is missing"), 400
    try:
        return jsonify(do(simulation, content))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        return jsonify(error=str(error)), 400


def _trigger(simulation: Simulation, content: Content) -> dict[str, Any]:
    made = simulation.trigger(
        content["event"], to=content.get("to"), set=content.get("set")
    )
    return describe_request(made)


def _receive(simulation: Simulation, content: Content) -> dict[str, Any]:
    made = simulation.receive(
        base64.b64decode(content["raw"]),
        to=content["to"],
        sender=content.get("sender"),
        format=content.get("format", "raw-json"),
    )
    return describe_request(made)


def _replay(simulation: Simulation, content: Content) -> dict[str, Any]:
    return describe_request(simulation.post(base64.b64decode(content["body"])))


def _fault(simulation: Simulation, content: Content) -> dict[str, int | None]:
    if content.get("clear"):
        simulation.clear_faults()
    if content.get("fault"):
        simulation.fault(content["fault"], content.get("times"))
    return simulation.faults


def _urls(simulation: Simulation, content: Content) -> dict[str, str | None]:
    return {"tracking": simulation.tracking_url, "inbound": simulation.inbound_url}


for _name, _do in {
    "urls": _urls,
    "trigger": _trigger,
    "receive": _receive,
    "replay": _replay,
    "fault": _fault,
}.items():
    control.add_url_rule(f"/{_name}", _name, partial(_call, _do), methods=["POST"])
