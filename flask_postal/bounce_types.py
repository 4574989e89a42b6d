"""Tells from the reply of a mail server whether to try an address again."""

from __future__ import annotations

import re
from typing import NamedTuple

from .bounce_rules import STATUSES, STRONG, WEAK, BounceReason, BounceType, Status

__all__ = ["BounceClass", "classify_reply"]

#: Characters of a reply that are read. Postal cuts it at 250.
MAX_TEXT = 2000
_ADDRESS = re.compile(r"<?[^\s<>\"()]{1,256}@[^\s<>\"(),;:]{1,255}>?")
_URL = re.compile(r"(?:https?://|www\.)\S+")
_BLANKS = re.compile(r"[\s\x00-\x1f]+")
#: A reply of several lines repeats its code at the beginning of each.
_CODE = re.compile(r"(?<=\s)[245]\d\d-(?:[245]\.\d{1,3}\.\d{1,3}\s)?")


class BounceClass(NamedTuple):
    """What a reply says about an address.

    :param type: Whether to try the address again.
    :param reason: Why the mail was refused; ``None`` if that is not known.
    :param rule: The name of the rule, or ``status`` with the enhanced status code.
    """

    type: BounceType
    reason: BounceReason | None = None
    rule: str | None = None


UNKNOWN = BounceClass(BounceType.UNKNOWN)


def classify_reply(code: int | None, enhanced: str | None, text: str) -> BounceClass:
    """Classify a reply.

    :param code: The SMTP code, such as 550.
    :param enhanced: The enhanced status code, such as ``"5.1.1"``.
    :param text: The whole reply, or what a bounce mail says.
    """
    words = _normal(text)
    found = _by_rules(words, enhanced)
    is_temporary = (enhanced or "").startswith("4.") or (code or 0) // 100 == 4
    if is_temporary and found.type is not BounceType.TEMPORARY:
        # The server itself says that it may be different later.
        return BounceClass(BounceType.TEMPORARY, found.reason, found.rule or "code")
    return found


def _by_rules(words: str, enhanced: str | None) -> BounceClass:
    for rule in STRONG:
        if rule.regex.search(words):
            return BounceClass(rule.type, rule.reason, rule.name)
    if (status := _of_status(enhanced)) is not None:
        return BounceClass(status.type, status.reason, f"status {enhanced}")
    for rule in WEAK:
        if rule.regex.search(words):
            return BounceClass(rule.type, rule.reason, rule.name)
    return UNKNOWN


def _of_status(enhanced: str | None) -> Status | None:
    _, _, detail = (enhanced or "").partition(".")
    return STATUSES.get(detail) or STATUSES.get(detail.partition(".")[0])


def _normal(text: str) -> str:
    """Return a text in lower case, without what strangers choose in it."""
    text = _CODE.sub(" ", text[:MAX_TEXT])
    text = _URL.sub("url", _ADDRESS.sub("@", text))
    return _BLANKS.sub(" ", text).strip().lower()
