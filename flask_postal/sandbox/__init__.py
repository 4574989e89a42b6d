"""A Postal for development: on loopback, with really signed webhooks.

It never sends mail anywhere. :class:`Sandbox` is what users hold; a mail comes in
through :mod:`.api`, :mod:`.engine` lets happen to it what :mod:`.fates` says, and
:mod:`.calls` posts the webhooks about it.
"""

from __future__ import annotations

from .clock import Clock, ManualClock
from .compose import compose_mail, reply_to
from .faults import Fault
from .server import Sandbox
from .store import Attempt, Mail, WebhookRequest
from .traffic import SigningKey

__all__ = [
    "Attempt",
    "Clock",
    "Fault",
    "Mail",
    "ManualClock",
    "Sandbox",
    "SigningKey",
    "WebhookRequest",
    "compose_mail",
    "reply_to",
]
