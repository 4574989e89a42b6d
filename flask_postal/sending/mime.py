"""Write the complete mail for ``send/raw`` in MIME.

The mail is written by hand, because :mod:`email` is slow: of the 490 us that a small
mail took with its generator, 450 us were spent there. Only text that has been
validated by :mod:`.content` gets here, so that no header can contain a line break.

The structure of the mail depends on how Postal tracks. Postal rewrites links and adds a
pixel in every text part that it finds, including attached files, whose bytes it
changes. It searches the top level and multipart/alternative or multipart/related, but
not a multipart/mixed inside a multipart/mixed. Text attachments are therefore put into
an inner multipart/mixed; and if tracking is off for the message, so is the body.
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

#: Longest line of text that is sent without base64, and of a file name. SMTP allows 998
#: characters, but some servers handle only shorter lines.
_MAX_LINE = 900
#: Characters after which a header is folded. RFC 5322 recommends lines of at most 78.
_FOLDED = 76
_CHARSET = re.compile(r";\s*charset\s*=\s*(?:\"[^\"]*\"|[^;\s]*)", re.IGNORECASE)
_ESCAPED = re.compile(r'["\\]')
# Postal treats a part as text if its Content-Type contains one of these anywhere.
_LIKE_TEXT = re.compile("text/(?:html|plain)")


#: Bytes of UTF-8 in one encoded word. RFC 2047 allows 45. With 30, the first word still
#: fits into the header's first line after its name, so that this line is never folded
#: before the first word and left blank.
_WORD = 30
# A word that is too long for an SMTP line of 998 characters. Headers can only be folded
# at whitespace, so that such a word has to be encoded.
_UNFOLDABLE = re.compile(r"\S{900}")


@dataclass(slots=True)
class _Part:
    """A MIME part: either a body, encoded for transfer, or a list of parts.

    :param media_type: The value of its Content-Type header.
    :param headers: Its other headers.
    """

    media_type: str
    headers: list[tuple[str, str]] = field(default_factory=list)
    body: bytes = b""
    parts: list[_Part] | None = None


def build_mime(content: Content) -> bytes:
    """Return the mail as bytes.

    It has no Bcc header, which Postal would deliver verbatim. Its lines end in CRLF:
    Postal finds the From header only if CRLF CRLF separates the headers from the body.

    :param content: The message. Its ``message_id`` must be set.
    :raises MessageError: if an attached file can't be read.
    """
    root = _structure(content)
    root.headers = [*_headers(content), ("MIME-Version", "1.0"), *root.headers]
    return b"".join(_write(root))


def _write(part: _Part) -> Iterable[bytes]:
    media_type, boundary = part.media_type, ""
    if part.parts is not None:
        # 96 random bits; searching the content for collisions is not necessary.
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
    """Fold a header line at whitespace, without adding or removing any."""
    if len(line) <= _FOLDED:
        return line
    pieces: list[str] = []
    length = 0
    for word in re.findall(r"[ \t]*[^ \t]+|[ \t]+", line):
        # Not before the first word of the value, which some mail programs then lose.
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
    """Nest the parts: mixed > alternative > related, as far as each is needed."""
    inline = [a for a in content.attachments if a.content_id is not None]
    attached = [a for a in content.attachments if a.content_id is None]
    if content.html is None:
        # There is no HTML to show inline images, so attach them.
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
    """Return whether Postal would rewrite links in an attached file."""
    media_type = part.media_type
    return media_type.lower().startswith("text/") or bool(_LIKE_TEXT.search(media_type))


def _body(content: Content, inline: list[Attachment]) -> _Part | None:
    forms = []
    if content.text is not None:
        forms.append(_text(content.text, "text/plain"))
    if content.html is not None:
        html = _text(content.html, "text/html")
        if inline:
            # Without the type="text/html" that RFC 2387 requires: Postal would take
            # the multipart for an HTML part and rewrite it when it tracks, and the
            # recipient would see its raw MIME.
            html = _multipart("related", [html, *map(_file, inline)])
        forms.append(html)
    forms += [_text(text, media_type) for media_type, text in content.alternatives]
    if len(forms) < 2:
        return forms[0] if forms else None
    return _multipart("alternative", forms)


def _multipart(subtype: str, parts: list[_Part]) -> _Part:
    return _Part(f"multipart/{subtype}", parts=parts)


def _text(text: str, media_type: str) -> _Part:
    # Replaces a charset that the caller has given for an alternative: the text is
    # always written in UTF-8.
    media_type = f'{_CHARSET.sub("", media_type)}; charset="utf-8"'
    data = text.replace("\r\n", "\n").replace("\r", "\n").encode()
    if data.isascii() and b"\0" not in data and _longest_line(data) <= _MAX_LINE:
        encoding, body = "7bit", data.replace(b"\n", b"\r\n")
    else:
        # When Postal rewrites non-ASCII text for tracking, it arrives with CR CR LF at
        # the end of each line if it was sent as quoted-printable, 8bit, or base64 of
        # lines that end in CRLF. Base64 of lines that end in LF arrives unchanged.
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
    headers += [
        (str(name), mime_text(str(value))) for name, value in attachment.headers
    ]
    if media_type.lower().startswith("message/rfc822"):
        # RFC 2046 forbids base64 for message/rfc822.
        body = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
        headers.append(
            ("Content-Transfer-Encoding", "7bit" if data.isascii() else "8bit")
        )
        return _Part("message/rfc822", headers, body.replace(b"\n", b"\r\n"))
    headers.append(("Content-Transfer-Encoding", "base64"))
    return _Part(media_type, headers, _base64_lines(data))


def _filename(attachment: Attachment) -> str:
    """Return the parameter with the file name, encoded by RFC 2231 if necessary."""
    name = "" if attachment.filename is None else str(attachment.filename)
    if not name:
        return ""
    # A name with a quote or backslash is encoded rather than escaped: when Postal
    # tracks, it adds another backslash.
    if name.isascii() and name.isprintable() and not _ESCAPED.search(name):
        return f'; filename="{name}"'
    encoded = encode_rfc2231(name, "utf-8")
    if len(encoded) <= _MAX_LINE:
        return f"; filename*={encoded}"
    # Too long for one line. Split it into pieces (RFC 2231), not within a %XX.
    pieces = re.findall(r"(?:%..|[^%]){1,50}", encoded)
    return "".join(f"; filename*{n}*={piece}" for n, piece in enumerate(pieces))


def _base64_lines(data: bytes) -> bytes:
    """Encode in base64, in lines of 76 characters that end in CRLF."""
    text = binascii.b2a_base64(data, newline=False)
    return b"\r\n".join([text[at : at + 76] for at in range(0, len(text), 76)])


# ---- header text


def encoded_words(text: str) -> str:
    """Encode text as RFC 2047 encoded words, without splitting a character."""
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
    """Return unstructured header text as ASCII that decodes to the same text."""
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
    """Return an address as ASCII for a header."""
    name = address.display_name
    if not name:
        return address.addr_spec
    if name.isascii() and name.isprintable() and "=?" not in name and len(name) < 200:
        return str(address)
    return f"{encoded_words(name)} <{address.addr_spec}>"
