"""Page to unsubscribe from a list.

A GET request changes nothing, because virus scanners follow the links in a mail. The
button on the page, and mail programs with one-click unsubscribe (RFC 8058), send POST.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from flask import Flask, Response, render_template, request

from ..errors import ConfigurationError
from .dispatch import Dispatched
from .unsubscribe import read_token, unsubscribed_request

if TYPE_CHECKING:
    from .receive import Webhooks

__all__ = ["show_page"]

_HEADERS = {
    "Cache-Control": "no-store",
    "Content-Security-Policy": "default-src 'none'; style-src 'unsafe-inline';"
    " form-action 'self'; frame-ancestors 'none'; base-uri 'none'",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Robots-Tag": "noindex",
}


def show_page(app: Flask, webhooks: Webhooks, postal_key: str, token: str) -> Response:
    """Answer a request for the page.

    :param token: That of the link.
    """
    try:
        found = read_token(app, postal_key, token)
    except ConfigurationError:  # without a SECRET_KEY no link was written here
        found = None
    if found is None:
        return _page(404, "invalid")
    recipient, mailing_list = found
    if request.method != "POST":
        return _page(200, "ask", mailing_list)
    outcome = webhooks.handle(unsubscribed_request(recipient, mailing_list), app)
    if outcome is Dispatched.HANDLED:
        return _page(200, "done", mailing_list)
    return _page(503, "failed", mailing_list)


def _page(status: int, state: str, mailing_list: str | None = None) -> Response:
    html = render_template("postal/unsubscribe.html", state=state, list=mailing_list)
    return Response(html, status, _HEADERS)
