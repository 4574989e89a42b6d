"""What Postal answered to a message."""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import APIError, TransportError
from .payload import Prepared

__all__ = [
    "RecipientStatus",
    "Recipients",
    "SendResult",
    "made_up_result",
    "new_token",
    "read_result",
]

_TOKEN_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """The mail that Postal queued for one recipient.

    :param address: The bare address, as the caller wrote it.
    :param id: Postal's number of the mail, unique within one mail server. Events about
        the mail carry it as :attr:`.TrackingEvent.id`. ``None`` if Postal did not name
        this recipient in its answer.
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
        statuses: Mapping[str, RecipientStatus] | None = None,
        aliases: Mapping[str, str] | None = None,
    ) -> None:
        self._statuses = dict(statuses or {})
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

    :param message_id: The Message-ID header, without angle brackets.
    :param recipients: One entry per envelope recipient, keyed by the bare address as
        the caller wrote it. Empty after :exc:`.CancelSend`.
    :param endpoint: ``"send/message"`` or ``"send/raw"``, which the message needed;
        ``None`` after :exc:`.CancelSend`.
    :param suppressed: Whether nothing was sent, and ids and tokens are made up.
    """

    message_id: str | None = None
    recipients: Mapping[str, RecipientStatus] = field(default_factory=Recipients)
    endpoint: str | None = None
    suppressed: bool = False


def read_result(data: Any, prepared: Prepared) -> SendResult:
    """Read the ``data`` of a success.

    :raises APIError: if Postal queued nothing.
    :raises TransportError: if it does not say what became of the mail.
    """
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, dict):
        raise TransportError(
            "Postal answered success and did not name the mails; it may have queued"
            " them",
            maybe_sent=True,
        )
    if not messages:
        raise APIError("Postal answered success and queued nothing", http_status=200)
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
        message_id if isinstance(message_id, str) else prepared.message_id,
        Recipients(statuses, prepared.aliases),
        prepared.endpoint,
    )


def new_token() -> str:
    """Make a message token like Postal's: 16 letters and digits."""
    return "".join(secrets.choice(_TOKEN_ALPHABET) for _ in range(16))


def made_up_result(prepared: Prepared, ids: Iterator[int]) -> SendResult:
    """Make the result of a suppressed send.

    :param ids: Gives an id for each recipient.
    """
    statuses = {
        key: RecipientStatus(key, next(ids), new_token()) for key in prepared.recipients
    }
    return SendResult(
        prepared.message_id or f"{uuid.uuid4()}@suppressed.invalid",
        Recipients(statuses, prepared.aliases),
        prepared.endpoint,
        suppressed=True,
    )
