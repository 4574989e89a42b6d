"""What becomes of a mail: its recipient's name decides.

``bounced@example.com`` bounces, ``opened+ana@example.com`` is opened; all others are
delivered after a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from .faults import Fault

__all__ = ["FATES", "Fate", "Step", "fate_of"]


@dataclass(frozen=True, slots=True)
class Step:
    """Something that happens to a mail.

    :param after: Seconds after it was accepted.
    :param kind: ``Sent``, ``SoftFail``, ``HardFail``, ``Held``, ``Bounced``, ``Loaded``
        or ``Clicked``.
    """

    after: float
    kind: str


@dataclass(frozen=True, slots=True)
class Fate:
    """What becomes of a mail, and what befalls the webhooks about it."""

    steps: tuple[Step, ...]
    webhooks: Fault | None = None


_SENT = Step(1, "Sent")

FATES = {
    "delayed": Fate((Step(1, "SoftFail"), Step(301, "Sent"))),
    "failed": Fate((Step(1, "HardFail"),)),
    "held": Fate((Step(1, "Held"),)),
    "bounced": Fate((_SENT, Step(3, "Bounced"))),
    "opened": Fate((_SENT, Step(3, "Loaded"))),
    "clicked": Fate((_SENT, Step(3, "Loaded"), Step(4, "Clicked"))),
    "duplicate": Fate((_SENT,), Fault.DUPLICATE),
    "lost": Fate((_SENT,), Fault.DROP),
    "late": Fate((_SENT,), Fault.LATE),
}


def fate_of(recipient: str) -> Fate:
    """Return what becomes of a mail to an address; what follows a ``+`` is a label."""
    name = recipient.rpartition("@")[0].partition("+")[0].lower()
    return FATES.get(name, Fate((_SENT,)))
