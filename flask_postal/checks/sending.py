"""Checks for sending: the settings, and whether the API accepts the key."""

from __future__ import annotations

from collections.abc import Iterator
from urllib.parse import urlsplit

from flask import Flask

from ..errors import APIError, PostalError
from ..interface import PostalInterface
from ..settings import read_suppressed
from .finding import Finding

__all__ = ["check_sending"]


def check_sending(postal: PostalInterface, app: Flask) -> Iterator[Finding]:
    """Check the settings, and call the API once."""
    yield from _settings(postal, app)
    if postal.settings.uses_sandbox and not (app.debug or app.testing):
        yield Finding(
            "warning",
            "this is a sandbox, which delivers no mail",
            "this is right for development; before you deploy, set"
            f" {postal.settings.prefix}API_URL and _API_KEY to those of a real Postal",
        )
    yield from _api(postal)


def _settings(postal: PostalInterface, app: Flask) -> Iterator[Finding]:
    settings, prefix = postal.settings, postal.settings.prefix
    if settings.api_url is None:
        yield Finding(
            "error",
            "no mail can be sent: no API URL is set",
            f"set {prefix}API_URL to Postal's URL or, in development, to what"
            " `flask postal sandbox` prints",
        )
    elif urlsplit(settings.api_url).scheme == "http" and not settings.api_is_loopback:
        yield Finding(
            "warning",
            f"{settings.api_url}: the API key is sent unencrypted",
            f"set {prefix}API_URL to an https URL",
        )
    if settings.api_key is None:
        yield Finding(
            "error",
            "no mail can be sent: no API key is set",
            f"set {prefix}API_KEY to a credential of type API of the mail server",
        )
    if settings.default_sender is None and not settings.send_defaults.get("sender"):
        yield Finding(
            "warning",
            "there is no default sender: all messages need sender=",
            f"set {prefix}DEFAULT_SENDER",
        )
    if not app.testing and read_suppressed(app.config, prefix, testing=False):
        yield Finding(
            "warning",
            "no mail is sent: messages are validated and then suppressed",
            f"unset {prefix}SUPPRESS_SEND and MAIL_SUPPRESS_SEND in production",
        )
    if settings.redirect_to is not None:
        yield Finding(
            "warning",
            f"all mail goes to {settings.redirect_to.addr_spec} instead",
            f"unset {prefix}REDIRECT_TO in production",
        )


def _api(postal: PostalInterface) -> Iterator[Finding]:
    settings = postal.settings
    if settings.api_url is None or settings.api_key is None:
        return
    try:
        # No message has the id 0. "MessageNotFound" means that Postal accepts the key.
        postal.get_message(0, expand=())
    except APIError as error:
        if error.code != "MessageNotFound":
            yield Finding(
                "error", f"the API refuses calls: {error}", "see the error above"
            )
            return
    except PostalError as error:
        yield Finding(
            "error",
            f"the API can't be reached: {error}",
            f"check {settings.prefix}API_URL, and the network between here and Postal",
        )
        return
    yield Finding("ok", f"{settings.api_url} accepts the API key")
