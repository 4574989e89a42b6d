"""What Postal is answered: a status and a few words of ASCII."""

from __future__ import annotations

import logging
import secrets

from flask import Response, request

__all__ = [
    "SAVED_RESPONSES",
    "SavedResponse",
    "answer",
    "log_and_answer",
    "new_reference",
]

_log = logging.getLogger("flask_postal.webhooks")

#: Key of the WSGI environment under which a view appends its :class:`SavedResponse`.
SAVED_RESPONSES = "flask_postal.answer"


class SavedResponse:
    """What a view made, out of reach of the app's own code."""

    __slots__ = ("content", "headers", "line", "status")

    def __init__(self, response: Response) -> None:
        self.status: int = response.status_code
        self.line: str = response.status
        self.content: list[bytes] = [response.get_data()]
        self.headers: list[tuple[str, str]] = [
            (name, value)
            for name, value in response.headers
            if name != "Content-Length"
        ] + [("Content-Length", str(len(self.content[0])))]


def log_and_answer(
    status: int, text: str, why: str, level: int, where: str | None = None
) -> Response:
    """Answer, and log why under the same reference.

    Nothing from the request stands in the answer, and in the log only as ASCII.

    :param where: What the request was for; the current one's endpoint if not given.
    """
    reference = new_reference()
    _log.log(
        level,
        "%s: HTTP %d, %s [%s]",
        ascii(where if where is not None else request.endpoint),
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
