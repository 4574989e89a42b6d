"""Send mail with Postal from Flask, and hear back.

::

    from flask_postal import Message, Postal, tracking_received

    postal = Postal(app)
    app.register_blueprint(postal.blueprint)

    postal.send(Message("Welcome", ["ana@example.com"], body="Hi"))

    @tracking_received.connect
    def on_tracking(app, event, **extra): ...
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .address import Address
    from .errors import (
        APIError,
        CancelSend,
        ConfigurationError,
        MessageError,
        PayloadError,
        PostalError,
        RejectMail,
        SendError,
        SignatureError,
        TransportError,
        UnsupportedFeature,
        WebhookError,
    )
    from .extension import Postal
    from .outcome import HoldReason, RejectReason
    from .sending.attachment import Attachment
    from .sending.batch import SendOutcome
    from .sending.message import Message
    from .sending.result import RecipientStatus, SendResult
    from .sending.stored import Delivery, MessageDetails
    from .signals import (
        inbound_received,
        message_sending,
        message_sent,
        send_failed,
        server_event_received,
        tracking_received,
    )
    from .vocabulary import EventType
    from .webhooks.events import InboundEvent, ServerEvent, TrackingEvent
    from .webhooks.mail.attachment import InboundAttachment
    from .webhooks.mail.message import InboundMessage

__all__ = [
    "APIError",
    "Address",
    "Attachment",
    "CancelSend",
    "ConfigurationError",
    "Delivery",
    "EventType",
    "HoldReason",
    "InboundAttachment",
    "InboundEvent",
    "InboundMessage",
    "Message",
    "MessageDetails",
    "MessageError",
    "PayloadError",
    "Postal",
    "PostalError",
    "RecipientStatus",
    "RejectMail",
    "RejectReason",
    "SendError",
    "SendOutcome",
    "SendResult",
    "ServerEvent",
    "SignatureError",
    "TrackingEvent",
    "TransportError",
    "UnsupportedFeature",
    "WebhookError",
    "inbound_received",
    "message_sending",
    "message_sent",
    "send_failed",
    "server_event_received",
    "tracking_received",
]

# Where the names are: imported when one is asked for, because the pytest plugin in this
# package is imported in every project of its environment, and Flask takes its time.
_HOMES = {
    "APIError": ".errors",
    "Address": ".address",
    "Attachment": ".sending.attachment",
    "CancelSend": ".errors",
    "ConfigurationError": ".errors",
    "Delivery": ".sending.stored",
    "EventType": ".vocabulary",
    "HoldReason": ".outcome",
    "InboundAttachment": ".webhooks.mail.attachment",
    "InboundEvent": ".webhooks.events",
    "InboundMessage": ".webhooks.mail.message",
    "Message": ".sending.message",
    "MessageDetails": ".sending.stored",
    "MessageError": ".errors",
    "PayloadError": ".errors",
    "Postal": ".extension",
    "PostalError": ".errors",
    "RecipientStatus": ".sending.result",
    "RejectMail": ".errors",
    "RejectReason": ".outcome",
    "SendError": ".errors",
    "SendOutcome": ".sending.batch",
    "SendResult": ".sending.result",
    "ServerEvent": ".webhooks.events",
    "SignatureError": ".errors",
    "TrackingEvent": ".webhooks.events",
    "TransportError": ".errors",
    "UnsupportedFeature": ".errors",
    "WebhookError": ".errors",
    "inbound_received": ".signals",
    "message_sending": ".signals",
    "message_sent": ".signals",
    "send_failed": ".signals",
    "server_event_received": ".signals",
    "tracking_received": ".signals",
}

if not TYPE_CHECKING:

    def __getattr__(name: str) -> Any:
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        value = getattr(import_module(_HOMES[name], __name__), name)
        globals()[name] = value
        return value

    def __dir__() -> list[str]:
        return sorted({*globals(), *__all__})
