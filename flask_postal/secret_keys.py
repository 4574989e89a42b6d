"""The secrets of an app, from which keys are derived."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from .errors import ConfigurationError

__all__ = ["secret_keys"]


def secret_keys(config: Mapping[str, Any], why: str) -> list[bytes]:
    """Return ``SECRET_KEY``, and the earlier ones in ``SECRET_KEY_FALLBACKS``.

    :param why: What needs it, for the error message.
    :raises ConfigurationError: if it is not set.
    """
    secrets = [config.get("SECRET_KEY"), *(config.get("SECRET_KEY_FALLBACKS") or ())]
    if not secrets[0]:
        raise ConfigurationError(
            f"the app's SECRET_KEY is not set; {why}", key="SECRET_KEY"
        )
    return [
        bytes(secret)
        if isinstance(secret, (bytes, bytearray))
        else str(secret).encode()
        for secret in secrets
        if secret
    ]
