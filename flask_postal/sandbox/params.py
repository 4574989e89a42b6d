"""Reads the parameters of an API call as Rails does, and refuses what Postal refuses.

The rules are those of Rails and of Ruby's JSON parser, on which Postal's API is built.
They were observed on a running Postal; see :mod:`.api` for the responses.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any
from urllib.parse import parse_qs

from flask import request
from werkzeug.exceptions import BadRequest

__all__ = [
    "APIFailedError",
    "APIRefusedError",
    "api_params",
    "read_request",
    "ruby_blank",
    "ruby_text",
]

#: Maximum depth of nested lists and objects in Ruby's JSON parser.
MAX_DEPTH = 100


class APIRefusedError(Exception):
    """Raised for a refusal, which Postal reports with HTTP 200.

    Postal uses the HTTP status for failures of the server and of the HTTP request only.
    Whether a call has succeeded is in the field ``status`` of the body: ``"success"``,
    ``"error"`` or ``"parameter-error"``. Don't change this to 4xx: clients have to cope
    with it in production.

    :param code: Postal's error code; ``None`` for a parameter error, which has none.
    :param message: Postal's error message; some errors have none.
    :param more: Further fields of ``data``.
    """

    def __init__(self, code: str | None, message: str | None, **more: Any) -> None:
        super().__init__(message)
        self.status: str = "error" if code else "parameter-error"
        self.data: dict[str, Any] = dict(more)
        if message:
            self.data = {"message": message, **more}
        if code:
            self.data["code"] = code


class APIFailedError(Exception):
    """Raised for anything that makes Postal answer HTTP 500."""


def read_request() -> dict[str, Any]:
    """Read the body and the query string of the current request.

    :raises BadRequest: for malformed requests, to which Postal answers 400 before it
        checks the API key.
    """
    media_type = request.headers.get("Content-Type", "").partition(";")[0].strip()
    try:
        if media_type == "application/json":
            content = _read_json(request.get_data())
        elif media_type.lower() == "application/x-www-form-urlencoded":
            content = _read_form(request.get_data())
        else:
            content = dict(request.form)
        # Parameters of the query string override those of the body.
        return {**content, **_read_form(request.query_string)}
    except (ValueError, RecursionError):
        raise BadRequest from None


def api_params(content: Mapping[str, Any]) -> Mapping[str, Any]:
    """Return the parameters that Postal finds in a request.

    A JSON body is used only if the Content-Type begins with ``application/json`` in
    lower case. Other requests can pass JSON in a form field ``params``.

    :param content: What :func:`read_request` has returned.
    :raises APIFailedError: if that field is not a JSON object.
    """
    if request.headers.get("Content-Type", "").startswith("application/json"):
        return content
    text: Any = content.get("params")
    if ruby_blank(text):
        return {}
    try:
        found = _parse(text, nulls=True)
    except (ValueError, TypeError, RecursionError):
        raise APIFailedError from None
    if not isinstance(found, dict):
        raise APIFailedError
    return found


def _read_json(body: bytes) -> dict[str, Any]:
    """Read a JSON body; anything but an object counts as no parameters."""
    if not body:
        return {}
    content = _parse(body.decode("utf-8"), nulls=False)
    return content if isinstance(content, dict) else {}


def _parse(text: str, *, nulls: bool) -> Any:
    """Parse JSON, and reject what Python's parser accepts but Ruby's does not.

    :param nulls: Whether to keep nulls in lists, which Rails removes from a body.
    :raises ValueError: for NaN, a lone surrogate, or too deep nesting.
    """
    content = json.loads(text, parse_constant=_refuse)
    if "\\u" in text:
        json.dumps(content, ensure_ascii=False).encode("utf-8")
    todo: list[tuple[Any, int]] = [(content, 1)]
    while todo:
        item, depth = todo.pop()
        if not isinstance(item, (dict, list)):
            continue
        if depth > MAX_DEPTH:
            raise ValueError("nested too deeply")
        if isinstance(item, list) and not nulls and None in item:
            item[:] = [value for value in item if value is not None]
        values = item.values() if isinstance(item, dict) else item
        todo += [(value, depth + 1) for value in values]
    return content


def _refuse(constant: str) -> Any:
    raise ValueError(constant)


def _read_form(data: bytes) -> dict[str, Any]:
    """Read an urlencoded form; ``name[]`` is a list, others keep the last value."""
    fields = parse_qs(data.decode("utf-8"), keep_blank_values=True, errors="strict")
    return {
        name.removesuffix("[]"): values if name.endswith("[]") else values[-1]
        for name, values in fields.items()
    }


def ruby_blank(value: Any) -> bool:
    """Return whether Rails calls a value blank; zero is not blank."""
    if isinstance(value, str):
        return not value.strip()
    return value is None or value is False or value in ([], {})


def ruby_text(value: Any) -> str:
    """Format a value as Ruby's ``to_s`` does."""
    if value is None:
        return ""
    return value if isinstance(value, str) else _inspect(value)


def _inspect(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return {None: "nil", True: "true", False: "false"}[value]
    if isinstance(value, list):
        return f"[{', '.join(_inspect(item) for item in value)}]"
    if isinstance(value, dict):
        pairs = (f"{_inspect(k)}=>{_inspect(v)}" for k, v in value.items())
        return f"{{{', '.join(pairs)}}}"
    return json.dumps(value, ensure_ascii=False)
