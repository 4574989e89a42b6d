"""Fixtures for the tests of an app; they want a fixture ``app`` that returns it.

pytest imports this in every project of an environment: nothing heavy is imported here
before a fixture is used. :mod:`.testing` does the work.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from .sandbox import Sandbox, SigningKey
    from .sending.message import Message
    from .testing import WebhookClient

__all__ = ["postal_outbox", "postal_sandbox", "postal_signing_key", "postal_webhook"]


@pytest.fixture
def postal_outbox(request: pytest.FixtureRequest) -> Iterator[list[Message]]:
    """What the app sends, as a list of messages; nothing leaves."""
    from .testing import outbox

    with outbox(_app(request)) as messages:
        yield messages


@pytest.fixture
def postal_sandbox(
    request: pytest.FixtureRequest, postal_signing_key: SigningKey
) -> Iterator[Sandbox]:
    """A Postal that the app really sends to, and that calls its webhooks.

    Time stands still until ``advance(minutes=2)`` or ``wait_for("delivered")``.
    """
    from .testing import sandboxed

    with sandboxed(_app(request), postal_signing_key) as sandbox:
        yield sandbox


@pytest.fixture
def postal_webhook(
    request: pytest.FixtureRequest, postal_signing_key: SigningKey
) -> Iterator[WebhookClient]:
    """Posts signed requests: ``.tracking("delivered")``, ``.inbound(eml)``."""
    from .testing import WebhookClient

    with WebhookClient(_app(request), postal_signing_key) as client:
        yield client


@pytest.fixture(scope="session")
def postal_signing_key() -> SigningKey:
    """The key that all requests of a test run are signed with."""
    from .sandbox import SigningKey

    return SigningKey.generate()


def _app(request: pytest.FixtureRequest) -> Any:
    try:
        return request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
    pytest.fail(
        "the postal fixtures want a fixture named 'app' that returns the Flask app",
        pytrace=False,
    )
