"""Implements ``send/message`` and ``send/raw`` with Postal's checks."""

from __future__ import annotations

import base64
import re
import uuid
from collections.abc import Iterable, Mapping
from typing import Any

from .mail_builder import compose
from .mail_reader import PostalMail, in_brackets
from .params import APIFailedError, APIRefusedError, ruby_blank, ruby_text
from .records import Mail
from .simulation import Simulation

__all__ = ["send_message", "send_raw"]

#: Maximum number of addresses in each of to, cc and bcc.
MAX_ADDRESSES = 50
#: Maximum length in characters of addresses, tags and Message-IDs in Postal's database.
MAX_TEXT = 255
#: Maximum size in bytes of an SQL statement in MariaDB with its default settings.
MAX_PACKET = 16 * 1024 * 1024
#: Size in bytes of the SQL statement around the data.
_STATEMENT = 200
_ESCAPED = (b"\r", b"\n", b"'", b'"', b"\\", b"\0", b"\x1a")
_END_OF_HEADERS = re.compile(rb"\r?\n\r?\n")
_FOREIGN = re.compile(r"[^A-Za-z0-9+/]")
_MESSAGES = {
    "NoRecipients": "There are no recipients defined to receive this message",
    **{
        f"TooMany{name}Addresses": f"The maximum number of {name} addresses has been"
        f" reached (maximum {MAX_ADDRESSES})"
        for name in ("To", "CC", "BCC")
    },
    "NoContent": "There is no content defined for this e-mail",
    "FromAddressMissing": "The From address is missing and is required",
    "UnauthenticatedFromAddress": "The From address is not authorised to send mail"
    " from this server",
    "AttachmentMissingName": "An attachment is missing a name",
    "AttachmentMissingData": "An attachment is missing data",
}


def send_message(simulation: Simulation, content: Mapping[str, Any]) -> dict[str, Any]:
    """Handle send/message: check the parameters and accept the message.

    :param content: The parameters of the call.
    :returns: The ``data`` of the response: the Message-ID, and an id and a token for
        each recipient.
    :raises APIRefusedError: for the first check that fails.
    :raises APIFailedError: if Postal answers HTTP 500. Some of the recipients may have
        been stored before, because Postal is not atomic.
    """
    fields = dict(content)
    lists = {name: _addresses(fields.get(name)) for name in ("to", "cc", "bcc")}
    fields["attachments"] = _attachments(fields.get("attachments"))
    # Postal runs all checks before it reports the first error, so a From address of a
    # wrong type gives HTTP 500 even if something else is missing.
    if errors := _errors(lists, fields, simulation.domains):
        raise APIRefusedError(errors[0], _MESSAGES[errors[0]])
    # Flattened after the checks, which count a nested list as one address.
    recipients = [a for name in lists for a in _flat(lists[name])]
    headers = fields.get("headers")
    fields["headers"] = headers if isinstance(headers, dict) else {}
    for name in ("to", "cc"):
        fields[name] = [ruby_text(address) for address in _flat(lists[name])]
    if any(":" in name for name in fields["headers"]):
        raise APIFailedError
    fields["subject"] = _joined(fields.get("subject"), ", ")
    for name in ("plain_body", "html_body"):
        text = fields.get(name)
        fields[name] = None if ruby_blank(text) else _joined(text, "")
    message_id = f"{uuid.uuid4()}@rp.sandbox.localhost"
    raw = compose(fields, message_id=message_id, timestamp=simulation.clock.now())
    tag = fields.get("tag")
    return _accept(
        simulation,
        # A generator, because Postal handles recipients one by one: a value that is
        # not a string fails only after those before it have been stored.
        (_bare(recipient) for recipient in recipients if recipient is not None),
        raw,
        sender=_bare(fields["from"]),
        subject=fields["subject"],
        message_id=message_id,
        # The database stores a boolean as a number.
        tag=str(int(tag)) if isinstance(tag, bool) else ruby_text(tag),
        header_tag=PostalMail(raw).header("x-postal-tag"),
        bounce=_is_true(fields.get("bounce")),
    )


def _errors(
    lists: Mapping[str, list[Any]], fields: Mapping[str, Any], allowed: frozenset[str]
) -> list[str]:
    errors = []
    if not any(lists.values()):
        errors.append("NoRecipients")
    for name, shown in (("to", "To"), ("cc", "CC"), ("bcc", "BCC")):
        if len(lists[name]) > MAX_ADDRESSES:
            errors.append(f"TooMany{shown}Addresses")
    if ruby_blank(fields.get("plain_body")) and ruby_blank(fields.get("html_body")):
        errors.append("NoContent")
    sender = fields.get("from")
    if ruby_blank(sender):
        errors.append("FromAddressMissing")
    elif not _may_send(_bare(sender), allowed):
        errors.append("UnauthenticatedFromAddress")
    for attachment in fields["attachments"]:
        if ruby_blank(attachment["name"]):
            errors.append("AttachmentMissingName")
        elif ruby_blank(attachment["data"]):
            errors.append("AttachmentMissingData")
    return errors


