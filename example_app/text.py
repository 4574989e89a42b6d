"""Clean text from strangers, so that any database and any message can contain it."""

from __future__ import annotations

import re

import nh3

__all__ = ["line", "safe_html", "text"]

#: Limits for HTML, in characters and tags: the time for cleaning grows with the square
#: of the depth to which tags are nested.
MAX_HTML, MAX_TAGS = 300_000, 5_000

#: The tags that are shown. No images: loading them would tell the author who reads it.
_TAGS = nh3.ALLOWED_TAGS - {"img", "map", "area"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def text(value: str | None, limit: int = 200_000) -> str:
    """Return text without characters that databases or headers don't accept."""
    return _CONTROL.sub("", value or "")[:limit]


def line(value: str | None, limit: int = 500) -> str:
    """Return text on a single line, without such characters."""
    return " ".join(text(value, 10 * limit).split())[:limit]


def safe_html(html: str | None) -> str | None:
    """Return HTML that is safe to show; ``None`` if it has no text or is too large."""
    if not html or len(html) > MAX_HTML or html.count("<") > MAX_TAGS:
        return None
    if not nh3.clean(html, tags=set()).strip():
        return None
    return text(nh3.clean(html, tags=_TAGS))
