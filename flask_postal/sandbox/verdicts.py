"""What Postal makes of an app's answer, and when it comes again."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "INBOUND_DELAYS",
    "TRACKING_DELAYS",
    "Verdict",
    "judge_inbound",
    "judge_tracking",
]

#: Seconds between the six attempts to deliver an event.
TRACKING_DELAYS = tuple(60.0 * minutes for minutes in (2, 3, 6, 10, 15))
#: Seconds until each of the eighteen further attempts to deliver a mail, about 31 hours
#: in all.
INBOUND_DELAYS = tuple(300.0 * 1.3**attempt for attempt in range(18))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What comes of an answer.

    :param state: ``taken``, ``pending`` (Postal comes again) or ``lost``.
    :param text: The same in words.
    :param again_in: Seconds until the next attempt.
    :param bounces: Whether the author of a mail gets it back.
    """

    state: str
    text: str
    again_in: float | None = None
    bounces: bool = False


def judge_tracking(status: int, attempt: int) -> Verdict:
    """Judge an answer to an event.

    :param status: The HTTP status; negative for no answer.
    :param attempt: Which attempt it was, from 1.
    """
    said = _said(status)
    if 200 <= status < 300:
        return Verdict("taken", f"{said}: Postal is done with this event")
    if attempt > len(TRACKING_DELAYS):
        return Verdict(
            "lost", f"{said} to the last attempt: Postal gives up, this event is lost"
        )
    return _again(said, TRACKING_DELAYS, attempt)


def judge_inbound(status: int, attempt: int) -> Verdict:
    """Judge an answer to a mail that came in; see :func:`judge_tracking`."""
    said = _said(status)
    if 200 <= status < 300:
        return Verdict("taken", f"{said}: the mail is delivered")
    if status == 429:
        return Verdict(
            "lost", f"{said}: Postal drops this mail, and nobody is told about it"
        )
    if status > 0 and not 500 <= status < 600:
        return Verdict(
            "lost", f"{said}: Postal would bounce this mail to its author", bounces=True
        )
    if attempt > len(INBOUND_DELAYS):
        return Verdict(
            "lost",
            f"{said} to the last attempt: Postal would bounce this mail to its author",
            bounces=True,
        )
    return _again(said, INBOUND_DELAYS, attempt)


def _again(said: str, delays: tuple[float, ...], attempt: int) -> Verdict:
    delay = delays[attempt - 1]
    left = len(delays) + 1 - attempt
    return Verdict(
        "pending",
        f"{said}: Postal comes again in {_span(delay)}, {_left(left)}",
        again_in=delay,
    )


def _said(status: int) -> str:
    return str(status) if status > 0 else "no answer"


def _left(attempts: int) -> str:
    return f"{attempts} attempts are left" if attempts > 1 else "for the last time"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"
