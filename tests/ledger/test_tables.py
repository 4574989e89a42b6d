"""The tables of the ledger: created, migrated, and joined, on three databases."""

from __future__ import annotations

import os
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import sqlalchemy as sa
from flask import Flask
from flask_sqlalchemy import SQLAlchemy
from sqlalchemy.orm import DeclarativeBase, Mapped, MappedAsDataclass, mapped_column

from flask_postal import ConfigurationError
from flask_postal.ledger import (
    ContentMixin,
    EventMixin,
    LedgerModels,
    MailMixin,
    ReceiptMixin,
    RecipientMixin,
    SuppressionMixin,
)
from flask_postal.ledger.mapping import default_models, join

ROOT = Path(__file__).parent.parent.parent
TABLES = {
    *("postal_mail", "postal_recipient", "postal_event", "postal_receipt"),
    *("postal_content", "postal_suppression"),
}


def new_db() -> Any:
    class Base(DeclarativeBase):
        pass

    return SQLAlchemy(model_class=Base)


def add_order(db: Any) -> None:
    """A table of the app's own."""

    class Order(db.Model):  # type: ignore[misc]
        __tablename__ = "shop_order"
        id: Mapped[int] = mapped_column(primary_key=True)
        email: Mapped[str] = mapped_column(sa.String(100))


def own_models(db: Any, **binds: str) -> LedgerModels:
    """Models with names and columns of the app's own."""
    mixins = {
        "mail": MailMixin,
        "recipient": RecipientMixin,
        "event": EventMixin,
        "receipt": ReceiptMixin,
        "content": ContentMixin,
        "suppression": SuppressionMixin,
    }
    made = {}
    for name, mixin in mixins.items():
        content: dict[str, Any] = {"__tablename__": f"own_{name}"}
        if name in binds:
            content["__bind_key__"] = binds[name]
        if name == "mail":
            content["customer"] = mapped_column(sa.String(50), nullable=True)
        made[name] = type(f"Own{name.capitalize()}", (mixin, db.Model), content)
    return LedgerModels(**made)


def make_app(db: Any, url: str) -> Flask:
    app = Flask("tables")
    app.config["SQLALCHEMY_DATABASE_URI"] = url
    db.init_app(app)
    return app


