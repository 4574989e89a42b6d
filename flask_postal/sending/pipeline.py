"""Send pipeline: merge defaults, render, emit signals, check, call the API, report.

:meth:`.Postal.send` is :meth:`SendPipeline.send`.
"""

from __future__ import annotations

import itertools
import json
import logging
from collections.abc import Mapping
from copy import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from flask import Flask

from ..errors import CancelSend, ConfigurationError, MessageError, PostalError
from ..receivers import call_receiver
from ..settings import Settings, read_suppressed
from ..signals import message_sending, message_sent, send_failed
from .attachment import Attachment
from .message import FIELDS, Message
from .payload import Body, Prepared, prepare
from .result import SendResult, made_up_result, read_result
from .stored import (
    Delivery,
    MessageDetails,
    expansions,
    mail_number,
    read_deliveries,
    read_details,
)
from .templates import render_templates
from .transport import HTTPTransport

if TYPE_CHECKING:
    from blinker import NamedSignal

    from ..extension import Postal

__all__ = ["Ready", "SendPipeline"]

_log = logging.getLogger("flask_postal.sending")

#: What a message's template may fill: defaults for these come last.
_CONTENT = ("subject", "body", "html")
_JOINED = ("cc", "bcc", "attachments")


@dataclass(frozen=True, slots=True)
class Ready:
    """A message that only has to be delivered.

    :param message: The copy that was prepared.
    :param prepared: What goes over the wire; ``None`` if a receiver cancelled it.
    :param suppressed: Whether it is not to go.
    """

    message: Message
    prepared: Prepared | None
    suppressed: bool


