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
from .outcome import EventType, HoldReason, RejectReason
from .sending.attachment import Attachment
from .sending.message import Message
from .sending.result import RecipientStatus, SendResult
from .signals import (
    inbound_received,
    message_sending,
    message_sent,
    send_failed,
    server_event_received,
    tracking_received,
)

__all__ = [
    "APIError",
    "Address",
    "Attachment",
    "CancelSend",
    "ConfigurationError",
    "EventType",
    "HoldReason",
    "Message",
    "MessageError",
    "PayloadError",
    "Postal",
    "PostalError",
    "RecipientStatus",
    "RejectMail",
    "RejectReason",
    "SendError",
    "SendResult",
    "SignatureError",
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
