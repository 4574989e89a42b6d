"""The whole mail for send/raw.

Postal puts links and a pixel of its own into every text part that it finds, attached
files included, but it does not look into a multipart/mixed within a multipart/mixed.
So text attachments stand in an inner one, and so does everything when tracking is off.
"""

from __future__ import annotations

import base64
import binascii
import re
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, datetime
from email.utils import encode_rfc2231, format_datetime
from secrets import token_hex

from ..address import Address
from .attachment import Attachment
from .content import Content

__all__ = ["build_mime", "encoded_words"]

#: An SMTP line holds 998 characters; shorter ones survive more.
_MAX_LINE = 900
#: Characters after which a header is folded, as RFC 5322 asks for.
_FOLDED = 76
_CHARSET = re.compile(r";\s*charset\s*=\s*(?:\"[^\"]*\"|[^;\s]*)", re.IGNORECASE)
_ESCAPED = re.compile(r'["\\]')
# What Postal takes for a text, wherever in a Content-Type it stands.
_LIKE_TEXT = re.compile("text/(?:html|plain)")


#: Bytes of UTF-8 in one encoded word. RFC 2047 allows 45; with these it still fits
#: into the first line, behind the header's name, and none is left blank.
_WORD = 30
#: An SMTP line is at most 998 characters long, and only folds at a blank.
_UNFOLDABLE = re.compile(r"\S{900}")


@dataclass(slots=True)
class _Part:
    """A part, ready to be written: a body in lines that end in CRLF, or parts."""

    media_type: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    parts: list[_Part] | None = None


def build_mime(content: Content) -> bytes:
    """Write the mail.

    There is no Bcc header: Postal would pass it on.
    """
    root = _structure(content)
    root.headers = [*_headers(content), ("MIME-Version", "1.0"), *root.headers]
    return b"".join(_write(root))


def _write(part: _Part) -> Iterable[bytes]:
    media_type, boundary = part.media_type, ""
    if part.parts is not None:
        # Of 96 random bits: no content has it.
        boundary = f"=_{token_hex(12)}"
        media_type = f'{media_type}; boundary="{boundary}"'
    headers = [*part.headers, ("Content-Type", media_type)]
    lines = [_folded(f"{name}: {value}") for name, value in headers]
    yield "\r\n".join([*lines, "", ""]).encode("ascii")
    if part.parts is None:
        yield part.body
        return
    for child in part.parts:
        yield f"--{boundary}\r\n".encode("ascii")
        yield from _write(child)
        yield b"\r\n"
    yield f"--{boundary}--\r\n".encode("ascii")


def _folded(line: str) -> str:
    """Fold a header at its blanks; whoever unfolds it gets it back."""
    if len(line) <= _FOLDED:
        return line
    pieces: list[str] = []
    length = 0
    for word in re.findall(r"[ \t]*[^ \t]+|[ \t]+", line):
        # Not before the first word of the value: some programs lose it then.
        if length + len(word) > _FOLDED and len(pieces) > 1 and word[0] in " \t":
            pieces.append("\r\n")
            length = 0
        pieces.append(word)
        length += len(word)
    return "".join(pieces)


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
    if "Date" not in content.headers:
        yield "Date", format_datetime(content.date or datetime.now(UTC))
    yield "Message-ID", f"<{content.message_id}>"
    if content.tag is not None:
        yield "X-Postal-Tag", mime_text(content.tag)
    for name, value in content.headers:
        yield name, mime_text(value)


def _structure(content: Content) -> _Part:
    """Nest the parts: alternative > related, in mixed with what is attached."""
    inline = [a for a in content.attachments if a.content_id is not None]
    attached = [a for a in content.attachments if a.content_id is None]
    if content.html is None:
        # Nothing that could show them.
        inline, attached = [], inline + attached
    body = _body(content, inline)
    bodies = [] if body is None else [body]
    files = [_file(attachment) for attachment in attached]
    if not content.tracked:
        return _multipart("mixed", [_multipart("mixed", [*bodies, *files])])
    if body is not None and not files:
        return body
    if any(_is_rewritten(file) for file in files):
        files = [_multipart("mixed", files)]
    return _multipart("mixed", [*bodies, *files])


def _is_rewritten(part: _Part) -> bool:
    """Tell whether Postal would put links into an attached file."""
    media_type = part.media_type
    return media_type.lower().startswith("text/") or bool(_LIKE_TEXT.search(media_type))