class SendPipeline:
    """Sends the mail of one app through one Postal.

    :param postal: The extension, for the receivers of signals.
    :raises ConfigurationError: if the defaults for messages are no message.
    """

    def __init__(self, postal: Postal, settings: Settings) -> None:
        self._postal = postal
        self._settings = settings
        self._client = HTTPTransport(settings)
        self._defaults = _defaults(settings)
        self._made_up_ids = itertools.count(1)
        self._warns_of_sandbox = settings.uses_sandbox

    def send(self, app: Flask, message: Message) -> SendResult:
        """Send a message; see :meth:`.Postal.send`."""
        ready = self.ready(app, message)
        try:
            result = self.transmit(ready)
        except PostalError as error:
            self.tell(app, ready.message, error)
            raise
        self.tell(app, ready.message, result)
        return result

    def ready(self, app: Flask, message: Message) -> Ready:
        """Do all that needs the app: complete, announce and prepare a message."""
        if self._warns_of_sandbox:
            self._warn_of_sandbox(app)
        try:
            message = self.complete(app, message)
            if message_sending.receivers:
                for receiver in message_sending.receivers_for(app):
                    call_receiver(app, receiver, message=message, postal=self._postal)
                # Receivers may have put anything into it, a template too.
                message = message.copy()
                if message.template is not None:
                    render_templates(message, app)
            prepared = prepare(message, self._settings)
        except CancelSend:
            return Ready(message, None, suppressed=False)
        except PostalError as error:
            self.tell(app, message, error)
            raise
        return Ready(message, prepared, self._suppressed(app))

    def transmit(self, ready: Ready) -> SendResult:
        """Do all that waits for the network; any thread may call it."""
        if ready.prepared is None:
            return SendResult()
        return self._deliver(ready.prepared, suppressed=ready.suppressed)

    def tell(
        self, app: Flask, message: Message, outcome: SendResult | BaseException
    ) -> None:
        """Emit what became of a message. Nothing that a receiver does undoes it."""
        if isinstance(outcome, BaseException):
            self._emit(send_failed, app, message=message, error=outcome)
        elif outcome.endpoint is not None:
            self._emit(message_sent, app, message=message, result=outcome)

    def complete(self, app: Flask, message: Message) -> Message:
        """Return a copy with the defaults merged and the templates rendered."""
        if not isinstance(message, Message):
            raise MessageError(
                f"send() takes a Message, not {type(message).__name__}", field="message"
            )
        message = message.copy()
        if self._defaults is not None:
            _merge(message, self._defaults, content=False)
        if message.template is not None:
            render_templates(message, app)
        if self._defaults is not None:
            _merge(message, self._defaults, content=True)
        if not message.sender and self._settings.default_sender is not None:
            # So that receivers, and tests that look into the outbox, see who sends.
            message.sender = str(self._settings.default_sender)
        return message

    def prepare(self, app: Flask, message: Message) -> Prepared:
        """Complete, check and serialize a message; nothing is emitted or sent."""
        return prepare(self.complete(app, message), self._settings)

    def deliver(self, app: Flask, prepared: Prepared) -> SendResult:
        """Send what was prepared, unless sending is suppressed."""
        return self._deliver(prepared, suppressed=self._suppressed(app))

    def _deliver(self, prepared: Prepared, *, suppressed: bool) -> SendResult:
        if suppressed:
            return made_up_result(prepared, self._made_up_ids)
        data = self._client.call(prepared.endpoint, prepared.body)
        return read_result(data, prepared)

    def get_message(self, number: int, expand: Any) -> MessageDetails:
        """Ask for a stored mail; see :meth:`.Postal.get_message`."""
        query: dict[str, Any] = {"id": mail_number(number)}
        if wanted := expansions(expand):
            query["_expansions"] = wanted
        return read_details(self._ask("messages/message", query))

    def get_deliveries(self, number: int) -> list[Delivery]:
        """Ask for deliveries; see :meth:`.Postal.get_deliveries`."""
        query = {"id": mail_number(number)}
        return read_deliveries(self._ask("messages/deliveries", query))

    def _ask(self, endpoint: str, query: Mapping[str, Any]) -> Any:
        return self._client.call(endpoint, Body(json.dumps(query).encode()))

    def _warn_of_sandbox(self, app: Flask) -> None:
        """Warn, once, that mail of an app in production goes nowhere."""
        self._warns_of_sandbox = False
        if not (app.debug or app.testing):
            _log.warning(
                "%sAPI_KEY is a sandbox's, and this app is neither debug nor testing:"
                " no mail reaches anybody",
                self._settings.prefix,
            )

    def _suppressed(self, app: Flask) -> bool:
        return read_suppressed(app.config, self._settings.prefix, testing=app.testing)

    def _emit(self, signal: NamedSignal, app: Flask, **arguments: Any) -> None:
        if not signal.receivers:
            return
        for receiver in signal.receivers_for(app):
            try:
                call_receiver(app, receiver, **arguments, postal=self._postal)
            except BaseException:  # noqa: BLE001
                # The mail has gone, or has not: nothing that is raised by what only
                # wants to know may look like news about it, not even SystemExit or
                # gevent's Timeout, or the caller sends it twice.
                _log.exception("a receiver of %s failed", signal.name)


def _defaults(settings: Settings) -> Message | None:
    """Read the defaults for messages as a message."""
    values = settings.send_defaults
    key = f"{settings.prefix}SEND_DEFAULTS"
    problem = None
    if unknown := sorted(set(values) - set(FIELDS)):
        problem = f"a message has no {unknown[0]!r}"
    else:
        try:
            return Message(**values) if values else None
        except MessageError as error:
            problem = str(error)
    raise ConfigurationError(f"{key}: {problem}", key=key)


def _merge(message: Message, defaults: Message, *, content: bool) -> None:
    """Fill what is unset: dicts merge, some lists join, all else gives way."""
    for name in FIELDS:
        default = getattr(defaults, name)
        if (name in _CONTENT) is not content or default in (None, "", [], {}):
            continue
        value = getattr(message, name)
        if name == "extra_headers":
            message.extra_headers = {**_missing(default, value), **value}
        elif isinstance(default, dict):
            setattr(message, name, {**default, **value})
        elif name in _JOINED:
            # A message that was rendered before has them already.
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
    """Return those of the default headers that are not given, in any case."""
    names = {str(name).lower() for name in given}
    return {name: v for name, v in defaults.items() if str(name).lower() not in names}
