"""The routes of the webhooks.

What happens to a request is in :mod:`.receive`. What keeps the app from answering in
the place of the views is in :mod:`.response_guard`.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Request, Response, current_app, request
from flask.signals import request_started

from .response_guard import ResponseGuard

if TYPE_CHECKING:
    from .receive import Webhooks

__all__ = ["create_blueprint"]

#: Every method, so that ours is the answer to each.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def create_blueprint(
    webhooks_of: Callable[[Flask], Webhooks], name: str, url_prefix: str
) -> Blueprint:
    """Create the blueprint with ``/tracking/`` and ``/inbound/``.

    :param webhooks_of: Returns the receiving side of an app, which is created with the
        first request: it imports cryptography, and an app should not wait for that at
        its start.
    """
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    def receive(hook: str) -> Response:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        # The proxy costs a look-up each time.
        req: Request = request._get_current_object()  # type: ignore[attr-defined]
        return webhooks_of(app).receive(app, req, hook)

    def tracking() -> Response:
        return receive("tracking")

    def inbound() -> Response:
        return receive("inbound")

    # Both forms are rules: to Postal, a redirect that adds a slash is a failure.
    for view in (tracking, inbound):
        for rule in (f"/{view.__name__}/", f"/{view.__name__}"):
            blueprint.add_url_rule(
                rule,
                view.__name__,
                view,
                methods=_METHODS,
                strict_slashes=True,
                provide_automatic_options=False,
            )
    blueprint.record(
        lambda state: _guard(
            state.app,
            f"{state.name_prefix}.{state.name}".lstrip("."),  # in another blueprint
            (state.url_prefix or "").rstrip("/"),
            tracking.__module__,
        )
    )
    return blueprint


def _guard(app: Any, name: str, url_prefix: str, module: str) -> None:
    """Keep the app's own checks from answering Postal in our place."""
    hooks = ("tracking", "inbound")

    def exempt_from_csrf(sender: Flask, **extra: Any) -> None:
        """Runs before the first request, when CSRFProtect is there if ever."""
        csrf: Any = sender.extensions.get("csrf")
        if hasattr(csrf, "exempt"):
            for function in hooks:
                csrf.exempt(f"{module}.{function}")
        request_started.disconnect(exempt_from_csrf, sender=sender)

    request_started.connect(exempt_from_csrf, sender=app, weak=False)
    app.wsgi_app = ResponseGuard(
        app.wsgi_app,
        endpoints={f"{name}.{hook}" for hook in hooks},
        paths={f"{url_prefix}/{hook}" for hook in hooks},
    )
