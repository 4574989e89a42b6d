"""Read Postal's response to a message."""

from __future__ import annotations

import secrets
import string
import uuid
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from ..errors import APIError, TransportError
from .payload import Prepared
from .suppression import SuppressionReason

__all__ = [
    "RecipientStatus",
    "Recipients",
    "SendResult",
    "made_up_result",
    "new_token",
    "nobody_left",
    "read_result",
]

_TOKEN_ALPHABET = string.ascii_letters + string.digits


@dataclass(frozen=True, slots=True)
class RecipientStatus:
    """The mail that Postal queued for one recipient.

    :param address: The bare address, as the caller wrote it.
    :param id: Postal's id of the mail, unique within one mail server. Events about the
        mail carry it as :attr:`.TrackingEvent.id`. ``None`` if Postal did not list
        this recipient in its response.
    :param token: Postal's token of the mail, 16 characters, unique everywhere.
        ``None`` under the same condition.
    :param suppressed: Why nothing was sent to this recipient, a
        :class:`.SuppressionReason`; ``None`` if it was.
    """

    address: str
    id: int | None
    token: str | None
    suppressed: SuppressionReason | None = None


class Recipients(Mapping[str, RecipientStatus]):
    """Mapping of bare address to :class:`RecipientStatus`, one per envelope recipient.

    The keys are the addresses as the caller first wrote them. A recipient can also be
    looked up by any other spelling that the caller used, and by the A-label form of an
    international domain, which is what events contain.
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
    """Postal's response to a message that it accepted.

    Acceptance is not delivery. What happens to the mail later is reported through
    :data:`.tracking_received`, in events with the same ``id`` and ``token``.

    :param message_id: The Message-ID header, without angle brackets; ``None`` if
        nothing was sent.
    :param recipients: One entry per envelope recipient, keyed by the bare address as
        the caller wrote it. Empty after :exc:`.CancelSend`.
    :param endpoint: The endpoint that was used, ``"send/message"`` or ``"send/raw"``;
        ``None`` if nothing was sent: after :exc:`.CancelSend`, or if all recipients are
        suppressed.
    :param suppressed: Whether sending was suppressed. If so, nothing was sent, and the
        ids and tokens are made up.
    :param seconds: How long the call of the API took; ``None`` if there was none.
    """

    message_id: str | None = None
    recipients: Mapping[str, RecipientStatus] = field(default_factory=Recipients)
    endpoint: str | None = None
    suppressed: bool = False
    seconds: float | None = field(default=None, compare=False)

    @property
    def all_suppressed(self) -> bool:
        """Whether nothing was sent because every recipient is suppressed."""
        reasons = [status.suppressed for status in self.recipients.values()]
        return bool(reasons) and all(reasons)


def read_result(data: Any, prepared: Prepared) -> SendResult:
    """Read the ``data`` of a successful response.

    :param data: ``{"message_id": str, "messages": {address: {"id": int, "token":
        str}}}``. Postal's keys are bare addresses.
    :param prepared: The request.
    :raises APIError: if Postal queued nothing, as it does for a request to ``send/raw``
        with an empty ``rcpt_to``.
    :raises TransportError: if the data does not list the queued messages.
    """
    messages = data.get("messages") if isinstance(data, dict) else None
    if not isinstance(messages, dict):
        raise TransportError(
            "Postal reported success without listing the messages; it may have queued"
            " them",
            maybe_sent=True,
        )
    if not messages:
        raise APIError("Postal reported success but queued nothing", http_status=200)
    statuses = _left_out(prepared)
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


def nobody_left(prepared: Prepared) -> SendResult:
    """Create the result for a message whose recipients are all suppressed."""
    return SendResult(recipients=Recipients(_left_out(prepared), prepared.aliases))


def _left_out(prepared: Prepared) -> dict[str, RecipientStatus]:
    return {
        key: RecipientStatus(key, None, None, SuppressionReason(reason))
        for key, reason in prepared.left_out.items()
    }


def new_token() -> str:
    """Generate a message token like Postal's: 16 letters and digits."""
    return "".join(secrets.choice(_TOKEN_ALPHABET) for _ in range(16))


def made_up_result(prepared: Prepared, ids: Iterator[int]) -> SendResult:
    """Create the result for a message whose sending is suppressed.

    It looks like a real one, so that tests can use its ids and tokens in events.

    :param ids: Iterator of ids, of which each recipient gets one.
    """
    statuses = _left_out(prepared)
    for key in prepared.recipients:
        statuses[key] = RecipientStatus(key, next(ids), new_token())
    return SendResult(
        prepared.message_id or f"{uuid.uuid4()}@suppressed.invalid",
        Recipients(statuses, prepared.aliases),
        prepared.endpoint,
        suppressed=True,
    )
