"""Looks up Postal's ids to find out what became of messages whose response was lost.

Postal numbers all mail of a mail server with one counter. What an attempt has stored
has a higher id than the anchor, a mail that was known when it began, so that all ids
after the anchor are looked up, and compared by Message-ID and recipient.

"Found" is final. "Not found" counts only

- in a look that began ``POSTAL_SETTLE`` after the end of the attempt, or of its lease:
  a request that Postal or a proxy was working on can still have been stored later. In a
  prototype one was 9.6 s after "not found";
- if Postal still shows the anchor with its token. Else it is another server, a restored
  backup, or what the message would be next to has been deleted by Postal's retention;
- if every id was looked up, to 20 misses beyond the highest that is known.

Then the recipients that Postal has not taken get the message in another attempt.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from typing import Any

from ..errors import APIError, PostalError
from ..sending.stored import MessageDetails, fetch_message
from ..sending.transport import Transport
from .columns import now, stored
from .doubts import Doubt, Doubts
from .evidence import same_mailbox
from .known import Known
from .turn import Turn

__all__ = ["Scan"]

#: Ids without a mail after which there are no more. Postal uses each id; a hole is a
#: mail that has been deleted.
MISSES = 20
#: Ids that one look takes at most; the next one goes on from there.
MOST = 5000
#: Ids after which the progress is saved.
SAVE = 100
#: How often a failed look-up is repeated before the look is put off.
TRIES = 3
#: How far Postal's clock may be behind ours, where it can't be measured.
CLOCKS = timedelta(minutes=5)
#: How far it may be off where it has been measured with another of our mails.
MEASURED = timedelta(seconds=60)
#: Postal keeps its rows for 60 days; a message younger than this is still there.
KEPT = timedelta(days=7)
_sleep = time.sleep


class _FailedError(Exception):
    """A look-up failed several times: Postal can't be reached, or not be read."""


class Scan:
    """The looks at one Postal's ids.

    :param doubts: The messages that they are about.
    :param turn: Has one process look at a time.
    """

    def __init__(self, doubts: Doubts, turn: Callable[[], Turn]) -> None:
        self._doubts = doubts
        self._turn = turn

    def run(
        self,
        transport: Transport,
        stopping: Callable[[], bool] = bool,
        yielding: Callable[[], bool] = bool,
    ) -> int:
        """Look for the doubtful messages that are due, if nobody else does.

        :param transport: Calls Postal's API.
        :param stopping: Asked before each call whether to go on another time.
        :param yielding: The same, but a part of the look is done before.
        :returns: The number of messages that are settled: accepted, or queued again.
        """
        if not self._doubts.any_due():
            return 0
        turn = self._turn()
        if not turn.take():
            return 0
        look = _Look(self._doubts, transport, turn, stopping, yielding)
        try:
            return look.run()
        finally:
            turn.end(**look.progress)


