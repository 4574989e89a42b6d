"""Metrics for Prometheus.

Needs ``Flask-Postal[prometheus]``::

    PrometheusMetrics(postal, app)

All labels are from closed sets: neither addresses nor anything else that a stranger
could choose becomes a label.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from typing import Any
from weakref import WeakKeyDictionary, ref

from flask import Flask
from prometheus_client import REGISTRY, CollectorRegistry, Counter, Histogram
from prometheus_client.core import GaugeMetricFamily

from ..errors import ConfigurationError, SendError
from ..extension import Postal
from ..sending.result import SendResult
from ..signals import message_sent, send_failed, webhook_answered

__all__ = ["PrometheusMetrics"]

_log = logging.getLogger("flask_postal.integrations.prometheus")

_BUCKETS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1, 2.5, 5, 10)
_HEALTH = {
    "seconds_since_event": "Seconds since the last webhook.",
    "seconds_since_accepted": "Seconds since Postal took a message.",
    "oldest_due_mail": "Seconds that the oldest message has been due.",
    "oldest_due_event": "Seconds that the oldest stored event has been due.",
    "doubtful_mails": "Messages that Postal may have taken or not, up to 1,000.",
    "dead_events": "Events whose receivers have failed for too long, up to 1,000.",
    "webhook_keys_age": "Seconds since the webhook keys were fetched from Postal.",
}


class PrometheusMetrics:
    """Counts the messages and webhooks of a Postal in an app, and measures them.

    - ``postal_messages_total``, by ``endpoint`` and ``outcome``: ``accepted``,
      ``suppressed``, ``refused``, or ``unsure`` if Postal may have taken it;
    - ``postal_send_seconds``, by ``endpoint``;
    - ``postal_webhooks_total``, by ``hook``, ``event_type``, ``reason`` (one of
      :class:`.AnswerReason`) and ``status``;
    - ``postal_webhook_seconds``, by ``hook``;
    - with a ledger, what :meth:`.Postal.health` returns, as gauges such as
      ``postal_oldest_due_event``. They are read from the database with each scrape.

    Each has the label ``postal``, the extension key. Create it once for each Postal.

    :param registry: The global one if not given. Several Postals of one registry share
        the metrics.
    :raises ConfigurationError: if the app has metrics of this Postal already.
    """

    def __init__(
        self, postal: Postal, app: Flask, *, registry: CollectorRegistry = REGISTRY
    ) -> None:
        self._postal = postal
        # The signals have weak references only, so that an app can end.
        found = app.extensions.setdefault("flask_postal_prometheus", [])
        if any(metrics._postal is postal for metrics in found):
            raise ConfigurationError(
                f"this app has metrics of the Postal {postal.key!r} already; with two,"
                " everything would be counted twice"
            )
        found.append(self)
        self._metrics = _metrics_of(registry)
        for signal, receiver in (
            (message_sent, self._on_sent),
            (send_failed, self._on_failed),
            (webhook_answered, self._on_answer),
        ):
            signal.connect(receiver, sender=app)
        if postal.ledger is not None:
            self._metrics.health.add(postal, app)

    def _on_sent(self, app: Flask, result: SendResult, postal: Any, **_: Any) -> None:
        outcome = "suppressed" if result.suppressed else "accepted"
        self._count(postal, result.endpoint, outcome, result.seconds)

    def _on_failed(self, app: Flask, error: Any, postal: Any, **_: Any) -> None:
        outcome, endpoint, seconds = "refused", None, None
        if isinstance(error, SendError):
            outcome = "unsure" if error.maybe_sent else "refused"
            endpoint, seconds = error.endpoint, error.seconds
        self._count(postal, endpoint, outcome, seconds)

    def _count(
        self, postal: Any, endpoint: str | None, outcome: str, seconds: float | None
    ) -> None:
        if postal is not self._postal:
            return
        labels = (postal.key, endpoint or "none")
        self._metrics.messages.labels(*labels, outcome).inc()
        if seconds is not None:
            self._metrics.send_seconds.labels(*labels).observe(seconds)

    def _on_answer(
        self,
        app: Flask,
        hook: str,
        status: int,
        reason: str,
        seconds: float,
        event_type: str | None,
        postal: Any,
        **_: Any,
    ) -> None:
        if postal is not self._postal:
            return
        key, kind = postal.key, event_type or "none"
        self._metrics.webhooks.labels(key, hook, kind, str(reason), str(status)).inc()
        self._metrics.webhook_seconds.labels(key, hook).observe(seconds)


class _Health:
    """Reads the health of Postals with a ledger when Prometheus asks."""

    def __init__(self) -> None:
        self._sources: list[tuple[Postal, ref[Flask]]] = []

    def add(self, postal: Postal, app: Flask) -> None:
        """Add a Postal of an app."""
        self._sources.append((postal, ref(app)))

    def describe(self) -> list[Any]:
        """Have nothing read from the database at registration."""
        return []

    def collect(self) -> Iterator[GaugeMetricFamily]:
        """Return the gauges; a number that there is none of is left out."""
        gauges = {
            name: GaugeMetricFamily(f"postal_{name}", text, labels=["postal"])
            for name, text in _HEALTH.items()
        }
        told: set[str] = set()
        for postal, found in self._sources:
            # Two apps of one process have one database as a rule; a sample that is
            # there twice would make Prometheus refuse all of them.
            if (app := found()) is None or postal.key in told:
                continue
            told.add(postal.key)
            try:
                with app.app_context():
                    health = postal.health()
            except Exception:  # noqa: BLE001
                # The other metrics are worth having while the database is down.
                _log.exception("the health of %s can't be read", postal.key)
                continue
            for name, value in health.items():
                if value is not None:
                    gauges[name].add_metric([postal.key], value)
        yield from gauges.values()


class _Metrics:
    """The metrics of one registry, which several Postals share."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.messages = Counter(
            "postal_messages",
            "Messages by what became of them.",
            ["postal", "endpoint", "outcome"],
            registry=registry,
        )
        self.send_seconds = Histogram(
            "postal_send_seconds",
            "Seconds that calls took which send a message.",
            ["postal", "endpoint"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.webhooks = Counter(
            "postal_webhooks",
            "Webhook requests by how they were answered.",
            ["postal", "hook", "event_type", "reason", "status"],
            registry=registry,
        )
        self.webhook_seconds = Histogram(
            "postal_webhook_seconds",
            "Seconds that verifying and handling webhook requests took.",
            ["postal", "hook"],
            registry=registry,
            buckets=_BUCKETS,
        )
        self.health = _Health()
        registry.register(self.health)


_found: WeakKeyDictionary[CollectorRegistry, _Metrics] = WeakKeyDictionary()


def _metrics_of(registry: CollectorRegistry) -> _Metrics:
    """Return what a registry has already: a second metric of a name is an error."""
    if registry not in _found:
        _found[registry] = _Metrics(registry)
    return _found[registry]
