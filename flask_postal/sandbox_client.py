"""Calls the control routes of a sandbox, for the CLI and for ``check``.

The routes are in :mod:`.sandbox.control`; this is their client, and imports nothing of
the sandbox.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from .settings import Settings

if TYPE_CHECKING:
    import requests

__all__ = ["call_sandbox"]


def call_sandbox(
    settings: Settings, path: str, content: Mapping[str, Any], *, timeout: float = 30
) -> requests.Response:
    """Post JSON to the sandbox that an app sends to.

    :param path: One of the routes: ``"trigger"``, ``"urls"``, ...
    :param timeout: In seconds, to connect and between two reads each.
    :raises requests.RequestException: if it does not answer.
    """
    import requests  # only a command of the CLI gets here

    with requests.Session() as session:
        session.trust_env = False  # no proxy between us and loopback
        return session.post(
            f"{settings.api_url}/sandbox/{path}",
            json=content,
            headers={"X-Server-API-Key": str(settings.api_key)},
            timeout=timeout,
        )
