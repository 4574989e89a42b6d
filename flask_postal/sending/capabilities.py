"""The features of :class:`.Message` that Postal does not support.

:data:`FEATURES` is the only list of them. Each entry defines how to recognize a message
that uses the feature, what to suggest in the error, and how to send the message without
the feature. A layer that provides a feature on top of Postal, such as a store that
keeps messages until their ``send_at``, passes its name as ``supported``.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedFeature
from .message import Message

__all__ = ["FEATURES", "POSTAL", "Feature", "without_unsupported"]

#: Names of the features in :data:`FEATURES` that a Postal server supports: none.
POSTAL: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class Feature:
    """A feature that a message can request.

    :param name: Its name, as in :attr:`.UnsupportedFeature.feature`.
    :param wanted: Returns whether a message requests it.
    :param instead: What to do instead, for the error message.
    :param field: The field of the message that requests it.
    :param without: Returns the value of that field that does not request it.
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
        "Postal keeps one tag per message; pass one, and put the others into the"
        " headers of the message (extra_headers=) if you need them",
        "tags",
        lambda m: m.tags[:1],
    ),
    Feature(
        "send_at",
        lambda m: m.send_at is not None,
        "Postal sends immediately; use postal.enqueue(message, send_at=...), which"
        " needs a ledger, or send the message from a scheduled task (a Celery eta, an"
        " APScheduler job), to which message.to_dict() can pass it as JSON",
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
        "Postal tracks both or neither in a message; pass track_clicks=False too",
        "track_opens",
    ),
    Feature(
        "track_clicks",
        lambda m: m.track_clicks is False and _one_sided_tracking(m),
        "Postal tracks both or neither in a message; pass track_opens=False too",
        "track_clicks",
    ),
    Feature(
        "metadata",
        lambda m: bool(m.metadata),
        "Postal keeps no metadata; use postal.enqueue(message), which needs a ledger,"
        " or store it in the app under the id or token in result.recipients, which"
        " every event contains",
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
    """Check that a message uses no unsupported feature.

    :param ignore: Whether to drop unsupported features instead of raising.
    :param supported: Names of features that the calling layer provides.
    :param setting: The name of the setting behind ``ignore``, for the error message.
    :returns: The message itself; or, if features were dropped, a copy without them.
    :raises UnsupportedFeature: for the first unsupported feature.
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
