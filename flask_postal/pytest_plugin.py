"""pytest fixtures for testing an app. They need a fixture ``app`` that returns it.

pytest imports this module in every project of the environment, even in those that don't
use Flask-Postal. So it imports :mod:`.testing`, which does the work, only when a
fixture is used.
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
    """List of the messages that the app sends. None of them is really sent."""
    from .testing import outbox

    with outbox(_app(request)) as messages:
        yield messages


@pytest.fixture
def postal_sandbox(
    request: pytest.FixtureRequest, postal_signing_key: SigningKey
) -> Iterator[Sandbox]:
    """Simulated Postal that the app sends to over HTTP, and that calls its webhooks.

    Time stands still until ``advance(minutes=2)`` or ``wait_for("delivered")`` moves
    it.
    """
    from .testing import sandboxed

    with sandboxed(_app(request), postal_signing_key) as sandbox:
        yield sandbox


@pytest.fixture
def postal_webhook(
    request: pytest.FixtureRequest, postal_signing_key: SigningKey
) -> Iterator[WebhookClient]:
    """Client for signed requests: ``.tracking("delivered")``, ``.inbound(eml)``."""
    from .testing import WebhookClient

    with WebhookClient(_app(request), postal_signing_key) as client:
        yield client


@pytest.fixture(scope="session")
def postal_signing_key() -> SigningKey:
    """Key that signs all requests of a test run, generated only once."""
    from .sandbox import SigningKey

    return SigningKey.generate()


def _app(request: pytest.FixtureRequest) -> Any:
    try:
        return request.getfixturevalue("app")
    except pytest.FixtureLookupError as error:
        if error.argname != "app":
            raise
    pytest.fail(
        "Flask-Postal's fixtures need a fixture named 'app' that returns the Flask app",
        pytrace=False,
    )
