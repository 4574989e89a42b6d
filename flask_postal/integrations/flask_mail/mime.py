"""Write a message as Flask-Mail does, for ``as_string()`` and ``as_bytes()``.

Postal gets the same content, but not these bytes: :mod:`flask_postal.sending.mime`
writes it so that Postal's tracking leaves it intact.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Iterable
from email import policy
from email.charset import SHORTEST, Charset
from email.encoders import encode_base64
from email.header import Header
from email.mime.base import MIMEBase
from email.mime.multipart import MIMEMultipart
from email.mime.text import MIMEText
from email.utils import formataddr, formatdate, parseaddr
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from email.message import Message as EmailMessage

__all__ = [
    "address_alone",
    "ascii_filename",
    "sanitize_address",
    "sanitize_addresses",
    "sanitize_subject",
    "write_mail",
]


def write_mail(message: Any, *, ascii_attachments: bool) -> EmailMessage:
    """Return the mail as an object of :mod:`email`.

    :param ascii_attachments: Whether names of files are reduced to ASCII.
    """
    encoding = message.charset or "utf-8"
    root = _structure(message, encoding, ascii_attachments=ascii_attachments)
    if message.subject:
        root["Subject"] = sanitize_subject(str(message.subject), encoding)
    root["From"] = sanitize_address(message.sender or "", encoding)
    root["To"] = _joined(message.recipients, encoding)
    root["Date"] = formatdate(message.date, localtime=True)
    root["Message-ID"] = message.msgId
    if message.cc:
        root["Cc"] = _joined(message.cc, encoding)
    if message.reply_to:
        root["Reply-To"] = sanitize_address(message.reply_to, encoding)
    for name, value in (message.extra_headers or {}).items():
        root[name] = value
    root.policy = policy.SMTP
    return root


def _structure(message: Any, encoding: str, *, ascii_attachments: bool) -> EmailMessage:
    body = _text(message.body, "plain", encoding)
    if not message.attachments and not message.alts:
        return body
    root = MIMEMultipart()
    if message.alts:
        alternative = MIMEMultipart("alternative")
        alternative.attach(body)
        for media_type, text in message.alts.items():
            # Flask-Mail takes "html" for "text/html".
            subtype = media_type.removeprefix("text/")
            alternative.attach(_text(text, subtype, encoding))
        root.attach(alternative)
    else:
        root.attach(body)
    for attachment in message.attachments:
        root.attach(_file(attachment, ascii_attachments=ascii_attachments))
    return root


def _text(text: Any, subtype: str, encoding: str) -> MIMEText:
    charset = _charset(encoding)
    return MIMEText("" if text is None else str(text), subtype, charset)  # type: ignore[arg-type]


def _charset(encoding: str) -> Charset:
    charset = Charset(encoding)
    if charset.input_charset == "utf-8":
        # As Flask-Mail: readable where it is possible.
        charset.header_encoding, charset.body_encoding = SHORTEST, None  # type: ignore[assignment]
    return charset


def _file(attachment: Any, *, ascii_attachments: bool) -> MIMEBase:
    part = MIMEBase(*attachment.content_type.split("/", 1))
    part.set_payload(attachment.data)
    encode_base64(part)
    name = attachment.filename
    if name is not None:
        if ascii_attachments:
            name = ascii_filename(name)
        parameter = name if name.isascii() else ("UTF8", "", name)
        part.add_header(
            "Content-Disposition", attachment.disposition, filename=parameter
        )
    for header, value in attachment.header_pairs():
        part.add_header(header, value)
    return part


def ascii_filename(name: str) -> str:
    """Reduce a file name to ASCII, as ``MAIL_ASCII_ATTACHMENTS`` asks for."""
    decomposed = unicodedata.normalize("NFKD", name)
    return " ".join(decomposed.encode("ascii", "ignore").decode("ascii").split())


def address_alone(address: Any) -> str:
    """Return an address without its name.

    Not :func:`email.utils.parseaddr`, which takes a name with a comma for an address,
    or for none, depending on the version of Python.
    """
    if isinstance(address, tuple):
        return str(address[1])
    text = str(address)
    return text.rpartition("<")[2].partition(">")[0].strip() if "<" in text else text


def _joined(addresses: Iterable[Any], encoding: str) -> str:
    return ", ".join(dict.fromkeys(sanitize_addresses(addresses, encoding)))


def sanitize_subject(subject: str, encoding: str = "utf-8") -> str:
    """Return a subject, as encoded words where it is not ASCII."""
    return subject if subject.isascii() else _words(subject, encoding)


def sanitize_address(address: Any, encoding: str = "utf-8") -> str:
    """Return an address for a header: ``=?utf-8?...?= <ana@xn--...>``.

    :param address: A string, or a name with an address.
    """
    name, spec = parseaddr(address) if isinstance(address, str) else address
    spec = str(spec)
    if not spec.isascii():
        local, at, domain = spec.rpartition("@")
        if at:
            local = local if local.isascii() else _words(local, encoding)
            spec = f"{local}@{domain.encode('idna').decode('ascii')}"
        else:
            spec = _words(spec, encoding)
    return formataddr((_words(str(name or ""), encoding), spec))


def sanitize_addresses(addresses: Iterable[Any], encoding: str = "utf-8") -> list[str]:
    """Return addresses for a header; see :func:`sanitize_address`."""
    return [sanitize_address(address, encoding) for address in addresses]


def _words(text: str, encoding: str) -> str:
    try:
        return Header(text, _charset(encoding)).encode()
    except UnicodeEncodeError:
        return Header(text, _charset("utf-8")).encode()
