"""Call receivers of signals, which may be functions or coroutine functions.

blinker's own ``send`` is not used: it stops at the first receiver that raises, and
needs to be told in advance how to run coroutine functions.
"""

from __future__ import annotations

import inspect
import sys
from contextvars import copy_context
from typing import Any

from flask import Flask

__all__ = ["call_receiver", "receiver_name"]


def call_receiver(app: Flask, receiver: Any, **arguments: Any) -> None:
    """Call a receiver, and run it to its end if it is a coroutine function.

    The result is inspected, not the receiver: ``inspect.iscoroutinefunction`` misses
    coroutine functions behind a decorator or a ``__call__``, and a coroutine that
    nobody awaits never runs.

    :param app: The sender of the signal, passed as the only positional argument.
    :param receiver: The function to call.
    :param arguments: The keyword arguments of the signal.
    :raises TypeError: if the receiver does not accept the arguments, or is a generator
        function, whose body would never run.
    """
    try:
        result = receiver(app, **arguments)
    except TypeError as error:
        if error.__traceback__ is None or error.__traceback__.tb_next is not None:
            raise  # the error was raised inside the receiver, not by the call itself
        raise TypeError(
            f"the receiver {_label(receiver)} can't be called ({error}); write it as"
            f" {_signature(receiver, arguments)}: ..."
        ) from None
    if result is None:
        return
    if inspect.isgenerator(result) or inspect.isasyncgen(result):
        raise TypeError(
            f"the receiver {_label(receiver)} is a generator function, so its body has"
            " not run; remove the yield, or call it from a function that iterates"
            " over it"
        )
    if not inspect.isawaitable(result):
        return

    async def wait() -> None:
        await result

    if _is_in_event_loop():
        # An async view or script sends a message: an event loop is already running in
        # this thread and can't be entered again, so use a loop in another thread.
        import asyncio
        from concurrent.futures import ThreadPoolExecutor

        with ThreadPoolExecutor(1) as thread:
            thread.submit(copy_context().run, asyncio.run, wait()).result()
        return
    try:
        run = app.ensure_sync(wait)
    except RuntimeError:  # raised by Flask if asgiref is not installed
        # Importing asyncio makes up a tenth of the time a small app needs to start,
        # and few receivers are async.
        import asyncio

        asyncio.run(wait())
    else:
        run()


def _is_in_event_loop() -> bool:
    # Without importing asyncio: if nobody has imported it, no loop is running.
    asyncio = sys.modules.get("asyncio")
    return asyncio is not None and asyncio._get_running_loop() is not None


def receiver_name(receiver: Any) -> str | None:
    """Return a name of the receiver that is the same in every process.

    :returns: The module and qualified name; ``None`` for an object without a name, such
        as a ``functools.partial``.
    """
    module = getattr(receiver, "__module__", None)
    name = getattr(receiver, "__qualname__", None)
    return f"{module}.{name}" if module and name else None


def _label(receiver: Any) -> str:
    return receiver_name(receiver) or f"of type {type(receiver).__name__}"


def _signature(receiver: Any, arguments: dict[str, Any]) -> str:
    """Return the signature to suggest: ``def on_tracking(app, event, **extra)``."""
    name = getattr(receiver, "__name__", "receiver")
    named = [argument for argument in arguments if argument != "postal"]
    keyword = "async def" if inspect.iscoroutinefunction(receiver) else "def"
    return f"{keyword} {name}({', '.join(['app', *named])}, **extra)"
