"""Builds inbound emails: from fields, or as a reply to a message, or a complaint."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from email.message import EmailMessage
from email.policy import SMTP
from email.utils import format_datetime, make_msgid

from ..address import Address
from .mail_reader import read_mail
from .records import Mail

__all__ = ["complaint_about", "compose_mail", "reply_to"]

AttachedFile = tuple[str, str, bytes]


def compose_mail(
    subject: str = "Hello",
    text: str = "",
    *,
    to: str,
    sender: str = "Zoë <zoe@example.net>",
    html: str | None = None,
    attachments: Iterable[AttachedFile] = (),
    headers: dict[str, str] | None = None,
) -> bytes:
    """Build an email in MIME, to pass to :meth:`.Sandbox.receive`.

    :param to: The To header.
    :param sender: The From header.
    :param html: An HTML alternative to the text.
    :param attachments: A tuple (file name, media type, content) for each file.
    :param headers: Name -> value of further headers; a header of the same name is
        replaced.
    """
    mail = EmailMessage(policy=SMTP)
    mail["From"], mail["To"], mail["Subject"] = sender, to, subject
    mail["Date"] = format_datetime(datetime.now(UTC))
    mail["Message-ID"] = make_msgid(domain="example.net")
    for name, value in (headers or {}).items():
        del mail[name]
        mail[name] = value
    mail.set_content(text)
    if html is not None:
        mail.add_alternative(html, subtype="html")
    for filename, media_type, content in attachments:
        maintype, _, subtype = media_type.partition("/")
        mail.add_attachment(
            content, maintype=maintype, subtype=subtype, filename=filename
        )
    return mail.as_bytes()


def reply_to(
    mail: Mail,
    text: str,
    *,
    html: str | None = None,
    attachments: Iterable[AttachedFile] = (),
) -> tuple[bytes, str]:
    """Build the reply of a recipient to a message that was sent.

    It quotes the text and sets In-Reply-To and References, as mail clients do.

    :param mail: The message, one of ``sandbox.messages``.
    :param text: The new text, above the quoted one.
    :param attachments: As for :func:`compose_mail`.
    :returns: The reply in MIME, and the address that it goes to: that of Reply-To, or
        else of From.
    """
    original = read_mail(mail.raw)
    authors = original.reply_to or [original.from_email or Address(str(mail.sender))]
    to = authors[0].addr_spec
    quoted = "".join(f"> {line}\n" for line in (original.text or "").splitlines())
    thread = " ".join(f"<{i}>" for i in [*original.references, mail.message_id] if i)
    about = {"In-Reply-To": f"<{mail.message_id}>", "References": thread}
    subject = " ".join((original.subject or "").split())
    reply = compose_mail(
        subject if subject.lower().startswith("re:") else f"Re: {subject}",
        f"{text}\n\nOn {original.date}, {original.from_email} wrote:\n{quoted}",
        to=to,
        sender=mail.recipient,
        html=html,
        attachments=attachments,
        headers=about if mail.message_id else None,
    )
    return reply, to


def complaint_about(mail: Mail, *, feedback_type: str = "abuse") -> bytes:
    """Build the report that a provider sends after "this is spam" (RFC 5965).

    :param mail: The message, one of ``sandbox.messages``.
    :param feedback_type: ``"abuse"``, ``"opt-out"`` or another type.
    """
    marked = f"X-Postal-MsgID: {mail.token}\r\n".encode() + mail.raw
    headers, _, _ = (mail.delivered or marked).partition(b"\r\n\r\n")
    parts = [
        b"Content-Type: text/plain; charset=utf-8\r\n\r\n"
        b"This is a report about a mail from you.\r\n",
        b"Content-Type: message/feedback-report\r\n\r\n"
        + f"Feedback-Type: {feedback_type}\r\n".encode()
        + b"User-Agent: Sandbox/1.0\r\nVersion: 1\r\n"
        + f"Original-Rcpt-To: <{mail.recipient}>\r\n".encode(),
        b"Content-Type: text/rfc822-headers\r\n\r\n" + headers + b"\r\n",
    ]
    top = (
        "From: Feedback <feedback@provider.example>\r\n"
        f"To: {mail.sender or 'abuse@example.com'}\r\n"
        f"Subject: FW: {' '.join((mail.subject or '').split())}\r\n"
        f"Date: {format_datetime(datetime.now(UTC))}\r\n"
        f"Message-ID: {make_msgid(domain='provider.example')}\r\n"
        "MIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; report-type=feedback-report;"
        ' boundary="report"\r\n\r\n'
    ).encode()
    body = b"".join(b"--report\r\n" + part + b"\r\n" for part in parts)
    return top + body + b"--report--\r\n"
