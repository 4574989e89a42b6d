"""``flask postal``: commands for the current app.

A command imports what it needs when it runs, because this package is imported with
every app.
"""

from __future__ import annotations

from . import app, sandbox
from .group import postal_cli

__all__ = ["app", "postal_cli", "sandbox"]
