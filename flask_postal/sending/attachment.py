"""Attachments of a message, and the check whether Postal can send them unchanged."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..errors import MessageError
from ..text import header_text, is_text, plain_text

__all__ = ["MEDIA_TYPE", "Attachment", "check_attachment", "why_not_json"]

#: Bytes that are read and encoded at a time. A multiple of 3, so that the base64 of the
#: pieces can be concatenated without padding in between, and small enough that a piece
#: and its base64 stay in the processor's cache: with 96 kB, sending a large mail took a
#: third longer.
READ_SIZE = 57 * 1024

MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;\s*[!-~ ]+)?", re.ASCII
)
# Types whose content has a structure of its own, which base64 would hide. The exception
# is message/rfc822, a complete mail.
_UNATTACHABLE = re.compile(r"multipart/|message/(?!rfc822\b)", re.IGNORECASE)
# Those that the other fields set would be there twice.
_PART_HEADER = re.compile(
    r"(?!content-(?:type|disposition|transfer-encoding|id)$)[!-9;-~]{1,76}",
    re.ASCII | re.IGNORECASE,
)
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,200}", re.ASCII)

Piece: TypeAlias = "bytes | memoryview"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that is sent with a message.

    :param filename: The name that the recipient sees; ``None`` for none.
    :param content_type: The media type; guessed from the file name if not given.
    :param data: Bytes, text (sent as UTF-8) or an open file, which is read immediately.
    :param disposition: ``"attachment"`` or ``"inline"``.
    :param content_id: The id that ``cid:`` URLs in the HTML refer to, without angle
        brackets. :meth:`.Message.embed` generates one.
    :param path: The path of a file to read when the message is sent, instead of
        ``data``. It is read in pieces, so that a large file is not held in memory,
        except for messages that need ``send/raw``.
    :param headers: Further headers of the part, as pairs of name and value.
    :raises MessageError: if ``data`` is none of these.
    """

    filename: str | None = None
    content_type: str | None = None
    data: Any = field(default=None, repr=False)
    disposition: str = "attachment"
    content_id: str | None = None
    path: str | None = None
    headers: Sequence[tuple[str, str]] = ()

    def __post_init__(self) -> None:
        if self.path is None:
            object.__setattr__(self, "data", _to_bytes(self.data))
        else:
            object.__setattr__(self, "path", os.fspath(self.path))
        pairs = tuple((name, value) for name, value in self.headers)
        object.__setattr__(self, "headers", pairs)
        if self.content_type is None:
            guessed, encoding = mimetypes.guess_type(str(self.filename or ""))
            if guessed is None or encoding is not None:
                guessed = "application/octet-stream"
            object.__setattr__(self, "content_type", guessed)

    def size(self) -> int:
        """Return the size of the content in bytes, without reading a file.

        :raises MessageError: if the file does not exist.
        """
        if self.path is None:
            return len(self.data)
        try:
            return os.stat(self.path).st_size
        except OSError as error:
            problem = _file_error(self.path, error)
        raise problem

    def pieces(self, size: int = READ_SIZE) -> Iterator[Piece]:
        """Iterate over the content in pieces.

        :param size: The size of a piece in bytes; the last one may be shorter.
        :raises MessageError: if the file can't be read.
        """
        if self.path is None:
            view = memoryview(self.data)
            for start in range(0, len(view), size):
                yield view[start : start + size]
            return
        problem = None
        try:
            with open(self.path, "rb", buffering=size) as file:
                while piece := file.read(size):
                    yield piece
        except OSError as error:
            problem = _file_error(self.path, error)
        if problem is not None:
            raise problem

    def read(self) -> bytes:
        """Return the whole content.

        :raises MessageError: if the file can't be read.
        """
        if self.path is None:
            return bytes(self.data)
        return b"".join(self.pieces())

    def resolved(self) -> Attachment:
        """Return a copy with the file read and lazy strings evaluated.

        :raises MessageError: if the file can't be read.
        """
        return replace(
            self,
            filename=None
            if self.filename is None
            else plain_text(self.filename, "attachments", "a file name"),
            data=self.read(),
            path=None,
        )


