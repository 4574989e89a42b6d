"""A backend for Flask-Mailman, so that its messages go out through Postal.

Needs a :class:`.Postal` of the app::

    app.config["MAIL_BACKEND"] = "flask_postal.integrations.flask_mailman"
"""

from __future__ import annotations

import email.message
from collections.abc import Iterable
from typing import Any, ClassVar, Self

from ..errors import PostalError
from ..sending.attachment import Attachment
from .blank_message import BlankMessage
from .postals import current_postal

__all__ = ["EmailBackend"]


class EmailBackend:
    """Sends through the app's Postal, and notes its answer as ``postal_result``.

    For a Postal with a name, derive a class, and set ``MAIL_BACKEND`` to it::

        class NewsBackend(EmailBackend):
            postal_key = "postal_news"

    With ``fail_silently``, a message that Postal or Flask-Postal refuses is left out of
    the number that is returned.
    """

    #: The key of the Postal in ``app.extensions``.
    postal_key: ClassVar[str] = "postal"

    def __init__(
        self,
        mailman: Any = None,
        fail_silently: bool = False,  # noqa: FBT001, FBT002 - as Flask-Mailman calls it
        **smtp: Any,
    ) -> None:
        """Flask-Mailman creates it.

        :param mailman: Its settings.
        :param fail_silently: Whether errors are left out.
        :param smtp: A user and a password, which are not used.
        """
        self.mailman = mailman
        self.fail_silently = fail_silently

    def open(self) -> None:
        """Do nothing: connections to Postal are kept alive anyway."""

    def close(self) -> None:
        """Do nothing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        return None

    def send_messages(self, email_messages: Iterable[Any]) -> int:
        """Send messages; return how many were sent.

        :raises PostalError: for the first one that can't be sent, unless it should fail
            silently.
        :raises ConfigurationError: if the app has no such Postal.
        """
        postal, sent = current_postal(self.postal_key), 0
        for message in email_messages:
            if not message.recipients():
                continue
            try:
                message.postal_result = postal.send(_to_postal(message))
            except PostalError:
                if not self.fail_silently:
                    raise
            else:
                sent += not message.postal_result.all_suppressed
        return sent


def _to_postal(message: Any) -> BlankMessage:
    """Return Flask-Mailman's message as Flask-Postal's."""
    headers = dict(message.extra_headers)
    own = {name.lower(): headers.pop(name) for name in list(headers) if _is_own(name)}
    is_html = message.content_subtype == "html"
    made = BlankMessage(
        message.subject,
        [address for address in message.to if address],
        None if is_html else message.body,
        message.body if is_html else None,
        alts=[(kind, text) for text, kind in getattr(message, "alternatives", ())],
        sender=own.get("from", message.from_email),
        cc=[address for address in message.cc if address],
        bcc=[address for address in message.bcc if address],
        attachments=[_attachment(item) for item in message.attachments],
        reply_to=own.get("reply-to") or message.reply_to,
        extra_headers=headers,
        message_id=own.get("message-id"),
    )
    if message.content_subtype not in ("plain", "html"):
        made.alts = {f"text/{message.content_subtype}": made.body, **made.alts}
        made.body = None
    return made


def _is_own(name: str) -> bool:
    """Tell whether a header has an argument of its own."""
    return name.lower() in ("from", "reply-to", "message-id")


def _attachment(item: Any) -> Attachment:
    if isinstance(item, email.message.Message):
        cid = item.get("Content-ID")
        is_mail = item.get_content_maintype() == "message"
        content = item.get_payload(0) if is_mail else item.get_payload(decode=True)
        return Attachment(
            item.get_filename(),
            item.get_content_type(),
            _bytes(content),
            item.get_content_disposition() or ("inline" if cid else "attachment"),
            content_id=None if cid is None else str(cid).strip().strip("<>"),
        )
    filename, content, media_type = item
    return Attachment(filename, media_type, _bytes(content))


def _bytes(content: Any) -> Any:
    """Return what is attached; it may be a mail, of either kind."""
    if hasattr(content, "recipients"):  # another message of Flask-Mailman
        content = content.message()
    return content.as_bytes() if hasattr(content, "as_bytes") else content
