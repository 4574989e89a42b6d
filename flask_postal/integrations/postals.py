"""Finds the Postal of an app for code that another package calls."""

from __future__ import annotations

from flask import current_app

from ..errors import ConfigurationError
from ..extension import Postal

__all__ = ["current_postal"]


def current_postal(key: str) -> Postal:
    """Return the Postal of the current app with an extension key.

    :raises ConfigurationError: if the app has none.
    """
    found: Postal | None = current_app.extensions.get(key)
    if found is None:
        raise ConfigurationError(
            f"this app has no Postal with the key {key!r}; call Postal(app)"
        )
    return found
