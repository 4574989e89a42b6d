"""Decides what Postal does after an app's response to a webhook.

Postal treats tracking webhooks and inbound mail differently. Its documentation has the
rules for inbound mail the wrong way round; the ones here were observed on a running
Postal 3.3.6.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = [
    "INBOUND_DELAYS",
    "TRACKING_DELAYS",
    "Verdict",
    "judge_inbound",
    "judge_tracking",
]

#: Seconds between the six attempts to post an event: at 0, 2, 5, 11, 21, 36 minutes.
TRACKING_DELAYS = tuple(60.0 * minutes for minutes in (2, 3, 6, 10, 15))
#: Seconds before each of the eighteen retries of inbound mail, about 31 hours in all.
INBOUND_DELAYS = tuple(300.0 * 1.3**attempt for attempt in range(18))


@dataclass(frozen=True, slots=True)
class Verdict:
    """What Postal does after a response.

    :param state: ``"taken"``, ``"pending"`` (Postal retries) or ``"lost"``.
    :param text: A description for the log, the CLI and the page.
    :param again_in: Seconds until the next attempt; ``None`` if there is none.
    :param bounces: Whether Postal bounces inbound mail to its author.
    """

    state: str
    text: str
    again_in: float | None = None
    bounces: bool = False


def judge_tracking(status: int, attempt: int) -> Verdict:
    """Return what Postal does after a response to a tracking event.

    Anything but a 2xx status is retried.

    :param status: The HTTP status; negative if there was no response.
    :param attempt: The number of the attempt, from 1.
    """
    said = _said(status)
    if 200 <= status < 300:
        return Verdict("taken", f"{said}: Postal is done with this event")
    if attempt > len(TRACKING_DELAYS):
        return Verdict(
            "lost", f"{said} to the last attempt: Postal gives up and the event is lost"
        )
    return _again(said, TRACKING_DELAYS, attempt)


def judge_inbound(status: int, attempt: int) -> Verdict:
    """Return what Postal does after a response to inbound mail.

    A 5xx status or no response is retried. A 429 loses the mail silently. Any other
    status, even a redirect, bounces it to its author at once.

    :param status: As for :func:`judge_tracking`.
    :param attempt: As for :func:`judge_tracking`.
    """
    said = _said(status)
    if 200 <= status < 300:
        return Verdict("taken", f"{said}: the mail is delivered")
    if status == 429:
        return Verdict(
            "lost", f"{said}: Postal drops this mail without notifying its author"
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
        f"{said}: Postal retries in {_span(delay)}, {_left(left)}",
        again_in=delay,
    )


def _said(status: int) -> str:
    return str(status) if status > 0 else "no response"


def _left(attempts: int) -> str:
    return f"{attempts} attempts are left" if attempts > 1 else "for the last time"


def _span(seconds: float) -> str:
    minutes = round(seconds / 60)
    return f"{minutes} minutes" if minutes < 120 else f"{minutes // 60} hours"
