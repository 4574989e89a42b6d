"""Fixtures: the help desk, with a separate database for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from flask.testing import FlaskClient

from example_app import create_app
from example_app.models import db

MakeApp = Callable[..., Flask]


@pytest.fixture
def make_app(tmp_path: Path) -> Iterator[MakeApp]:
    """Return a function that creates the help desk with settings, in one folder."""
    apps = []

    def make(**config: Any) -> Flask:
        apps.append(create_app(config, instance_path=str(tmp_path)))
        return apps[-1]

    yield make
    for app in apps:
        with app.app_context():
            for engine in db.engines.values():
                engine.dispose()


@pytest.fixture
def app(make_app: MakeApp) -> Flask:
    return make_app(TESTING=True, WTF_CSRF_ENABLED=False, DESK_OPEN=True)


@pytest.fixture
def client(app: Flask) -> FlaskClient:
    return app.test_client()
