"""Reads the JSON of a signed body."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

from ..errors import PayloadError

__all__ = ["read_json"]


def read_json(body: bytes) -> Mapping[str, Any]:
    """Read a JSON object in UTF-8.

    :raises PayloadError: for anything else.
    """
    # json.loads would guess UTF-16 and -32, which Postal never writes.
    try:
        content = json.loads(body.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        problem = f"the body is not JSON: {type(error).__name__}"
    else:
        if isinstance(content, dict):
            return content
        problem = "the body is JSON, and no object"
    raise PayloadError(problem)
