"""Attachments of inbound mail."""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from werkzeug.datastructures import FileStorage

__all__ = ["InboundAttachment"]

_UNSAFE_NAME = re.compile(r"[^\w.() -]+")
_MEDIA_TYPE = re.compile(r"[A-Za-z0-9!#$&^_.+-]+/[A-Za-z0-9!#$&^_.+-]+", re.ASCII)


@dataclass(frozen=True, slots=True)
class InboundAttachment:
    """An attachment or inline image of an inbound mail.

    :param filename: The file name that the author of the mail has chosen, in one line;
        ``None`` if there is none. Don't use it as a name in your file system: it may
        contain a path. Use :attr:`safe_filename` instead.
    :param content_type: The declared media type, in lower case and without parameters;
        ``application/octet-stream`` if it is invalid. The content may be something
        else.
    :param content: The decoded content.
    :param content_id: The Content-ID, to which ``cid:`` links in the HTML refer,
        without angle brackets; ``None`` in the Hash formats.
    """

    filename: str | None
    content_type: str
    content: bytes = field(repr=False)
    content_id: str | None = None

    @property
    def size(self) -> int:
        """The size of the content in bytes."""
        return len(self.content)

    @property
    def safe_filename(self) -> str:
        """The file name without path, special characters and leading dots.

        It has at most 150 characters and is never empty. It isn't unique.
        """
        name = (self.filename or "").replace("\\", "/").rpartition("/")[2]
        return _UNSAFE_NAME.sub("_", name).strip(" ._")[:150] or "attachment"

    def as_file(self) -> FileStorage:
        """Return a Werkzeug ``FileStorage``, for code that stores uploaded files."""
        from io import BytesIO

        from werkzeug.datastructures import FileStorage

        content_type = self.content_type
        if not _MEDIA_TYPE.fullmatch(content_type):
            content_type = "application/octet-stream"
        return FileStorage(
            BytesIO(self.content), self.safe_filename, content_type=content_type
        )
