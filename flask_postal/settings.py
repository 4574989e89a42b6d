"""Reads ``POSTAL_*`` from ``app.config`` into :class:`Settings`."""

from __future__ import annotations

import json
import logging
import math
import os
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar
from urllib.parse import urlsplit

from .address import Address, parse_address
from .errors import ConfigurationError, MessageError

__all__ = [
    "SANDBOX_KEY",
    "Settings",
    "is_loopback",
    "read_flag",
    "read_suppressed",
    "warn_of_misspelt",
]

T = TypeVar("T")
_log = logging.getLogger("flask_postal")

#: What every API key of a sandbox begins with, so that no real one is ever pasted.
SANDBOX_KEY = "sandbox-"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Settings:
    """The settings of one Postal server, checked.

    ``POSTAL_SUPPRESS_SEND`` is not among them: it is read when a mail is sent, see
    :func:`read_flag`.

    :param prefix: What the keys begin with: ``POSTAL_``, or ``POSTAL_MARKETING_`` for
        ``Postal(name="marketing")``.
    """

    prefix: str
    api_url: str | None = None
    api_key: str | None = field(default=None, repr=False)
    webhook_key: Any = None
    default_sender: Address | None = None
    send_defaults: Mapping[str, Any] = field(default_factory=dict, repr=False)
    ignore_unsupported_features: bool = False
    timeout: tuple[float, float] = (5.0, 30.0)
    connect_retries: int = 2
    ca_bundle: str | None = None
    redirect_to: Address | None = None
    webhook_secrets: tuple[str, ...] = field(default=(), repr=False)
    webhook_require_sha256: bool = False
    inbound_max_bytes: int = 32 * 1024 * 1024
    tracking_max_bytes: int = 256 * 1024
    dedupe_cache: Any = "memory"

    @property
    def api_is_loopback(self) -> bool:
        """Whether Postal, or a sandbox, is on this machine."""
        return is_loopback(self.api_url or "")

    @property
    def uses_sandbox(self) -> bool:
        """Whether the API key is that of a :class:`.Sandbox`."""
        return (self.api_key or "").startswith(SANDBOX_KEY)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prefix: str) -> Settings:
        """Read and check the settings.

        Strings, which is what the environment holds, are understood everywhere.

        :raises ConfigurationError: for a value that can't be used; ``.key`` names it.
        """

        def read(name: str, parse: Callable[[Any, str], T], default: T) -> T:
            key = prefix + name
            value = config.get(key)
            return default if value is None else parse(value, key)

        default_sender = read("DEFAULT_SENDER", _address, None)
        if default_sender is None and config.get("MAIL_DEFAULT_SENDER") is not None:
            key = "MAIL_DEFAULT_SENDER"
            default_sender = _address(config[key], key)
        return cls(
            prefix=prefix,
            api_url=read("API_URL", _base_url, None),
            api_key=read("API_KEY", _api_key, None),
            webhook_key=config.get(f"{prefix}WEBHOOK_KEY"),
            default_sender=default_sender,
            send_defaults=read("SEND_DEFAULTS", _send_defaults, {}),
            ignore_unsupported_features=read(
                "IGNORE_UNSUPPORTED_FEATURES", _flag, default=False
            ),
            timeout=read("TIMEOUT", _timeout, (5.0, 30.0)),
            connect_retries=read("CONNECT_RETRIES", _retries, 2),
            ca_bundle=read("CA_BUNDLE", _path, None),
            redirect_to=read("REDIRECT_TO", _address, None),
            webhook_secrets=read("WEBHOOK_SECRET", _secrets, ()),
            webhook_require_sha256=read("WEBHOOK_REQUIRE_SHA256", _flag, default=False),
            inbound_max_bytes=read("INBOUND_MAX_BYTES", _bytes, 32 * 1024 * 1024),
            tracking_max_bytes=read("TRACKING_MAX_BYTES", _bytes, 256 * 1024),
            dedupe_cache=_cache(
                config.get(f"{prefix}DEDUPE_CACHE", "memory"), f"{prefix}DEDUPE_CACHE"
            ),
        )


