"""The routes of the webhooks.

What happens to a request is in :mod:`.reception`, which is imported with the first one:
it needs cryptography, and an app should not wait for that at its start. What keeps the
app from answering in the place of the views is in :mod:`.net`.
"""

from __future__ import annotations

from functools import cache
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Response
from flask.signals import request_started

from .response_guard import ResponseGuard

if TYPE_CHECKING:
    from ..extension import Postal

__all__ = ["create_blueprint"]

#: Every method, so that ours is the answer to each.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def create_blueprint(postal: Postal, name: str, url_prefix: str) -> Blueprint:
    """Make the blueprint with ``/tracking/`` and ``/inbound/``."""
    blueprint = Blueprint(name, __name__, url_prefix=url_prefix)

    def tracking() -> Response:
        reception = _reception()
        response: Response = reception.receive(postal, reception.TRACKING)
        return response

    def inbound() -> Response:
        reception = _reception()
        response: Response = reception.receive(postal, reception.INBOUND)
        return response

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


@cache
def _reception() -> Any:
    from . import reception

    return reception


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
