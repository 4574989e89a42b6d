"""What Postal is answered: a status and a few words of ASCII."""

from __future__ import annotations

import logging
import secrets

from flask import Response, request

__all__ = ["MADE", "Made", "answer", "log_and_answer", "new_reference"]

_log = logging.getLogger("flask_postal.webhooks")

#: Where in the WSGI environment what a view made, a :class:`Made`, waits for the net.
MADE = "flask_postal.answer"


class Made:
    """What a view made, kept while the app's own code has its hands on it."""

    __slots__ = (
        "_attributes",
        "_line",
        "_response",
        "content",
        "headers",
        "status",
    )

    def __init__(self, response: Response) -> None:
        self._response = response
        self._line = response.status
        self._attributes = len(vars(response))
        self.status = response.status_code
        self.content = [*response.response]
        self.headers = [*response.headers]

    def is_as_it_was(self, response: Response) -> bool:
        """Tell whether a response is what the view made, and nothing was done to it."""
        return (
            response is self._response
            and type(response) is Response
            and response.status == self._line
            and len(vars(response)) == self._attributes
            and response.response == self.content
            and [*response.headers] == self.headers
        )


def log_and_answer(status: int, text: str, why: str, level: int) -> Response:
    """Answer, and log why under the same reference.

    Nothing from the request stands in the answer, and in the log only as ASCII.
    """
    reference = new_reference()
    _log.log(
        level,
        "%s: HTTP %d, %s [%s]",
        ascii(request.endpoint or request.path),
        status,
        why,
        reference,
    )
    return answer(status, f"{text} [{reference}]")


def new_reference() -> str:
    """Make what stands in the answer and in the log, so that one finds the other."""
    return secrets.token_hex(4)


def answer(status: int, text: str) -> Response:
    """Answer in short ASCII: Postal stores it, and chokes on more than 64 kB."""
    return Response(text, status, content_type="text/plain; charset=utf-8")
