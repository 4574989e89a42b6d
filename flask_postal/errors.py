"""The exceptions of Flask-Postal.

::

    PostalError
    ├── ConfigurationError      a setting is missing or invalid (also a RuntimeError)
    ├── MessageError            the message can't be sent as it is (also a ValueError)
    │   └── UnsupportedFeature  the message uses a feature that Postal doesn't have
    ├── SendError               a request to Postal's API failed
    │   ├── APIError            the response was an error
    │   └── TransportError      no usable response was received
    └── WebhookError            a request to a webhook is invalid
        ├── RequestRefused      a check failed; has the HTTP status to respond with
        ├── SignatureError      not signed by the configured Postal server
        └── PayloadError        correctly signed, but can't be parsed

``RejectMail`` and ``CancelSend`` are not errors. Receivers of signals raise them to
refuse an inbound mail or to stop a message.

Every exception can be pickled, so that it can cross a process boundary, and none ever
contains the API key.
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
    """Base class of the errors of Flask-Postal."""


class ConfigurationError(PostalError, RuntimeError):
    """A setting is missing or invalid.

    Also raised if the extension is used without an app context or before ``init_app``;
    ``key`` is ``None`` then.

    :param key: The name of the setting, such as ``"POSTAL_API_KEY"``, or ``None``.
    """

    def __init__(self, message: str, *, key: str | None = None) -> None:
        super().__init__(message)
        self.key = key


class MessageError(PostalError, ValueError):
    """The message is invalid. Nothing has been sent.

    :param field: The name of the :class:`.Message` parameter that is invalid.
    """

    def __init__(self, message: str, *, field: str | None = None) -> None:
        super().__init__(message)
        self.field = field


class UnsupportedFeature(MessageError):  # noqa: N818 - the name people know
    """The message uses a feature that Postal does not support.

    Set :data:`POSTAL_IGNORE_UNSUPPORTED_FEATURES` to send such messages without the
    feature.

    :param feature: The name of the feature, such as ``"send_at"``.
    :param field: The :class:`.Message` parameter, if it has another name.
    """

    def __init__(
        self, message: str, *, feature: str | None = None, field: str | None = None
    ) -> None:
        super().__init__(message, field=field or feature)
        self.feature = feature


class SendError(PostalError):
    """A request to Postal's API failed.

    :param maybe_sent: Whether Postal may have queued the message, for some or all of
        its recipients, in spite of the error. If ``False``, the message can be sent
        again without causing duplicates.
    :ivar endpoint: The endpoint of a message that could not be sent, ``"send/message"``
        or ``"send/raw"``; ``None`` for other requests.
    :ivar seconds: How long its request took; ``None`` for other requests.
    """

    endpoint: str | None = None
    seconds: float | None = None

    def __init__(self, message: str, *, maybe_sent: bool = False) -> None:
        super().__init__(message)
        self.maybe_sent = maybe_sent


class APIError(SendError):
    """The response to an API request was an error.

    Postal reports the errors of its API with HTTP 200 and a code in the body. A
    response with another HTTP status comes from a proxy, or from a failure inside
    Postal, and has no code.

    :param code: Postal's code, such as ``"UnauthenticatedFromAddress"``, or
        ``"parameter-error"`` for a request that Postal could not read; ``None`` if the
        response has no code.
    :param http_status: The HTTP status of the response.
    :param retryable: Whether the same request may succeed later: after HTTP 429, 502,
        503 and 504. Check ``maybe_sent`` before you repeat it.
    :param maybe_sent: ``True`` after a 5xx, because Postal queues the recipients of a
        message one by one and may have failed in the middle; and after a 2xx other than
        200, with which a proxy may have accepted the request.
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
    """No usable response was received from Postal.

    :param maybe_sent: ``False`` if no part of the message has left this machine;
        ``True`` if some or all of it may have.
    """


class WebhookError(PostalError):
    """A request to a webhook is invalid."""


class RequestRefused(WebhookError):  # noqa: N818 - a decision, as its status says
    """A request to a webhook failed a check and must not be handled.

    :param status: The HTTP status to respond with.
    :param text: A short text for the response, which contains nothing from the request.
    :param reason: The reason, for the log.
    :param level: The level to log it at, such as :data:`logging.WARNING`.
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
    """The body is not signed with a key of the configured Postal server."""


class PayloadError(WebhookError):
    """The body is correctly signed, but can't be parsed.

    :param misdirected: Whether the body belongs to the other webhook, tracking or
        inbound, because the two URLs are swapped in Postal.
    """

    def __init__(self, message: str, *, misdirected: bool = False) -> None:
        super().__init__(message)
        self.misdirected = misdirected


class RejectMail(Exception):  # noqa: N818 - a decision, not an error
    """Raised by a receiver of :data:`.inbound_received` to refuse a mail permanently.

    :param reason: The reason, for the log. The author of the mail does not see it.
    :param bounce: Whether Postal sends a bounce to the author. The response is HTTP
        406 then, else HTTP 429, to which Postal reacts by dropping the mail silently.
    """

    def __init__(self, reason: str = "", *, bounce: bool = True) -> None:
        super().__init__(reason)
        self.reason = reason
        self.bounce = bounce


class CancelSend(Exception):  # noqa: N818 - a decision, not an error
    """Raised by a receiver of :data:`.message_sending` to stop the message.

    It does not reach the caller of :meth:`.Postal.send`, which returns an empty
    :class:`.SendResult`.
    """
