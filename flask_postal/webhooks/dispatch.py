"""Hands an event to its receivers. There is no request in sight.

A queue or a replay can call :func:`dispatch` too.
"""

from __future__ import annotations

import logging
from typing import Any

from blinker import Signal
from flask import Flask

__all__ = ["dispatch"]

_log = logging.getLogger("flask_postal.webhooks")


def dispatch(signal: Signal, app: Flask, **arguments: Any) -> bool:
    """Call every receiver, each in an app context of its own.

    One that raises does not keep the others from running.

    :param signal: The signal whose receivers are called.
    :param app: The sender of the signal.
    :returns: Whether all of them returned; what was raised is in the log.
    """
    succeeded = True
    for receiver in signal.receivers_for(app):
        try:
            with app.app_context():
                receiver(app, **arguments)
        except Exception:  # noqa: BLE001
            # Whatever a receiver raises means that it has not done its work: Postal
            # is told to come again.
            succeeded = False
            _log.exception("receiver %s failed", _name(receiver))
    return succeeded


def _name(receiver: Any) -> str:
    module = getattr(receiver, "__module__", None)
    name = getattr(receiver, "__qualname__", None)
    return f"{module}.{name}" if module and name else repr(receiver)
