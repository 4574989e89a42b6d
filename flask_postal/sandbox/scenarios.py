"""Table of what happens to a message, by the local part of its recipient.

A message to ``bounced@example.com`` bounces and one to ``opened+ana@example.com`` is
opened; every other message is delivered after a second.
"""

from __future__ import annotations

from dataclasses import dataclass

from .faults import Fault

__all__ = ["SCENARIOS", "Scenario", "Step", "scenario_for"]


@dataclass(frozen=True, slots=True)
class Step:
    """Event in a scenario.

    :param after: Seconds after the message was accepted.
    :param event: Postal's name of the event; see :mod:`flask_postal.vocabulary`.
    """

    after: float
    event: str


@dataclass(frozen=True, slots=True)
class Scenario:
    """What happens to a message, and to the webhooks about it.

    :param about: A description for the page and the documentation.
    :param steps: The events, in order.
    :param webhooks: A fault that applies to every webhook about the message.
    """

    about: str
    steps: tuple[Step, ...]
    webhooks: Fault | None = None


_SENT = Step(1, "MessageSent")
_OPENED = Step(3, "MessageLoaded")
_DELIVERED = Scenario("delivered after a second", (_SENT,))

#: Local part of the recipient -> scenario.
SCENARIOS = {
    "delayed": Scenario(
        "deferred, then delivered after five minutes",
        (Step(1, "MessageDelayed"), Step(301, "MessageSent")),
    ),
    "failed": Scenario("failed with 550 5.1.1", (Step(1, "MessageDeliveryFailed"),)),
    "held": Scenario(
        "held, because the server is in development mode; the event is queued",
        (Step(1, "MessageHeld"),),
    ),
    "bounced": Scenario(
        "delivered, and bounced two seconds later",
        (_SENT, Step(3, "MessageBounced")),
    ),
    "opened": Scenario("delivered and opened", (_SENT, _OPENED)),
    "clicked": Scenario(
        "delivered and opened, and its first link clicked",
        (_SENT, _OPENED, Step(4, "MessageLinkClicked")),
    ),
    "duplicate": Scenario(
        "delivered; the webhook arrives twice, and receivers are called once",
        (_SENT,),
        Fault.DUPLICATE,
    ),
    "lost": Scenario("delivered; the webhook never arrives", (_SENT,), Fault.DROP),
    "late": Scenario(
        "delivered; the webhook arrives after twenty minutes", (_SENT,), Fault.LATE
    ),
}


def scenario_for(recipient: str) -> Scenario:
    """Return the scenario of a recipient; a label after ``+`` is ignored."""
    name = recipient.rpartition("@")[0].partition("+")[0].lower()
    return SCENARIOS.get(name, _DELIVERED)