def _body(content: Content, inline: list[Attachment]) -> _Part | None:
    forms = []
    if content.text is not None:
        forms.append(_text(content.text, "text/plain"))
    if content.html is not None:
        html = _text(content.html, "text/html")
        if inline:
            # Without the type= of RFC 2387: where Postal tracks, it takes every part
            # with "text/html" anywhere in its Content-Type for HTML, and the recipient
            # would see the source of this one.
            html = _multipart("related", [html, *map(_file, inline)])
        forms.append(html)
    forms += [_text(text, media_type) for media_type, text in content.alternatives]
    if len(forms) < 2:
        return forms[0] if forms else None
    return _multipart("alternative", forms)


def _multipart(subtype: str, parts: list[_Part]) -> _Part:
    return _Part(f"multipart/{subtype}", parts=parts)


def _text(text: str, media_type: str) -> _Part:
    # Whatever charset an alternative claims: this is what it is written in.
    media_type = f'{_CHARSET.sub("", media_type)}; charset="utf-8"'
    data = text.replace("\r\n", "\n").replace("\r", "\n").encode()
    if data.isascii() and b"\0" not in data and _longest_line(data) <= _MAX_LINE:
        encoding, body = "7bit", data.replace(b"\n", b"\r\n")
    else:
        # Where Postal tracks, non-ASCII text keeps its line ends only in base64 of
        # lines that end in LF; all else arrives with CR CR LF.
        encoding, body = "base64", _base64_lines(data)
    return _Part(media_type, [("Content-Transfer-Encoding", encoding)], body)


def _longest_line(data: bytes) -> int:
    return max(map(len, data.split(b"\n")))


def _file(attachment: Attachment) -> _Part:
    media_type = str(attachment.content_type)
    data = attachment.read()
    headers = [("Content-Disposition", attachment.disposition + _filename(attachment))]
    if attachment.content_id is not None:
        headers.append(("Content-ID", f"<{attachment.content_id}>"))
    if media_type.lower().startswith("message/rfc822"):
        # As it is: base64 is forbidden for it (RFC 2046).
        body = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        headers.append(
            ("Content-Transfer-Encoding", "7bit" if data.isascii() else "8bit")
        )
        return _Part("message/rfc822", headers, body.replace(b"\n", b"\r\n"))
    headers.append(("Content-Transfer-Encoding", "base64"))
    return _Part(media_type, headers, _base64_lines(data))


def _filename(attachment: Attachment) -> str:
    """Write the parameter that names a file, by RFC 2231 where it is needed."""
    name = "" if attachment.filename is None else str(attachment.filename)
    if not name:
        return ""
    # Postal adds a backslash to what is escaped in a quoted name when it tracks.
    if name.isascii() and name.isprintable() and not _ESCAPED.search(name):
        return f'; filename="{name}"'
    encoded = encode_rfc2231(name, "utf-8")
    if len(encoded) <= _MAX_LINE:
        return f"; filename*={encoded}"
    # Too long for a line: in pieces, none of which ends inside of a %XX.
    pieces = re.findall(r"(?:%..|[^%]){1,50}", encoded)
    return "".join(f"; filename*{n}*={piece}" for n, piece in enumerate(pieces))


def _base64_lines(data: bytes) -> bytes:
    """Encode in lines of 76 characters."""
    text = binascii.b2a_base64(data, newline=False)
    return b"\r\n".join([text[at : at + 76] for at in range(0, len(text), 76)])


# ---- header text


def encoded_words(text: str) -> str:
    """Encode text as RFC 2047 encoded words, never dividing a character."""
    chunks: list[bytes] = []
    chunk = b""
    for character in text:
        encoded = character.encode()
        if len(chunk) + len(encoded) > _WORD:
            chunks.append(chunk)
            chunk = b""
        chunk += encoded
    chunks.append(chunk)
    return " ".join(f"=?utf-8?b?{base64.b64encode(c).decode()}?=" for c in chunks)


def mime_text(text: str) -> str:
    """Write unstructured header text as ASCII that reads back to the same."""
    if (
        text.isascii()
        and text.isprintable()
        and "=?" not in text
        and text == text.strip()
        and not _UNFOLDABLE.search(text)
    ):
        return text
    return encoded_words(text) if text else ""


def mime_address(address: Address) -> str:
    """Write an address as ASCII for a header."""
    name = address.display_name
    if not name:
        return address.addr_spec
    if name.isascii() and name.isprintable() and "=?" not in name and len(name) < 200:
        return str(address)
    return f"{encoded_words(name)} <{address.addr_spec}>"
