"""When Postal's API is asked for events whose webhook never came."""

from __future__ import annotations

from datetime import timedelta

__all__ = ["FIRST_POLL", "pause_before_poll"]

#: After Postal has accepted a mail. Its first event takes a minute at most, unless
#: thousands of mails wait.
FIRST_POLL = timedelta(minutes=10)
#: After an event that is not the last: Postal tries again, or holds the mail.
_OPEN = timedelta(hours=1)
#: Between two polls at most.
_MOST = timedelta(hours=6)
#: After an event that may be the last: for a bounce that was missed.
_FINAL = timedelta(days=3)
#: Polls without anything new after which there will be nothing: 8 days. Postal holds a
#: mail for 7 days, and tries to deliver it for a day and a half.
_TRIES = 36
#: The statuses after which Postal goes on.
_NOT_FINAL = ("queued", "deferred")


def pause_before_poll(status: str | None, polls: int = 0) -> timedelta | None:
    """Return how long to wait before the API is asked about a mail.

    :param status: The status of the recipient, if there was an event.
    :param polls: How often it was asked since then, with nothing new.
    :returns: ``None`` if it is not asked any more.
    """
    if status is None or status in _NOT_FINAL:
        first = FIRST_POLL if status is None else _OPEN
        return min(first * 2 ** min(polls, 10), _MOST) if polls < _TRIES else None
    return _FINAL if polls == 0 else None
