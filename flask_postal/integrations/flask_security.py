"""Flask-Security-Too's mail through Postal, with tags and metadata.

Needs ``Flask-Postal[security]``::

    security = Security(app, datastore, mail_util_cls=PostalMailUtil)
"""

from __future__ import annotations

from typing import Any, ClassVar

from flask import after_this_request, has_request_context
from flask_security import EmailValidateException, MailUtil
from flask_security.utils import get_message
from werkzeug.wrappers import Response

from ..address import parse_address
from ..errors import MessageError
from ..sending.message import Message
from .postals import current_postal

__all__ = ["PostalMailUtil"]


class PostalMailUtil(MailUtil):  # type: ignore[misc]
    """Sends Flask-Security's mail through the app's Postal.

    The name of the template is the tag, such as ``welcome`` or ``reset_notice``. With a
    ledger, the mail is enqueued in the request's transaction, which is committed after
    the request unless it ends with an error, and its metadata is ``{"user": user.id}``.
    Outside of a request, the caller commits.

    For a Postal with a name, derive a class::

        class AccountsMailUtil(PostalMailUtil):
            postal_key = "postal_accounts"
    """

    #: The key of the Postal in ``app.extensions``.
    postal_key: ClassVar[str] = "postal"

    def send_mail(
        self,
        template: str,
        subject: str,
        recipient: Any,
        sender: Any,
        body: str | None,
        html: str | None,
        **kwargs: Any,
    ) -> None:
        """Send a mail; Flask-Security calls this.

        :param kwargs: The context of the template.
        :raises PostalError: as :meth:`.Postal.send` or :meth:`.Postal.enqueue`.
        """
        postal = current_postal(self.postal_key)
        message = Message(
            subject,
            [recipient],
            body,
            html,
            sender=sender,
            tags=template.rpartition("/")[2],
        )
        if postal.ledger is None:
            postal.send(message)
            return
        session = postal.ledger.db.session
        user = kwargs.get("user")
        if user is not None:
            session.flush()  # gives a new user its id
            number = getattr(user, "id", None)
            if number is not None and not isinstance(number, int | str):
                number = str(number)  # such as a UUID
            message.metadata = {} if number is None else {"user": number}
        postal.enqueue(message)
        if has_request_context():

            @after_this_request
            def commit(response: Response) -> Response:
                # Not every view of Flask-Security commits: some change nothing else.
                if response.status_code < 400:
                    session.commit()
                return response

    def validate(self, email: str) -> str:
        """Return an address in its normal form, if mail can be sent to it.

        :raises EmailValidateException: if it is not valid, or if Postal can't send mail
            to it, as to one with non-ASCII characters before the "@". The form shows it
            as an error.
        """
        normal: str = super().validate(email)
        try:
            parse_address(normal, "recipients")
        except MessageError:
            problem = get_message("INVALID_EMAIL_ADDRESS")[0]
            raise EmailValidateException(problem) from None
        return normal
