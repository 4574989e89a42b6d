"""The body of an inbound request -> :class:`.InboundEvent`."""

from __future__ import annotations

import base64
import binascii
import json

from ..errors import PayloadError
from .events import InboundEvent
from .inbound_message import InboundMessage

__all__ = ["parse_inbound"]


def parse_inbound(body: bytes) -> InboundEvent:
    """Read the body of an inbound request, in the format RawMessage as JSON.

    :param body: The raw body, whose signature has been verified.
    :raises PayloadError: if it is no mail from Postal.
    """
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        raise PayloadError("the body is not JSON") from None
    if not isinstance(content, dict) or not isinstance(content.get("message"), str):
        raise PayloadError(
            "the body holds no raw message; set the HTTP endpoint's format to"
            " «Delivered as the raw message» and its encoding to JSON"
        )
    try:
        # Postal breaks the base64 into lines of 60 characters.
        raw = base64.b64decode(content["message"].replace("\n", ""), validate=True)
    except (binascii.Error, ValueError):
        raise PayloadError("the message is not base64") from None
    mail_id = content.get("id")
    sender, recipient = content.get("mail_from"), content.get("rcpt_to")
    return InboundEvent(
        message=InboundMessage(
            raw,
            envelope_sender=sender if isinstance(sender, str) else None,
            envelope_recipient=recipient if isinstance(recipient, str) else None,
        ),
        id=mail_id if isinstance(mail_id, int) else None,
    )
