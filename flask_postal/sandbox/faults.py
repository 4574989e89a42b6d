"""What goes wrong when it is asked to."""

from __future__ import annotations

import threading
from enum import StrEnum

__all__ = ["ABOUT", "API_FAULTS", "Fault", "Faults"]


class Fault(StrEnum):
    """Something that happens to a real Postal, or between it and an app."""

    # ---- a call of the API
    ERROR_500 = "500"  #: Postal fails; nothing is stored.
    BAD_GATEWAY = "502"  #: A proxy answers with HTML; nothing is stored.
    FORBIDDEN = "403"  #: The Host is not Postal's web hostname.
    SUSPENDED = "suspended"  #: The mail server is suspended.
    HANG = "hang"  #: No answer; nothing is stored.
    RESET = "reset"  #: The connection is reset; nothing is stored.
    RESET_STORED = "reset-stored"  #: It is reset once the mail has been taken.
    TRUNCATED = "truncated"  #: The mail has been taken, and the answer ends half-way.

    # ---- a webhook
    DUPLICATE = "duplicate"  #: The request comes twice, byte for byte.
    DROP = "drop"  #: The request never comes.
    REORDER = "reorder"  #: The request comes after the next one.
    LATE = "late"  #: The request comes after twenty minutes.
    FOREIGN = "foreign"  #: Another tenant of the same Postal sends one of its own.


API_FAULTS = frozenset(
    {
        *(Fault.ERROR_500, Fault.BAD_GATEWAY, Fault.FORBIDDEN, Fault.HANG),
        *(Fault.RESET, Fault.RESET_STORED, Fault.TRUNCATED, Fault.SUSPENDED),
    }
)


#: What each of them is, in a line.
ABOUT = {
    Fault.ERROR_500: "Postal fails with HTTP 500",
    Fault.BAD_GATEWAY: "a proxy answers with HTML",
    Fault.FORBIDDEN: "the Host is not the right one",
    Fault.SUSPENDED: "the mail server is suspended",
    Fault.HANG: "no answer for a minute",
    Fault.RESET: "the connection is reset",
    Fault.RESET_STORED: "it is reset after the mail was taken",
    Fault.TRUNCATED: "the mail is taken, the answer is cut off",
    Fault.DUPLICATE: "the next event comes twice",
    Fault.DROP: "the next event never comes",
    Fault.REORDER: "the next event comes after the one behind it",
    Fault.LATE: "the next event comes after 20 minutes",
    Fault.FOREIGN: "in place of the next event comes one of another tenant",
}


class Faults:
    """The faults that are on, safe for threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._left: dict[Fault, int | None] = {}

    def add(self, fault: Fault | str, times: int | None = None) -> None:
        """Switch a fault on.

        :param times: For so many calls; ``None`` until it is switched off.
        :raises ValueError: if there is no such fault.
        """
        if times is not None and times < 1:
            raise ValueError("times must be at least 1")
        if fault not in list(Fault):
            raise ValueError(f"no fault {fault!r}; there are {', '.join(Fault)}")
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
        """Return the faults that are on, and for how many calls."""
        with self._lock:
            return {str(fault): times for fault, times in self._left.items()}

    def take(self, *, api: bool) -> Fault | None:
        """Return the fault that befalls this call, and count it."""
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
