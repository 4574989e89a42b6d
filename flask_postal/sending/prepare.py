"""Checks a message and turns it into what goes over the wire."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

from ..address import Address, parse_address
from ..errors import MessageError
from ..settings import Settings
from ..text import header_text, plain_text
from .body import Body
from .message import Message

__all__ = ["Prepared", "prepare"]


@dataclass(frozen=True, slots=True)
class Prepared:
    """A checked message, ready to be delivered.

    :param endpoint: The endpoint that can say it: ``"send/message"``.
    :param recipients: The envelope recipients, each mailbox once.
    :param aliases: Every spelling the caller used -> the key in the result.
    :param body: The JSON.
    """

    endpoint: str
    recipients: dict[str, Address]
    aliases: dict[str, str]
    body: Body


def prepare(message: Message, settings: Settings) -> Prepared:
    """Check a message and serialize it. Nothing is sent.

    :raises MessageError: if Postal would refuse, lose or change it.
    """
    sender = message.sender or settings.default_sender
    if not sender:
        raise MessageError(
            "no sender; pass sender= or set POSTAL_DEFAULT_SENDER", field="sender"
        )
    content: dict[str, Any] = {"from": str(parse_address(sender, "sender")[0])}
    recipients, aliases = _recipients(message)
    content["to"] = [str(address) for address in recipients.values()]
    content["subject"] = header_text(message.subject, "subject")
    for key, field in (("plain_body", "body"), ("html_body", "html")):
        value = getattr(message, field)
        if value is not None and (text := plain_text(value, field)).strip():
            content[key] = text
    if len(content) == 3:
        raise MessageError("no content; pass body= or html=", field="body")
    body = Body(json.dumps(content, ensure_ascii=False).encode())
    return Prepared("send/message", recipients, aliases, body)


def _recipients(message: Message) -> tuple[dict[str, Address], dict[str, str]]:
    recipients: dict[str, Address] = {}
    aliases: dict[str, str] = {}
    keys: dict[tuple[str, str], str] = {}
    for item in message.recipients:
        address, written = parse_address(item, "recipients")
        key = keys.setdefault(address.key, written)
        recipients.setdefault(key, address)
        aliases[written] = aliases[address.addr_spec] = key
    if not recipients:
        raise MessageError("no recipients; pass recipients=", field="recipients")
    return recipients, aliases
