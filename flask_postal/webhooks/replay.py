"""Recognises stored request bodies, so that they can be handled again."""

from __future__ import annotations

import ast
import json
from collections.abc import Iterator
from typing import NamedTuple

from .inbound import FORM, JSON
from .verify import VerifiedRequest

__all__ = ["StoredRequest", "find_bodies", "read_stored_request"]

#: Braces of a line at which an event is looked for.
MAX_BRACES = 10


class StoredRequest(NamedTuple):
    """A stored body and what was recognised in it.

    :param request: The request, as if it had just been verified.
    :param event: Postal's name of the event, such as ``"MessageSent"``, or the format
        of an inbound mail, such as ``"raw-json"``.
    """

    request: VerifiedRequest
    event: str


def read_stored_request(body: bytes) -> StoredRequest:
    """Recognise the body of a request that Postal has sent.

    No signature is verified. Pass only bodies that were verified before they were
    stored.

    :param body: The raw body.
    :raises ValueError: if it is neither an event nor an inbound mail.
    """
    if body.startswith(b"id=") and b"rcpt_to=" in body:
        kind = "raw-form" if b"&message=" in body else "hash-form"
        return StoredRequest(VerifiedRequest("inbound", body, FORM), kind)
    try:
        content = json.loads(body)
    except (ValueError, RecursionError):
        content = None
    content = content if isinstance(content, dict) else {}
    if isinstance(content.get("event"), str):
        return StoredRequest(VerifiedRequest("tracking", body, JSON), content["event"])
    if "rcpt_to" in content:
        kind = "raw-json" if "message" in content else "hash-json"
        return StoredRequest(VerifiedRequest("inbound", body, JSON), kind)
    raise ValueError(
        "the body is neither an event nor a mail; store it exactly as Postal sent it"
    )


def find_bodies(content: bytes) -> list[bytes]:
    """Return the bodies in a file: one as it is, or those in the lines of a log.

    In a log, each line may begin with anything, such as a time, and has an event as
    JSON or as a Python dict at its end, as ``app.logger.info("%s", event.esp_event)``
    writes it. Lines without one are left out.

    :raises ValueError: if there is none.
    """
    try:
        read_stored_request(content)
    except ValueError:
        found = list(_in_lines(content))
        if not found:
            raise
        return found
    return [content]


def _in_lines(content: bytes) -> Iterator[bytes]:
    for line in content.decode("utf-8", "replace").splitlines():
        # What stands before the event may have braces too.
        starts = [at for at, character in enumerate(line) if character == "{"]
        for at in starts[:MAX_BRACES]:
            try:
                body = json.dumps(_read_dict(line[at:].strip())).encode()
                read_stored_request(body)
            except (TypeError, ValueError):
                continue
            yield body
            break


def _read_dict(text: str) -> dict[str, object] | None:
    for read in (json.loads, ast.literal_eval):
        try:
            value = read(text)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict) and all(isinstance(key, str) for key in value):
            return value
    return None
