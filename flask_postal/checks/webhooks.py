"""Checks for receiving: keys, the dedupe cache, receivers and rate limiters."""

from __future__ import annotations

import time
from collections.abc import Iterator
from typing import Any

from flask import Flask

from ..errors import ConfigurationError
from ..interface import PostalInterface
from ..settings import Settings
from ..signals import inbound_received, server_event_received, tracking_received
from .finding import Finding

__all__ = ["check_webhooks"]


def check_webhooks(postal: PostalInterface, app: Flask) -> Iterator[Finding]:
    """Check the webhook keys, the dedupe cache, the receivers and rate limiters."""
    yield from _keys(postal)
    yield from _cache(postal)
    yield from _receivers(app)
    yield from _limiter(postal, app)


def _keys(postal: PostalInterface) -> Iterator[Finding]:
    settings, webhooks = postal.settings, postal.webhooks
    prefix = settings.prefix
    keys = webhooks.find_keys(None)
    if not keys:
        reason = "none could be fetched from Postal"
        if not webhooks.discovers_keys:
            reason = "none is set, and none is fetched without an API URL or over http"
        yield Finding(
            "error",
            f"no webhook can be verified: there is no key ({reason})",
            f"set {prefix}WEBHOOK_KEY to what `postal default-dkim-record` prints",
        )
        return
    for key in keys:
        origin = (
            "discovered" if webhooks.discovers_keys else f"from {prefix}WEBHOOK_KEY"
        )
        yield Finding("ok", f"webhook key {key.kid}, {key.bits} bits, {origin}")
    if not webhooks.discovers_keys and settings.api_url is not None:
        yield _compared(settings, {key.kid for key in keys})
    if not webhooks.secrets:
        yield Finding(
            "warning",
            "any mail server on the same Postal could call the webhooks: they all sign"
            " with one key",
            f"add user:password@ to the URLs in Postal, and set {prefix}WEBHOOK_SECRET",
        )


def _compared(settings: Settings, configured: set[str]) -> Finding:
    """Compare the configured keys with those that Postal serves."""
    from ..webhooks.discovery import fetch_jwks, fit_keys

    setting = f"{settings.prefix}WEBHOOK_KEY"
    try:
        content = fetch_jwks(str(settings.api_url), settings.ca_bundle)
        served = {key.kid for key in fit_keys(content)}
    except (OSError, ConfigurationError) as error:
        # Postal before 3.2 serves no keys and answers 404.
        if "HTTP 404" in str(error):
            return Finding(
                "ok", f"{setting}: not compared, because Postal serves no keys"
            )
        return Finding(
            "warning",
            f"{setting}: not compared, because Postal's keys can't be fetched: {error}",
            f"check {settings.prefix}API_URL, and the network between here and Postal",
        )
    if configured & served:
        return Finding("ok", f"{setting}: Postal signs with this key")
    return Finding(
        "error",
        f"{setting} is not the key that Postal signs with, so every webhook would be"
        f" answered with 503; Postal serves {', '.join(sorted(served))}",
        "set it to what `postal default-dkim-record` prints; a domain's DKIM record"
        " contains another key",
    )


def _cache(postal: PostalInterface) -> Iterator[Finding]:
    from ..webhooks.dedupe import CacheStore, MemoryCache

    store, setting = postal.webhooks.store, f"{postal.settings.prefix}DEDUPE_CACHE"
    if not isinstance(store, CacheStore) or isinstance(store.cache, MemoryCache):
        return
    cache = store.cache
    key, problem, began = "flask-postal:check", "it keeps nothing", time.monotonic()
    try:
        cache.delete(key)
        cache.add(key, 1, 60)
        if cache.get(key) == 1:
            problem = ""
        cache.delete(key)
    except Exception as error:  # noqa: BLE001 - any client, so any exception
        problem = type(error).__name__
    took = time.monotonic() - began
    if problem:
        yield Finding(
            "error",
            f"{setting}: the cache does not work ({problem}, after {took:.1f} s)",
            "check its address; until it works, duplicates are handled again",
        )
    elif took > 1:
        yield Finding(
            "warning",
            f"{setting}: the cache took {took:.1f} s",
            "Postal waits 5 s for the whole response; use a faster cache",
        )
    else:
        yield Finding("ok", f"{setting}: the cache works")


def _receivers(app: Flask) -> Iterator[Finding]:
    cure = "connect a receiver; inside create_app() with weak=False"
    for signal, level, what in (
        (tracking_received, "warning", "tracking events are ignored"),
        (inbound_received, "warning", "inbound mail is answered with 503 and retried"),
        (server_event_received, "ok", "DNS and send-limit events are ignored"),
    ):
        count = len(list(signal.receivers_for(app)))
        if count:
            yield Finding("ok", f"{signal.name}: {count} receiver(s)")
        else:
            yield Finding(level, f"{signal.name}: no receiver; {what}", cure)


def _limiter(postal: PostalInterface, app: Flask) -> Iterator[Finding]:
    limiters: Any = app.extensions.get("limiter")
    if not limiters:
        return
    for limiter in limiters if isinstance(limiters, (set, list)) else [limiters]:
        manager = getattr(limiter, "limit_manager", None)
        limits = [
            *getattr(manager, "default_limits", ()),
            *getattr(manager, "application_limits", ()),
        ]
        exempt = manager is not None and all(
            manager.exemption_scope(app, f"{postal.key}.{name}", postal.key).value
            for name in ("tracking", "inbound")
        )
        if limits and not exempt:
            yield Finding(
                "error",
                "a rate limiter may answer Postal with 429 (Flask-Postal makes it 503,"
                " so events arrive late, and are lost after six attempts)",
                "limiter.exempt(postal.blueprint)",
            )
        else:
            yield Finding("ok", "the rate limiter does not apply to Postal")
