"""Traces and metrics for OpenTelemetry.

Needs ``Flask-Postal[opentelemetry]``, and an SDK that the app has configured::

    OpenTelemetry(postal)

Names follow OpenTelemetry's conventions for messaging and HTTP. No span and no label
contains an address or a subject; labels of metrics are from closed sets.
"""

from __future__ import annotations

import threading
import time
from collections import OrderedDict
from typing import Any
from urllib.parse import urlsplit
from weakref import WeakSet

from flask import Flask
from opentelemetry import metrics, trace
from opentelemetry.trace import Link, SpanContext, SpanKind, Status, StatusCode

from ..errors import APIError, ConfigurationError, PostalError
from ..extension import Postal
from ..sending.payload import Body
from ..sending.transport import Transport
from ..signals import webhook_answered

__all__ = ["OpenTelemetry"]

#: Tokens of messages that are remembered, so that a webhook's span has a link to that
#: of the call which sent its message, if it was in the same process.
REMEMBERED = 10_000

#: Buckets in seconds, as the conventions recommend for messaging.
_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.075, 0.1, 0.25, 0.5, 0.75, 1, 2.5, 5, 7.5, 10)

_traced: WeakSet[Postal] = WeakSet()


class OpenTelemetry:
    """Traces and counts the API calls and webhooks of a Postal, in all its apps.

    Each API call is a client span, ``send postal`` or ``call postal``; each webhook is
    a consumer span, ``process postal``, also if it was refused. Both have Postal's
    tokens of the messages (``postal.tokens``, ``postal.token``), and the second one a
    link to the first, if the same process has sent the message.

    The metrics are the histograms ``messaging.client.operation.duration`` and
    ``messaging.process.duration``, in seconds.

    :param postal: The Postal. Call it once for each.
    :param tracer_provider: The global one if not given.
    :param meter_provider: The global one if not given.
    :raises ConfigurationError: if this Postal is traced already.
    """

    def __init__(
        self,
        postal: Postal,
        *,
        tracer_provider: trace.TracerProvider | None = None,
        meter_provider: metrics.MeterProvider | None = None,
    ) -> None:
        if postal in _traced:
            raise ConfigurationError(
                f"the Postal {postal.key!r} is traced already; with two, there would"
                " be two spans for each call"
            )
        _traced.add(postal)
        self._postal = postal
        self._tracer = trace.get_tracer("flask_postal", tracer_provider=tracer_provider)
        meter = metrics.get_meter("flask_postal", meter_provider=meter_provider)
        self._calls = meter.create_histogram(
            "messaging.client.operation.duration",
            unit="s",
            description="How long calls of Postal's API took.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._webhooks = meter.create_histogram(
            "messaging.process.duration",
            unit="s",
            description="How long verifying and handling webhook requests took.",
            explicit_bucket_boundaries_advisory=_BUCKETS,
        )
        self._sent: OrderedDict[str, SpanContext] = OrderedDict()
        self._lock = threading.Lock()
        postal.wrap_transport(lambda transport: _Traced(transport, self))
        # The signal has a weak reference only; the Postal keeps this object.
        webhook_answered.connect(self._on_answer)

    # ---- calls of the API

    def call(self, transport: Transport, endpoint: str, body: Body) -> Any:
        """Call the API within a span."""
        sends = endpoint.startswith("send/")
        labels = {
            "messaging.system": "postal",
            "messaging.operation.name": endpoint,
            "messaging.destination.name": self._postal.key,
        }
        if sends:
            labels["messaging.operation.type"] = "send"
        attributes = {**labels, **_address_of(transport, endpoint)}
        name = "send postal" if sends else "call postal"
        began = time.perf_counter()
        with self._tracer.start_as_current_span(
            name,
            kind=SpanKind.CLIENT,
            attributes=attributes,
            # An error of Flask-Postal may contain an address.
            record_exception=False,
            set_status_on_exception=False,
        ) as span:
            try:
                data = transport.call(endpoint, body)
            except BaseException as error:
                kind = _kind_of(error)
                labels["error.type"] = kind
                span.set_attribute("error.type", kind)
                if isinstance(error, APIError) and error.http_status is not None:
                    status = error.http_status
                    span.set_attribute("http.response.status_code", status)
                span.set_status(Status(StatusCode.ERROR, kind))
                raise
            else:
                span.set_attribute("http.response.status_code", 200)
                self._note_tokens(span, data)
            finally:
                self._calls.record(time.perf_counter() - began, labels)
        return data

    def _note_tokens(self, span: trace.Span, data: Any) -> None:
        found = data.get("messages") if isinstance(data, dict) else None
        if not isinstance(found, dict):
            return
        entries = [entry for entry in found.values() if isinstance(entry, dict)]
        tokens = [str(entry["token"]) for entry in entries if entry.get("token")]
        span.set_attribute("messaging.batch.message_count", len(found))
        span.set_attribute("postal.tokens", tokens)
        with self._lock:
            for token in tokens:
                self._sent[token] = span.get_span_context()
            while len(self._sent) > REMEMBERED:
                self._sent.popitem(last=False)

    # ---- webhooks

    def _on_answer(
        self,
        app: Flask,
        *,
        hook: str,
        status: int,
        reason: str,
        seconds: float,
        event_type: str | None,
        event: Any,
        postal: object,
        **extra: Any,
    ) -> None:
        if postal is not self._postal:
            return
        labels: dict[str, Any] = {
            "messaging.system": "postal",
            "messaging.operation.name": hook,
            "messaging.operation.type": "process",
            "messaging.destination.name": self._postal.key,
            "http.response.status_code": status,
            "postal.reason": str(reason),
        }
        if event_type is not None:
            labels["postal.event_type"] = event_type
        if status >= 400:
            labels["error.type"] = str(reason)
        self._webhooks.record(seconds, labels)
        attributes, links = dict(labels), []
        token = getattr(event, "token", None)
        if token is not None:
            attributes["postal.token"] = token
            with self._lock:
                sent = self._sent.get(token)
            links = [] if sent is None else [Link(sent)]
        ended = time.time_ns()
        span = self._tracer.start_span(
            "process postal",
            kind=SpanKind.CONSUMER,
            attributes=attributes,
            links=links,
            start_time=ended - int(seconds * 1e9),
        )
        if status >= 500:
            span.set_status(Status(StatusCode.ERROR, str(reason)))
        span.end(ended)


class _Traced:
    """A transport whose calls are traced."""

    def __init__(self, transport: Transport, telemetry: OpenTelemetry) -> None:
        self._transport = transport
        self._telemetry = telemetry

    def call(self, endpoint: str, body: Body) -> Any:
        return self._telemetry.call(self._transport, endpoint, body)


def _address_of(transport: Transport, endpoint: str) -> dict[str, Any]:
    """Return the attributes of the HTTP request, if it is one."""
    settings = getattr(transport, "_settings", None)
    url = getattr(settings, "api_url", None)
    if not url:
        return {}
    parts = urlsplit(url)
    host = parts.hostname or ""
    try:
        port = parts.port or (443 if parts.scheme == "https" else 80)
    except ValueError:
        return {}
    return {
        "http.request.method": "POST",
        "server.address": host,
        "server.port": port,
        # Without a user and a password.
        "url.full": f"{parts.scheme}://{host}:{port}{parts.path.rstrip('/')}"
        f"/api/v1/{endpoint}",
    }


def _kind_of(error: BaseException) -> str:
    """Return the kind of an error: a closed set, for Postal's own ones."""
    return type(error).__name__ if isinstance(error, PostalError) else "other"
