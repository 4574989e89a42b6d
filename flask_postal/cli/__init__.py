"""Commands of ``flask postal``, which act on the current app.

Every app imports this package, so the commands import what they need when they run.
"""

from __future__ import annotations

from . import app, events, ledger, sandbox, suppressions
from .group import postal_cli

__all__ = ["app", "events", "ledger", "postal_cli", "sandbox", "suppressions"]
