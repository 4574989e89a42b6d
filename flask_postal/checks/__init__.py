"""Runs the checks of ``flask postal check``. Each finding comes with its cure."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask

from ..interface import PostalInterface
from .finding import Finding
from .sending import check_sending
from .urls import check_urls
from .webhooks import check_webhooks

__all__ = ["Finding", "check"]


def check(
    postal: PostalInterface, app: Flask, url: str | None = None
) -> Iterator[Finding]:
    """Check settings, API, keys, receivers and URLs, in an app context.

    Nothing is sent.

    :param url: Where Postal reaches this app: ``https://app.example.com``.
    """
    yield from check_sending(postal, app)
    yield from check_webhooks(postal, app)
    yield from check_urls(postal, app, url)
