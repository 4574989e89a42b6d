"""Flask-Security-Too, unmodified, with Flask-Mail's name given to ours."""

from __future__ import annotations

import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase

from flask_postal import Postal, tracking_received
from flask_postal.integrations import flask_mail
from flask_postal.ledger import Ledger
from flask_postal.sandbox import Sandbox
from flask_postal.testing import sandboxed

ANA = "ana@example.com"


@pytest.fixture
def installed(monkeypatch: pytest.MonkeyPatch) -> None:
    """As after install(), for one test."""
    monkeypatch.delitem(sys.modules, "flask_mail", raising=False)
    monkeypatch.setitem(sys.modules, "flask_mail", flask_mail)


def make_app(
    folder: Path,
    *,
    with_ledger: bool = False,
    name: str | None = None,
    **security: Any,
) -> Flask:
    from flask_security import Security, SQLAlchemyUserDatastore
    from flask_security.models import fsqla_v3

    class Base(DeclarativeBase):
        pass

    db: Any = SQLAlchemy(model_class=Base)
    fsqla_v3.FsModels.set_db_info(db)

    class Role(db.Model, fsqla_v3.FsRoleMixin):  # type: ignore[misc]
        pass

    class User(db.Model, fsqla_v3.FsUserMixin):  # type: ignore[misc]
        pass

    app = Flask("secured")
    app.config.update(
        TESTING=True,
        WTF_CSRF_ENABLED=False,
        SECRET_KEY="s" * 40,
        SECURITY_PASSWORD_SALT="1" * 30,
        SECURITY_PASSWORD_HASH="plaintext",
        SECURITY_PASSWORD_SCHEMES=["plaintext"],
        SECURITY_REGISTERABLE=True,
        SECURITY_CONFIRMABLE=True,
        SECURITY_RECOVERABLE=True,
        SECURITY_CHANGEABLE=True,
        SECURITY_EMAIL_VALIDATOR_ARGS={"check_deliverability": False},
        SECURITY_EMAIL_SENDER=("Shop", "shop@example.com"),
        SQLALCHEMY_DATABASE_URI=f"sqlite:///{folder / 'app.sqlite'}",
    )
    db.init_app(app)
    postal = Postal(app, name=name, ledger=Ledger(db) if with_ledger else None)
    app.register_blueprint(postal.blueprint)
    Security(app, SQLAlchemyUserDatastore(db, User, Role), **security)
    with app.app_context():
        db.create_all()
    app.extensions["test_db"] = db
    return app


@pytest.fixture
def app(tmp_path: Path, installed: None) -> Iterator[Flask]:
    made = make_app(tmp_path)
    flask_mail.Mail(made)
    yield made
    with made.app_context():
        made.extensions["test_db"].engine.dispose()


def link_of(sandbox: Sandbox) -> str:
    """The path that the last mail links to."""
    text = sandbox.messages[-1].content.text or ""
    found = re.search(r"http://localhost(/\S+)", text)
    assert found, text
    return found[1]


def test_a_user_s_mails_are_sent_and_tracked(app: Flask) -> None:
    seen: list[tuple[Any, Any]] = []

    def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
        seen.append((event.id, str(event.event_type)))

    client = app.test_client()
    password = {"password": "correct horse", "password_confirm": "correct horse"}
    changed = {"password": "battery staple", "password_confirm": "battery staple"}
    with sandboxed(app) as sandbox, tracking_received.connected_to(on_tracking, app):
        assert (
            client.post("/register", data={"email": ANA, **password}).status_code == 302
        )
        assert client.get(link_of(sandbox)).status_code == 302
        client.get("/logout")
        login = client.post("/login", data={"email": ANA, "password": "correct horse"})
        assert login.status_code == 302
        client.get("/logout")
        assert client.post("/reset", data={"email": ANA}).status_code == 200
        assert client.post(link_of(sandbox), data=changed).status_code == 302
        client.get("/logout")
        client.post("/login", data={"email": ANA, "password": "battery staple"})
        final = {"password": "battery staple", "new_password": "third password"}
        final["new_password_confirm"] = final["new_password"]
        assert client.post("/change", data=final).status_code == 302
        subjects = [mail.subject for mail in sandbox.messages]
        assert subjects == [
            "Welcome",
            "Password reset instructions",
            "Your password has been reset",
            "Your password has been changed",
        ]
        assert {mail.recipient for mail in sandbox.messages} == {ANA}
        sandbox.advance(minutes=1)
    delivered = [number for number, kind in seen if kind == "delivered"]
    assert delivered == [1, 2, 3, 4]


