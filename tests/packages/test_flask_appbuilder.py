"""Flask-AppBuilder's registration, unmodified: it makes a ``Mail`` for each mail."""

from __future__ import annotations

import re
import sys
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_postal import Postal, tracking_received
from flask_postal.integrations import flask_mail
from flask_postal.testing import sandboxed


def make_app(folder: Path) -> Flask:
    from flask_appbuilder import AppBuilder
    from flask_appbuilder.utils.legacy import get_sqla_class

    app = Flask("built")
    app.config.update(
        TESTING=True,
        WTF_CSRF_ENABLED=False,
        SECRET_KEY="s" * 40,
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder / 'app.sqlite'}",
        AUTH_TYPE=1,
        AUTH_USER_REGISTRATION=True,
        AUTH_USER_REGISTRATION_ROLE="Public",
        RATELIMIT_ENABLED=False,
        RECAPTCHA_PUBLIC_KEY="x",
        RECAPTCHA_PRIVATE_KEY="x",
        MAIL_DEFAULT_SENDER="shop@example.com",
    )
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    db: Any = get_sqla_class()(app)
    with app.app_context():
        AppBuilder(app, db.session)
    app.extensions["test_db"] = db
    return app


def test_a_registration_is_mailed_and_tracked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delitem(sys.modules, "flask_mail", raising=False)
    monkeypatch.setitem(sys.modules, "flask_mail", flask_mail)
    app = make_app(tmp_path)
    seen: list[Any] = []

    def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
        seen.append((event.recipient, str(event.event_type)))

    client = app.test_client()
    form = {
        "username": "ana",
        "first_name": "Ana",
        "last_name": "Lima",
        "email": "ana@example.com",
        "password": "Correct horse 1",
        "conf_password": "Correct horse 1",
    }
    with sandboxed(app) as sandbox, tracking_received.connected_to(on_tracking, app):
        client.post("/register/form", data=form)
        (mail,) = sandbox.messages
        assert (mail.subject, mail.recipient) == (
            "Account activation",
            "ana@example.com",
        )
        found = re.search(r'href="http://localhost(/\S+)"', mail.content.html or "")
        assert found, mail.content.html
        assert client.get(found[1]).status_code == 200
        sandbox.advance(minutes=1)
    assert seen == [("ana@example.com", "delivered")]
    with app.app_context():
        app.extensions["test_db"].engine.dispose()
