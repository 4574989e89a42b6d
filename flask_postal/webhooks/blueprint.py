"""The blueprint: ``/tracking/``, ``/inbound/`` and the page ``/unsubscribe/``.

Requests are processed in :mod:`.receive`. :mod:`.response_guard` makes sure that Postal
gets the response of these views and not one that another part of the app puts in its
place.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import TYPE_CHECKING, Any

from flask import Blueprint, Flask, Request, Response, current_app, request
from flask.blueprints import BlueprintSetupState
from flask.signals import request_started

from .endpoints import note_blueprint
from .response_guard import ResponseGuard

if TYPE_CHECKING:
    from .receive import Webhooks

__all__ = ["create_blueprint"]

#: All methods are routed to the views, which respond with 405 themselves. If Flask made
#: the 405, the response guard would take it for the app's and replace it by a 503.
_METHODS = ("GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE")


def create_blueprint(
    webhooks_of: Callable[[Flask], Webhooks], name: str, url_prefix: str
) -> Blueprint:
    """Create the blueprint with the webhooks and the page to unsubscribe.

    Registering it on an app also exempts the views from CSRF protection and wraps the
    app's ``wsgi_app`` in a :class:`.ResponseGuard`.

    :param webhooks_of: Returns the :class:`.Webhooks` of an app. They are created with
        the first request, so that starting an app doesn't wait for the import of
        cryptography.
    :param name: The name of the blueprint.
    :param url_prefix: The default prefix of both URLs, such as ``"/postal"``.
    """
    blueprint = Blueprint(
        name, __name__, url_prefix=url_prefix, template_folder="templates"
    )

    def receive(hook: str) -> Response:
        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        # The request itself, because each attribute of the proxy costs a lookup.
        req: Request = request._get_current_object()  # type: ignore[attr-defined]
        return webhooks_of(app).receive(app, req, hook)

    def tracking() -> Response:
        return receive("tracking")

    def inbound() -> Response:
        return receive("inbound")

    def unsubscribe(token: str) -> Response:
        from .unsubscribe_page import show_page  # it imports cryptography

        app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
        return show_page(app, webhooks_of(app), name, token)

    blueprint.add_url_rule(
        "/unsubscribe/<token>", "unsubscribe", unsubscribe, methods=("GET", "POST")
    )

    # Both spellings are routed, because Postal doesn't follow redirects: after a 308
    # that adds the slash, it would bounce the mail to its author.
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

    blueprint.record(partial(_register, name))
    return blueprint


def _register(postal_key: str, state: BlueprintSetupState) -> None:
    """See to an app that the blueprint is registered on."""
    app: Any = state.app
    name = f"{state.name_prefix}.{state.name}".lstrip(".")  # of a nested blueprint
    note_blueprint(app, postal_key, name)
    _guard(app, name, (state.url_prefix or "").rstrip("/"))


def _guard(app: Any, name: str, url_prefix: str) -> None:
    """Exempt the views from CSRF protection, and install the response guard."""
    hooks = ("tracking", "inbound")

    def exempt_from_csrf(sender: Flask, **extra: Any) -> None:
        """Runs with the first request, when all extensions have been initialised.

        This way the app may initialise CSRFProtect before or after Postal.
        """
        csrf: Any = sender.extensions.get("csrf")
        if hasattr(csrf, "exempt"):
            for function in (*hooks, "unsubscribe"):
                csrf.exempt(f"{__name__}.{function}")
        request_started.disconnect(exempt_from_csrf, sender=sender)

    request_started.connect(exempt_from_csrf, sender=app, weak=False)
    app.wsgi_app = ResponseGuard(
        app.wsgi_app,
        endpoints={f"{name}.{hook}" for hook in hooks},
        paths={f"{url_prefix}/{hook}" for hook in hooks},
    )
