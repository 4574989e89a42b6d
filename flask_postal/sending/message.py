"""What an app wants to send: plain data, checked only when it is sent."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..address import Address, AddressesLike, AddressLike
from ..errors import MessageError

__all__ = ["Message"]


class Message:
    """One mail.

    The names and their order are Flask-Mail's. Nothing is checked here and no app is
    needed; :meth:`.Postal.send` refuses what Postal would lose or change.

    :param subject: The subject.
    :param recipients: One address or a list: ``"ana@example.com"``,
        ``"Ana <ana@example.com>"`` or ``("Ana", "ana@example.com")``.
    :param body: The plain text.
    :param html: The HTML.
    :param sender: The From address; :data:`POSTAL_DEFAULT_SENDER` if not given.
    """

    def __init__(
        self,
        subject: str = "",
        recipients: AddressesLike | None = None,
        body: str | None = None,
        html: str | None = None,
        *,
        sender: AddressLike | None = None,
    ) -> None:
        self.subject = subject
        self.recipients = address_list(recipients, "recipients")
        self.body = body
        self.html = html
        self.sender = sender


def address_list(value: Any, field: str) -> list[Any]:
    """Make a list of one address or several, unchecked.

    :raises MessageError: for a tuple that may mean one address or two.
    """
    if value is None:
        return []
    if isinstance(value, tuple) and len(value) == 2 and isinstance(value[0], str):
        if "@" in value[0]:
            raise MessageError(
                f"{field}: is {value!r} two addresses, or one with a name? Write a"
                " list",
                field=field,
            )
        return [value]
    if isinstance(value, (str, Address)) or not isinstance(value, Iterable):
        return [value]
    return list(value)
