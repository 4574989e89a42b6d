"""The signals that apps connect receivers to.

The sender of each signal is the Flask app, and each passes the :class:`.Postal` object
as ``postal``. Receivers should accept ``**extra``, because later versions may pass
more. A receiver may be a coroutine function.

blinker keeps only weak references to receivers. A function that is defined inside
another function, such as ``create_app()``, must be connected with ``weak=False``;
otherwise it is garbage-collected and never called.
"""

from __future__ import annotations

from blinker import NamedSignal, Namespace

__all__ = [
    "inbound_received",
    "message_sending",
    "message_sent",
    "send_failed",
    "server_event_received",
    "tracking_received",
    "unsubscribed",
    "webhook_answered",
]

_signals = Namespace()

message_sending: NamedSignal = _signals.signal(
    "message-sending",
    doc="""Emitted before a message is validated and sent.

    Receivers are called as ``receiver(app, message=, postal=)`` with a copy of the
    message, in which the defaults are merged and the templates are rendered. They may
    change the copy, or raise :exc:`.CancelSend` to stop the message without an error.
    Any other exception stops it too, and propagates to the caller of
    :meth:`.Postal.send`.
    """,
)

message_sent: NamedSignal = _signals.signal(
    "message-sent",
    doc="""Emitted after Postal has queued a message.

    It is also emitted while sending is suppressed; ``result.suppressed`` is true then.

    Receivers are called as ``receiver(app, message=, result=, postal=)`` with a
    :class:`.SendResult`. An exception in a receiver is logged and not propagated:
    the caller of :meth:`.Postal.send` would think that the message had not been sent,
    and send it again.
    """,
)

send_failed: NamedSignal = _signals.signal(
    "send-failed",
    doc="""Emitted when sending a message has failed.

    Receivers are called as ``receiver(app, message=, error=, postal=)`` with the
    :exc:`.PostalError` that is raised to the caller of :meth:`.Postal.send`. If
    ``error.maybe_sent`` is true, Postal may have queued the message all the same. An
    exception in a receiver is logged and not propagated.
    """,
)

tracking_received: NamedSignal = _signals.signal(
    "tracking-received",
    doc="""Emitted when Postal reports what happened to a message that was sent.

    Receivers are called as ``receiver(app, event=, postal=)`` with a
    :class:`.TrackingEvent`. If a receiver raises, Postal retries the webhook.
    """,
)

unsubscribed: NamedSignal = _signals.signal(
    "unsubscribed",
    doc="""Emitted when somebody wants no more mail of a list.

    Receivers are called as ``receiver(app, event=, postal=)`` with an
    :class:`.UnsubscribeEvent`.
    """,
)

webhook_answered: NamedSignal = _signals.signal(
    "webhook-answered",
    doc="""Emitted when a webhook request was answered, also when it was refused.

    For metrics and traces. Receivers are called as ``receiver(app, hook=, status=,
    reason=, seconds=, event_type=, event=, postal=)``:

    - ``hook`` is ``"tracking"`` or ``"inbound"``, ``status`` the HTTP status, and
      ``seconds`` how long verifying and handling took;
    - ``reason`` is one of :class:`.AnswerReason`;
    - ``event_type`` is a value of :class:`.EventType`, ``"inbound"`` for a mail, or
      ``"server"``; ``event`` is the event. Both are ``None`` if the request was refused
      before it was parsed.

    An exception in a receiver is logged and not propagated.
    """,
)

server_event_received: NamedSignal = _signals.signal(
    "server-event-received",
    doc="""Emitted when Postal reports about the mail server.

    The reports are about the DNS records of a domain, about send limits, and about the
    delivery of inbound mail to this app's endpoint.

    Receivers are called as ``receiver(app, event=, postal=)`` with a
    :class:`.ServerEvent`. If a receiver raises, Postal retries the webhook.
    """,
)

inbound_received: NamedSignal = _signals.signal(
    "inbound-received",
    doc="""Emitted when an inbound mail is received.

    Receivers are called as ``receiver(app, event=, postal=)`` with an
    :class:`.InboundEvent`. The request is answered with success only after every
    receiver has returned; if one raises, or none is connected, Postal keeps the mail
    and retries. To refuse a mail for good, raise :exc:`.RejectMail`.
    """,
)