def migrate(folder: Path, url: str, *, ledger: str, twice: bool = False) -> list[str]:
    """Run Flask-Migrate's commands as a user does; return what each migration does.

    :param ledger: ``"none"``, ``"default"`` or ``"own"``.
    :param twice: Whether to migrate once more, after the upgrade.
    """
    (folder / "app.py").write_text(APP)
    steps = ["migrate", "upgrade", "migrate"] if twice else ["migrate", "upgrade"]
    if not (folder / "migrations").exists():
        steps.insert(0, "init")
    before = set(folder.glob("migrations/versions/*.py"))
    for step in steps:
        done = subprocess.run(
            [sys.executable, "-m", "flask", "--app", "app", "db", step],
            cwd=folder,
            env={**os.environ, "DATABASE_URL": url, "LEDGER": ledger},
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stderr
    new = set(folder.glob("migrations/versions/*.py")) - before
    text = "".join(path.read_text() for path in new)
    return [line.strip() for line in text.splitlines() if "op." in line]


APP = f"""
import os, sys
sys.path.insert(0, {str(ROOT)!r})
import flask_migrate
from tests.ledger.test_tables import add_order, default_models, join, make_app
from tests.ledger.test_tables import new_db, own_models

db = new_db()
add_order(db)
if os.environ["LEDGER"] != "none":
    join(own_models(db) if os.environ["LEDGER"] == "own" else default_models(db))
app = make_app(db, os.environ["DATABASE_URL"])
flask_migrate.Migrate(app, db)
"""


@pytest.mark.slow
@pytest.mark.parametrize("ledger", ["default", "own"])
def test_migrations_see_the_tables_and_a_second_one_is_empty(
    database_url: str, tmp_path: Path, ledger: str
) -> None:
    steps = migrate(tmp_path, database_url, ledger=ledger, twice=True)
    created = [line.split("'")[1] for line in steps if "create_table" in line]
    names = {name.replace("postal_", "own_") for name in TABLES}
    expected = (names if ledger == "own" else TABLES) | {"shop_order"}
    # The second one had nothing to do, and Flask-Migrate wrote no file for it.
    assert sorted(created) == sorted(expected)
    assert len(list(tmp_path.glob("migrations/versions/*.py"))) == 1


@pytest.mark.slow
def test_an_apps_own_tables_stay_when_the_ledger_is_added(
    database_url: str, tmp_path: Path
) -> None:
    migrate(tmp_path, database_url, ledger="none")
    steps = migrate(tmp_path, database_url, ledger="default")
    assert {line.split("'")[1] for line in steps if "create_table" in line} == TABLES
    assert not [line for line in steps if "shop_order" in line]


def test_rows_are_joined_and_times_are_aware(database_url: str) -> None:
    db = new_db()
    models = default_models(db)
    join(models)
    app = make_app(db, database_url)
    with app.app_context():
        db.create_all()
        mail = models.mail(
            server="postal",
            message_id="a@example.com",
            sender="app@example.com",
            subject="Grüße 🎉",
            state="queued",
            meta={"order": 7},
            options={},
        )
        db.session.add(mail)
        db.session.flush()
        for address in ("Ana@example.com", "ana@example.com"):
            db.session.add(
                models.recipient(
                    mail_id=mail.id, server="postal", address=address, envelope=address
                )
            )
        db.session.commit()
        found = db.session.scalars(sa.select(models.mail)).one()
        assert [r.address for r in found.recipients] == [
            *("Ana@example.com", "ana@example.com")
        ]
        assert abs(datetime.now(UTC) - found.created_at).total_seconds() < 60
        assert (found.due_at, found.anchor, found.meta) == (None, None, {"order": 7})
        # Compared byte for byte.
        query = sa.select(models.recipient).where(
            models.recipient.envelope == "ANA@example.com"
        )
        assert db.session.scalars(query).all() == []
        db.session.remove()
        db.engine.dispose()


def test_a_time_keeps_its_microseconds(database_url: str) -> None:
    db = new_db()
    models = default_models(db)
    join(models)
    app = make_app(db, database_url)
    exact = datetime(2026, 11, 25, 1, 2, 3, 123_457)
    with app.app_context():
        db.create_all()
        event = models.event(
            identity="x",
            server="postal",
            kind="tracking",
            event_type="delivered",
            media_type="application/json",
            state="done",
            created_at_=exact,
        )
        db.session.add(event)
        db.session.commit()
        db.session.expire_all()
        assert event.created_at_ == exact
        db.session.remove()
        db.engine.dispose()


# ---- what can't work is refused


def test_a_second_ledger_is_refused() -> None:
    db = new_db()
    join(default_models(db))
    with pytest.raises(ConfigurationError, match="use one Ledger"):
        default_models(db)


def test_a_dataclass_base_is_refused_with_the_cure() -> None:
    class Base(DeclarativeBase, MappedAsDataclass):
        pass

    # Flask-SQLAlchemy 3.1 can't make such a Model with SQLAlchemy 2.1, but with 2.0.
    db = SimpleNamespace(Model=Base, metadata=Base.metadata)
    with pytest.raises(ConfigurationError, match=r"Ledger\(db, models=LedgerModels"):
        default_models(db)


def test_models_in_several_binds_are_refused() -> None:
    db = new_db()
    app = Flask("binds")
    app.config["SQLALCHEMY_DATABASE_URI"] = "sqlite://"
    app.config["SQLALCHEMY_BINDS"] = {"other": "sqlite://"}
    db.init_app(app)
    with pytest.raises(ConfigurationError, match="same __bind_key__"):
        join(own_models(db, content="other"))


def test_a_model_without_its_mixin_is_refused() -> None:
    db = new_db()
    models = own_models(db)
    wrong = LedgerModels(
        models.mail, models.mail, models.event, models.receipt, models.content
    )
    with pytest.raises(ConfigurationError, match="recipient= takes a model derived"):
        join(wrong)
