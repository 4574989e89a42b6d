"""Flask-Mail's names, with Postal behind them.

For packages and apps that are written for Flask-Mail. Two lines, before anything
imports ``flask_mail``, and ``from flask_mail import ...`` gets this module::

    from flask_postal.integrations import flask_mail
    flask_mail.install()

Behaviour is Flask-Mail's, as of 0.10; see the page "Packages that use Flask-Mail" for
the few differences. It needs no extra.
"""

from __future__ import annotations

import sys
from email.header import Header  # packages import it from here

from ...errors import ConfigurationError
from .mail import Connection, Mail, email_dispatched, signals
from .message import Attachment, BadHeaderError, Message
from .mime import sanitize_address, sanitize_addresses, sanitize_subject

__all__ = [
    "Attachment",
    "BadHeaderError",
    "Connection",
    "Header",
    "Mail",
    "Message",
    "email_dispatched",
    "install",
    "sanitize_address",
    "sanitize_addresses",
    "sanitize_subject",
    "signals",
]

#: The version of Flask-Mail whose behaviour this is, for packages that ask.
__version__ = "0.10.0"


def install() -> None:
    """Have ``import flask_mail`` give this module. Call it before anything imports it.

    :raises ConfigurationError: if the real Flask-Mail was imported before: whoever did
        it would go on sending by SMTP.
    """
    ours = sys.modules[__name__]
    found = sys.modules.setdefault("flask_mail", ours)
    if found is not ours:
        raise ConfigurationError(
            "flask_mail was imported before install() was called, and would go on"
            " sending by SMTP; call install() first, at the top of the module that"
            " creates the app"
        )
