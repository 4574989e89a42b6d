"""OpenTelemetry, Prometheus and Sentry: what they see, and what they must not see."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from opentelemetry.sdk.metrics import MeterProvider
from opentelemetry.sdk.metrics.export import InMemoryMetricReader
from opentelemetry.sdk.trace import TracerProvider
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter
from opentelemetry.trace import SpanKind, StatusCode
from prometheus_client import CollectorRegistry, generate_latest
from sqlalchemy.orm import DeclarativeBase

from flask_postal import APIError, ConfigurationError, Message, MessageError, Postal
from flask_postal.integrations.opentelemetry import OpenTelemetry
from flask_postal.integrations.prometheus import PrometheusMetrics
from flask_postal.ledger import Ledger
from flask_postal.testing import sandboxed

ANA = "ana@example.com"
PRIVATE = (ANA, "Private subject", "Private body", "news@example.com")


def make_app(name: str | None = None) -> tuple[Flask, Postal]:
    app = Flask("telemetry")
    app.config["TESTING"] = True
    postal = Postal(app, name=name)
    app.register_blueprint(postal.blueprint)
    return app, postal


def message(to: str = ANA) -> Message:
    return Message("Private subject", to, "Private body", sender="news@example.com")


class Telemetry:
    """What OpenTelemetry was given."""

    def __init__(self, postal: Postal) -> None:
        self._exporter = InMemorySpanExporter()
        tracers, self._reader = TracerProvider(), InMemoryMetricReader()
        tracers.add_span_processor(SimpleSpanProcessor(self._exporter))
        meters = MeterProvider([self._reader])
        OpenTelemetry(postal, tracer_provider=tracers, meter_provider=meters)

    @property
    def spans(self) -> tuple[Any, ...]:
        return self._exporter.get_finished_spans()

    def points(self) -> dict[str, list[Any]]:
        data: Any = self._reader.get_metrics_data()
        return {
            metric.name: list(metric.data.data_points)
            for resource in data.resource_metrics
            for scope in resource.scope_metrics
            for metric in scope.metrics
        }

    def everything(self) -> str:
        metrics = [dict(p.attributes) for ps in self.points().values() for p in ps]
        return "".join(span.to_json() for span in self.spans) + str(metrics)


@pytest.mark.parametrize("name", [None, "news"])
def test_a_mail_and_its_event_are_linked_spans(name: str | None) -> None:
    app, postal = make_app(name)
    telemetry = Telemetry(postal)
    with sandboxed(app, name=name) as sandbox, app.app_context():
        sent = postal.send(message()).recipients[ANA]
        sandbox.advance(minutes=1)
        postal.get_message(1)
        sending, processing, reading = telemetry.spans
        url = str(app.config[f"{postal.key.upper()}_API_URL"])
    assert (sending.name, sending.kind) == ("send postal", SpanKind.CLIENT)
    assert sending.attributes["messaging.system"] == "postal"
    assert sending.attributes["messaging.destination.name"] == postal.key
    assert sending.attributes["messaging.operation.name"] == "send/message"
    assert sending.attributes["messaging.batch.message_count"] == 1
    assert sending.attributes["http.response.status_code"] == 200
    assert sending.attributes["url.full"] == f"{url}/api/v1/send/message"
    assert sending.attributes["postal.tokens"] == (sent.token,)
    assert (processing.name, processing.kind) == ("process postal", SpanKind.CONSUMER)
    assert processing.attributes["postal.token"] == sent.token
    assert processing.attributes["postal.event_type"] == "delivered"
    assert processing.attributes["postal.reason"] == "no_receiver"
    assert processing.links[0].context == sending.context
    assert reading.name == "call postal"
    points = telemetry.points()
    assert len(points["messaging.client.operation.duration"]) == 2
    assert points["messaging.process.duration"][0].count == 1
    assert not [text for text in PRIVATE if text in telemetry.everything()]


def test_failures_are_spans_without_what_they_say() -> None:
    app, postal = make_app()
    telemetry = Telemetry(postal)
    with sandboxed(app) as sandbox, app.app_context():
        sandbox.fault("502", times=1)
        with pytest.raises(APIError):
            postal.send(message())
        app.test_client().post("/postal/inbound/", data="x")
        app.test_client().post("/postal/tracking/", data="x")
    sending, inbound, tracking = telemetry.spans
    assert sending.status.status_code is StatusCode.ERROR
    assert sending.attributes["error.type"] == "APIError"
    assert sending.attributes["http.response.status_code"] == 502
    assert sending.events == ()
    assert inbound.attributes["error.type"] == "unauthorized"
    assert tracking.attributes["http.response.status_code"] == 401
    assert "postal.event_type" not in tracking.attributes
    assert not [text for text in PRIVATE if text in telemetry.everything()]


def test_a_postal_is_traced_once_and_beyond_a_sandbox() -> None:
    app, postal = make_app()
    with sandboxed(app):
        telemetry = Telemetry(postal)
    with pytest.raises(ConfigurationError, match="traced already"):
        OpenTelemetry(postal)
    with sandboxed(app) as sandbox, app.app_context():
        tracer = TracerProvider().get_tracer("test")
        with tracer.start_as_current_span("root") as root:
            postal.send_many([message(), message()])
        assert len(sandbox.messages) == 2
    assert [span.parent.span_id for span in telemetry.spans] == [
        root.get_span_context().span_id
    ] * 2


def test_only_its_own_postal_is_traced() -> None:
    app, postal = make_app()
    telemetry = Telemetry(Postal(app, name="other"))
    with sandboxed(app), app.app_context():
        postal.send(message())
        app.test_client().post("/postal/tracking/")
    assert telemetry.spans == ()


# ---- Prometheus


def scrape(registry: CollectorRegistry) -> dict[str, float]:
    lines = generate_latest(registry).decode().splitlines()
    samples = [line.rsplit(" ", 1) for line in lines if not line.startswith("#")]
    return {name: float(value) for name, value in samples}


def test_messages_and_webhooks_are_counted() -> None:
    app, postal = make_app()
    other = Postal(app, name="other")
    registry = CollectorRegistry()
    for one in (postal, other):
        PrometheusMetrics(one, app, registry=registry)
    with pytest.raises(ConfigurationError, match="counted twice"):
        PrometheusMetrics(postal, app, registry=registry)
    with app.app_context(), sandboxed(app) as sandbox:
        postal.send(message())
        sandbox.advance(minutes=1)
        sandbox.fault("502", times=1)
        with pytest.raises(APIError):
            postal.send(message())
        with pytest.raises(MessageError):
            postal.send(message("nobody"))
        app.test_client().post("/postal/tracking/", data="x")
        other.send(message())  # suppressed
    found = scrape(registry)
    total = "postal_messages_total"
    for labels in (
        'endpoint="send/message",outcome="accepted",postal="postal"',
        'endpoint="send/message",outcome="unsure",postal="postal"',
        'endpoint="none",outcome="refused",postal="postal"',
        'endpoint="send/message",outcome="suppressed",postal="postal_other"',
    ):
        assert found[f"{total}{{{labels}}}"] == 1
    count = 'postal_send_seconds_count{endpoint="send/message",postal="postal"}'
    assert found[count] == 2
    webhooks = {k: v for k, v in found.items() if k.startswith("postal_webhooks_total")}
    assert sorted(webhooks.values()) == [1, 1]
    assert any('reason="unauthorized"' in name for name in webhooks)
    assert not [text for text in PRIVATE if text in str(found)]


def test_with_a_ledger_its_health_is_read_at_each_scrape(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    class Base(DeclarativeBase):
        pass

    db: Any = SQLAlchemy(model_class=Base)
    app = Flask("health")
    app.config.update(
        TESTING=True,
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{tmp_path}/app.sqlite",
        POSTAL_RELAY="process",
    )
    db.init_app(app)
    postal, registry = Postal(app, ledger=Ledger(db)), CollectorRegistry()
    PrometheusMetrics(postal, app, registry=registry)
    assert "health of postal can't be read" not in caplog.text
    assert 'postal_dead_events{postal="postal"}' not in scrape(registry)  # no tables
    assert "health of postal can't be read" in caplog.text
    with app.app_context():
        db.create_all()
        found = scrape(registry)
        assert found['postal_dead_events{postal="postal"}'] == 0
        assert 'postal_oldest_due_mail{postal="postal"}' not in found
        postal.enqueue(message())
        db.session.commit()
        assert scrape(registry)['postal_oldest_due_mail{postal="postal"}'] >= 0
        db.engine.dispose()


# ---- Sentry


def test_sentry_sees_no_key_no_password_and_no_body() -> None:
    """In a process of its own, because Sentry changes modules for good."""
    done = subprocess.run(
        [sys.executable, "-m", "tests.apps.reported"],
        capture_output=True,
        text=True,
        timeout=60,
        check=True,
    )
    told = json.loads(done.stdout)
    assert len(told["events"]) >= 3
    text = json.dumps(told["events"])
    assert text.count("a receiver failed") >= 2
    assert "InvalidServerAPIKey" in text
    assert [name for name, secret in told["secrets"].items() if secret in text] == []
