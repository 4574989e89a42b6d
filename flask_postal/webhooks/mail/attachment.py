"""A file of a mail that came in."""

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
    """A file of a mail that came in.

    :param filename: The name its author gave it, in one line; ``None`` if it has none.
        Never use it as the name of a file of your own; there is
        :attr:`safe_filename` for that.
    :param content_type: The media type its author claims, in lower case and without
        parameters; ``application/octet-stream`` where the claim is no media type.
    :param content: Its bytes.
    :param content_id: What ``cid:`` in the HTML refers to, without angle brackets.
    """

    filename: str | None
    content_type: str
    content: bytes = field(repr=False)
    content_id: str | None = None

    @property
    def size(self) -> int:
        """The number of bytes."""
        return len(self.content)

    @property
    def safe_filename(self) -> str:
        """A name without path, control characters and leading dots, never empty."""
        name = (self.filename or "").replace("\\", "/").rpartition("/")[2]
        return _UNSAFE_NAME.sub("_", name).strip(" ._")[:150] or "attachment"

    def as_file(self) -> FileStorage:
        """Return it as Werkzeug's uploaded file, for code that stores those."""
        from io import BytesIO

        from werkzeug.datastructures import FileStorage

        content_type = self.content_type
        if not _MEDIA_TYPE.fullmatch(content_type):
            content_type = "application/octet-stream"
        return FileStorage(
            BytesIO(self.content), self.safe_filename, content_type=content_type
        )
