"""Where an app has registered the blueprint."""

from __future__ import annotations

from flask import Flask

__all__ = ["find_endpoint"]


def find_endpoint(app: Flask, postal_key: str, view: str) -> str | None:
    """Return the endpoint of a view of the blueprint; ``None`` if the app has none.

    :param postal_key: The name of the blueprint, which may be nested in another one.
    :param view: ``"tracking"``, ``"inbound"`` or ``"unsubscribe"``.
    """
    end = f".{postal_key}.{view}"
    return next((n for n in app.view_functions if f".{n}".endswith(end)), None)
