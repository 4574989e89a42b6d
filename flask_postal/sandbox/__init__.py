"""A Postal for development: on loopback, with really signed webhooks, sending no mail.

:class:`Sandbox` is what users hold. A message comes in through :mod:`.api`, is stored
by :mod:`.outgoing`, which lets happen to it what :mod:`.scenarios` says, and
:mod:`.webhook_sender` posts the events about it to the app.
"""

from __future__ import annotations

from .clock import Clock, ManualClock
from .compose import compose_mail, reply_to
from .faults import Fault
from .records import Attempt, Mail, WebhookRequest
from .server import Sandbox
from .signing_key import SigningKey

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
