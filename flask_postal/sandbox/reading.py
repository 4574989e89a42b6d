"""Reads a mail, and writes base64, as Postal does."""

from __future__ import annotations

import base64

from ..webhooks.mail.encoded import EncodedMail
from ..webhooks.mail.message import InboundMessage
from ..webhooks.mail.raw import RawMail

__all__ = ["base64_lines", "read_mail"]


def read_mail(raw: bytes) -> InboundMessage:
    """Read a mail; nothing it holds raises."""
    return InboundMessage(RawMail(EncodedMail(raw=raw)))


def base64_lines(data: bytes) -> str:
    """Write base64 as Ruby does: a line break after every 60 characters."""
    text = base64.b64encode(data).decode("ascii")
    return "".join(f"{text[at : at + 60]}\n" for at in range(0, len(text), 60))
