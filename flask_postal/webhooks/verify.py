"""Verifies a webhook request before anything in it is parsed.

The checks run in a fixed order: method, length, basic auth, signature headers, media
type, key, body, signature. The first one that fails decides the status. The order is
from cheap to expensive, and everything that can be decided from the headers comes
before the body is read: a stranger can't make the app read 32 MB, and only a request
that carries a signature can make it look for keys, which may take an HTTP request.

The statuses follow from what Postal does with them, as observed on Postal 3.3.6; its
documentation is wrong here. A tracking event is sent up to six times, until the
response is 2xx. Inbound mail is retried only after a 5xx, for about 31 hours. After a
429 Postal drops it silently, and after anything else that isn't 2xx it bounces the mail
to its author at once. Therefore the response to inbound mail is 503 wherever the cause
may be the app's own configuration: the mail waits until somebody has read the log.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

from flask import Request
from werkzeug.exceptions import HTTPException

from ..errors import RequestRefused, SignatureError
from .inbound import FORM, JSON
from .signature import KID_HEADER, SHA1_HEADER, SHA256_HEADER, Signature
from .state import WebhookState

__all__ = ["HOOKS", "INBOUND", "TRACKING", "Hook", "VerifiedRequest", "verify"]

#: Names of the signature headers, with their keys in the WSGI environment. Reading the
#: environment is cheaper than ``request.headers``.
_SIGNATURE_HEADERS = tuple(
    (name, f"HTTP_{name.upper().replace('-', '_')}")
    for name in (SHA256_HEADER, SHA1_HEADER, KID_HEADER)
)
#: Attributes that a Werkzeug request has only once something has read its body.
_READ_BEFORE = frozenset({"stream", "_cached_data", "data", "form", "files"})


@dataclass(frozen=True, slots=True)
class Hook:
    """What differs between the two webhooks.

    The four statuses are those of the table in the documentation, "Webhooks and
    security".

    :param name: ``"tracking"`` or ``"inbound"``.
    :param media_types: The media types that Postal may send.
    :param max_bytes: The name of the setting that limits the body, without its prefix.
    :param wrong_signature: HTTP status for a signature that isn't Postal's.
    :param unauthorized: HTTP status for missing or wrong basic auth.
    :param malformed: HTTP status for a body that is incomplete, has another media type
        or can't be parsed.
    :param too_large: HTTP status for a body that is over the limit.
    """

    name: str
    media_types: tuple[str, ...]
    max_bytes: str
    wrong_signature: int
    unauthorized: int
    malformed: int
    too_large: int


TRACKING = Hook(
    "tracking",
    (JSON,),
    "TRACKING_MAX_BYTES",
    wrong_signature=403,
    unauthorized=401,
    malformed=400,
    too_large=413,
)
INBOUND = Hook(
    "inbound",
    (JSON, FORM),
    "INBOUND_MAX_BYTES",
    wrong_signature=503,
    unauthorized=503,
    malformed=503,
    too_large=503,
)
HOOKS = {hook.name: hook for hook in (TRACKING, INBOUND)}


@dataclass(frozen=True, slots=True)
class VerifiedRequest:
    """A request whose signature has been verified.

    It is plain data, which can be pickled or stored, and handled later or in another
    process.

    :param hook: The name of the webhook: ``"tracking"`` or ``"inbound"``.
    :param body: The raw body, exactly as Postal signed it.
    :param media_type: The media type of the body, without parameters.
    :param kid: The key ID (KID) in the request's headers, or ``None``.
    :param received_at: When the request was received, as an aware datetime in UTC.
    """

    hook: str
    body: bytes = field(repr=False)
    media_type: str = JSON
    kid: str | None = None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def verify(request: Request, hook: Hook, state: WebhookState) -> VerifiedRequest:
    """Check a request, and return the signed body with what is needed to handle it.

    :param request: Flask's request object itself, not the proxy.
    :param hook: The webhook that was called: :data:`TRACKING` or :data:`INBOUND`.
    :param state: The keys, secrets and limits of the app.
    :raises RequestRefused: if a check fails. Its ``status`` depends on the webhook.
    """
    environ = request.environ
    if environ["REQUEST_METHOD"] != "POST":
        raise RequestRefused(405, "POST only", request.method, level=logging.INFO)
    limit = state.max_bytes(hook.name)
    setting = f"{state.prefix}{hook.max_bytes}"
    length = _length(environ, hook, limit, setting)
    authorized = _authorize(
        request, state.secrets, hook, f"{state.prefix}WEBHOOK_SECRET"
    )
    signature = _signature(environ, hook, state, authorized=authorized)
    media_type = environ.get("CONTENT_TYPE", "")
    if media_type not in hook.media_types:  # fast path: Postal sends no parameters
        media_type = request.mimetype
    if media_type not in hook.media_types:
        raise RequestRefused(
            hook.malformed,
            "wrong media type",
            f"media type {media_type!a}, not one of {', '.join(hook.media_types)}",
            level=logging.ERROR,
        )
    keys = state.find_keys(signature.kid)
    if not keys:
        raise RequestRefused(
            503,
            "no key for this signature",
            f"no key with the key ID {signature.kid!a} is known; set"
            f" {state.prefix}WEBHOOK_KEY to what `postal default-dkim-record` prints",
            level=logging.ERROR,
        )
    body = _read(request, hook, length, limit, setting)
    try:
        signature.check(body, keys)
    except SignatureError as error:
        raise _forged(hook, error) from None
    return VerifiedRequest(hook.name, body, media_type, signature.kid)


def _signature(
    environ: dict[str, Any], hook: Hook, state: WebhookState, *, authorized: bool
) -> Signature:
    """Read the signature headers.

    Without any, a request isn't from Postal and gets a 403. But if an inbound request
    has the right password, a proxy has probably removed the headers from genuine mail:
    then the response is 503, so that Postal keeps the mail.

    :param authorized: Whether the request has passed basic auth.
    """
    headers = {name: environ[key] for name, key in _SIGNATURE_HEADERS if key in environ}
    if SHA256_HEADER not in headers and SHA1_HEADER not in headers:
        if authorized and hook is INBOUND:
            raise RequestRefused(
                503,
                "no signature",
                "the password is right but the signature headers are missing: does a"
                " proxy strip them?",
                level=logging.ERROR,
            )
        raise RequestRefused(
            403, "no signature", "no signature header", level=logging.WARNING
        )
    # A server that publishes its keys is Postal 3.2 or later, which signs with SHA-256.
    try:
        return Signature.read(
            headers, require_sha256=state.require_sha256 or state.discovers_keys
        )
    except SignatureError as error:
        raise _forged(hook, error) from None


def _forged(hook: Hook, error: SignatureError) -> RequestRefused:
    return RequestRefused(
        hook.wrong_signature, "wrong signature", str(error), level=logging.WARNING
    )


def _length(
    environ: dict[str, Any], hook: Hook, limit: int, setting: str
) -> int | None:
    """Return the checked Content-Length in bytes.

    :returns: ``None`` for a chunked request, whose end the WSGI server finds.
    """
    text = environ.get("CONTENT_LENGTH") or ""
    if not text and environ.get("wsgi.input_terminated"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise RequestRefused(
            hook.malformed,
            "no length",
            "Content-Length is missing or not a number",
            level=logging.WARNING,
        )
    # int() takes quadratic time for long numbers, and refuses over 4300 digits.
    if len(text) > 15 or int(text) > limit:
        raise _too_large(hook, setting, text[:20], limit)
    return int(text)


def _too_large(hook: Hook, setting: str, size: str, limit: int) -> RequestRefused:
    return RequestRefused(
        hook.too_large,
        "too large",
        f"the body has {size} bytes but at most {limit} are allowed; raise {setting} if"
        " the request is genuine",
        level=logging.ERROR,
    )


def _authorize(req: Request, pairs: Sequence[str], hook: Hook, setting: str) -> bool:
    """Check basic auth against the configured ``user:password`` pairs.

    Each is compared as it is and percent-decoded: Postal sends the user and password of
    its URL without decoding them (``p%40ss`` for ``p@ss``), and the setting may be
    written either way. All pairs are compared, each in constant time, so that timing
    reveals nothing.

    :returns: Whether a password was checked; ``False`` if none is configured.
    :raises RequestRefused: if a password is configured and the request has none of
        them.
    """
    if not pairs:
        return False
    scheme, _, text = req.headers.get("Authorization", "").partition(" ")
    given = ""
    if scheme.lower() == "basic":
        authorization = req.authorization
        if authorization is not None and authorization.username is not None:
            given = f"{authorization.username}:{authorization.password}"
    right = False
    for pair in pairs:
        for expected in (pair, unquote(pair)):
            for candidate in (given, unquote(given)):
                right |= hmac.compare_digest(expected.encode(), candidate.encode())
    if not (given and text and right):
        raise RequestRefused(
            hook.unauthorized,
            "wrong password",
            "basic auth is missing or wrong: does the URL in Postal carry the"
            f" user:password of {setting}?",
            level=logging.WARNING,
        )
    return True


def _read(
    req: Request, hook: Hook, length: int | None, limit: int, setting: str
) -> bytes:
    """Return the raw body, limited by the app's setting for this webhook.

    ``request.form`` must not be touched before: parsing a form consumes the raw body
    that the signature is for, and Flask's MAX_FORM_MEMORY_SIZE (500 kB by default)
    would answer a large form with 413.
    """
    # If a before_request function has read the body, only Werkzeug still has it.
    touched = not req.__dict__.keys().isdisjoint(_READ_BEFORE)
    try:
        if length is not None and not touched:
            body = _read_input(req.environ["wsgi.input"], length)
        else:
            req.max_content_length = limit + 1
            body = req.get_data(cache=True, parse_form_data=False)
    except (HTTPException, OSError) as error:
        raise RequestRefused(
            hook.malformed,
            "incomplete body",
            f"the body could not be read: {type(error).__name__}",
            level=logging.WARNING,
        ) from None
    if len(body) > limit:
        raise _too_large(hook, setting, f"over {limit}", limit)
    if length is not None and len(body) != length:
        why = f"{len(body)} of {length} bytes were received"
        if "form" in req.__dict__ or "files" in req.__dict__:
            why = (
                "the app's own code has read request.form before the webhook, and the"
                " raw body is gone: call request.get_data(cache=True) before that"
            )
        raise RequestRefused(
            hook.malformed, "incomplete body", why, level=logging.ERROR
        )
    return body


def _read_input(stream: Any, length: int) -> bytes:
    """Read the given number of bytes, or less if the input ends before.

    One ``read`` may return less than it is asked for; the loop is for such servers.
    """
    body: bytes = stream.read(length)
    while len(body) < length and (piece := stream.read(length - len(body))):
        body += piece
    return body
