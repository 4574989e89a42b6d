"""Fixtures of the ledger's tests: the same tests on three databases."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ..databases import DATABASES, empty_database, mariadb, postgresql
from .world import World

_numbers = itertools.count(1)
#: All three, or those in the environment.
CHOSEN = os.environ.get("FLASK_POSTAL_DATABASES", ",".join(DATABASES)).split(",")


# Not in pytest's folders: those belong to one user, and another run may remove them.


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL."""
    with TemporaryDirectory() as folder, postgresql(Path(folder)) as server:
        yield server.url


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """A MariaDB."""
    with TemporaryDirectory() as folder, mariadb(Path(folder)) as server:
        yield server.url


@pytest.fixture(params=CHOSEN)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on each of the three."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.sqlite"
        return
    server = request.getfixturevalue(f"{request.param}_server")
    with empty_database(server, f"test_{next(_numbers)}") as url:
        yield url


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    """An app with a ledger and its tables, in an app context."""
    made = World(database_url)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


def pytest_collection_modifyitems(
    config: pytest.Config, items: list[pytest.Item]
) -> None:
    """Leave out the tests of databases that are not chosen."""
    left_out = [item for item in items if _database(item) not in {None, *CHOSEN}]
    if left_out:
        config.hook.pytest_deselected(items=left_out)
        items[:] = [item for item in items if item not in left_out]


def _database(item: pytest.Item) -> str | None:
    params = item.callspec.params if hasattr(item, "callspec") else {}
    name: str | None = params.get("database_url", params.get("server"))
    return name