def check_attachment(attachment: Any, index: int) -> str:
    """Validate the headers of an attachment.

    :param attachment: The attachment; an app may have put anything into the list.
    :param index: Its index in the message, for the error message.
    :returns: The media type in lower case.
    :raises MessageError: if its type, disposition, content id or file name is invalid.
    """
    if not isinstance(attachment, Attachment):
        raise _refused(f"{attachment!r} is not an Attachment; use attach()")
    media_type = header_text(attachment.content_type, "attachments", "a content type")
    if not MEDIA_TYPE.fullmatch(media_type):
        raise _refused(f"{media_type!r} of attachment {index} is not a media type")
    if _UNATTACHABLE.match(media_type):
        raise _refused(
            f"a part of type {media_type} can't be attached as it is; attach it as"
            " application/octet-stream"
        )
    if attachment.disposition not in ("attachment", "inline"):
        raise _refused(
            "a disposition must be 'attachment' or 'inline', not"
            f" {attachment.disposition!r}"
        )
    if attachment.content_id is not None and not _CONTENT_ID.fullmatch(
        header_text(attachment.content_id, "attachments", "a content id")
    ):
        raise _refused(
            f"{attachment.content_id!r} is not a valid content id; use ASCII without"
            " whitespace and angle brackets, at most 200 characters"
        )
    if attachment.filename is not None:
        name = header_text(attachment.filename, "attachments", "a file name")
        if len(name) > 255:
            raise _refused(
                f"a file name of {len(name)} characters is too long; file systems allow"
                " at most 255"
            )
    for name, value in attachment.headers:
        if not _PART_HEADER.fullmatch(header_text(name, "attachments", "a header")):
            raise _refused(f"{name!r} can't be a header of an attachment")
        header_text(value, "attachments", f"the value of {name}")
    return media_type.lower()


def why_not_json(attachment: Attachment, media_type: str) -> str | None:
    """Return why ``send/message`` would refuse or change an attachment.

    Postal refuses unnamed and empty attachments there. It can't write some names, has
    no inline attachments, and rewrites every newline to CRLF in content that is pure
    ASCII. A text attachment would also get tracking links, which only the structure of
    a mail for ``send/raw`` can prevent; see :mod:`.mime`.

    :param attachment: An attachment that :func:`check_attachment` accepted.
    :param media_type: The media type that :func:`check_attachment` returned.
    :returns: The reason, for error messages; ``None`` if ``send/message`` can be used.
    """
    if (why := _why_not_headers(attachment)) is not None:
        return why
    if media_type.startswith(("text/", "message/")):
        return f"an attachment of type {media_type}"
    ascii_only = blank = True
    breaks = False
    # A small piece: the first one decides for most files.
    for piece in attachment.pieces(8 * 1024):
        data = bytes(piece)
        blank = blank and data.isspace()
        ascii_only = ascii_only and data.isascii()
        if not ascii_only and not blank:
            return None
        breaks = breaks or b"\n" in data or b"\r" in data
    if blank:
        return "an empty attachment"
    if ascii_only and breaks:
        return "an ASCII attachment with line breaks, which Postal would rewrite"
    return None


def _why_not_headers(attachment: Attachment) -> str | None:
    """Return why ``send/message`` can't write the headers of an attachment."""
    if attachment.content_id is not None or attachment.disposition != "attachment":
        return "an inline attachment"
    if attachment.headers:
        return "an attachment with headers of its own"
    name = str(attachment.filename or "")
    if not name.strip():
        return "an attachment without a name"
    if not name.isascii() or '"' in name or not name.isprintable() or "\\" in name:
        return "an attachment's name that Postal can't write"
    return None


def _refused(problem: str) -> MessageError:
    return MessageError(f"attachments: {problem}", field="attachments")


def _to_bytes(data: Any) -> bytes:
    if hasattr(data, "read"):
        data = data.read()
    if isinstance(data, (bytes, bytearray, memoryview)):
        return data if isinstance(data, bytes) else bytes(data)
    if is_text(data):
        return plain_text(data, "attachments", "an attachment's text").encode()
    raise MessageError(
        "attachments: the data of an attachment must be bytes, text or an open file,"
        f" not {type(data).__name__}: attach(filename, content_type, data)",
        field="attachments",
    )


def _file_error(path: str, error: OSError) -> MessageError:
    return MessageError(
        f"attachments: {path} can't be read: {error.strerror or error}",
        field="attachments",
    )
