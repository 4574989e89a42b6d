"""Send pipeline: merge defaults, render templates, emit signals, validate, call the
API, report the result.

:meth:`SendPipeline.send` runs all steps and is what :meth:`.Postal.send` calls. Code
that needs to do something in between, such as ``send_many`` or a store of messages,
calls the steps one by one:

1. :meth:`~SendPipeline.complete`: merge defaults and render templates, by
   :attr:`~SendPipeline.defaults` and :func:`.render_templates`
2. :meth:`~SendPipeline.announce`: emit ``message_sending``
3. :meth:`~SendPipeline.check`: validate, and decide which endpoint is needed
4. :meth:`~SendPipeline.serialize`: write the request as JSON, with MIME if necessary
5. :meth:`~SendPipeline.post`: call the API
6. :meth:`~SendPipeline.report`: emit ``message_sent`` or ``send_failed``
"""

from __future__ import annotations

import itertools
import logging
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from flask import Flask

from ..address import parse_address
from ..errors import CancelSend, MessageError, PostalError, SendError
from ..receivers import call_receiver
from ..settings import Settings, read_suppressed
from ..signals import message_sending, message_sent, send_failed
from ..text import list_name
from .capabilities import POSTAL, without_unsupported
from .content import Content, read_content
from .defaults import Defaults
from .message import Message
from .payload import Prepared, serialize
from .result import SendResult, made_up_result, nobody_left, read_result
from .suppression import FindSuppressed, leave_out
from .templates import render_templates
from .transport import HTTPTransport, Transport

if TYPE_CHECKING:
    from blinker import NamedSignal

__all__ = ["Ready", "SendPipeline"]

_log = logging.getLogger("flask_postal.sending")


@dataclass(frozen=True, slots=True)
class Ready:
    """A message after all steps that precede the API call.

    :param message: The completed copy of the message.
    :param prepared: The request; ``None`` if a receiver cancelled the message.
    :param suppressed: Whether sending is suppressed.
    """

    message: Message
    prepared: Prepared | None
    suppressed: bool


