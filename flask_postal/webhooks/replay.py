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

    In a log, each line may have an event as JSON, or as a Python dict, as
    ``app.logger.info("%s", event.esp_event)`` writes it, with anything around it. Lines
    without one are left out.

    :raises ValueError: if there is none.
    """
    is_form = content.startswith(b"id=") and b"\n" not in content.strip()
    if (is_form and b"rcpt_to=" in content) or _is_whole(content):
        return [content]
    if not (found := list(_in_lines(content))):
        raise ValueError(
            "there is neither an event nor a mail in it; store a body exactly as Postal"
            ' sent it, or log events by app.logger.info("%s", event.esp_event)'
        )
    return found


def _is_whole(content: bytes) -> bool:
    try:
        return _is_event(json.loads(content))
    except (ValueError, RecursionError):
        return False


def _in_lines(content: bytes) -> Iterator[bytes]:
    # Not splitlines(): a subject may contain characters that it splits at.
    for line in content.decode("utf-8", "replace").split("\n"):
        # What stands before the event may have braces too.
        starts = [at for at, character in enumerate(line) if character == "{"]
        for at in starts[:MAX_BRACES]:
            if (value := _read_event(line[at:])) is not None:
                yield json.dumps(value).encode()
                break


def _read_event(text: str) -> dict[str, object] | None:
    """Read the event that a text begins with; other JSON is none of Postal's."""
    for read in (_read_json, _read_repr):
        try:
            value = read(text)
            json.dumps(value)
        except (ValueError, SyntaxError, RecursionError, MemoryError, TypeError):
            continue
        if isinstance(value, dict) and _is_event(value):
            return value
    return None


def _is_event(value: object) -> bool:
    """Tell whether a value is a body of Postal's; other JSON may look like one."""
    if not isinstance(value, dict):
        return False
    is_event = isinstance(value.get("event"), str) and "payload" in value
    return is_event or {"id", "rcpt_to", "mail_from"} <= value.keys()


def _read_json(text: str) -> object:
    return json.JSONDecoder().raw_decode(text)[0]


def _read_repr(text: str) -> object:
    return ast.literal_eval(text[: text.rindex("}") + 1])
