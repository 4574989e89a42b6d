"""What becomes of a mail: its recipient's name decides.

``bounced@example.com`` bounces, ``opened+ana@example.com`` is opened; all others are
delivered after a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from .faults import Fault

__all__ = ["SCENARIOS", "Scenario", "Step", "scenario_for"]


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
class Scenario:
    """What becomes of a mail, and what befalls the webhooks about it."""

    steps: tuple[Step, ...]
    webhooks: Fault | None = None


_SENT = Step(1, "Sent")

SCENARIOS = {
    "delayed": Scenario((Step(1, "SoftFail"), Step(301, "Sent"))),
    "failed": Scenario((Step(1, "HardFail"),)),
    "held": Scenario((Step(1, "Held"),)),
    "bounced": Scenario((_SENT, Step(3, "Bounced"))),
    "opened": Scenario((_SENT, Step(3, "Loaded"))),
    "clicked": Scenario((_SENT, Step(3, "Loaded"), Step(4, "Clicked"))),
    "duplicate": Scenario((_SENT,), Fault.DUPLICATE),
    "lost": Scenario((_SENT,), Fault.DROP),
    "late": Scenario((_SENT,), Fault.LATE),
}


def scenario_for(recipient: str) -> Scenario:
    """Return what becomes of a mail to an address; what follows a ``+`` is a label."""
    name = recipient.rpartition("@")[0].partition("+")[0].lower()
    return SCENARIOS.get(name, Scenario((_SENT,)))
