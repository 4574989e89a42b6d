"""Simulated Postal server for development and tests, which delivers no mail.

:class:`Sandbox` is the public entry point. :mod:`.api` accepts a message,
:mod:`.outgoing` stores it and plans the events of its scenario (:mod:`.scenarios`), and
:mod:`.webhook_sender` posts these events to the app, signed as Postal signs them.
"""

from __future__ import annotations

from .clock import Clock, ManualClock
from .compose import complaint_about, compose_mail, reply_to
from .dns import SandboxDNS
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
    "SandboxDNS",
    "SigningKey",
    "WebhookRequest",
    "complaint_about",
    "compose_mail",
    "reply_to",
]
