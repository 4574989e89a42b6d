"""The body of a request that stops leaving when the lease of its message is over.

A process may be stopped for longer than its lease: by SIGSTOP, a suspended machine, a
hypervisor. Another one has then found the message and judged what became of it. When
the first one goes on, it must not send what is left of the body.
"""

from __future__ import annotations

from collections.abc import Iterator
from datetime import datetime

from ..errors import MessageError
from ..sending.payload import Body
from .columns import now

__all__ = ["LeaseExpiredError", "LeasedBody"]


class LeaseExpiredError(MessageError):
    """The lease ran out before the whole body had left. Postal has queued nothing."""


class LeasedBody(Body):
    """A body whose every piece is held back once a time has come.

    :param until: When the lease ends, as it is stored.
    """

    __slots__ = ("_body", "_until")

    def __init__(self, body: Body, until: datetime) -> None:
        super().__init__()
        self._body = body
        self._until = until
        self.length: int = body.length

    def pieces(self) -> Iterator[bytes]:
        """Iterate over the pieces of the body.

        :raises LeaseExpiredError: if the time has come. The Content-Length has not been
            reached then, and Postal ignores what it has received.
        """
        for piece in self._body.pieces():
            if now() >= self._until:
                raise LeaseExpiredError(
                    "the lease ran out while the message was being sent; nothing was"
                    " queued by Postal"
                )
            yield piece