class SendPipeline:
    """Sends the messages of one app through one Postal server.

    :param settings: The app's settings.
    :param postal: The extension object, which is passed to receivers of signals.
    :param transport: Calls the API; an :class:`.HTTPTransport` if not given.
    :param capabilities: Names of features that Postal lacks but the calling layer
        provides, such as ``"send_at"``. Messages may use them.
    :param find_suppressed: Finds the recipients that nothing is sent to.
    :param unsubscribe_url: Returns the link by which a recipient leaves a list.
    :raises ConfigurationError: if ``POSTAL_SEND_DEFAULTS`` is invalid.
    """

    def __init__(
        self,
        settings: Settings,
        *,
        postal: object,
        transport: Transport | None = None,
        capabilities: frozenset[str] = POSTAL,
        find_suppressed: FindSuppressed | None = None,
        unsubscribe_url: Callable[[str, str], str] | None = None,
    ) -> None:
        self.defaults: Defaults = Defaults(settings)
        self.transport: Transport = transport or HTTPTransport(settings)
        self._capabilities = capabilities
        self._find_suppressed = find_suppressed
        self._unsubscribe_url = unsubscribe_url
        self._postal = postal
        self._settings = settings
        self._made_up_ids = itertools.count(1)
        self._warns_of_sandbox = settings.uses_sandbox

    def send(
        self, app: Flask, message: Message, *, suppressed: bool | None = None
    ) -> SendResult:
        """Send a message; see :meth:`.Postal.send`.

        :param suppressed: Whether sending is suppressed, if the settings don't decide.
        """
        ready = self.ready(app, message)
        if suppressed is not None:
            ready = replace(ready, suppressed=suppressed)
        try:
            result = self.transmit(ready)
        except PostalError as error:
            self.report(app, ready.message, error)
            raise
        self.report(app, ready.message, result)
        return result

    # ---- before the API call, in the app's thread

    def ready(self, app: Flask, message: Message) -> Ready:
        """Run all steps that need the app, up to the serialized request.

        Errors of Flask-Postal are reported by ``send_failed`` before they are raised.

        :raises MessageError: if the message is invalid.
        """
        if self._warns_of_sandbox:
            self._warn_of_sandbox(app)
        try:
            message = self.announce(app, self.complete(app, message))
            prepared = serialize(self.check(message))
        except CancelSend:
            return Ready(message, None, suppressed=False)
        except PostalError as error:
            self.report(app, message, error)
            raise
        return Ready(message, prepared, self.is_suppressed(app))

    def complete(self, app: Flask, message: Message) -> Message:
        """Return a copy with the defaults merged and the templates rendered.

        :raises MessageError: if the template does not exist.
        """
        if not isinstance(message, Message):
            raise MessageError(
                f"send() takes a Message, not {type(message).__name__}", field="message"
            )
        message = message.copy()
        self.defaults.merge(message)
        if message.template is not None:
            self._add_link(message)
            render_templates(message, app)
        self.defaults.merge_content(message)
        return message

    def _add_link(self, message: Message) -> None:
        """Add the link to unsubscribe to the context of the message's template."""
        name, to = message.unsubscribe, message.recipients
        if name is None or self._unsubscribe_url is None or len(to) != 1:
            return
        address, _ = parse_address(to[0], "recipients")
        url = self._unsubscribe_url(address.addr_spec, list_name(name, "unsubscribe"))
        message.context = {"unsubscribe_url": url, **message.context}

    def announce(self, app: Flask, message: Message) -> Message:
        """Emit ``message_sending``, and return the message as receivers changed it.

        :raises CancelSend: if a receiver stops the message. Other exceptions of
            receivers propagate too.
        """
        if not message_sending.receivers:
            return message
        for receiver in message_sending.receivers_for(app):
            call_receiver(app, receiver, message=message, postal=self._postal)
        # Receivers may have assigned anything to the fields. The copy restores lists
        # and dicts where they have assigned a single value, and a template that they
        # have set is rendered.
        message = message.copy()
        if message.template is not None:
            self._add_link(message)
            render_templates(message, app)
        return message

    def check(
        self, message: Message, *, capabilities: frozenset[str] | None = None
    ) -> Content:
        """Validate a completed message, and leave suppressed recipients out.

        There may be none left then.

        :param capabilities: As for the pipeline, for this message only.
        :raises MessageError: if Postal would refuse, lose or change a part of it.
        """
        settings = self._settings
        message = without_unsupported(
            message,
            ignore=settings.ignore_unsupported_features,
            supported=self._capabilities if capabilities is None else capabilities,
            setting=f"{settings.prefix}IGNORE_UNSUPPORTED_FEATURES",
        )
        content = read_content(message, settings)
        if self._find_suppressed is not None:
            leave_out(content, self._find_suppressed)
        if content.mailing_list is not None and self._unsubscribe_url is not None:
            url = self._unsubscribe_url(content.member, content.mailing_list)
            content.headers["List-Unsubscribe"] = f"<{url}>"
            content.headers["List-Unsubscribe-Post"] = "List-Unsubscribe=One-Click"
        return content

    def serialize(self, content: Content) -> Prepared:
        """Write the request for a validated message."""
        return serialize(content)

    def prepare(self, app: Flask, message: Message) -> Prepared:
        """Complete, validate and serialize a message, without signals or sending."""
        return serialize(self.check(self.complete(app, message)))

    def is_suppressed(self, app: Flask) -> bool:
        """Return whether messages are validated but not sent. Read at each send."""
        return read_suppressed(app.config, self._settings.prefix, testing=app.testing)

    # ---- the API call, in any thread

    def transmit(self, ready: Ready) -> SendResult:
        """Run the step that waits for the network. Needs no app context.

        :raises APIError: if Postal refused the request.
        :raises TransportError: if no usable response was received.
        """
        if ready.prepared is None:
            return SendResult()
        return self.post(ready.prepared, suppressed=ready.suppressed)

    def post(self, prepared: Prepared, *, suppressed: bool) -> SendResult:
        """Call the API, or make up a result if sending is suppressed."""
        if not prepared.recipients:
            _log.info("not sent: all recipients of the message are suppressed")
            return nobody_left(prepared)
        if suppressed:
            return made_up_result(prepared, self._made_up_ids)
        began = time.perf_counter()
        try:
            data = self.transport.call(prepared.endpoint, prepared.body)
            result = read_result(data, prepared)
        except SendError as error:
            error.endpoint = prepared.endpoint
            error.seconds = time.perf_counter() - began
            raise
        return replace(result, seconds=time.perf_counter() - began)

    # ---- after the API call, in the app's thread

    def report(
        self, app: Flask, message: Message, outcome: SendResult | BaseException
    ) -> None:
        """Emit ``message_sent`` or ``send_failed``. Nothing if nothing was to be sent.

        Exceptions of receivers are logged and not propagated.
        """
        if isinstance(outcome, BaseException):
            self._emit(send_failed, app, message=message, error=outcome)
        elif outcome.endpoint is not None:
            self._emit(message_sent, app, message=message, result=outcome)

    def _emit(self, signal: NamedSignal, app: Flask, **arguments: object) -> None:
        if not signal.receivers:
            return
        for receiver in signal.receivers_for(app):
            try:
                call_receiver(app, receiver, **arguments, postal=self._postal)
            except BaseException:  # noqa: BLE001
                # The outcome of the message is settled. If an error of a receiver
                # propagated, even SystemExit or gevent's Timeout, the caller would
                # think that sending had failed, and send the message again.
                _log.exception("a receiver of %s failed", signal.name)

    def _warn_of_sandbox(self, app: Flask) -> None:
        """Warn once if an app in production sends to a sandbox."""
        self._warns_of_sandbox = False
        if not (app.debug or app.testing):
            _log.warning(
                "%sAPI_KEY is a sandbox's, and this app runs in neither debug nor"
                " testing mode: no mail will be delivered",
                self._settings.prefix,
            )
