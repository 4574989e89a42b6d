"""Everything Flask-Postal raises.

::

    PostalError
    ├── ConfigurationError      a setting is missing or wrong (also a RuntimeError)
    ├── MessageError            this message can't be sent as it is (also a ValueError)
    │   └── UnsupportedFeature  Postal can't do what the message asks for
    ├── SendError               Postal was asked, or should have been
    │   ├── APIError            it answered, and not with success
    │   └── TransportError      no usable answer came back
    └── WebhookError            a request to our webhooks was not in order
        ├── RequestRefused      a check failed; it has the status to answer with
        ├── SignatureError      it does not carry our Postal's signature
        └── PayloadError        it is signed, and can't be understood

``RejectMail`` and ``CancelSend`` are no errors: receivers raise them to say something.

All of them can be pickled, and none ever holds the API key.
"""

from __future__ import annotations

from typing import Any

__all__ = [
    "APIError",
    "CancelSend",
    "ConfigurationError",
    "MessageError",
    "PayloadError",
    "PostalError",
    "RejectMail",
    "RequestRefused",
    "SendError",
    "SignatureError",
    "TransportError",
    "UnsupportedFeature",
    "WebhookError",
]


class PostalError(Exception):
    """The base of every error of Flask-Postal."""


class ConfigurationError(PostalError, RuntimeError):
    """A setting is missing or has a value that can't be used.

    :param key: The name of the setting, such as ``"POSTAL_API_KEY"``, or ``None``.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class MessageError(PostalError, ValueError):
    """The message can't be sent as it is; nothing has been sent.

    :param field: The name of the :class:`.Message` parameter that is to blame.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnsupportedFeature(MessageError):  # noqa: N818 - the name people know
    """The message asks for something that Postal can't do.

    :data:`POSTAL_IGNORE_UNSUPPORTED_FEATURES` drops the feature instead.

    :param feature: The name of the feature, such as ``"send_at"``.
    """

    def __init__(
        self, message: str, *, feature: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(message, field=field or feature)
        self.feature = feature


class SendError(PostalError):
    """The call to Postal's API did not succeed.

    :param maybe_sent: Whether Postal may have queued the mail, or some recipients of
        it, all the same. ``False`` means that sending again can't send it twice.
    """

    def __init__(self, message: str, *, maybe_sent: bool = False) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent


class APIError(SendError):
    """Postal answered, and the answer is not success.

    Postal says so with HTTP 200 and a code; a proxy in front of it, or a failure
    inside it, with another HTTP status and no code.

    :param code: Postal's code, such as ``"UnauthenticatedFromAddress"``,
        ``"parameter-error"`` for a request that Postal could not read, or ``None``.
    :param http_status: The HTTP status of the answer.
    :param retryable: Whether the same call may succeed later: HTTP 429, 502, 503, 504.
        See ``maybe_sent`` before you repeat it.
    :param maybe_sent: ``True`` after a 5xx: Postal queues one recipient after the
        other, and some may have been.
    """

    def __init__(
        self,
        message: str,
        *,
        code: str | None = None,
        http_status: int | None = None,
        retryable: bool = False,
        maybe_sent: bool = False,
    ) -> None:
        super().__init__(message, maybe_sent=maybe_sent)
        self.code = code
        self.http_status = http_status
        self.retryable = retryable


class TransportError(SendError):
    """No usable answer came back from Postal.

    :param maybe_sent: ``False`` if surely nothing left this machine; ``True`` if the
        mail, or a part of it, did.
    """


class WebhookError(PostalError):
    """A request to a webhook is not in order."""


class RequestRefused(WebhookError):  # noqa: N818 - a decision, as its status says
    """A request to a webhook failed a check, and must not be handled.

    :param status: The HTTP status to answer with.
    :param text: The short text to answer with; nothing from the request is in it.
    :param reason: For the log.
    :param level: The level to log it with, one of :mod:`logging`'s.
    """

    def __init__(self, status: int, text: str, reason: str, *, level: int) -> None:
        super().__init__(status, text, reason)
        self.status = status
        self.text = text
        self.reason = reason
        self.level = level

    def __str__(self) -> str:
        return self.reason

    def __reduce__(self) -> tuple[Any, ...]:
        return _refused, (self.status, self.text, self.reason, self.level)


def _refused(status: int, text: str, reason: str, level: int) -> RequestRefused:
    return RequestRefused(status, text, reason, level=level)


class SignatureError(WebhookError):
    """The body is not signed by one of our Postal's keys."""


class PayloadError(WebhookError):
    """The body is signed and can't be understood.

    :param misdirected: Whether it is the other webhook's: the URLs are swapped in
        Postal.
    """

    def __init__(self, message: str, *, misdirected: bool = False) -> None:
        super().__init__(message)
        self.misdirected = misdirected


class RejectMail(Exception):  # noqa: N818 - a decision, not an error
    """Raised by a receiver of :data:`.inbound_received` to refuse a mail for good.

    :param reason: For the log; the author of the mail does not see it.
    :param bounce: Whether Postal tells the author with a bounce (HTTP 406). ``False``
        drops the mail without a word (HTTP 429).
    """

    def __init__(self, reason: str = "", *, bounce: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.bounce = bounce


class CancelSend(Exception):  # noqa: N818 - a decision, not an error
    """Raised by a receiver of :data:`.message_sending` to stop the message."""
