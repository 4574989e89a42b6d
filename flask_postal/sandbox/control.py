"""The sandbox by remote control: what the commands of ``flask postal`` call."""

from __future__ import annotations

import base64
import hmac
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any

from flask import Flask, Response, jsonify, request

from .store import WebhookRequest

if TYPE_CHECKING:
    from .server import Sandbox

__all__ = ["add_control", "describe_request"]


def describe_request(made: WebhookRequest) -> dict[str, Any]:
    """Tell what became of a request."""
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


def add_control(app: Flask, sandbox: Sandbox) -> None:
    """Add the routes; each wants the API key and takes JSON."""

    def route(name: str, do: Callable[[Mapping[str, Any]], Any]) -> None:
        def view() -> tuple[Response, int] | Response:
            given = request.headers.get("X-Server-API-Key", "")
            if not hmac.compare_digest(given.encode(), sandbox.api_key.encode()):
                return jsonify(error="the API key is not this sandbox's"), 403
            content = request.get_json(silent=True)
            if not isinstance(content, dict):
                return jsonify(error="JSON is missing"), 400
            try:
                return jsonify(do(content))
            except (ValueError, KeyError, TypeError, AttributeError) as error:
                return jsonify(error=str(error)), 400

        app.add_url_rule(f"/sandbox/{name}", f"control_{name}", view, methods=["POST"])

    def trigger(content: Mapping[str, Any]) -> dict[str, Any]:
        return describe_request(
            sandbox.trigger(
                content["event"], to=content.get("to"), set=content.get("set")
            )
        )

    def receive(content: Mapping[str, Any]) -> dict[str, Any]:
        return describe_request(
            sandbox.receive(
                base64.b64decode(content["raw"]),
                to=content["to"],
                sender=content.get("sender"),
                format=content.get("format", "raw-json"),
            )
        )

    def replay(content: Mapping[str, Any]) -> dict[str, Any]:
        return describe_request(sandbox.post(base64.b64decode(content["body"])))

    def fault(content: Mapping[str, Any]) -> dict[str, int | None]:
        if content.get("clear"):
            sandbox.clear_faults()
        if content.get("fault"):
            sandbox.fault(content["fault"], content.get("times"))
        return sandbox.faults

    def urls(content: Mapping[str, Any]) -> dict[str, str | None]:
        return {"tracking": sandbox.tracking_url, "inbound": sandbox.inbound_url}

    route("urls", urls)
    route("trigger", trigger)
    route("receive", receive)
    route("replay", replay)
    route("fault", fault)
