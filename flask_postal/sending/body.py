"""The body of a request to Postal's API, produced while it is being sent."""

from __future__ import annotations

from collections.abc import Iterator

__all__ = ["PIECE", "Body", "Departure"]

#: Bytes in one piece. A time-out counts for one piece at a time, so that a slow line
#: can carry a large mail.
PIECE = 64 * 1024


class Body:
    """JSON, ready to be sent any number of times.

    :param parts: What the body consists of, in order.
    """

    __slots__ = ("_parts", "length")

    def __init__(self, *parts: bytes) -> None:
        self._parts = parts
        self.length = sum(len(part) for part in parts)

    def pieces(self) -> Iterator[bytes]:
        """Produce the body, :data:`PIECE` bytes at a time."""
        for part in self._parts:
            if len(part) <= PIECE:
                yield part
            else:
                view = memoryview(part)
                for start in range(0, len(part), PIECE):
                    yield bytes(view[start : start + PIECE])


class Departure:
    """One attempt to send a body: an iterator that notes when it is begun.

    An error of the network alone does not tell whether a mail may have left: a reset
    during the TLS handshake looks like one after the last byte. A body of which no
    piece has been taken surely has not left.
    """

    __slots__ = ("_pieces", "begun")

    def __init__(self, body: Body) -> None:
        self._pieces = body.pieces()
        self.begun = False

    def __iter__(self) -> Departure:
        return self

    def __next__(self) -> bytes:
        self.begun = True
        return next(self._pieces)
