"""Reads ``POSTAL_*`` from ``app.config`` into :class:`Settings`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any
from urllib.parse import urlsplit

from .errors import ConfigurationError

__all__ = ["Settings"]


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one Postal server, checked.

    :param prefix: What the keys begin with: ``POSTAL_``, or ``POSTAL_MARKETING_`` for
        ``Postal(name="marketing")``.
    """

    prefix: str
    api_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    webhook_key: Any = None
    default_sender: Any = None
    timeout: tuple[float, float] = (5.0, 30.0)
    connect_retries: int = 2
    ca_bundle: str | None = None

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prefix: str) -> Settings:
        """Read and check the settings.

        :raises ConfigurationError: for a value that can't be used; ``.key`` names it.
        """
        return cls(
            prefix=prefix,
            api_url=_base_url(config.get(f"{prefix}API_URL"), f"{prefix}API_URL"),
            api_key=_api_key(config.get(f"{prefix}API_KEY"), f"{prefix}API_KEY"),
            webhook_key=config.get(f"{prefix}WEBHOOK_KEY"),
            default_sender=config.get(f"{prefix}DEFAULT_SENDER")
            or config.get("MAIL_DEFAULT_SENDER"),
        )


def _base_url(value: Any, key: str) -> str | None:
    if value is None or value == "":
        return None
    cure = "write the address of Postal's web interface: https://postal.example.com"
    if not isinstance(value, str):
        raise ConfigurationError(f"{key} must be a string; {cure}", key=key)
    url = value.strip().rstrip("/").removesuffix("/api/v1").rstrip("/")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError when it is no port
    except ValueError:
        raise ConfigurationError(f"{key} is not a URL; {cure}", key=key) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{key} must begin with http(s)://; {cure}", key=key)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{key} must not hold a user, a password, a query or a fragment; {cure}",
            key=key,
        )
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ConfigurationError(f"{key} holds a blank; {cure}", key=key)
    return url


def _api_key(value: Any, key: str) -> str | None:
    if value is None or value == "":
        return None
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        # The value is a secret: the message must not show it.
        raise ConfigurationError(
            f"{key} must be a string of printable ASCII characters; copy it from"
            " Postal's web interface, Credentials",
            key=key,
        )
    return value.strip()
