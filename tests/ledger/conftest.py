"""Fixtures of the ledger's tests: the same tests on three databases."""

from __future__ import annotations

import itertools
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest

from ..databases import DATABASES, empty_database, mariadb, postgresql

_numbers = itertools.count(1)
#: All three, or those in the environment.
CHOSEN = os.environ.get("FLASK_POSTAL_DATABASES", ",".join(DATABASES)).split(",")


# Not in pytest's folders: those belong to one user, and another run may remove them.


@pytest.fixture(scope="session")
def postgresql_server() -> Iterator[str]:
    """A PostgreSQL."""
    with TemporaryDirectory() as folder, postgresql(Path(folder)) as url:
        yield url


@pytest.fixture(scope="session")
def mariadb_server() -> Iterator[str]:
    """A MariaDB."""
    with TemporaryDirectory() as folder, mariadb(Path(folder)) as url:
        yield url


@pytest.fixture(params=CHOSEN)
def database_url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    """The URL of an empty database, on each of the three."""
    if request.param == "sqlite":
        yield f"sqlite:///{tmp_path}/app.sqlite"
        return
    if request.param not in CHOSEN:
        pytest.skip(f"{request.param} is not chosen")
    server = request.getfixturevalue(f"{request.param}_server")
    with empty_database(server, f"test_{next(_numbers)}") as url:
        yield url
