"""Calls a receiver of a signal, be it a function or a coroutine."""

from __future__ import annotations

import inspect
import sys
from contextvars import copy_context
from typing import Any

from flask import Flask

__all__ = ["call_receiver", "receiver_name"]


def call_receiver(app: Flask, receiver: Any, **arguments: Any) -> None:
    """Call a receiver, and wait for what it returned if that can be awaited.

    Whether it is a coroutine function can't be told before: a decorator or a
    ``__call__`` may hide it, and what nobody awaits never runs.

    :raises TypeError: if the receiver does not take the arguments, or is a generator,
        of which nothing would run.
    """
    try:
        result = receiver(app, **arguments)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # from within the receiver
        raise TypeError(
            f"the receiver {_label(receiver)} can't be called ({error}); write it as"
            f" {_signature(receiver, arguments)}: ..."
        ) from None
    if result is None:
        return
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            f"the receiver {_label(receiver)} is a generator, and nothing of it has"
            " run; take the yield out of it, or loop over the generator in a function"
        )
    if not inspect.isawaitable(result):
        return

    async def wait() -> None:
        await result

    if _is_in_event_loop():
        # A view or a script that is a coroutine itself: the loop of this thread can't
        # run another one to its end.
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as thread:
            thread.submit(copy_context().run, asyncio.run, wait()).result()
        return
    try:
        run = app.ensure_sync(wait)
    except RuntimeError:  # Flask's way to say that asgiref is missing
        import asyncio  # a tenth of an app's start, and few receivers are async

        asyncio.run(wait())
    else:
        run()


def _is_in_event_loop() -> bool:
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def receiver_name(receiver: Any) -> str | None:
    """Return what a receiver is called in every process, if it is called anything."""
    module = getattr(receiver, "__module__", None)
    name = getattr(receiver, "__qualname__", None)
    return f"{module}.{name}" if module and name else None


def _label(receiver: Any) -> str:
    return receiver_name(receiver) or f"of type {type(receiver).__name__}"


def _signature(receiver: Any, arguments: dict[str, Any]) -> str:
    """Write down how a receiver begins: ``def on_tracking(app, event, **extra)``."""
    name = getattr(receiver, "__name__", "receiver")
    named = [argument for argument in arguments if argument != "postal"]
    keyword = "async def" if inspect.iscoroutinefunction(receiver) else "def"
    return f"{keyword} {name}({', '.join(['app', *named])}, **extra)"
