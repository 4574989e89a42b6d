"""Send mail through Postal from Flask, and receive Postal's webhooks.

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
    """Return the public names and the modules that define them.

    They are read from ``__init__.pyi``, so that type checkers and the run time can't
    disagree about them.
    """
    stub = ast.parse(Path(__file__).with_suffix(".pyi").read_text(encoding="utf-8"))
    return {
        alias.name: f".{node.module}"
        for node in stub.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }


# Names are imported when they are first used. pytest loads the plugin in this package,
# and with it the package, in every project of an environment. Importing everything
# here would import Flask too and add 0.1 s to each of their test runs.
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
