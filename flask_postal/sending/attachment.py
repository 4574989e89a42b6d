"""A file that goes with a mail."""

from __future__ import annotations

import mimetypes
import os
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import Any, TypeAlias

from ..errors import MessageError
from ..text import is_text, plain_text

__all__ = ["Attachment"]

#: Bytes that are read and encoded at once: a multiple of 3, and small enough for the
#: processor's cache (with 96 kB a large mail was a third slower).
READ_SIZE = 57 * 1024


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
