"""Checks of ``flask postal check``. Each problem that is found comes with its cure."""

from __future__ import annotations

from collections.abc import Iterator

from flask import Flask

from ..interface import PostalInterface
from .finding import Finding
from .ledger import check_ledger
from .sending import check_sending
from .urls import check_urls
from .webhooks import check_webhooks

__all__ = ["Finding", "check"]


def check(
    postal: PostalInterface, app: Flask, url: str | None = None
) -> Iterator[Finding]:
    """Run all checks: settings, API, ledger, keys, receivers and URLs. No mail is sent.

    It needs an app context.

    :param url: The URL at which Postal reaches this app, such as
        ``https://app.example.com``. If given, the webhooks are called there too.
    """
    yield from check_sending(postal, app)
    yield from check_ledger(postal, app)
    yield from check_webhooks(postal, app)
    yield from check_urls(postal, app, url)
