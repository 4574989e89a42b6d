"""Where an app has registered the blueprint."""

from __future__ import annotations

from flask import Flask

__all__ = ["find_endpoint", "note_blueprint"]

#: Where an app keeps the names of blueprints: extension key -> full name.
_EXTENSION = "flask_postal_blueprints"


def note_blueprint(app: Flask, postal_key: str, name: str) -> None:
    """Note the name of a blueprint, which may be nested in another one.

    The first registration counts.
    """
    app.extensions.setdefault(_EXTENSION, {}).setdefault(postal_key, name)


def find_endpoint(app: Flask, postal_key: str, view: str) -> str | None:
    """Return the endpoint of a view of the blueprint; ``None`` if the app has none.

    :param view: ``"tracking"``, ``"inbound"`` or ``"unsubscribe"``.
    """
    name = app.extensions.get(_EXTENSION, {}).get(postal_key)
    return None if name is None else f"{name}.{view}"
