"""Reads a stored mail back into a message, for the receivers of signals."""

from __future__ import annotations

from typing import Any

from ..sending.attachment import Attachment
from ..sending.content import why_reserved
from ..sending.message import Message
from ..webhooks.mail.base64_mail import Base64Mail
from ..webhooks.mail.message import InboundMessage
from ..webhooks.mail.raw import RawMail

__all__ = ["restore_message"]


def restore_message(mail: Any, recipients: list[str], mime: bytes) -> Message:
    """Return the message that a row and its MIME were made from.

    :param mail: The row, or the record.
    :param recipients: The envelope recipients of the attempt. Those that the mail does
        not name are in ``bcc``.
    """
    read = InboundMessage(RawMail(Base64Mail(raw=mime)))
    named = {a.addr_spec.lower() for a in [*read.to, *read.cc]}
    tag = read.header("X-Postal-Tag")
    # Alternatives of other types are the parts of text that have no name.
    alts = [p for p in read.attachments if not p.filename and _is_text(p.content_type)]
    attachments = [
        Attachment(part.filename, part.content_type, part.content)
        for part in read.attachments
        if part not in alts
    ] + [
        Attachment(
            part.filename, part.content_type, part.content, "inline", content_id=cid
        )
        for cid, part in read.inlines.items()
    ]
    return Message(
        read.subject,
        [str(address) for address in read.to],
        _text(read.text),
        _text(read.html),
        alts={p.content_type: _text(p.content.decode(errors="replace")) for p in alts},
        sender=str(read.from_email or mail.sender),
        cc=[str(address) for address in read.cc],
        bcc=[to for to in recipients if to.lower() not in named],
        attachments=attachments,
        reply_to=[str(address) for address in read.reply_to],
        date=read.date,
        message_id=mail.message_id,
        tags=None if tag is None else [tag],
        extra_headers=_extra_headers(read, is_of_list=mail.list is not None),
        bounce=mail.options.get("bounce"),
        metadata=mail.meta,
        unsubscribe=mail.list,
        ignore_suppression=mail.ignore_suppression or None,
    )


def _extra_headers(
    read: InboundMessage, *, is_of_list: bool
) -> dict[str, str | list[str]]:
    """Return the headers that no other argument of the message has set."""
    found: dict[str, str | list[str]] = {}
    for name, value in read.headers:
        if name.lower() == "date" or why_reserved(name.lower()):
            continue
        if is_of_list and name.lower().startswith("list-unsubscribe"):
            continue
        earlier = found.get(name, [])
        several = [earlier] if isinstance(earlier, str) else earlier
        found[name] = [*several, value] if several else value
    return found


def _is_text(media_type: str) -> bool:
    return media_type.startswith("text/")


def _text(text: str | None) -> str | None:
    """Undo the line ends of a mail."""
    return None if text is None else text.replace("\r\n", "\n")
