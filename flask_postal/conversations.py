"""Answers to mail, and addresses by which their answers find back."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Any

from flask import current_app

from .address import Address, AddressesLike, is_sendable, parse_address
from .errors import MessageError
from .secret_keys import secret_keys
from .sending.message import Message
from .webhooks.mail.classify import is_from_list
from .webhooks.mail.message import InboundMessage

__all__ = ["read_reply_address", "reply", "reply_address"]

#: Message-IDs in the References of an answer: the first one and the last ones.
MAX_REFERENCES = 20
#: Hexadecimal digits of a signature: 64 bits, which nobody can guess by mail.
SIGNATURE = 16
#: Longest local part of an address (RFC 5321, 4.5.3.1.1).
MAX_LOCAL = 64

# The words for "Re" that mail programs write, in whatever language, and counted ones
# such as "Re[2]:". "Fwd" is no answer.
_RE = re.compile(
    r"\s*(?:re|aw|antw|sv|vs|odp|ynt|res|rif|r|bls|atb|vá|отв|ответ|απ|απαντ"
    r"|回复|回覆|答复|返信|답장|회신|رد|השב)"
    r"(?:\s?[\[(^]?\d{1,3}[\])]?)?\s?[:\uff1a]",
    re.IGNORECASE,
)
# Printable ASCII but "<", ">" and "@" (RFC 5322 allows less, and people send more).
_MESSAGE_ID = re.compile(r"[!-;=?A-~]{1,250}@[!-;=?A-~]{1,250}")
_KEY = re.compile(r"[a-z0-9]+(?:[._-][a-z0-9]+)*", re.ASCII)
_REPLY = re.compile(r"(.+)\+(.+)\.([0-9a-f]+)", re.ASCII)


def reply(
    message: InboundMessage | None,
    body: str | None = None,
    *,
    to: AddressesLike | None = None,
    subject: str | None = None,
    references: Iterable[str] | None = None,
    automatic: bool = False,
    **fields: Any,
) -> Message:
    """Make the answer to a mail, which mail programs show in the same conversation.

    It goes to the addresses in Reply-To, or else to the author, with ``Re:`` (once),
    ``In-Reply-To`` and ``References``. It never goes to a mailing list, nor to a mail
    without an envelope sender, as bounces are.

    :param message: The mail; ``None`` for one of which only what the next three
        arguments say has been stored.
    :param body: The text of the answer.
    :param to: Who gets it, in place of the author.
    :param subject: The subject of the mail that is answered, with or without ``Re:``.
    :param references: The Message-IDs of the conversation, without angle brackets, the
        oldest first and that of the answered mail last.
    :param automatic: Whether a program writes it. It is marked as such (RFC 3834), goes
        to one address only, and is refused unless :attr:`.InboundMessage
        .may_be_answered`.
    :param fields: Further parameters of :class:`.Message`. Its ``sender`` is
        :data:`POSTAL_DEFAULT_SENDER` unless given.
    :raises MessageError: if the mail must not be answered, or has no address to answer
        to.
    """
    if message is not None:
        _check(message, automatic=automatic)
        to = _authors(message, automatic=automatic) if to is None else to
        subject = message.subject if subject is None else subject
        references = _thread(message) if references is None else references
    if not to:
        raise MessageError("there is no address to reply to", field="message")
    headers = _headers(references or (), automatic=automatic)
    headers |= fields.pop("extra_headers", None) or {}
    return Message(_subject(subject), to, body, extra_headers=headers, **fields)


def _check(message: InboundMessage, *, automatic: bool) -> None:
    why = None
    if message.envelope_sender is None:
        why = "it has no envelope sender, as a bounce"
    elif is_from_list(message.header):
        why = "it came from a mailing list"
    elif automatic and not message.may_be_answered:
        why = "no program may answer it; see message.may_be_answered"
    if why is not None:
        raise MessageError(f"the mail must not be answered: {why}", field="message")


def _authors(message: InboundMessage, *, automatic: bool) -> list[Address]:
    """Return who gets the answer: nobody but people, and not ourselves."""
    authors = message.reply_to
    if not authors and message.from_email is not None:
        authors = [message.from_email]
    found = [
        author
        for author in authors
        if is_sendable(author.addr_spec)
        and author.addr_spec.lower() != (message.envelope_recipient or "").lower()
    ]
    return found[:1] if automatic else found


def _thread(message: InboundMessage) -> list[str]:
    before = message.references or [message.in_reply_to or ""]
    return [*before, message.message_id or ""]


def _headers(references: Iterable[str], *, automatic: bool) -> dict[str, str]:
    headers = {}
    if automatic:
        headers["Auto-Submitted"] = "auto-replied"
        headers["X-Auto-Response-Suppress"] = "All"  # for Exchange
    known = [i.strip("<> ") for i in references]
    known = [i for i in dict.fromkeys(known) if _MESSAGE_ID.fullmatch(i)]
    if known:
        kept = [*known[:1], *known[1:][1 - MAX_REFERENCES :]]
        headers["In-Reply-To"] = f"<{kept[-1]}>"
        headers["References"] = " ".join(f"<{i}>" for i in kept)
    return headers


def _subject(subject: str | None) -> str:
    rest = " ".join((subject or "").split())
    while found := _RE.match(rest):
        rest = rest[found.end() :].lstrip()
    return f"Re: {rest}".rstrip()


# ---- addresses


def reply_address(key: object, address: str) -> str:
    """Return an address for replies by which an app knows what they belong to.

    Such as ``ticket+7.1f0c2d9a5b7e4386@example.com``. It is signed with the app's
    ``SECRET_KEY``, so that nobody can guess one. :func:`read_reply_address` reads it.

    :param key: What it belongs to, such as the number of a ticket: lower-case letters,
        digits, and ``.``, ``_`` or ``-`` between them, because mail servers may change
        the case.
    :param address: The address without a key, such as ``"ticket@example.com"``. Postal
        must have a route for it.
    :raises ValueError: for a key of other characters, or one that would make the part
        before the ``@`` longer than 64 characters.
    :raises ConfigurationError: without a ``SECRET_KEY``.
    """
    parsed, _ = parse_address(address, "address")
    name, text = parsed.username.lower(), str(key)
    if not _KEY.fullmatch(text):
        raise ValueError(
            f"a key has lower-case letters and digits, and '.', '_' or '-' between"
            f" them; not {text!r}"
        )
    local = f"{name}+{text}.{_signatures(name, text)[0]}"
    if len(local) > MAX_LOCAL:
        raise ValueError(f"the key {text!r} makes the address too long; use a shorter")
    return f"{local}@{parsed.domain}"


def read_reply_address(recipient: str | None, address: str) -> str | None:
    """Return the key of an address that :func:`reply_address` has made.

    :param recipient: The address that a mail was sent to:
        :attr:`.InboundMessage.envelope_recipient`.
    :param address: As for :func:`reply_address`; domains are not compared.
    :returns: ``None`` if it is another address, or has no key.
    :raises ValueError: if it has a key and its signature is missing or wrong.
    :raises ConfigurationError: without a ``SECRET_KEY``.
    """
    name = parse_address(address, "address")[0].username.lower()
    local = (recipient or "").strip("<> ").rpartition("@")[0].lower()
    if not local.startswith(f"{name}+"):
        return None
    found = _REPLY.fullmatch(local[:MAX_LOCAL])
    if found is None or found[1] != name or not _KEY.fullmatch(found[2]):
        raise ValueError("the address has no signature")
    key, signature = found[2], found[3]
    for right in _signatures(name, key):
        if hmac.compare_digest(signature, right):
            return key
    raise ValueError("the signature of the address is wrong")


def _signatures(name: str, key: str) -> Sequence[str]:
    """Return the signature of a key, and those with earlier secrets."""
    text = f"flask-postal reply {name}+{key}".encode()
    secrets = secret_keys(
        current_app.config, "addresses for replies are signed with it"
    )
    return [hmac.digest(s, text, "sha256").hex()[:SIGNATURE] for s in secrets]
