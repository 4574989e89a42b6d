"""Who sees to what was committed: a thread, another process, or a queue."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from functools import partial

from .app_ledger import AppLedger
from .thread import DeliveryThread, why_not_here

__all__ = ["Wake", "wake_of"]

_log = logging.getLogger("flask_postal.ledger")

#: Called with ``"mail"`` or ``"event"`` and ids. Without ids there is something to do
#: later.
Wake = Callable[[str, Sequence[int]], object]


def wake_of(ledger: AppLedger, longest_call: float) -> Wake:
    """Return what is called when messages or events have been committed.

    :param longest_call: Seconds that a call of the API may take.
    """
    if ledger.settings.dispatch is not None:
        return partial(_dispatch, ledger.settings.dispatch)
    if ledger.settings.relay == "process":
        return lambda kind, ids: None
    thread = DeliveryThread(ledger, longest_call)

    def wake(kind: str, ids: Sequence[int]) -> None:
        # TESTING may have been set since, and the engine may have been exchanged.
        if ledger.app.testing:
            return
        why = why_not_here(ledger.database.bind())
        if why is None:
            thread.wake()
        elif ids:
            _log.warning("%ss wait for ledger.drain(): %s", kind, why)

    return wake


def _dispatch(
    call: Callable[[str, int], object], kind: str, ids: Sequence[int]
) -> None:
    for number in ids:
        try:
            call(kind, number)
        except Exception:  # noqa: BLE001
            # The others must not wait for it. The relay, or a sweep, finds this one.
            _log.exception("POSTAL_DISPATCH failed for %s %d", kind, number)
