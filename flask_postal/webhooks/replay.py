"""Recognises stored request bodies, so that they can be handled again."""

from __future__ import annotations

import json
from typing import NamedTuple

from .inbound import FORM, JSON
from .verify import VerifiedRequest

__all__ = ["StoredRequest", "read_stored_request"]


class StoredRequest(NamedTuple):
    """A stored body and what was recognised in it.

    :param request: The request, as if it had just been verified.
    :param event: Postal's name of the event, such as ``"MessageSent"``, or the format
        of an inbound mail, such as ``"raw-json"``.
    """

    request: VerifiedRequest
    event: str


def read_stored_request(body: bytes) -> StoredRequest:
    """Recognise the body of a request that Postal has sent.

    No signature is verified. Pass only bodies that were verified before they were
    stored.

    :param body: The raw body.
    :raises ValueError: if it is neither an event nor an inbound mail.
    """
    if body.startswith(b"id=") and b"rcpt_to=" in body:
        kind = "raw-form" if b"&message=" in body else "hash-form"
        return StoredRequest(VerifiedRequest("inbound", body, FORM), kind)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("event"), str):
        return StoredRequest(VerifiedRequest("tracking", body, JSON), content["event"])
    if "rcpt_to" in content:
        kind = "raw-json" if "message" in content else "hash-json"
        return StoredRequest(VerifiedRequest("inbound", body, JSON), kind)
    raise ValueError(
        "the body is neither an event nor a mail; store it exactly as Postal sent it"
    )
