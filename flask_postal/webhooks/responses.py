"""Responses to Postal: a status and a few words of ASCII."""

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
    """A copy of a view's response that the app's own code can't change.

    After the view, after_request functions and the session may change the response
    object. The :class:`.ResponseGuard` sends this copy.
    """

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
    """Make a response, and log its reason with the same reference.

    The response contains nothing from the request, and the log only ASCII, so that a
    stranger can't forge log lines.

    :param status: The HTTP status.
    :param text: The text of the response, to which the reference is added.
    :param why: The reason, for the log only.
    :param level: The level to log it with.
    :param where: What the request was for, for the log; by default the endpoint of the
        current request.
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
    """Make a random reference that links a response to its line in the log.

    Postal stores the response, so the reference can be found on both sides.
    """
    return secrets.token_hex(4)


def answer(status: int, text: str) -> Response:
    """Make a plain-text response.

    Keep the text short and in ASCII: Postal stores it, and a response of over 65,535
    bytes blocks that event in Postal for good.
    """
    return Response(text, status, content_type="text/plain; charset=utf-8")
