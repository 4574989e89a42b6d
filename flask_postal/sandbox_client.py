"""Client for the control routes of a sandbox, used by the CLI and its ``check``.

The routes are defined in :mod:`.sandbox.control`. The client imports nothing from the
sandbox, so that commands against a running sandbox start fast.
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
    """Post JSON to a control route of the sandbox that an app sends to.

    :param settings: The app's settings, with the URL and the key of the sandbox.
    :param path: The name of the route, such as ``"trigger"`` or ``"urls"``.
    :param content: The JSON to post.
    :param timeout: Seconds to connect, and seconds to wait for each read.
    :returns: The response, whatever its HTTP status.
    :raises requests.RequestException: if no response is received.
    """
    import requests  # imported late: only CLI commands need it

    with requests.Session() as session:
        session.trust_env = False  # a proxy can't reach this machine's loopback
        return session.post(
            f"{settings.api_url}/sandbox/{path}",
            json=content,
            headers={"X-Server-API-Key": str(settings.api_key)},
            timeout=timeout,
        )
