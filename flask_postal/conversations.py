"""Create replies to inbound mail, and signed addresses for further replies."""

from __future__ import annotations

import hmac
import re
from collections.abc import Iterable, Sequence
from typing import Any

from flask import current_app, has_app_context

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
    references: Iterable[str] | str | None = None,
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
        if to is None:
            to = _authors(message, fields.get("sender"), automatic=automatic)
        subject = message.subject if subject is None else subject
    if not to:
        raise MessageError("there is no address to reply to", field="message")
    own = _dict(fields.pop("extra_headers", None))
    given = {str(name).lower() for name in own}
    headers = _headers(references, automatic=automatic, of=message)
    headers = {name: v for name, v in headers.items() if name.lower() not in given}
    return Message(
        _subject(subject), to, body, extra_headers={**headers, **own}, **fields
    )


def _check(message: InboundMessage, *, automatic: bool) -> None:
    why = None
    if message.envelope_sender is None or message.is_bounce:
        why = "it is a bounce, or has no envelope sender as bounces have none"
    elif is_from_list(message.header):
        why = "it came from a mailing list"
    elif automatic and not message.may_be_answered:
        why = "no program may answer it; see message.may_be_answered"
    if why is not None:
        raise MessageError(f"the mail must not be answered: {why}", field="message")


def _authors(message: InboundMessage, sender: Any, *, automatic: bool) -> list[Address]:
    """Return who gets the answer: nobody but people, and not ourselves."""
    authors = message.reply_to
    if not authors and message.from_email is not None:
        authors = [message.from_email]
    ours = {_mailbox(address) for address in (message.envelope_recipient, sender)}
    if has_app_context():
        for key, value in current_app.config.items():
            if key.startswith(("POSTAL_", "MAIL_")) and key.endswith("DEFAULT_SENDER"):
                ours.add(_mailbox(value))
    found = [
        author
        for author in authors
        if is_sendable(author.addr_spec) and _mailbox(author) not in ours
    ]
    return found[:1] if automatic else found


def _mailbox(address: Any) -> str | None:
    """Return what is the same for all addresses of one mailbox: without a "+" part."""
    try:
        parsed, _ = parse_address(address, "address")
    except MessageError:
        return None
    local, _, domain = parsed.addr_spec.lower().rpartition("@")
    return f"{local.partition('+')[0]}@{domain}"


def _dict(headers: Any) -> dict[str, Any]:
    return Message(extra_headers=headers).extra_headers


def _headers(
    references: Iterable[str] | str | None,
    *,
    automatic: bool,
    of: InboundMessage | None,
) -> dict[str, str]:
    headers = {}
    if automatic:
        headers["Auto-Submitted"] = "auto-replied"
        headers["X-Auto-Response-Suppress"] = "All"  # for Exchange
    answered: str | None = None
    if references is not None:
        given = references.split() if isinstance(references, str) else references
        thread = _message_ids(given)
        answered = thread[-1] if thread else None
    elif of is not None:
        before: list[Any] = list(of.references) or [of.in_reply_to]
        thread = _message_ids([*before, of.message_id])
        answered = next(iter(_message_ids([of.message_id])), None)
    else:
        thread = []
    if thread:
        kept = [*thread[:1], *thread[1:][1 - MAX_REFERENCES :]]
        headers["References"] = " ".join(f"<{i}>" for i in kept)
    if answered is not None:
        headers["In-Reply-To"] = f"<{answered}>"
    return headers


def _message_ids(values: Iterable[Any]) -> list[str]:
    """Return the Message-IDs among some values, each where it comes last."""
    known = [v.strip("<> ") for v in values if isinstance(v, str)]
    last = dict.fromkeys(i for i in reversed(known) if _MESSAGE_ID.fullmatch(i))
    return list(last)[::-1]


def _subject(subject: str | None) -> str:
    text = " ".join((subject or "").split())
    start = 0
    while found := _RE.match(text, start):
        start = found.end()
    return f"Re: {text[start:].lstrip()}".rstrip()


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
    if not is_sendable(f"{local}@{parsed.domain}"):
        raise ValueError(f"a key can't be added to the address {address!r}")
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
    found = _REPLY.fullmatch(local) if len(local) <= MAX_LOCAL else None
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
