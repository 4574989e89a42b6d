"""The command group ``flask postal``, and helpers that its commands share."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask import current_app
from flask.cli import AppGroup

from ..errors import PostalError
from ..interface import PostalInterface

__all__ = [
    "explained",
    "find_postal",
    "limit_option",
    "logged",
    "name_option",
    "no_sandbox",
    "postal_cli",
    "quiet",
]

postal_cli: AppGroup = AppGroup("postal", help="Send and receive mail with Postal.")

name_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--name", default=None, help="Name of the Postal, if the app has several."
)
#: How many records a command lists at most.
limit_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--limit", default=50, show_default=True, type=click.IntRange(1, 1_000_000)
)


@contextmanager
def quiet(name: str) -> Iterator[None]:
    """Silence a logger inside of the block."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def logged(name: str) -> Iterator[None]:
    """Print the records of a logger with the time of day."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    log = logging.getLogger(name)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


@contextmanager
def explained() -> Iterator[None]:
    """Show errors of this package as one line, without a traceback."""
    try:
        yield
    except (PostalError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def find_postal(name: str | None) -> PostalInterface:
    """Return the current app's Postal with a name.

    :param name: The value of ``--name``; ``None`` for the Postal without a name.
    :raises click.ClickException: if the app has no such Postal.
    """
    key = f"postal_{name}" if name else "postal"
    postal = current_app.extensions.get(key)
    if postal is None:
        there = [k for k in current_app.extensions if k.startswith("postal")]
        raise click.ClickException(
            f"this app has no extension {key!r}"
            + (
                f"; it has {', '.join(there)}"
                if there
                else "; call postal.init_app(app)"
            )
        )
    return postal  # type: ignore[no-any-return]


def no_sandbox(postal: PostalInterface) -> click.ClickException:
    """Create the error for a sandbox that does not respond."""
    return click.ClickException(
        f"there is no sandbox at {postal.settings.api_url}; run `flask postal sandbox`"
    )
