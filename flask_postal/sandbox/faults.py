"""Faults that the sandbox simulates on request."""

from __future__ import annotations

import threading
from enum import StrEnum

__all__ = ["ABOUT", "API_FAULTS", "Fault", "Faults"]


class Fault(StrEnum):
    """Failure of a Postal server, or of the network between it and an app.

    :data:`ABOUT` describes each of them in a sentence.
    """

    # ---- faults of API calls
    ERROR_500 = "500"  #: Postal fails; the message is not stored.
    BAD_GATEWAY = "502"  #: A proxy answers with HTML; the message is not stored.
    FORBIDDEN = "403"  #: The Host header is wrong; the message is not stored.
    SUSPENDED = "suspended"  #: The mail server is suspended.
    HANG = "hang"  #: There is no response; the message is not stored.
    RESET = "reset"  #: The connection is reset; the message is not stored.
    RESET_STORED = "reset-stored"  #: The message is stored, the connection is reset.
    LATE_STORE = "late-store"  #: The connection is reset, the message is stored later.
    PARTIAL = "partial"  #: Only the first recipient is stored, then Postal fails.
    TRUNCATED = "truncated"  #: The message is stored, the response is cut off.

    # ---- faults of webhooks
    DUPLICATE = "duplicate"  #: The event arrives twice.
    DROP = "drop"  #: The event never arrives.
    REORDER = "reorder"  #: The event arrives after those that follow it.
    LATE = "late"  #: The event arrives twenty minutes late.
    FOREIGN = "foreign"  #: An event of another tenant arrives instead.


#: The faults of API calls; all others are faults of webhooks.
API_FAULTS = frozenset(
    {
        *(Fault.ERROR_500, Fault.BAD_GATEWAY, Fault.FORBIDDEN, Fault.HANG),
        *(Fault.RESET, Fault.RESET_STORED, Fault.TRUNCATED, Fault.SUSPENDED),
        *(Fault.LATE_STORE, Fault.PARTIAL),
    }
)


#: What each fault does, as the documentation and the sandbox's page show it.
ABOUT = {
    Fault.ERROR_500: "Postal answers HTTP 500; the message is not stored",
    Fault.BAD_GATEWAY: "a proxy in front of Postal answers HTTP 502 with an HTML page;"
    " the message is not stored",
    Fault.FORBIDDEN: "Postal answers HTTP 403, because the Host header is not its web"
    " hostname; the message is not stored",
    Fault.SUSPENDED: "Postal refuses the call with ServerSuspended, because the mail"
    " server is suspended",
    Fault.HANG: "there is no response for a minute, then the connection is reset; the"
    " message is not stored",
    Fault.RESET: "the connection is reset before the message is stored",
    Fault.RESET_STORED: "Postal stores the message, then the connection is reset:"
    " sending again would send the message twice",
    Fault.LATE_STORE: "the connection is reset, and Postal stores the message ten"
    " seconds later: whoever looks in between does not find it",
    Fault.PARTIAL: "Postal stores the message for the first recipient only, and answers"
    " HTTP 500",
    Fault.TRUNCATED: "Postal stores the message, and the response is cut off half-way:"
    " sending again would send the message twice",
    Fault.DUPLICATE: "the event arrives twice, byte for byte the same",
    Fault.DROP: "the event never arrives",
    Fault.REORDER: "the event arrives five seconds late, after those that follow it",
    Fault.LATE: "the event arrives twenty minutes late",
    Fault.FOREIGN: "an event of another tenant of the same Postal arrives instead, with"
    " a valid signature: only POSTAL_WEBHOOK_SECRET keeps it out",
}


class Faults:
    """The active faults of one sandbox; thread-safe."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[Fault, int | None] = {}

    def add(self, fault: Fault | str, times: int | None = None) -> None:
        """Switch a fault on.

        :param times: The number of calls or webhooks that it applies to; ``None`` until
            it is switched off.
        :raises ValueError: if there is no such fault, or ``times`` is below 1.
        """
        if times is not None and times < 1:
            raise ValueError("times must be at least 1")
        if fault not in list(Fault):
            raise ValueError(f"unknown fault {fault!r}; use one of {', '.join(Fault)}")
        with self._lock:
            self._left[Fault(fault)] = times

    def remove(self, fault: Fault | str) -> None:
        """Switch a fault off."""
        with self._lock:
            self._left.pop(Fault(fault), None)

    def clear(self) -> None:
        """Switch all faults off."""
        with self._lock:
            self._left.clear()

    def active(self) -> dict[str, int | None]:
        """Return the active faults, and how many calls each still applies to."""
        with self._lock:
            return {str(fault): times for fault, times in self._left.items()}

    def take(self, *, api: bool) -> Fault | None:
        """Return the fault that applies to this call, and count the call.

        The fault that was switched on first wins.

        :param api: Whether this is an API call; a webhook if not.
        """
        with self._lock:
            for fault, times in list(self._left.items()):
                if (fault in API_FAULTS) is not api:
                    continue
                if times is not None:
                    if times > 1:
                        self._left[fault] = times - 1
                    else:
                        del self._left[fault]
                return fault
        return None
