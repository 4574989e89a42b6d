"""The part of :class:`.Postal` that the CLI commands and checks use.

The extension imports the commands to register them, so they can't import the extension.
They are typed against this protocol instead.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

from .sending.message import Message
from .sending.result import SendResult
from .sending.stored import MessageDetails
from .settings import Settings

if TYPE_CHECKING:
    from .webhooks.receive import Webhooks

__all__ = ["PostalInterface"]


class PostalInterface(Protocol):
    """A :class:`.Postal` object, used within an app context."""

    key: str
    #: A :class:`.Ledger`, or ``None``.
    ledger: Any

    @property
    def settings(self) -> Settings:
        """See :attr:`.Postal.settings`."""

    @property
    def webhooks(self) -> Webhooks:
        """See :attr:`.Postal.webhooks`."""

    def send(self, message: Message) -> SendResult:
        """See :meth:`.Postal.send`."""

    def get_message(self, id: int, expand: tuple[str, ...]) -> MessageDetails:
        """See :meth:`.Postal.get_message`."""
