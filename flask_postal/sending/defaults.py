"""``POSTAL_SEND_DEFAULTS``: fields that every message of an app gets."""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from ..errors import ConfigurationError, MessageError
from ..settings import Settings
from .attachment import Attachment
from .message import FIELDS, Message

__all__ = ["Defaults"]

#: Fields that a template may fill. Their defaults are merged after rendering, so that
#: the template wins.
_RENDERED = ("subject", "body", "html")
#: Fields whose default is added to the message's own value.
_JOINED = ("cc", "bcc", "attachments")


class Defaults:
    """The default fields of one app's messages.

    :raises ConfigurationError: if the setting is no message.
    """

    def __init__(self, settings: Settings) -> None:
        self._message = _read(settings)
        self._sender = settings.default_sender

    def merge(self, message: Message) -> None:
        """Fill the fields that a template can't fill."""
        if self._message is not None:
            for name in FIELDS:
                if name not in _RENDERED:
                    _merge(message, name, getattr(self._message, name))

    def merge_content(self, message: Message) -> None:
        """Fill subject, body, HTML and sender, as far as they are still unset."""
        if self._message is not None:
            for name in _RENDERED:
                _merge(message, name, getattr(self._message, name))
        if not message.sender and self._sender is not None:
            # So that receivers and a test's outbox see the sender.
            message.sender = str(self._sender)


def _read(settings: Settings) -> Message | None:
    values = settings.send_defaults
    key = f"{settings.prefix}SEND_DEFAULTS"
    if unknown := sorted(set(values) - set(FIELDS)):
        problem = f"a message has no {unknown[0]!r}"
    else:
        try:
            return Message(**values) if values else None
        except MessageError as error:
            problem = str(error)
    raise ConfigurationError(f"{key}: {problem}", key=key)


def _merge(message: Message, name: str, default: Any) -> None:
    """Fill one field: dicts merge, some lists join, any other default gives way."""
    if default in (None, "", [], {}):
        return
    value = getattr(message, name)
    if name == "extra_headers":
        message.extra_headers = {**_missing(default, value), **value}
    elif isinstance(default, dict):
        setattr(message, name, {**default, **value})
    elif name in _JOINED:
        new = [item for item in default if not _is_among(item, value)]
        setattr(message, name, [*value, *new])
    elif value is None or value in ("", []):
        setattr(message, name, copy(default))


def _is_among(item: Any, items: list[Any]) -> bool:
    """Tell whether a default is there already, as in a message rendered before."""
    if item in items:
        return True
    return isinstance(item, Attachment) and bool(items) and item.resolved() in items


def _missing(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default headers that are not given, whatever their case."""
    names = {str(name).lower() for name in given}
    return {name: v for name, v in defaults.items() if str(name).lower() not in names}