def send_raw(simulation: Simulation, content: Mapping[str, Any]) -> dict[str, Any]:
    """Handle send/raw: check the parameters and accept the message unchanged.

    Parameters, result and exceptions are those of :func:`send_message`.
    """
    if not isinstance(content.get("rcpt_to"), list):
        raise APIRefusedError(None, "`rcpt_to` parameter is required but is missing")
    for name in ("mail_from", "data"):
        if ruby_blank(content.get(name)):
            raise APIRefusedError(
                None, f"`{name}` parameter is required but is missing"
            )
    if not isinstance(content["data"], str):
        raise APIFailedError
    raw = _decode(content["data"])
    head, separator, _ = raw.partition(b"\r\n\r\n")
    if not _is_utf8(_END_OF_HEADERS.split(head, maxsplit=1)[0]):
        raise APIFailedError
    mail = PostalMail(raw)
    authors = PostalMail(head).all_addresses("from")
    if not authors or not all(_may_send(a, simulation.domains) for a in authors):
        raise APIRefusedError("UnauthenticatedFromAddress", None)
    recipients = {repr(item): item for item in content["rcpt_to"]}.values()
    return _accept(
        simulation,
        recipients,
        raw,
        sender=ruby_text(content["mail_from"]),
        subject=mail.header("subject"),
        message_id=mail.message_id if separator and recipients else None,
        tag=None,
        header_tag=mail.header("x-postal-tag"),
        bounce=_is_true(content.get("bounce")),
    )


def _accept(
    simulation: Simulation,
    recipients: Iterable[Any],
    raw: bytes,
    *,
    sender: str,
    subject: str | None,
    message_id: str | None,
    tag: str | None,
    header_tag: str | None,
    bounce: bool,
) -> dict[str, Any]:
    """Store a message for each recipient in turn, until the database refuses one."""
    fits = _fits(raw) and all(
        len(text or "") <= MAX_TEXT for text in (sender, message_id, tag)
    )
    # Only Postal's worker reads the header, after the API has reported success. There
    # the same limit makes the message end in status Error, without any webhook.
    broken = not tag and len(header_tag or "") > MAX_TEXT
    mails: list[Mail] = []
    for recipient in recipients:
        if not fits or not isinstance(recipient, str) or len(recipient) > MAX_TEXT:
            raise APIFailedError
        mails += simulation.outgoing.accept(
            [recipient],
            raw,
            sender=sender,
            subject=subject or None,
            message_id=message_id,
            tag=tag or (None if broken else header_tag) or None,
            bounce=bounce,
            broken=broken,
        )
    named = {mail.recipient: {"id": mail.id, "token": mail.token} for mail in mails}
    return {"message_id": message_id, "messages": named}


def _fits(raw: bytes) -> bool:
    """Return whether a message fits the database, which gets header and body apart."""
    return all(
        len(half) + sum(half.count(mark) for mark in _ESCAPED) + _STATEMENT < MAX_PACKET
        for half in _END_OF_HEADERS.split(raw, maxsplit=1)
    )


def _attachments(value: Any) -> list[dict[str, Any]]:
    """Read and decode the attachments; items that are not objects are ignored."""
    if ruby_blank(value) and not isinstance(value, str):
        return []
    if not isinstance(value, (list, dict)):
        raise APIFailedError
    found = []
    for item in value:
        if not isinstance(item, dict):
            continue
        name, data = item.get("name"), item.get("data")
        if not ruby_blank(name) and not isinstance(name, str):
            raise APIFailedError
        if isinstance(data, str):
            data = _decode(data)
            data = data if data.strip() else ""
        elif data is not None and data is not False:
            raise APIFailedError
        found.append(
            {"name": name, "content_type": item.get("content_type"), "data": data}
        )
    return found


def _decode(text: str) -> bytes:
    """Decode base64 as Ruby does: skip foreign characters, and stop at ``=``."""
    text = _FOREIGN.sub("", text.partition("=")[0])
    text = text[:-1] if len(text) % 4 == 1 else text
    return base64.b64decode(text + "=" * (-len(text) % 4))


def _addresses(value: Any) -> list[Any]:
    """Read a list of addresses; a string is split at every comma, even in quotes."""
    if value is None:
        return []
    if isinstance(value, str):
        items: list[Any] = re.split(r",\s*", value)
        while items and not items[-1]:
            items.pop()
        return items
    if isinstance(value, dict):
        return [[name, address] for name, address in value.items()]
    if not isinstance(value, list):
        raise APIFailedError
    return value


def _flat(items: Iterable[Any]) -> list[Any]:
    flat: list[Any] = []
    for item in items:
        flat += _flat(item) if isinstance(item, list) else [item]
    return flat


def _bare(address: Any) -> Any:
    """Return the bare address by Postal's own regular expression."""
    if not isinstance(address, str):
        raise APIFailedError
    return re.sub(r"\(.+?\)", "", in_brackets(address)).strip()


def _joined(value: Any, separator: str) -> str | None:
    """Convert a value to text as Ruby's mail library does."""
    if isinstance(value, list):
        return separator.join(ruby_text(item) for item in value)
    return None if value is None else ruby_text(value)


def _is_true(value: Any) -> bool:
    """Return whether a value is true in Ruby, as zero and an empty string are."""
    return value is not None and value is not False


def _is_utf8(data: bytes) -> bool:
    try:
        data.decode("utf-8")
    except UnicodeDecodeError:
        return False
    return True


def _may_send(address: str, allowed: frozenset[str]) -> bool:
    domain = address.partition("@")[2].lower()
    return bool(domain) and (not allowed or domain in allowed)
