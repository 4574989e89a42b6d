"""A help desk by mail: a contact form, tickets, and replies that reach their ticket.

:mod:`.mail` sends messages, :mod:`.receivers` handles events and inbound mail, and
:mod:`.public` and :mod:`.desk` are the pages.
"""

from __future__ import annotations

import os
import secrets
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

from flask import Flask
from flask_wtf.csrf import CSRFProtect

from flask_postal import (
    Postal,
    inbound_received,
    server_event_received,
    tracking_received,
)

from .models import db, ledger

__all__ = ["create_app", "postal"]

postal = Postal(ledger=ledger)
csrf = CSRFProtect()

#: Settings that are read from the environment, in addition to POSTAL_*.
_FROM_ENVIRONMENT = ("SECRET_KEY", "DESK_PASSWORD", "MAIL_DOMAIN")


def create_app(config: Mapping[str, Any] | None = None, **options: Any) -> Flask:
    """Create the app.

    :param config: Settings that override those from the environment.
    :param options: Arguments for :class:`flask.Flask`, such as ``instance_path``.
    """
    app = Flask(__name__, instance_relative_config=True, **options)
    app.config.update(
        #: The domain for replies; Postal routes its mail to the inbound webhook.
        MAIL_DOMAIN="example.com",
        #: Without a password nobody can open the desk, unless DESK_OPEN is true.
        DESK_PASSWORD=None,
        DESK_OPEN=False,
    )
    for key, value in os.environ.items():
        if key.startswith("POSTAL_") or key in _FROM_ENVIRONMENT:
            app.config[key] = value
    if url := os.environ.get("DATABASE_URL"):
        app.config["SQLALCHEMY_DATABASE_URI"] = url
    app.config.from_mapping(config or {})
    folder = Path(app.instance_path)
    folder.mkdir(parents=True, exist_ok=True)
    app.config.setdefault("SECRET_KEY", None)
    if not app.config["SECRET_KEY"]:
        app.config["SECRET_KEY"] = _secret_key(folder / "secret_key")
    app.config.setdefault(
        "SQLALCHEMY_DATABASE_URI", f"sqlite:///{folder / 'helpdesk.sqlite'}"
    )
    sender = f"Help desk <help@{app.config['MAIL_DOMAIN']}>"
    app.config.setdefault("POSTAL_DEFAULT_SENDER", sender)

    db.init_app(app)
    csrf.init_app(app)
    postal.init_app(app)
    app.register_blueprint(postal.blueprint)

    from . import desk, public, receivers

    app.register_blueprint(public.blueprint)
    app.register_blueprint(desk.blueprint)
    tracking_received.connect(receivers.on_tracking, sender=app)
    inbound_received.connect(receivers.on_inbound, sender=app)
    server_event_received.connect(receivers.on_server_event, sender=app)

    @app.context_processor
    def sandbox() -> dict[str, Any]:
        settings = postal.settings
        return {"sandbox_url": settings.api_url if settings.uses_sandbox else None}

    with app.app_context():
        db.create_all()
    return app


def _secret_key(file: Path) -> str:
    """Return the stored key, or create it.

    It has to survive restarts, because it signs the addresses that replies are sent to.
    """
    if not file.exists():
        # Write the key before the file gets its name: other workers may start at the
        # same moment and must not read half a key.
        with tempfile.NamedTemporaryFile("w", dir=file.parent) as new:
            new.write(secrets.token_hex())
            new.flush()
            with suppress(FileExistsError):
                os.link(new.name, file)
    key = file.read_text().strip()
    if len(key) < 32:
        raise RuntimeError(f"{file} contains no key; delete it to create a new one")
    return key
