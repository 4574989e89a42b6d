"""What a message may ask for: the features that Postal can't provide.

This is the one place that decides it. Each feature says when a message asks for it,
what to do instead, and how a message does without it. A layer above Postal that can do
more, such as keeping a message until its time, passes ``supported``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedFeature
from .message import Message

__all__ = ["FEATURES", "POSTAL", "Feature", "without_unsupported"]

#: The features of :data:`FEATURES` that a Postal server has: none.
POSTAL: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Feature:
    """Something that a message may ask for.

    :param name: The feature, as in :attr:`.UnsupportedFeature.feature`.
    :param wanted: Whether a message asks for it.
    :param instead: What to do instead, for the error.
    :param field: The field of a message that asks for it.
    :param without: The value of that field in a message that does without it.
    """

    name: str
    wanted: Callable[[Message], bool]
    instead: str
    field: str
    without: Callable[[Message], Any] = lambda message: None


def _one_sided_tracking(message: Message) -> bool:
    return (message.track_opens is False) != (message.track_clicks is False)


FEATURES: tuple[Feature, ...] = (
    Feature(
        "tags",
        lambda m: len(m.tags) > 1,
        "Postal keeps one tag a message; pass one, and put the others into the"
        " headers of the message (extra_headers=) if you need them",
        "tags",
        lambda m: m.tags[:1],
    ),
    Feature(
        "send_at",
        lambda m: m.send_at is not None,
        "Postal sends at once; send the message from a scheduled task (a Celery eta,"
        " an APScheduler job), for which message.to_dict() makes JSON of it",
        "send_at",
    ),
    Feature(
        "track_opens",
        lambda m: m.track_opens is True,
        "open tracking is a setting of the mail server in Postal: give it a tracking"
        " domain there; track_opens=False with track_clicks=False switches it off for"
        " a message",
        "track_opens",
    ),
    Feature(
        "track_clicks",
        lambda m: m.track_clicks is True,
        "click tracking is a setting of the mail server in Postal: give it a tracking"
        " domain there; track_opens=False with track_clicks=False switches it off for"
        " a message",
        "track_clicks",
    ),
    Feature(
        "track_opens",
        lambda m: m.track_opens is False and _one_sided_tracking(m),
        "Postal tracks both or nothing in one message; pass track_clicks=False too",
        "track_opens",
    ),
    Feature(
        "track_clicks",
        lambda m: m.track_clicks is False and _one_sided_tracking(m),
        "Postal tracks both or nothing in one message; pass track_opens=False too",
        "track_clicks",
    ),
    Feature(
        "metadata",
        lambda m: bool(m.metadata),
        "Postal keeps no metadata; store it under the id or token that"
        " result.recipients has for each recipient, which every event carries",
        "metadata",
        lambda m: {},
    ),
    Feature(
        "mail_options",
        lambda m: bool(m.mail_options),
        "mail goes through Postal's HTTP API, which has no SMTP options; leave it out",
        "mail_options",
    ),
    Feature(
        "rcpt_options",
        lambda m: bool(m.rcpt_options),
        "mail goes through Postal's HTTP API, which has no SMTP options; leave it out",
        "rcpt_options",
    ),
    Feature(
        "charset",
        lambda m: (
            m.charset is not None
            and str(m.charset).lower().replace("_", "-") not in ("utf-8", "utf8")
        ),
        "Postal writes UTF-8, which every mail program reads; leave it out",
        "charset",
    ),
)


def without_unsupported(
    message: Message,
    *,
    ignore: bool,
    supported: frozenset[str] = POSTAL,
    setting: str = "POSTAL_IGNORE_UNSUPPORTED_FEATURES",
) -> Message:
    """Return the message with nothing in it that can't be provided.

    :param ignore: Drop what can't be provided instead of raising.
    :param supported: Names of features that can be provided after all.
    :param setting: The setting that drops it, for the error.
    :raises UnsupportedFeature: for the first feature that can't be provided.
    """
    reduced = message
    for feature in FEATURES:
        if feature.name in supported or not feature.wanted(message):
            continue
        if not ignore:
            raise UnsupportedFeature(
                f"{feature.name}: {feature.instead}. (Or set {setting} to send without"
                " it.)",
                feature=feature.name,
                field=feature.field,
            )
        if reduced is message:
            reduced = message.copy()
        setattr(reduced, feature.field, feature.without(message))
    return reduced
