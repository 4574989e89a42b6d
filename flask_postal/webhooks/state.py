"""What one app needs to receive from one Postal: keys, secrets, limits, memory."""

from __future__ import annotations

import logging
from functools import partial

from ..settings import Settings
from .dedupe import CacheStore, DedupeStore, MemoryCache, check_cache
from .discovery import DiscoveredKeys, fetch_jwks
from .keys import PublicKey, load_keys

__all__ = ["WebhookState"]

_log = logging.getLogger("flask_postal.webhooks")


class WebhookState:
    """The receiving side of one app, made by ``init_app``.

    :raises ConfigurationError: for a key or a cache that can't be used.
    """

    def __init__(self, settings: Settings) -> None:
        prefix = settings.prefix
        self.prefix = prefix
        self.secrets: tuple[str, ...] = settings.webhook_secrets
        self.require_sha256: bool = settings.webhook_require_sha256
        self._max_bytes = {
            "inbound": settings.inbound_max_bytes,
            "tracking": settings.tracking_max_bytes,
        }
        self.configured_keys: tuple[PublicKey, ...] = ()
        self._discovered: DiscoveredKeys | None = None
        if settings.webhook_key is not None:
            self.configured_keys = load_keys(
                settings.webhook_key, f"{prefix}WEBHOOK_KEY"
            )
        elif settings.api_url is not None and (
            settings.api_url.startswith("https://") or settings.api_is_loopback
        ):
            # Over plain http from elsewhere anybody could hand us a key.
            self._discovered = DiscoveredKeys(
                partial(fetch_jwks, settings.api_url, settings.ca_bundle)
            )
        self.store: DedupeStore | None = _dedupe_store(settings)
        self._unheard: set[str] = set()
        if self.configured_keys and not self.secrets and not settings.api_is_loopback:
            _log.warning(
                "%sWEBHOOK_SECRET is not set: every mail server on your Postal signs"
                " with the same key, and could call your webhooks; put user:password"
                " into their URLs in Postal and set it",
                prefix,
            )

    @property
    def discovers_keys(self) -> bool:
        """Whether keys are fetched from Postal. One that serves them signs with
        SHA-256."""
        return self._discovered is not None

    def max_bytes(self, hook: str) -> int:
        """Return the limit for a body."""
        return self._max_bytes[hook]

    def find_keys(self, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys to try for a KID header; none if there is no telling."""
        if self._discovered is not None:
            return self._discovered.find(kid)
        return tuple(
            key for key in self.configured_keys if kid is None or key.kid == kid
        )

    def note_unheard(self, kind: str) -> None:
        """Warn, once, that an event has no receiver."""
        if kind not in self._unheard:
            self._unheard.add(kind)
            _log.warning(
                "no receiver is connected for %s; inside create_app() connect with"
                " weak=False, for blinker holds receivers weakly",
                kind,
            )


def _dedupe_store(settings: Settings) -> DedupeStore | None:
    cache = settings.dedupe_cache
    if cache is None:
        return None
    if isinstance(cache, str):  # "memory"
        return CacheStore(MemoryCache())
    if hasattr(cache, "claim"):
        store: DedupeStore = cache
        return store
    return CacheStore(check_cache(cache, f"{settings.prefix}DEDUPE_CACHE"))
