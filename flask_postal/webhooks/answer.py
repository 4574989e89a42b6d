"""What Postal is answered: a status and a few words of ASCII."""

from __future__ import annotations

import logging
import secrets

from flask import Response, request

__all__ = ["MADE", "answer", "log_and_answer", "new_reference"]

_log = logging.getLogger("flask_postal.webhooks")

#: Where in the WSGI environment what a view made waits for the net: status, content and
#: headers.
MADE = "flask_postal.answer"


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
