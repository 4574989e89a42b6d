"""What Postal answered."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import TransportError
from .prepare import Prepared

__all__ = ["RecipientStatus", "Recipients", "SendResult", "read_result"]


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """The mail that Postal queued for one recipient.

    :param address: The bare address, as the caller wrote it.
    :param id: Postal's number of the mail, unique within one mail server. Events about
        the mail carry it as :attr:`.TrackingEvent.id`.
    :param token: Postal's token of the mail, 16 characters, unique everywhere.
    """

    address: str
    id: int | None
    token: str | None


class Recipients(Mapping[str, RecipientStatus]):
    """One :class:`RecipientStatus` per envelope recipient, keyed by bare address.

    The keys are the addresses as the caller first wrote them. Look-up takes every
    spelling the caller used, and the A-label form of an international domain.
    """

    __slots__ = ("_aliases", "_statuses")

    def __init__(
        self,
        statuses: Mapping[str, RecipientStatus],
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._statuses = dict(statuses)
        self._aliases = dict(aliases or {})

    def __getitem__(self, address: str) -> RecipientStatus:
        return self._statuses[self._aliases.get(address, address)]

    def __iter__(self) -> Iterator[str]:
        return iter(self._statuses)

    def __len__(self) -> int:
        return len(self._statuses)

    def __repr__(self) -> str:
        return f"{type(self).__name__}({self._statuses!r})"


@dataclass(frozen=True, slots=True)
class SendResult:
    """What Postal answered to one accepted message.

    Acceptance is not delivery: what happens later arrives through
    :data:`.tracking_received` and carries the same ``id`` and ``token``.

    :param message_id: The Message-ID header, without angle brackets; ``None`` if
        Postal did not tell.
    :param recipients: One entry per envelope recipient, keyed by the bare address as
        the caller wrote it.
    :param endpoint: ``"send/message"`` or ``"send/raw"``.
    """

    message_id: str | None = None
    recipients: Recipients = field(default_factory=lambda: Recipients({}))
    endpoint: str = "send/message"


def read_result(data: Any, prepared: Prepared) -> SendResult:
    """Read the ``data`` of a success.

    :raises TransportError: if it does not say what became of the mail.
    """
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, dict) or not messages:
        raise TransportError(
            "Postal answered success without naming a mail; it may have queued it",
            maybe_sent=True,
        )
    statuses = {}
    for key, address in prepared.recipients.items():
        entry = messages.get(address.addr_spec)
        entry = entry if isinstance(entry, dict) else {}
        number, token = entry.get("id"), entry.get("token")
        statuses[key] = RecipientStatus(
            key,
            number if type(number) is int else None,
            token if isinstance(token, str) else None,
        )
    message_id = data.get("message_id")
    return SendResult(
        message_id if isinstance(message_id, str) else None,
        Recipients(statuses, prepared.aliases),
        prepared.endpoint,
    )
