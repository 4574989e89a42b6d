"""Send many messages: :meth:`.Postal.send_many` and :meth:`.Postal.send_batch`.

Only the HTTP requests run in threads. Everything that may use the app, such as
templates and receivers of signals, runs in the calling thread. With ``concurrency=1``
no thread is started.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sized
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextvars import copy_context
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
    """The outcome of one of many messages: a result or an error.

    :param message: The message as it was passed in.
    :param result: The result that :meth:`.Postal.send` would have returned.
    :param error: The exception that it would have raised.
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
    """Send messages concurrently; see :meth:`.Postal.send_many`."""
    if isinstance(concurrency, bool) or not isinstance(concurrency, int):
        raise TypeError("concurrency must be an int")
    if concurrency < 1:
        raise ValueError("concurrency must be at least 1")
    total = len(messages) if isinstance(messages, Sized) else None
    return _Run(pipeline, app, total, on_progress).all_of(messages, concurrency)


class _Run:
    """State of one call of :func:`send_many`."""

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
                    # Keep one prepared message waiting for each thread, so that no
                    # thread is idle while the next message is prepared. More would
                    # only take memory.
                    self._settle(at_most=2 * concurrency - 1)
                self._settle(at_most=0)
            except BaseException:
                # Raised by the caller's iterable or on_progress, or a Ctrl-C. Requests
                # that are under way can't be taken back: wait for them and emit their
                # signals, so that the app learns what was sent. Cancel the others.
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
            # A thread would gain nothing. In the calling thread, tests with suppressed
            # sending see their messages in order.
            self._finish(outcome, ready, partial(self._pipeline.transmit, ready))
        else:
            # With the caller's context, so that a trace of the call has a parent.
            future = pool.submit(copy_context().run, self._pipeline.transmit, ready)
            self._pending[future] = outcome, ready

    def _ready(self, outcome: SendOutcome) -> Ready | None:
        try:
            return self._pipeline.ready(self._app, outcome.message)
        except Exception as error:  # noqa: BLE001 - templates and receivers raise anything
            outcome.error = error
        self._count()
        return None

    def _settle(self, *, at_most: int) -> None:
        """Wait until at most so many requests are pending; report the finished ones."""
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
    """Split a message into one for each recipient; see :meth:`.Postal.send_batch`.

    :raises MessageError: immediately, not when the first message is taken, if the
        message or ``merge_data`` is unsuitable for a batch.
    """
    message = message.copy()
    for name in ("cc", "bcc"):
        if getattr(message, name):
            raise MessageError(
                f"{name}: a batch sends a separate message to each recipient; add the"
                " address to recipients=, or send it a message of its own",
                field=name,
            )
    if message.message_id is not None:
        raise MessageError(
            "message_id: a batch sends many messages, which can't have the same"
            " Message-ID; leave it out",
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
                f"merge_data: {spelling!r} is not one of the recipients",
                field="merge_data",
            )
        data[key] = values or {}
    if data and message.template is None:
        raise MessageError(
            "merge_data is only used by templates; pass template=", field="merge_data"
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
