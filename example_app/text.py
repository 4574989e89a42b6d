"""Text of strangers, made fit for any database and for the next mail."""

from __future__ import annotations

import re

import nh3

__all__ = ["line", "safe_html", "text"]

#: Bytes and tags of HTML that are looked at: cleaning takes a time that grows with the
#: square of how deep they stand in each other.
MAX_HTML, MAX_TAGS = 300_000, 5_000

#: What of a mail's HTML is shown. No images: they would tell its author who reads it.
_TAGS = nh3.ALLOWED_TAGS - {"img", "map", "area"}
_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f\ud800-\udfff]")


def text(value: str | None, limit: int = 200_000) -> str:
    """Return a text without what no database and no header takes."""
    return _CONTROL.sub("", value or "")[:limit]


def line(value: str | None, limit: int = 500) -> str:
    """Return the same on one line."""
    return " ".join(text(value, 10 * limit).split())[:limit]


def safe_html(html: str | None) -> str | None:
    """Return what may be shown of HTML; ``None`` if that is nothing, or too much."""
    if not html or len(html) > MAX_HTML or html.count("<") > MAX_TAGS:
        return None
    if not nh3.clean(html, tags=set()).strip():
        return None
    return text(nh3.clean(html, tags=_TAGS))
