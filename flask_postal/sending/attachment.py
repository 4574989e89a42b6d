"""A file that goes with a mail."""

from __future__ import annotations

import mimetypes
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..errors import MessageError
from ..text import header_text, is_text, plain_text

__all__ = ["MEDIA_TYPE", "Attachment", "check_attachment", "why_not_json"]

#: Bytes that are read and encoded at once: a multiple of 3, and small enough for the
#: processor's cache (with 96 kB a large mail was a third slower).
READ_SIZE = 57 * 1024

MEDIA_TYPE = re.compile(
    r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+(?:\s*;\s*[!-~ ]+)?", re.ASCII
)
# These types have a structure of their own; only a whole mail may be attached.
_UNATTACHABLE = re.compile(r"multipart/|message/(?!rfc822\b)", re.IGNORECASE)
_CONTENT_ID = re.compile(r"[!-;=?-~]{1,200}", re.ASCII)

Piece: TypeAlias = "bytes | memoryview"


@dataclass(frozen=True, slots=True)
class Attachment:
    """A file that goes with a mail.

    :param filename: The name that the recipient sees; ``None`` for none.
    :param content_type: The media type; guessed from the name if not given.
    :param data: Bytes, text (sent as UTF-8) or an open file, which is read at once.
    :param disposition: ``"attachment"`` or ``"inline"``.
    :param content_id: What ``cid:`` in the HTML refers to, without angle brackets.
    :param path: A file that is read when the mail is sent, in place of data.
    """

    filename: str | None = None
    content_type: str | None = None
    data: Any = field(default=None, repr=False)
    disposition: str = "attachment"
    content_id: str | None = None
    path: str | None = None

    def __post_init__(self) -> None:
        if self.path is None:
            object.__setattr__(self, "data", _to_bytes(self.data))
        else:
            object.__setattr__(self, "path", os.fspath(self.path))
        if self.content_type is None:
            guessed, encoding = mimetypes.guess_type(str(self.filename or ""))
            if guessed is None or encoding is not None:
                guessed = "application/octet-stream"
            object.__setattr__(self, "content_type", guessed)

    def size(self) -> int:
        """Return the number of bytes.

        :raises MessageError: if it is a file and not there.
        """
        if self.path is None:
            return len(self.data)
        try:
            return os.stat(self.path).st_size
        except OSError as error:
            problem = _file_error(self.path, error)
        raise problem

    def pieces(self, size: int = READ_SIZE) -> Iterator[Piece]:
        """Produce the content, a piece of ``size`` bytes at a time.

        :raises MessageError: if it is a file and can't be read.
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
        """Return the content."""
        if self.path is None:
            return bytes(self.data)
        return b"".join(self.pieces())

    def resolved(self) -> Attachment:
        """Return the same with the file read and lazy strings evaluated."""
        return replace(
            self,
            filename=None
            if self.filename is None
            else plain_text(self.filename, "attachments", "a file name"),
            data=self.read(),
            path=None,
        )


def check_attachment(attachment: Any, index: int) -> str:
    """Check that an attachment can be written into a mail unchanged.

    :param index: Its place in the message, for the error.
    :returns: Its media type, in lower case.
    :raises MessageError: if its type, disposition, content id or name can't be written.
    """
    if not isinstance(attachment, Attachment):
        raise _refused(f"{attachment!r} is no Attachment; use attach()")
    media_type = header_text(attachment.content_type, "attachments", "a content type")
    if not MEDIA_TYPE.fullmatch(media_type):
        raise _refused(f"{media_type!r} of attachment {index} is no media type")
    if _UNATTACHABLE.match(media_type):
        raise _refused(
            f"a part of type {media_type} can't be attached as it is; attach it as"
            " application/octet-stream"
        )
    if attachment.disposition not in ("attachment", "inline"):
        raise _refused(
            f"a disposition is 'attachment' or 'inline', not {attachment.disposition!r}"
        )
    if attachment.content_id is not None and not _CONTENT_ID.fullmatch(
        header_text(attachment.content_id, "attachments", "a content id")
    ):
        raise _refused(
            f"{attachment.content_id!r} is no content id: ASCII without whitespace and"
            " angle brackets"
        )
    if attachment.filename is not None:
        name = header_text(attachment.filename, "attachments", "a file name")
        if len(name) > 255:
            raise _refused(
                f"a file name of {len(name)} characters is too long; no file system"
                " takes more than 255"
            )
    return media_type.lower()


def why_not_json(attachment: Attachment, media_type: str) -> str | None:
    """Tell why send/message would refuse or change an attachment.

    :param media_type: As :func:`check_attachment` returned it.
    :returns: The reason, for the error texts; ``None`` if send/message can carry it.
    """
    name = attachment.filename
    if attachment.content_id is not None or attachment.disposition != "attachment":
        return "an inline attachment"
    if not name or not str(name).strip():
        return "an attachment without a name"
    name = str(name)
    if not name.isascii() or '"' in name or not name.isprintable() or "\\" in name:
        return "an attachment's name that Postal can't write"
    if media_type.startswith(("text/", "message/")):
        return f"an attachment of type {media_type}"
    ascii_only = blank = True
    breaks = False
    for piece in attachment.pieces(8 * 1024):  # the first piece decides for most files
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
