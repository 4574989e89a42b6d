"""Send mail with Postal from Flask, and hear back.

::

    from flask_postal import Message, Postal, tracking_received

    postal = Postal(app)
    app.register_blueprint(postal.blueprint)

    postal.send(Message("Welcome", ["ana@example.com"], body="Hi"))

    @tracking_received.connect
    def on_tracking(app, event, **extra): ...
"""

from __future__ import annotations

import ast
from importlib import import_module
from pathlib import Path
from typing import Any


def _read_stub() -> dict[str, str]:
    """Read ``__init__.pyi``: public name -> the module that defines it."""
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.name: f".{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


# A name is imported when it is first used. pytest imports this package in every project
# of an environment, because of the plugin in it, and Flask takes 0.1 s to import.
_HOMES = _read_stub()

__all__ = sorted(_HOMES)


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value = getattr(import_module(_HOMES[name], __name__), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
