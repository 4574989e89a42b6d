"""Read ``POSTAL_*`` from ``app.config`` into :class:`Settings`.

Every setting also accepts a string, so that it can come from an environment variable.
"""

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

#: Prefix of the API keys that a sandbox generates. It distinguishes the settings of a
#: sandbox from those of a real server, for instance to warn about a sandbox in
#: production.
SANDBOX_KEY = "sandbox-"
_TRUE = frozenset({"1", "true", "yes", "on"})
_FALSE = frozenset({"0", "false", "no", "off"})


@dataclass(frozen=True, slots=True)
class Settings:
    """The validated settings of one Postal server.

    Each attribute is described with its setting on the page "Configuration" of the
    documentation. ``POSTAL_SUPPRESS_SEND`` is missing here, because it is read at each
    send, like Flask's ``TESTING``, on which it depends; see :func:`read_suppressed`.

    :param prefix: The prefix of the keys: ``POSTAL_``, or ``POSTAL_MARKETING_`` for
        ``Postal(name="marketing")``.
    :param webhook_key: As configured; :mod:`.webhooks.keys` parses it, because that
        needs cryptography.
    :param timeout: Seconds to connect, and seconds to wait for each read or write.
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
    external_url: str | None = None

    @property
    def api_is_loopback(self) -> bool:
        """Whether the API is on this machine, as a sandbox usually is."""
        return is_loopback(self.api_url or "")

    @property
    def secrets(self) -> list[str]:
        """The API key and the passwords, which must stand in no stored text."""
        passwords = [pair.partition(":")[2] for pair in self.webhook_secrets]
        return [secret for secret in [self.api_key, *passwords] if secret]

    @property
    def uses_sandbox(self) -> bool:
        """Whether the API key belongs to a :class:`.Sandbox`."""
        return (self.api_key or "").startswith(SANDBOX_KEY)

    @classmethod
    def from_config(cls, config: Mapping[str, Any], prefix: str) -> Settings:
        """Read and validate the settings. A value of ``None`` counts as unset.

        :param config: The app's configuration.
        :param prefix: The prefix of the keys, such as ``"POSTAL_"``.
        :raises ConfigurationError: if a value is invalid; ``.key`` names the setting.
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
            external_url=read("EXTERNAL_URL", _external_url, None),
        )


def is_loopback(url: str) -> bool:
    """Return whether the host of a URL is this machine."""
    return urlsplit(url).hostname in ("127.0.0.1", "localhost", "::1")


def read_flag(config: Mapping[str, Any], key: str, *, default: bool) -> bool:
    """Read a boolean setting. Strings such as ``"yes"`` and ``"0"`` are accepted.

    :param default: The value if the setting is missing or ``None``.
    :raises ConfigurationError: if the value is not boolean.
    """
    value = config.get(key)
    return default if value is None else _flag(value, key)


def read_suppressed(config: Mapping[str, Any], prefix: str, *, testing: bool) -> bool:
    """Return whether messages are validated but not sent.

    If ``POSTAL_SUPPRESS_SEND`` is unset, a true ``MAIL_SUPPRESS_SEND`` suppresses too:
    an app that moves here from Flask-Mail must not suddenly start to send.

    :param testing: Whether the app is in testing mode, which suppresses by default.
    :raises ConfigurationError: if one of the settings is not boolean.
    """
    if config.get(f"{prefix}SUPPRESS_SEND") is not None:
        return read_flag(config, f"{prefix}SUPPRESS_SEND", default=testing)
    theirs = config.get("MAIL_SUPPRESS_SEND") or False
    return _flag(theirs, "MAIL_SUPPRESS_SEND") or testing


def warn_of_misspelt(config: Mapping[str, Any], prefix: str) -> None:
    """Log a warning for each key that looks like a misspelt setting.

    Other keys that begin with the prefix are left alone: the app may use them itself.
    """
    known = [*(name.upper() for name in Settings.__slots__ if name != "prefix")]
    known[known.index("WEBHOOK_SECRETS")] = "WEBHOOK_SECRET"
    # The first is read when a message is sent, the others by the ledger.
    known += ["SUPPRESS_SEND", "LEASE", "BACKOFF", "GIVE_UP", "SETTLE", "RELAY"]
    known += ["DISPATCH", "EVENTS", "KEEP_CONTENT", "KEEP_ROWS", "SUPPRESSION"]
    endings = tuple(f"_{name}" for name in known)
    for key in config:
        if not str(key).startswith(prefix):
            continue
        name = key.removeprefix(prefix)
        # POSTAL_MARKETING_API_URL belongs to Postal(name="marketing").
        if name in known or name.endswith(endings):
            continue
        # Importing it takes 3 ms, and most apps have no such key.
        from difflib import get_close_matches

        if near := get_close_matches(name, known, 1):
            _log.warning(
                "%s is not a setting of Flask-Postal; did you mean %s?",
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
    cure = "write the address of Postal's web interface: https://postal.example.com"
    url = _url(value, key, cure)
    return None if url is None else url.removesuffix("/api/v1").rstrip("/")


def _external_url(value: Any, key: str) -> str | None:
    return _url(value, key, "write the address of the app: https://shop.example.com")


def _url(value: Any, key: str, cure: str) -> str | None:
    if value == "":
        return None
    if not isinstance(value, str):
        raise ConfigurationError(f"{key} must be a string; {cure}", key=key)
    url = value.strip().rstrip("/")
    try:
        parts = urlsplit(url)
        parts.port  # noqa: B018 - raises ValueError when it is no port
    except ValueError:
        raise ConfigurationError(f"{key} is not a URL; {cure}", key=key) from None
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise ConfigurationError(f"{key} must begin with http(s)://; {cure}", key=key)
    if parts.username or parts.password or parts.query or parts.fragment:
        raise ConfigurationError(
            f"{key} must not contain a user, a password, a query or a fragment; {cure}",
            key=key,
        )
    if any(c.isspace() or not c.isprintable() for c in url):
        raise ConfigurationError(f"{key} contains whitespace; {cure}", key=key)
    return url


def _api_key(value: Any, key: str) -> str | None:
    # The value is a secret and must not appear in an error message.
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
            f"{key} must be one address, a string or a (name, address) pair; not"
            f" {value!r}",
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
            f"{key} must be a positive number of seconds, or two of them, to connect"
            f" and to read; not {value!r}",
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
    # The values are secrets and must not appear in an error message.
    pairs = [value] if isinstance(value, str) else value
    if not isinstance(pairs, (list, tuple)) or not pairs:
        pairs = [None]
    for pair in pairs:
        if not isinstance(pair, str) or not all(pair.strip().partition(":")):
            raise ConfigurationError(
                f"{key} must be 'user:password' as in the webhook's URL, or a list of"
                " such strings; neither part may be empty",
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
            f" {value!r} does not exist",
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
