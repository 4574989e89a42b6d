"""A Postal for development: on loopback, with really signed webhooks.

It never sends mail anywhere. :class:`Sandbox` is the whole of it; :mod:`.traffic`
builds what Postal would write.
"""

from __future__ import annotations

from .server import Sandbox

__all__ = ["Sandbox"]
