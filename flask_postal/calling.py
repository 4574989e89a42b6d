"""Calls a receiver of a signal, be it a function or a coroutine."""

from __future__ import annotations

import asyncio
import inspect
from typing import Any

from flask import Flask

__all__ = ["call_receiver"]


def call_receiver(app: Flask, receiver: Any, **arguments: Any) -> None:
    """Call a receiver, and see what it returned to its end if that can be awaited.

    Whether it is a coroutine function can't be told before: a decorator or a
    ``__call__`` may hide it, and what nobody awaits never runs.
    """
    result = receiver(app, **arguments)
    if result is None or not inspect.isawaitable(result):
        return

    async def wait() -> None:
        await result

    try:
        run = app.ensure_sync(wait)
    except RuntimeError:  # Flask's way to say that asgiref is missing
        asyncio.run(wait())
    else:
        run()
