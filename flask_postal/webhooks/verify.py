"""Verifies a webhook request, before anything in it is parsed.

The checks run in a fixed order, cheap and safe ones first: method, length, basic auth,
signature headers, media type, key, body, signature. The first that fails decides the
status. What a status means to Postal: a tracking event is sent again unless the app
answers 2xx, six times at most; an inbound mail is sent again only after a 5xx, is
dropped after a 429, and is returned to its author after anything else. So whatever may
be a mistake on our side is 503 for inbound mail, until somebody has read the log.
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

#: Header -> its key in the WSGI environment.
_SIGNATURE_HEADERS = tuple(
    (name, f"HTTP_{name.upper().replace('-', '_')}")
    for name in (SHA256_HEADER, SHA1_HEADER, KID_HEADER)
)
#: Attributes that a Werkzeug request has once its body has been read.
_READ_BEFORE = frozenset({"stream", "_cached_data", "data", "form", "files"})


@dataclass(frozen=True, slots=True)
class Hook:
    """The differences between the two webhooks.

    The statuses are those of the table in the documentation, "Webhooks and security".

    :param max_bytes: The name of the setting that limits a body.
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
    """A request that our Postal signed: plain data, to handle now or later.

    It can be pickled or stored, and handled in another process.

    :param hook: ``"tracking"`` or ``"inbound"``.
    :param body: The raw body.
    :param media_type: Its media type, without parameters.
    :param kid: The key id (KID) that the request named; ``None`` if it named none.
    :param received_at: When it was received, aware, in UTC.
    """

    hook: str
    body: bytes = field(repr=False)
    media_type: str = JSON
    kid: str | None = None
    received_at: datetime = field(default_factory=lambda: datetime.now(UTC))


def verify(request: Request, hook: Hook, state: WebhookState) -> VerifiedRequest:
    """Check a request, and return what was signed.

    :param request: Flask's request object itself, not the proxy.
    :param state: The keys, secrets and limits to check with.
    :raises RequestRefused: if a check fails.
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
    if media_type not in hook.media_types:  # without parameters, as Postal writes it
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
            f"no key to check {signature.kid!a} with; set {state.prefix}WEBHOOK_KEY to"
            " what `postal default-dkim-record` prints",
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

    :param authorized: Whether the request carried our secret.
    """
    headers = {name: environ[key] for name, key in _SIGNATURE_HEADERS if key in environ}
    if SHA256_HEADER not in headers and SHA1_HEADER not in headers:
        if authorized and hook is INBOUND:
            raise RequestRefused(
                503,
                "no signature",
                "the password is right and the signature headers are missing: does a"
                " proxy strip them?",
                level=logging.ERROR,
            )
        raise RequestRefused(
            403, "no signature", "no signature header", level=logging.WARNING
        )
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
    """Check Content-Length; ``None`` if the server marks the end in another way."""
    text = environ.get("CONTENT_LENGTH") or ""
    if not text and environ.get("wsgi.input_terminated"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise RequestRefused(
            hook.malformed,
            "no length",
            "Content-Length is no number",
            level=logging.WARNING,
        )
    if len(text) > 15 or int(text) > limit:
        raise _too_large(hook, setting, text[:20], limit)
    return int(text)


def _too_large(hook: Hook, setting: str, size: str, limit: int) -> RequestRefused:
    return RequestRefused(
        hook.too_large,
        "too large",
        f"the body has {size} bytes, and {limit} are allowed; raise {setting} if it is"
        " genuine",
        level=logging.ERROR,
    )


def _authorize(req: Request, pairs: Sequence[str], hook: Hook, setting: str) -> bool:
    """Check basic auth against every pair, raw and percent-decoded.

    Postal sends what stands in the URL without decoding it.
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
    """Read the raw body, by our own limit and before anything parses it."""
    # What the app's own code has read before us is in Werkzeug's hands.
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
            "the body is short",
            f"the body could not be read: {type(error).__name__}",
            level=logging.WARNING,
        ) from None
    if len(body) > limit:
        raise _too_large(hook, setting, f"over {limit}", limit)
    if length is not None and len(body) != length:
        why = f"{len(body)} of {length} bytes came"
        if "form" in req.__dict__ or "files" in req.__dict__:
            why = (
                "the app's own code has read request.form before us, and the raw body"
                " is gone: call request.get_data(cache=True) before it"
            )
        raise RequestRefused(
            hook.malformed, "the body is short", why, level=logging.ERROR
        )
    return body


def _read_input(stream: Any, length: int) -> bytes:
    """Read so many bytes, or to the end of the input."""
    body: bytes = stream.read(length)
    while len(body) < length and (piece := stream.read(length - len(body))):
        body += piece
    return body
