"""Merge ``POSTAL_SEND_DEFAULTS`` into messages.

The setting is a dict of :class:`.Message` parameters. Dicts are merged key by key with
the message's own; ``cc``, ``bcc`` and ``attachments`` are added to the message's own;
any other default applies only where the message has no value.
"""

from __future__ import annotations

from collections.abc import Mapping
from copy import copy
from typing import Any

from ..errors import ConfigurationError, MessageError
from ..settings import Settings
from .attachment import Attachment
from .message import FIELDS, Message

__all__ = ["Defaults"]

#: Fields that a template can fill. Their defaults are merged after the template is
#: rendered, so that the template takes precedence.
_RENDERED = ("subject", "body", "html")
#: Lists whose default is added to the message's own items.
_JOINED = ("cc", "bcc", "attachments")


class Defaults:
    """The default values of one app's messages.

    :param settings: The app's settings.
    :raises ConfigurationError: if the setting has unknown or invalid parameters.
    """

    def __init__(self, settings: Settings) -> None:
        self._message = _read(settings)
        self._sender = settings.default_sender

    def merge(self, message: Message) -> None:
        """Merge the defaults of all fields that a template can't fill."""
        if self._message is not None:
            for name in FIELDS:
                if name not in _RENDERED:
                    _merge(message, name, getattr(self._message, name))

    def merge_content(self, message: Message) -> None:
        """Merge the defaults of subject, body, HTML and sender, after rendering."""
        if self._message is not None:
            for name in _RENDERED:
                _merge(message, name, getattr(self._message, name))
        if not message.sender and self._sender is not None:
            # Sending would use the default anyway. Set here, it is also seen by
            # receivers of signals and in recorded messages.
            message.sender = str(self._sender)


def _read(settings: Settings) -> Message | None:
    values = settings.send_defaults
    key = f"{settings.prefix}SEND_DEFAULTS"
    if unknown := sorted(set(values) - set(FIELDS)):
        problem = f"a message has no field {unknown[0]!r}"
    else:
        try:
            return Message(**values) if values else None
        except MessageError as error:
            problem = str(error)
    raise ConfigurationError(f"{key}: {problem}", key=key)


def _merge(message: Message, name: str, default: Any) -> None:
    """Merge the default of one field, as the module's docstring describes."""
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
    """Return whether a default was already added.

    This is the case for a message that :meth:`.Postal.render` returned: its defaults
    have been merged once, and its attachments are resolved.
    """
    if item in items:
        return True
    return isinstance(item, Attachment) and bool(items) and item.resolved() in items


def _missing(defaults: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Return the default headers that the message does not set, ignoring case."""
    names = {str(name).lower() for name in given}
    return {name: v for name, v in defaults.items() if str(name).lower() not in names}
