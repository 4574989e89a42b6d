"""What Postal can't do, in one place: each with what to do instead.

:data:`POSTAL` is what a Postal server can do. A layer before it that can do more, say
keep a mail until its time, passes a larger set.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from ..errors import UnsupportedFeature
from .message import Message

__all__ = ["POSTAL", "settle"]

#: The features of :data:`_RULES` that Postal has: none.
POSTAL: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True)
class _Rule:
    """One feature: when a message asks for it, and how to drop it."""

    feature: str
    wanted: Callable[[Message], bool]
    instead: str
    without: dict[str, Callable[[Message], Any]]

    @property
    def field(self) -> str:
        return next(iter(self.without))


def _one_sided_tracking(message: Message) -> bool:
    return (message.track_opens is False) != (message.track_clicks is False)


_NONE: Callable[[Message], Any] = lambda message: None  # noqa: E731

_RULES = (
    _Rule(
        "tags",
        lambda m: len(m.tags) > 1,
        "Postal keeps one tag a message; pass one, and put the others into the"
        " headers of the message (extra_headers=) if you need them",
        {"tags": lambda m: m.tags[:1]},
    ),
    _Rule(
        "send_at",
        lambda m: m.send_at is not None,
        "Postal sends at once; send the message from a scheduled task (a Celery eta,"
        " an APScheduler job), for which message.to_dict() makes JSON of it",
        {"send_at": _NONE},
    ),
    _Rule(
        "track_opens",
        lambda m: m.track_opens is True,
        "open tracking is a setting of the mail server in Postal: give it a tracking"
        " domain there; track_opens=False with track_clicks=False switches it off for"
        " a message",
        {"track_opens": _NONE},
    ),
    _Rule(
        "track_clicks",
        lambda m: m.track_clicks is True,
        "click tracking is a setting of the mail server in Postal: give it a tracking"
        " domain there; track_opens=False with track_clicks=False switches it off for"
        " a message",
        {"track_clicks": _NONE},
    ),
    _Rule(
        "track_opens",
        lambda m: m.track_opens is False and _one_sided_tracking(m),
        "Postal tracks both or nothing in one message; pass track_clicks=False too",
        {"track_opens": _NONE},
    ),
    _Rule(
        "track_clicks",
        lambda m: m.track_clicks is False and _one_sided_tracking(m),
        "Postal tracks both or nothing in one message; pass track_opens=False too",
        {"track_clicks": _NONE},
    ),
    _Rule(
        "metadata",
        lambda m: bool(m.metadata),
        "Postal keeps no metadata; store it under the id or token that"
        " result.recipients has for each recipient, which every event carries",
        {"metadata": lambda m: {}},
    ),
    _Rule(
        "mail_options",
        lambda m: bool(m.mail_options),
        "mail goes through Postal's HTTP API, which has no SMTP options; leave it out",
        {"mail_options": _NONE},
    ),
    _Rule(
        "rcpt_options",
        lambda m: bool(m.rcpt_options),
        "mail goes through Postal's HTTP API, which has no SMTP options; leave it out",
        {"rcpt_options": _NONE},
    ),
    _Rule(
        "charset",
        lambda m: (
            m.charset is not None
            and str(m.charset).lower().replace("_", "-") not in ("utf-8", "utf8")
        ),
        "Postal writes UTF-8, which every mail program reads; leave it out",
        {"charset": _NONE},
    ),
)


def settle(
    message: Message,
    *,
    ignore: bool,
    capabilities: frozenset[str] = POSTAL,
    setting: str = "POSTAL_IGNORE_UNSUPPORTED_FEATURES",
) -> Message:
    """Return the message with nothing in it that can't be done.

    :param ignore: Drop what can't be done in place of raising.
    :param capabilities: The features that can be done after all.
    :param setting: The setting that drops what can't be done, for the error.
    :raises UnsupportedFeature: for the first feature that can't.
    """
    settled = message
    for rule in _broken(message):
        if rule.feature in capabilities:
            continue
        if not ignore:
            raise UnsupportedFeature(
                f"{rule.feature}: {rule.instead}. (Or set {setting} to send without"
                " it.)",
                feature=rule.feature,
                field=rule.field,
            )
        if settled is message:
            settled = message.copy()
        for name, replacement in rule.without.items():
            setattr(settled, name, replacement(message))
    return settled


def _broken(message: Message) -> Iterator[_Rule]:
    # Nearly every message asks for nothing special: one look instead of ten.
    if (
        len(message.tags) > 1
        or message.send_at is not None
        or message.track_opens is not None
        or message.track_clicks is not None
        or message.metadata
        or message.mail_options
        or message.rcpt_options
        or message.charset is not None
    ):
        yield from (rule for rule in _RULES if rule.wanted(message))