class _Look:
    """One look: upwards from the lowest anchor, for all messages that are due."""

    def __init__(
        self,
        doubts: Doubts,
        transport: Transport,
        turn: Turn,
        stopping: Callable[[], bool],
        yielding: Callable[[], bool],
    ) -> None:
        self._doubts = doubts
        self._transport = transport
        self._turn = turn
        self._stopping = stopping
        self._yielding = yielding
        self._shown: dict[int, MessageDetails] = {}
        self._calls = 0
        #: What the next turn needs to go on with this one.
        self.progress: dict[str, Any] = turn.state

    def run(self) -> int:
        doubts = self._doubts.read()
        settled = [
            d for d in doubts if not d.missing and self._doubts.settle(d.mail.id)
        ]
        doubts = [doubt for doubt in doubts if doubt.missing]
        if not doubts:
            return len(settled)
        try:
            ready = [doubt for doubt in doubts if self._find_anchor(doubt)]
            return len(settled) + (self._upwards(ready) if ready else 0)
        except _FailedError as error:
            for doubt in doubts:
                self._doubts.wait(
                    doubt, f"Postal can't be asked at the moment: {error.args[0]}"
                )
            return len(settled)

    # ---- anchors

    def _find_anchor(self, doubt: Doubt) -> bool:
        """Find out where the ids of an attempt begin; note why if that can't be."""
        anchors = [Known.from_json(data) for data in doubt.mail.anchor or ()]
        for anchor in anchors:
            if self._is_there(anchor, doubt):
                doubt.anchor = anchor
                return True
        if anchors:
            self._doubts.wait(
                doubt,
                f"Postal does not show its message {anchors[0].id} of before the"
                " attempt any more: this is another mail server, a restored backup, or"
                " older than what Postal keeps. Only an event can tell what became of"
                " it, or you: look it up in Postal",
                seconds=self._doubts.settings.backoff[1],
            )
            return False
        return self._find_older(doubt)

    def _find_older(self, doubt: Doubt) -> bool:
        """Go down from an id that is known by now to one before the attempt."""
        top = next((k for k in self._doubts.known() if self._is_there(k, doubt)), None)
        if top is None:
            self._doubts.wait(
                doubt,
                "no id of this Postal is known yet, from a response or an event, so"
                " that it is not known where to look",
            )
            return False
        before = self._began_by_postals_clock(doubt, top)
        step, place = 1, top.id
        while place > 0:
            found = self._nearest(place)
            if found is not None and found.id is not None:
                place = found.id
                if found.timestamp is not None and stored(found.timestamp) < before:
                    return self._anchored(doubt, Known(found.id, found.token))
            place, step = place - step, step * 2
        if top.id <= MOST and now() - doubt.began_at < KEPT:
            # A new mail server: the attempt's mails are among its first.
            return self._anchored(doubt, Known(top.id, top.token, start=0))
        self._doubts.wait(
            doubt,
            "Postal has nothing any more from before the attempt; only an event can"
            " tell what became of it, or you: look it up in Postal",
            seconds=self._doubts.settings.backoff[1],
        )
        return False

    def _began_by_postals_clock(self, doubt: Doubt, top: Known) -> datetime:
        """Return a time before which nothing of the attempt can have been stored."""
        began = doubt.began_at
        sent_at, found = self._doubts.sent_at(top), self._look_up(top.id)
        if sent_at is None or found is None or found.timestamp is None:
            return began - CLOCKS
        return began + (stored(found.timestamp) - sent_at) - MEASURED

    def _anchored(self, doubt: Doubt, anchor: Known) -> bool:
        doubt.anchor = anchor
        self._doubts.keep_anchor(doubt, anchor)
        return True

    def _nearest(self, place: int) -> MessageDetails | None:
        """Return the first mail at an id or below; ``None`` after enough misses."""
        for number in range(place, max(place - MISSES, 0), -1):
            if (found := self._look_up(number)) is not None:
                return found
        return None

    def _is_there(self, known: Known, doubt: Doubt) -> bool:
        """Tell whether Postal still is what it was."""
        if known.start is not None and now() - doubt.began_at >= KEPT:
            return False  # what has been deleted since may be what is looked for
        found = self._look_up(known.id)
        return found is not None and found.token == known.token

    # ---- ids

    def _upwards(self, doubts: list[Doubt]) -> int:
        lowest = min(doubt.anchor.after for doubt in doubts if doubt.anchor is not None)
        since = min(doubt.began_at for doubt in doubts)
        place = self._resume(doubts, lowest)
        by_message = {doubt.mail.message_id: doubt for doubt in doubts}
        highest = self._highest(lowest)
        misses, known, known_to = 0, set[int](), place
        while misses < MISSES or place <= highest:
            if self._ends():
                return self._put_off(doubts, place)
            if place >= known_to:
                known_to = place + SAVE
                known = self._doubts.ours(place, known_to, since)
                if not self._turn.save(**self.progress):
                    return 0  # somebody else goes on with it
            self.progress["place"] = place
            if place in known:
                misses = 0
            elif (found := self._look_up(place)) is None:
                misses += 1
            else:
                misses = 0
                self._compare(found, by_message)
            place += 1
        settled = self._conclude(doubts)
        self.progress = {}
        return settled

    def _ends(self) -> bool:
        """Tell whether to go on in another turn."""
        if self._calls >= MOST or self._stopping():
            return True
        return self._calls >= SAVE and self._yielding()

    def _resume(self, doubts: list[Doubt], lowest: int) -> int:
        """Begin a look, or go on with the last one; return the id to look up next."""
        left = self._turn.state
        if left and left["lowest"] == lowest:
            self.progress = dict(left)
        else:
            self.progress = {
                "lowest": lowest,
                "place": lowest + 1,
                "began": now().isoformat(),
                # What became due later is compared too, but not from the beginning.
                "mails": [doubt.mail.id for doubt in doubts],
            }
        place: int = self.progress["place"]
        return place

    def _highest(self, lowest: int) -> int:
        """Return the highest id that is known of this mail server."""
        for known in self._doubts.known():
            found = self._look_up(known.id)
            if found is not None and found.token == known.token:
                return known.id
        return lowest

    def _compare(self, found: MessageDetails, by_message: dict[str, Doubt]) -> None:
        doubt = by_message.get(found.message_id or "")
        if doubt is None or found.recipient is None:
            return
        for envelope in doubt.missing:
            if same_mailbox(envelope, found.recipient):
                self._doubts.note_found(doubt.missing.pop(envelope), found)
                return

    def _conclude(self, doubts: list[Doubt]) -> int:
        """Judge the messages after a complete look."""
        began = datetime.fromisoformat(self.progress["began"])
        settled = 0
        for doubt in doubts:
            counts_from = self._doubts.counts_from(doubt)
            if not doubt.missing:
                settled += self._doubts.settle(doubt.mail.id)
            elif doubt.mail.id not in self.progress["mails"]:
                self._doubts.wait(
                    doubt, "a look at Postal's ids is about to begin", 0.0
                )
            elif began >= counts_from:
                settled += self._doubts.try_again(doubt)
            else:
                at = counts_from.replace(tzinfo=UTC)
                self._doubts.wait(
                    doubt,
                    f"Postal does not have it, but a request that is still on its way"
                    f" could be stored until {at:%Y-%m-%d %H:%M:%S} UTC"
                    " (POSTAL_SETTLE)",
                    seconds=(counts_from - now()).total_seconds(),
                )
        return settled

    def _put_off(self, doubts: list[Doubt], place: int) -> int:
        settled = 0
        for doubt in doubts:
            if not doubt.missing:
                settled += self._doubts.settle(doubt.mail.id)
            else:
                self._doubts.wait(
                    doubt,
                    f"the look at Postal's ids has come to {place} and goes on; many"
                    " mails have been sent since the attempt",
                    seconds=0.0,
                )
        return settled

    def _look_up(self, number: int) -> MessageDetails | None:
        """Return the mail with an id; ``None`` if Postal has none.

        :raises _FailedError: if Postal does not answer.
        """
        if number in self._shown:
            return self._shown[number]
        for left in reversed(range(TRIES)):
            self._calls += 1
            try:
                found = fetch_message(self._transport, number, "details")
            except APIError as error:
                if error.code == "MessageNotFound":
                    return None  # not kept: it may be there later
                problem: PostalError = error
            except PostalError as error:
                problem = error
            else:
                self._shown[number] = found
                return found
            if left:
                _sleep(0.1)
        raise _FailedError(str(problem))
