"""Many messages at once: HTTP in threads, all else in the caller's.

With ``concurrency=1`` there are no threads.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass
from functools import partial
from typing import Any

from flask import Flask

from ..address import parse_address
from ..errors import MessageError
from .message import Message
from .pipeline import Ready, SendPipeline
from .result import SendResult

__all__ = ["Progress", "SendOutcome", "private_messages", "send_many"]

Progress = Callable[[int, int | None], object]


@dataclass(slots=True)
class SendOutcome:
    """What became of one message of many: a result or an error.

    :param message: The message as it was passed in.
    :param result: What :meth:`.Postal.send` would have returned.
    :param error: What it would have raised.
    """

    message: Message
    result: SendResult | None = None
    error: Exception | None = None


def send_many(
    pipeline: SendPipeline,
    app: Flask,
    messages: Iterable[Message],
    *,
    concurrency: int,
    on_progress: Progress | None,
) -> list[SendOutcome]:
    """Send messages; see :meth:`.Postal.send_many`."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError("concurrency must be an int")
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    total = len(messages) if isinstance(messages, Sized) else None
    return _Run(pipeline, app, total, on_progress).all_of(messages, concurrency)


class _Run:
    """One call of send_many."""

    def __init__(
        self,
        pipeline: SendPipeline,
        app: Flask,
        total: int | None,
        on_progress: Progress | None,
    ) -> None:
        self._pipeline = pipeline
        self._app = app
        self._total = total
        self._on_progress = on_progress
        self._done = 0
        self._alone = False
        self._pending: dict[Future[SendResult], tuple[SendOutcome, Ready]] = {}

    def all_of(
        self, messages: Iterable[Message], concurrency: int
    ) -> list[SendOutcome]:
        outcomes = []
        self._alone = concurrency == 1
        with ThreadPoolExecutor(concurrency, "postal-send") as pool:
            try:
                for message in messages:
                    outcome = SendOutcome(message)
                    outcomes.append(outcome)
                    if ready := self._ready(outcome):
                        self._begin(pool, outcome, ready)
                    # As many again wait their turn, so that no thread is idle and no
                    # more than these stand in memory.
                    self._settle(at_most=2 * concurrency - 1)
                self._settle(at_most=0)
            except BaseException:
                # The caller's iterable, on_progress or a Ctrl-C: what has begun is
                # seen to its end and told, what waits is not begun.
                for future in list(self._pending):
                    if future.cancel():
                        del self._pending[future]
                self._on_progress = None
                self._settle(at_most=0)
                raise
        return outcomes

    def _begin(
        self, pool: ThreadPoolExecutor, outcome: SendOutcome, ready: Ready
    ) -> None:
        if self._alone or ready.prepared is None or ready.suppressed:
            # Nobody to share with, or nothing to wait for: tests see mails in order.
            self._finish(outcome, ready, partial(self._pipeline.transmit, ready))
        else:
            future = pool.submit(self._pipeline.transmit, ready)
            self._pending[future] = outcome, ready

    def _ready(self, outcome: SendOutcome) -> Ready | None:
        try:
            return self._pipeline.ready(self._app, outcome.message)
        except Exception as error:  # noqa: BLE001 - templates and receivers raise anything
            outcome.error = error
        self._count()
        return None

    def _settle(self, *, at_most: int) -> None:
        """Wait until so many are pending, and tell about those that are done."""
        while len(self._pending) > at_most:
            done, _ = wait(self._pending, return_when=FIRST_COMPLETED)
            for future in done:
                outcome, ready = self._pending.pop(future)
                self._finish(outcome, ready, future.result)

    def _finish(
        self, outcome: SendOutcome, ready: Ready, result: Callable[[], SendResult]
    ) -> None:
        try:
            outcome.result = result()
        except Exception as error:  # noqa: BLE001 - one must not stop the others
            outcome.error = error
        news = outcome.error or outcome.result
        if news is not None:
            self._pipeline.report(self._app, ready.message, news)
        self._count()

    def _count(self) -> None:
        self._done += 1
        if self._on_progress is not None:
            self._on_progress(self._done, self._total)


def private_messages(
    message: Message, merge_data: Mapping[str, Mapping[str, Any]] | None
) -> Iterator[Message]:
    """Divide a message into one for each recipient, with data of its own.

    :raises MessageError: at once, if one of them could not be meant.
    """
    message = message.copy()
    for name in ("cc", "bcc"):
        if getattr(message, name):
            raise MessageError(
                f"{name}: a batch is one private mail per recipient; add the address to"
                " recipients=, or send it a mail of its own",
                field=name,
            )
    if message.message_id is not None:
        raise MessageError(
            "message_id: a batch is many mails, and no two may have one Message-ID;"
            " leave it out",
            field="message_id",
        )
    recipients: dict[tuple[str, str], Any] = {}
    for item in message.recipients:
        address, _ = parse_address(item, "recipients")
        recipients.setdefault(address.key, item)
    if not recipients:
        raise MessageError("no recipients; pass recipients=", field="recipients")
    data = {}
    for spelling, values in (merge_data or {}).items():
        key = parse_address(spelling, "merge_data")[0].key
        if key not in recipients:
            raise MessageError(
                f"merge_data: {spelling!r} is none of the recipients",
                field="merge_data",
            )
        data[key] = values or {}
    if data and message.template is None:
        raise MessageError(
            "merge_data: there is no template= to render it with", field="merge_data"
        )
    return _private(message, recipients, data)


def _private(
    message: Message, recipients: Mapping[Any, Any], data: Mapping[Any, Any]
) -> Iterator[Message]:
    for key, item in recipients.items():
        private = message.copy()
        private.recipients = [item]
        private.context = {**message.context, **data.get(key, {})}
        yield private
