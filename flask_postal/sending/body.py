"""The body of a request to Postal's API, produced while it is being sent."""

from __future__ import annotations

import binascii
from collections.abc import Iterator

from ..errors import MessageError
from .attachment import Attachment

__all__ = ["Base64", "Body", "Departure"]

#: Bytes in one piece. A time-out counts for one piece at a time, so that a slow line
#: can carry a large mail.
PIECE = 76 * 1024


class Base64:
    """The base64 of an attachment, encoded in pieces, so that it never stands in
    memory as a whole."""

    __slots__ = ("_attachment", "_size")

    def __init__(self, attachment: Attachment) -> None:
        self._attachment = attachment
        self._size = attachment.size()

    def __len__(self) -> int:
        return (self._size + 2) // 3 * 4

    def pieces(self) -> Iterator[bytes]:
        """Produce the text.

        :raises MessageError: if a file is not what it was when the mail was prepared.
        """
        size = 0
        for piece in self._attachment.pieces():
            size += len(piece)
            if size > self._size:
                break
            yield binascii.b2a_base64(piece, newline=False)
        if size != self._size:
            raise MessageError(
                f"attachments: {self._attachment.path} was changed while it was being"
                " sent",
                field="attachments",
            )


class Body:
    """JSON, ready to be sent any number of times.

    :param parts: What the body consists of, in order.
    """

    __slots__ = ("_parts", "length")

    def __init__(self, *parts: bytes | Base64) -> None:
        self._parts = parts
        self.length: int = sum(len(part) for part in parts)

    def pieces(self) -> Iterator[bytes]:
        """Produce the body, at most :data:`PIECE` bytes at a time."""
        for part in self._parts:
            if isinstance(part, Base64):
                yield from part.pieces()
            elif len(part) <= PIECE:
                yield part
            else:
                view = memoryview(part)
                for start in range(0, len(part), PIECE):
                    yield bytes(view[start : start + PIECE])


class Departure:
    """One attempt to send a body: an iterable that notes when it is begun.

    An error of the network alone does not tell whether a mail may have left: a reset
    during the TLS handshake looks like one after the last byte. A body of which no
    piece has been taken surely has not left.

    :ivar begun: Whether a piece has been taken.
    :ivar error: Why the body could not be produced to its end. Postal, which was
        promised more, takes no part of it.
    """

    __slots__ = ("_body", "begun", "error")

    def __init__(self, body: Body) -> None:
        self._body = body
        self.begun: bool = False
        self.error: MessageError | None = None

    def whole(self) -> bytes:
        """Return the body in one piece, for mocks; nothing of it counts as taken.

        :raises MessageError: if it can't be produced.
        """
        return b"".join(self._body.pieces())

    def __iter__(self) -> Iterator[bytes]:
        self.begun = True  # runs when the first piece is asked for
        try:
            yield from self._body.pieces()
        except MessageError as error:
            # Raised from here it would carry the frames of urllib3, and the API key
            # in them, in its traceback: it is kept until they are gone.
            self.error = error.with_traceback(None)
        else:
            return
        raise OSError("the body could not be read")