def through_postal(folder: Path, *, with_ledger: bool) -> Flask:
    from flask_postal.integrations.flask_security import PostalMailUtil

    return make_app(folder, with_ledger=with_ledger, mail_util_cls=PostalMailUtil)


@pytest.mark.parametrize("with_ledger", [False, True], ids=["sent", "enqueued"])
def test_its_own_door_adds_tags_and_metadata(tmp_path: Path, with_ledger: bool) -> None:
    seen: list[tuple[Any, Any]] = []

    def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
        seen.append((event.tags, event.metadata))

    app = through_postal(tmp_path, with_ledger=with_ledger)
    client = app.test_client()
    form = {"password": "correct horse", "password_confirm": "correct horse"}
    with sandboxed(app) as sandbox, tracking_received.connected_to(on_tracking, app):
        client.post("/register", data={"email": ANA, **form})
        client.get(link_of(sandbox))
        client.get("/logout")
        client.post("/reset", data={"email": ANA})  # changes nothing else
        assert len(sandbox.messages) == 2
        sandbox.advance(minutes=1)
    metadata = {"user": 1} if with_ledger else {}
    assert seen == [(["welcome"], metadata), (["reset_instructions"], metadata)]
    with app.app_context():
        app.extensions["test_db"].engine.dispose()


def test_an_address_that_postal_can_t_take_is_an_error_of_the_form(
    tmp_path: Path,
) -> None:
    app = through_postal(tmp_path, with_ledger=False)
    form = {"password": "correct horse", "password_confirm": "correct horse"}
    with sandboxed(app) as sandbox:
        page = app.test_client().post(
            "/register", data={"email": "zo\u00eb@example.com", **form}
        )
        assert page.status_code == 200
        assert "Invalid email address" in page.text
        assert sandbox.messages == []
    with app.app_context():
        app.extensions["test_db"].engine.dispose()


def test_a_postal_with_a_name_can_be_chosen(tmp_path: Path) -> None:
    from flask_postal.integrations.flask_security import PostalMailUtil

    class AccountsMailUtil(PostalMailUtil):
        postal_key = "postal_accounts"

    app = make_app(tmp_path, name="accounts", mail_util_cls=AccountsMailUtil)
    form = {"password": "correct horse", "password_confirm": "correct horse"}
    with sandboxed(app, name="accounts") as sandbox:
        app.test_client().post("/register", data={"email": ANA, **form})
        assert len(sandbox.messages) == 1
    with app.app_context():
        app.extensions["test_db"].engine.dispose()


def test_a_request_that_fails_sends_nothing(tmp_path: Path) -> None:
    app = through_postal(tmp_path, with_ledger=True)
    app.testing = False

    @app.post("/broken")
    def broken() -> str:
        from flask_security import lookup_identity
        from flask_security.utils import send_mail

        assert lookup_identity(ANA) is None
        send_mail("Hi", ANA, "security/email/welcome", user=None, confirmation_link="x")
        raise LookupError("after the mail")

    with sandboxed(app) as sandbox:
        assert app.test_client().post("/broken").status_code == 500
        assert sandbox.messages == []
    with app.app_context():
        app.extensions["test_db"].engine.dispose()
