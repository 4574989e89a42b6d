"""Leaves recipients out of a message that must not be written to any more."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from enum import StrEnum

from .content import Content

__all__ = ["FindSuppressed", "SuppressionReason", "leave_out"]


class SuppressionReason(StrEnum):
    """Why nothing is sent to an address."""

    BOUNCE = "bounce"  #: A mail to it failed or bounced for good.
    FAILURES = "failures"  #: Five mails in a row failed, over at least three days.
    COMPLAINT = "complaint"  #: Its owner has reported a mail as spam.
    UNSUBSCRIBE = "unsubscribe"  #: Its owner has left this list.
    MANUAL = "manual"  #: Somebody has added it.


#: Returns the reason for those of some addresses that are suppressed, given the
#: addresses as they are sent, and the list that the message belongs to.
FindSuppressed = Callable[[Sequence[str], str | None], Mapping[str, SuppressionReason]]


def leave_out(content: Content, find: FindSuppressed) -> None:
    """Leave suppressed recipients out of a message: in To, Cc and Bcc."""
    if content.ignore_suppression:
        return
    envelopes = [address.addr_spec for address in content.recipients.values()]
    found = find(envelopes, content.mailing_list)
    if not found:
        return
    for key, address in list(content.recipients.items()):
        if (reason := found.get(address.addr_spec)) is not None:
            content.left_out[key] = reason
            del content.recipients[key]
    for name in ("to", "cc", "bcc"):
        kept = [a for a in getattr(content, name) if a.addr_spec not in found]
        setattr(content, name, kept)
