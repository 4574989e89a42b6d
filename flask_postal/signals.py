"""The signals an app connects to.

The sender of each is the Flask app, and each carries ``postal``, the
:class:`.Postal`. Connect functions that take ``**extra``: later versions may send more.
blinker holds receivers weakly: connect one that is defined inside of another function
with ``weak=False``.
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
]

_signals = Namespace()

message_sending: NamedSignal = _signals.signal(
    "message-sending",
    doc="""A message is about to be sent.

    Receivers are called as ``receiver(app, message=, postal=)`` with a copy of the
    message, in which the defaults are merged and the templates are rendered. They may
    change it, or raise :exc:`.CancelSend` to stop it. Any other error stops it too, and
    reaches the caller of :meth:`.Postal.send`.
    """,
)

message_sent: NamedSignal = _signals.signal(
    "message-sent",
    doc="""Postal has queued a message, or would have: sending may be suppressed.

    Receivers are called as ``receiver(app, message=, result=, postal=)`` with a
    :class:`.SendResult`. What they raise is logged and goes no further: an error would
    look as if the mail had not been sent.
    """,
)

send_failed: NamedSignal = _signals.signal(
    "send-failed",
    doc="""A message was not sent, or perhaps was.

    Receivers are called as ``receiver(app, message=, error=, postal=)`` with the
    :exc:`.PostalError` that the caller of :meth:`.Postal.send` gets. What they raise
    is logged and goes no further.
    """,
)

tracking_received: NamedSignal = _signals.signal(
    "tracking-received",
    doc="""What became of a mail that was sent.

    Receivers are called as ``receiver(app, event=, postal=)`` with a
    :class:`.TrackingEvent`. A receiver that raises makes Postal call again.
    """,
)

server_event_received: NamedSignal = _signals.signal(
    "server-event-received",
    doc="""Postal reports on the mail server: DNS of a domain, send limits, and how mail
    that came in fared with our endpoint.

    Receivers are called as ``receiver(app, event=, postal=)`` with a
    :class:`.ServerEvent`. A receiver that raises makes Postal call again.
    """,
)

inbound_received: NamedSignal = _signals.signal(
    "inbound-received",
    doc="""A mail has come in.

    Receivers are called as ``receiver(app, event=, postal=)`` with an
    :class:`.InboundEvent`. Postal is told that the mail is delivered only after
    every receiver has returned; while none is connected, the mail waits in Postal. A
    receiver may raise :exc:`.RejectMail`.
    """,
)
