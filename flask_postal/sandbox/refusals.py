"""How Postal's API says no."""

from __future__ import annotations

from typing import Any

__all__ = ["APIFailedError", "APIRefusedError"]


class APIRefusedError(Exception):
    """An error that Postal reports with HTTP 200.

    :param code: Postal's name of it; ``None`` for a parameter error.
    """

    def __init__(self, code: str | None, message: str | None, **more: Any) -> None:
        super().__init__(message)
        self.status: str = "error" if code else "parameter-error"
        self.data: dict[str, Any] = dict(more)
        if message:
            self.data = {"message": message, **more}
        if code:
            self.data["code"] = code


class APIFailedError(Exception):
    """Anything that makes Postal answer HTTP 500."""
