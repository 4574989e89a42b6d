"""Who really wrote a mail, as far as DKIM, SPF and DMARC tell.

:mod:`.verdict` joins them. It needs ``Flask-Postal[authentication]``.
"""

from __future__ import annotations

from .resolver import Resolver, resolving_with
from .verdict import (
    UNKNOWN,
    UNREADABLE,
    Authentication,
    AuthenticationVerdict,
    authenticate,
)

__all__ = [
    "UNKNOWN",
    "UNREADABLE",
    "Authentication",
    "AuthenticationVerdict",
    "Resolver",
    "authenticate",
    "resolving_with",
]
