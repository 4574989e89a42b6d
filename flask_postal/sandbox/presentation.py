"""Prepares data for the sandbox's page: template filters, timelines and files."""

from __future__ import annotations

import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any
from urllib.parse import quote

from flask import Response

from ..vocabulary import BY_STATUS, EventType
from .records import Mail, WebhookRequest
from .store import Store

__all__ = ["FILTERS", "IMAGES", "MAIL_POLICY", "Entry", "file_response", "timeline"]

#: Media types shown as images. SVG is excluded, because it can contain scripts.
IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
#: Content-Security-Policy of all content of messages, which is not to be trusted: it
#: runs no scripts or plugins, and loads nothing, so that tracking pixels stay silent.
#: ``sandbox`` gives it an origin of its own even outside of the frame.
MAIL_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
#: State of a webhook request -> tone, as in :class:`.PostalEvent`.
_STATES = {"taken": "good", "pending": "wait", "lost": "bad", "dropped": "bad"}


@dataclass(frozen=True, slots=True)
class Entry:
    """Entry in the timeline of a message.

    :param at: Seconds since 1970.
    :param tone: The CSS class that colours it; see :func:`tone`.
    :param output: The response of the recipient's server.
    :param request: The webhook request, if the entry is about one.
    """

    at: float
    title: str
    tone: str
    description: str | None = None
    output: str | None = None
    request: WebhookRequest | None = None


def timeline(store: Store, mail: Mail) -> list[Entry]:
    """Return the deliveries, opens, clicks and webhooks of a message, oldest first."""
    accepted = "accepted" if mail.direction == "outgoing" else "received"
    entries = [Entry(mail.timestamp, accepted, tone("Pending"))]
    for delivery in store.deliveries(mail.id):
        entries.append(
            Entry(
                delivery["timestamp"],
                delivery["status"],
                tone(delivery["status"]),
                delivery["details"],
                delivery["output"],
            )
        )
    for seen in store.activity(mail.id):
        kind = EventType.CLICKED if seen["kind"] == "click" else EventType.OPENED
        about = ", ".join(text for text in (seen["url"], seen["user_agent"]) if text)
        entries.append(Entry(seen["timestamp"], kind.capitalize(), "good", about))
    entries += [
        Entry(made.created, made.event, tone(made.state), request=made)
        for made in store.requests_about(mail.id)
    ]
    return sorted(entries, key=lambda entry: entry.at)


def file_response(content: bytes, content_type: str, name: str) -> Response:
    """Build a response with a part of a message, which is not to be trusted.

    Anything but an image of a known type becomes a download with a neutral type, so
    that a browser never renders an attached document in the sandbox's origin.

    :param content_type: The media type; ``""`` for a download.
    :param name: The file name of a download.
    """
    image = content_type in IMAGES
    response = Response(
        content, mimetype=content_type if image else "application/octet-stream"
    )
    if not image:
        ascii_name = re.sub(r"[^\w.() -]", "_", name, flags=re.ASCII)
        disposition = f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''"
        response.headers["Content-Disposition"] = disposition + quote(name, safe="")
    response.headers["Content-Security-Policy"] = MAIL_POLICY
    return response


# ---- template filters


def tone(word: str) -> str:
    """Return the CSS class for a message status or for the state of a request."""
    row = BY_STATUS.get(word)
    return row.tone if row is not None else _STATES.get(word, "calm")


def _clock(timestamp: float) -> str:
    return _local(timestamp).strftime("%H:%M:%S")


def _day(timestamp: float) -> str:
    return _local(timestamp).strftime("%Y-%m-%d %H:%M:%S")


def _local(timestamp: float) -> datetime:
    return datetime.fromtimestamp(timestamp, UTC).astimezone()


def _size(count: int) -> str:
    return f"{count:,} B" if count < 10_000 else f"{count / 1000:,.0f} kB"


def _shell_settings(settings: Mapping[str, str | None]) -> str:
    return "\n".join(
        f"export FLASK_{name}={shlex.quote(value)}"
        for name, value in settings.items()
        if value is not None
    )


def _python_settings(settings: Mapping[str, str | None]) -> str:
    lines = [f"    {k}={v!r},\n" for k, v in settings.items() if v is not None]
    return f"app.config.update(\n{''.join(lines)})"


def _pretty(made: WebhookRequest) -> str:
    """Format the body of a webhook request for reading."""
    text = made.body.decode("utf-8", "replace")
    if made.content_type != "application/json":
        return text[:20_000]
    return json.dumps(json.loads(text), indent=2, ensure_ascii=False)[:20_000]


FILTERS: dict[str, Any] = {
    "clock": _clock,
    "day": _day,
    "pretty": _pretty,
    "python_settings": _python_settings,
    "shell_settings": _shell_settings,
    "size": _size,
    "tone": tone,
}
