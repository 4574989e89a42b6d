"""The whole mail for send/raw, built by the standard library.

Postal puts links and a pixel of its own into every text part that it finds, attached
files included, but it does not look into a multipart/mixed within a multipart/mixed.
So text attachments stand in an inner one, and so does everything when tracking is off.
"""

from __future__ import annotations

import binascii
import email
import re
from collections.abc import Iterable
from datetime import UTC, datetime
from email.generator import BytesGenerator
from email.message import Message as Part
from email.policy import compat32
from email.utils import encode_rfc2231, format_datetime, quote
from io import BytesIO

from ..errors import MessageError
from .attachment import Attachment
from .content import Content
from .encoding import mime_address, mime_text

__all__ = ["build_mime"]

_POLICY = compat32.clone(linesep="\r\n", cte_type="8bit")
#: An SMTP line holds 998 characters; shorter ones survive more.
_MAX_LINE = 900


def build_mime(content: Content) -> bytes:
    """Write the mail.

    There is no Bcc header: Postal would pass it on.
    """
    root = _structure(content)
    for name, value in _headers(content):
        root[name] = value
    buffer = BytesIO()
    try:
        BytesGenerator(buffer, mangle_from_=False, policy=_POLICY).flatten(root)
    except RecursionError:
        buffer = None  # type: ignore[assignment]
    if buffer is None:
        raise MessageError(
            "attachments: an attached message is nested too deeply to be read; attach"
            " it as application/octet-stream",
            field="attachments",
        )
    return buffer.getvalue()


def _headers(content: Content) -> Iterable[tuple[str, str]]:
    yield "From", mime_address(content.sender)
    if content.header_sender is not None:
        yield "Sender", mime_address(content.header_sender)
    for name, addresses in (
        ("To", content.to),
        ("Cc", content.cc),
        ("Reply-To", content.reply_to),
    ):
        if addresses:
            yield name, ", ".join(mime_address(address) for address in addresses)
    yield "Subject", mime_text(content.subject)
    if not any(name.lower() == "date" for name in content.headers):
        yield "Date", format_datetime(content.date or datetime.now(UTC))
    yield "Message-ID", f"<{content.message_id}>"
    if content.tag is not None:
        yield "X-Postal-Tag", mime_text(content.tag)
    for name, values in content.headers.items():
        for value in values:
            yield name, mime_text(value)


def _structure(content: Content) -> Part:
    """Nest the parts: alternative > related, in mixed with what is attached."""
    inline = [a for a in content.attachments if a.content_id is not None]
    attached = [a for a in content.attachments if a.content_id is None]
    if content.html is None:
        # Nothing that could show them.
        inline, attached = [], inline + attached
    body = _body(content, inline)
    files = [_file(attachment) for attachment in attached]
    if not content.tracked:
        inner = _multipart("mixed", [*([body] if body is not None else []), *files])
        root = _multipart("mixed", [inner])
    elif not files and body is not None:
        root = body
    else:
        if any(file.get_content_maintype() == "text" for file in files):
            files = [_multipart("mixed", files)]
        root = _multipart("mixed", [*([body] if body is not None else []), *files])
    root["MIME-Version"] = "1.0"
    return root


def _body(content: Content, inline: list[Attachment]) -> Part | None:
    forms = []
    if content.text is not None:
        forms.append(_text(content.text, "text/plain"))
    if content.html is not None:
        html = _text(content.html, "text/html")
        if inline:
            html = _multipart("related", [html, *map(_file, inline)])
            html.set_param("type", "text/html")
        forms.append(html)
    forms += [_text(text, media_type) for media_type, text in content.alternatives]
    if len(forms) < 2:
        return forms[0] if forms else None
    return _multipart("alternative", forms)


def _multipart(subtype: str, parts: list[Part]) -> Part:
    part = Part(_POLICY)
    part["Content-Type"] = f"multipart/{subtype}"
    for child in parts:
        part.attach(child)
    return part


def _text(text: str, media_type: str) -> Part:
    part = Part(_POLICY)
    part["Content-Type"] = media_type
    part.set_param("charset", "utf-8")
    data = "\n".join(text.replace("\r\n", "\n").split("\r")).encode()
    if data.isascii() and b"\0" not in data and _longest_line(data) <= _MAX_LINE:
        part["Content-Transfer-Encoding"] = "7bit"
        part.set_payload(data.decode("ascii"))
    else:
        part["Content-Transfer-Encoding"] = "quoted-printable"
        part.set_payload(binascii.b2a_qp(data, istext=True).decode("ascii"))
    return part


def _longest_line(data: bytes) -> int:
    return max(map(len, data.split(b"\n")))


def _file(attachment: Attachment) -> Part:
    media_type = str(attachment.content_type)
    data = attachment.read()
    if media_type.lower().startswith("message/rfc822"):
        part = _attached_message(data)
    else:
        part = Part(_POLICY)
        part["Content-Type"] = media_type
        part["Content-Transfer-Encoding"] = "base64"
        part.set_payload(_base64_lines(data))
    part["Content-Disposition"] = attachment.disposition + _filename(attachment)
    if attachment.content_id is not None:
        part["Content-ID"] = f"<{attachment.content_id}>"
    return part


def _filename(attachment: Attachment) -> str:
    """Write the parameter that names a file, by RFC 2231 where it is needed."""
    name = "" if attachment.filename is None else str(attachment.filename)
    if not name:
        return ""
    if name.isascii() and name.isprintable():
        return f'; filename="{quote(name)}"'
    encoded = encode_rfc2231(name, "utf-8")
    if len(encoded) <= _MAX_LINE:
        return f"; filename*={encoded}"
    # Too long for a line: in pieces, none of which ends inside of a %XX.
    pieces = re.findall(r"(?:%..|[^%]){1,50}", encoded)
    return "".join(f"; filename*{n}*={piece}" for n, piece in enumerate(pieces))


def _attached_message(data: bytes) -> Part:
    """Attach a mail as it is: base64 is forbidden for message/rfc822 (RFC 2046)."""
    part = Part(_POLICY)
    part["Content-Type"] = "message/rfc822"
    if data.isascii():
        text = data.decode("ascii").replace("\r\n", "\n").replace("\r", "\n")
        part.set_payload(text.replace("\n", "\r\n"))
        return part
    problem = None
    try:
        part.set_payload([email.message_from_bytes(data, policy=_POLICY)])
    except (RecursionError, LookupError, ValueError) as error:
        problem = str(error)
    if problem is not None:
        raise MessageError(
            f"attachments: the attached message can't be read ({problem}); attach it"
            " as application/octet-stream",
            field="attachments",
        )
    return part


def _base64_lines(data: bytes) -> str:
    """Encode in lines of 76 characters."""
    text = binascii.b2a_base64(data, newline=False).decode("ascii")
    return "\n".join(text[i : i + 76] for i in range(0, len(text), 76))