def is_loopback(url: str) -> bool:
    """Tell whether a URL leads to this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def read_flag(config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    """Read a setting that is true or false.

    :raises ConfigurationError: if it is neither.
    """
    value = config.get(key)
    return default if value is None else _flag(value, key)


def read_suppressed(config: Mapping[str, Any], prefix: str, *, testing: bool) -> bool:
    """Tell whether messages are checked and not sent.

    Flask-Mail's ``MAIL_SUPPRESS_SEND`` counts where ours is unset, if it is true: an
    app that changes its import must not begin to send.

    :param testing: Whether the app is in testing mode, the default.
    :raises ConfigurationError: for a value that is neither true nor false.
    """
    if config.get(f"{prefix}SUPPRESS_SEND") is not None:
        return read_flag(config, f"{prefix}SUPPRESS_SEND", default=testing)
    theirs = config.get("MAIL_SUPPRESS_SEND") or False
    return _flag(theirs, "MAIL_SUPPRESS_SEND") or testing


def warn_of_misspelt(config: Mapping[str, Any], prefix: str) -> None:
    """Warn of keys that look like a setting and are none, with the nearest name."""
    known = [*(name.upper() for name in Settings.__slots__ if name != "prefix")]
    known[known.index("WEBHOOK_SECRETS")] = "WEBHOOK_SECRET"
    known.append("SUPPRESS_SEND")
    endings = tuple(f"_{name}" for name in known)
    for key in config:
        if not str(key).startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        # POSTAL_MARKETING_API_URL belongs to Postal(name="marketing").
        if name in known or name.endswith(endings):
            continue
        from difflib import get_close_matches  # 3 ms that most apps never need

        if near := get_close_matches(name, known, 1):
            _log.warning(
                "%s is no setting of Flask-Postal; did you mean %s?",
                ascii(key),
                prefix + near[0],
            )


def _flag(value: Any, key: str) -> bool:
    if isinstance(value, bool):
        return value
    word = str(value).strip().lower() if isinstance(value, (str, int)) else None
    if word in _TRUE or word in _FALSE:
        return word in _TRUE
    raise ConfigurationError(f"{key} must be True or False, not {value!r}", key=key)


def _base_url(value: Any, key: str) -> str | None:
    if value == "":
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
        raise ConfigurationError(f"{key} contains whitespace; {cure}", key=key)
    return url


def _api_key(value: Any, key: str) -> str | None:
    # The value is a secret: no message here may show it.
    if not isinstance(value, str) or not (value.isascii() and value.isprintable()):
        raise ConfigurationError(
            f"{key} must be a string of printable ASCII characters; copy it from"
            " Postal's web interface, Credentials",
            key=key,
        )
    return value.strip() or None


def _address(value: Any, key: str) -> Address | None:
    if value == "":
        return None
    if isinstance(value, (list, tuple)) and "@" in str(value[:1]):
        raise ConfigurationError(
            f"{key} takes one address, a string or (name, address); not {value!r}",
            key=key,
        )
    try:
        return parse_address(value, key)[0]
    except MessageError as error:
        problem = str(error)
    raise ConfigurationError(problem, key=key)


def _timeout(value: Any, key: str) -> tuple[float, float]:
    numbers: Any = value
    if isinstance(value, str):
        numbers = value.strip("()[] ").split(",")
    elif isinstance(value, (int, float)):
        numbers = [value]
    try:
        seconds = [float(number) for number in numbers]
    except (OverflowError, TypeError, ValueError):
        seconds = []
    if len(seconds) == 1:
        seconds *= 2
    if len(seconds) != 2 or not all(s > 0 and math.isfinite(s) for s in seconds):
        raise ConfigurationError(
            f"{key} must be a number of seconds or two, to connect and to read, above"
            f" 0 and finite; not {value!r}",
            key=key,
        )
    return seconds[0], seconds[1]


def _retries(value: Any, key: str) -> int:
    try:
        number = -1 if isinstance(value, bool | float) else int(value)
    except (TypeError, ValueError):
        number = -1
    if not 0 <= number <= 10:
        raise ConfigurationError(
            f"{key} must be a whole number from 0 to 10, not {value!r}", key=key
        )
    return number


def _bytes(value: Any, key: str) -> int:
    try:
        number = 0 if isinstance(value, bool | float) else int(value)
    except (TypeError, ValueError):
        number = 0
    if number < 1:
        raise ConfigurationError(
            f"{key} must be a whole number of bytes above 0, not {value!r}", key=key
        )
    return number


def _secrets(value: Any, key: str) -> tuple[str, ...]:
    # Secrets: no message here may show one.
    pairs = [value] if isinstance(value, str) else value
    if not isinstance(pairs, (list, tuple)) or not pairs:
        pairs = [None]
    for pair in pairs:
        if not isinstance(pair, str) or not all(pair.strip().partition(":")):
            raise ConfigurationError(
                f"{key} must be 'user:password' as in the webhook's URL, or a list of"
                " such, and not blank",
                key=key,
            )
    return tuple(pair.strip() for pair in pairs)


def _cache(value: Any, key: str) -> Any:
    if isinstance(value, str):
        word = value.strip().lower()
        if word in ("memory", "none", ""):
            return "memory" if word == "memory" else None
        raise ConfigurationError(
            f"{key} must be 'memory', None, or a cache object of cachelib or"
            f" Flask-Caching; not {value!r}",
            key=key,
        )
    return value


def _path(value: Any, key: str) -> str | None:
    if value == "":
        return None
    if not isinstance(value, (str, os.PathLike)) or not os.path.exists(value):
        raise ConfigurationError(
            f"{key} must be the path of a PEM file or of a folder of certificates;"
            f" there is nothing at {value!r}",
            key=key,
        )
    return os.fspath(value)


def _send_defaults(value: Any, key: str) -> Mapping[str, Any]:
    if isinstance(value, str):
        try:
            value = json.loads(value or "{}")
        except ValueError:
            value = None
    if not isinstance(value, Mapping) or not all(isinstance(k, str) for k in value):
        raise ConfigurationError(
            f"{key} must be a dict of Message's parameters", key=key
        )
    return value
