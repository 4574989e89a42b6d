"""State that one app keeps for the webhooks of one Postal server."""

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
    """Keys, secrets, limits and the dedupe store of one app.

    :param settings: The settings of the app, as they are when this is created.
    :raises ConfigurationError: if a key or the dedupe cache can't be used.
    :ivar prefix: The prefix of the settings, for error messages.
    :ivar secrets: The accepted ``user:password`` pairs; empty if none is configured.
    :ivar require_sha256: Whether a SHA-1 signature alone is refused.
    :ivar configured_keys: The keys in ``WEBHOOK_KEY``; empty if keys are discovered.
    :ivar store: The dedupe store, or ``None`` if duplicates are not recognised.
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
            # Only over https or loopback: over plain http an attacker on the network
            # could replace the keys, and then sign requests.
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
        """Whether keys are fetched from Postal.

        Then a SHA-256 signature is required, because a Postal that publishes its keys
        is 3.2 or later and always sends one.
        """
        return self._discovered is not None

    @property
    def keys_age(self) -> float | None:
        """Seconds since the keys were fetched; ``None`` if they were not fetched."""
        return None if self._discovered is None else self._discovered.age

    def max_bytes(self, hook: str) -> int:
        """Return the largest accepted body in bytes.

        :param hook: ``"tracking"`` or ``"inbound"``.
        """
        return self._max_bytes[hook]

    def find_keys(self, kid: str | None) -> tuple[PublicKey, ...]:
        """Return the keys that may have signed a request.

        :param kid: The key ID that the request names, or ``None`` for any key.
        :returns: Empty if there is no such key, or the keys can't be fetched now.
        """
        if self._discovered is not None:
            return self._discovered.find(kid)
        return tuple(
            key for key in self.configured_keys if kid is None or key.kid == kid
        )

    def note_unheard(self, kind: str) -> None:
        """Log a warning that an event has no receiver, once for each kind.

        :param kind: The name of the event's class.
        """
        if kind not in self._unheard:
            self._unheard.add(kind)
            _log.warning(
                "no receiver is connected for %s; inside create_app() connect with"
                " weak=False, because blinker keeps only weak references to receivers",
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
