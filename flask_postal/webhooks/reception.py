"""One request to a webhook: its checks in their order, its event, its answer.

What a status means to Postal: a tracking event that is not answered with 2xx comes
again, six times at most; inbound mail comes again only after a 5xx, is dropped after a
429, and anything else sends it back to its author. So what may be our own fault is 503
there, until somebody has read the log.
"""

from __future__ import annotations

import hmac
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any
from urllib.parse import unquote

from flask import Flask, Request, Response, current_app, request
from werkzeug.exceptions import HTTPException

from ..errors import PayloadError, SignatureError
from .dispatch import Dispatched, dispatch
from .events import InboundEvent, ServerEvent, TrackingEvent
from .inbound import FORM, JSON, parse_inbound
from .responses import (
    SAVED_RESPONSES,
    SavedResponse,
    answer,
    log_and_answer,
    new_reference,
)
from .signature import KID_HEADER, SHA1_HEADER, SHA256_HEADER, Signature
from .tracking import parse_tracking

if TYPE_CHECKING:
    from ..extension import Postal

__all__ = ["INBOUND", "TRACKING", "Hook", "receive"]

_log = logging.getLogger("flask_postal.webhooks")

#: Header -> its key in the WSGI environment.
_SIGNATURE_HEADERS = tuple(
    (name, f"HTTP_{name.upper().replace('-', '_')}")
    for name in (SHA256_HEADER, SHA1_HEADER, KID_HEADER)
)
#: What a Werkzeug request has once its body has been asked for.
_READ_BEFORE = frozenset({"stream", "_cached_data", "data", "form", "files"})


@dataclass(frozen=True, slots=True)
class Hook:
    """What is different between the two webhooks.

    The statuses are those of the table in the docs, "Webhooks and security".

    :param max_bytes: The name of the setting that limits a body.
    """

    name: str
    media_types: tuple[str, ...]
    parse: Callable[[bytes, str], TrackingEvent | ServerEvent | InboundEvent]
    max_bytes: str
    wrong_signature: int
    unauthorized: int
    malformed: int
    too_large: int


TRACKING = Hook(
    "tracking",
    (JSON,),
    lambda body, media_type: parse_tracking(body),
    "TRACKING_MAX_BYTES",
    wrong_signature=403,
    unauthorized=401,
    malformed=400,
    too_large=413,
)
INBOUND = Hook(
    "inbound",
    (JSON, FORM),
    parse_inbound,
    "INBOUND_MAX_BYTES",
    wrong_signature=503,
    unauthorized=503,
    malformed=503,
    too_large=503,
)


class _RefusedError(Exception):
    """A check that failed."""

    def __init__(self, status: int, text: str, why: str, level: int) -> None:
        super().__init__(why)
        self.status = status
        self.text = text
        self.level = level


def receive(postal: Postal, hook: Hook) -> Response:
    """Check a request, hand its event to the receivers, and answer."""
    app: Flask = current_app._get_current_object()  # type: ignore[attr-defined]
    # The proxy costs a look-up each time.
    req: Request = request._get_current_object()  # type: ignore[attr-defined]
    try:
        body, media_type = _check(postal, app, req, hook)
        try:
            event = hook.parse(body, media_type)
        except PayloadError as error:
            status = 503 if error.misdirected else hook.malformed
            why = f"signed, and not understood: {error}"
            if error.misdirected:
                why = "this is the other webhook's request; swap the two URLs in Postal"
            raise _RefusedError(status, "not understood", why, logging.ERROR) from None
        response = _dispatch(postal, app, hook, event)
    except _RefusedError as refusal:
        response = log_and_answer(
            refusal.status, refusal.text, str(refusal), refusal.level
        )
        if refusal.status == 405:
            response.headers["Allow"] = "POST"
        elif refusal.status == 401:
            response.headers["WWW-Authenticate"] = 'Basic realm="Postal"'
    except Exception:  # noqa: BLE001
        # Whatever it is, Postal must come again, and no page of the app's own must
        # answer it.
        reference = new_reference()
        _log.exception("%s: unexpected error [%s]", request.endpoint, reference)
        response = answer(500, f"unexpected error [{reference}]")
    req.environ.setdefault(SAVED_RESPONSES, []).append(SavedResponse(response))
    return response


def _check(postal: Postal, app: Flask, req: Request, hook: Hook) -> tuple[bytes, str]:
    """Go through the checks; return the verified body and its media type."""
    inbox = postal.inbox(app)
    environ = req.environ
    if environ["REQUEST_METHOD"] != "POST":
        raise _RefusedError(405, "POST only", req.method, logging.INFO)
    limit = inbox.max_bytes(hook.name)
    setting = f"{inbox.prefix}{hook.max_bytes}"
    length = _length(environ, hook, limit, setting)
    secret = f"{inbox.prefix}WEBHOOK_SECRET"
    known = _authorize(req, inbox.secrets, hook, secret)
    headers = {name: environ[key] for name, key in _SIGNATURE_HEADERS if key in environ}
    if SHA256_HEADER not in headers and SHA1_HEADER not in headers:
        if known and hook is INBOUND:
            raise _RefusedError(
                503,
                "no signature",
                "the password is right and the signature headers are missing: does a"
                " proxy strip them?",
                logging.ERROR,
            )
        raise _RefusedError(403, "no signature", "no signature header", logging.WARNING)
    try:
        signature = Signature.read(
            headers, require_sha256=inbox.require_sha256 or inbox.discovers_keys
        )
    except SignatureError as error:
        raise _forged(hook, error) from None
    media_type = environ.get("CONTENT_TYPE", "")
    if media_type not in hook.media_types:  # without parameters, as Postal writes it
        media_type = req.mimetype
    if media_type not in hook.media_types:
        raise _RefusedError(
            hook.malformed,
            "wrong media type",
            f"media type {media_type!a}, not one of {', '.join(hook.media_types)}",
            logging.ERROR,
        )
    keys = inbox.find_keys(signature.kid)
    if not keys:
        raise _RefusedError(
            503,
            "no key for this signature",
            f"no key to check {signature.kid!a} with; set {inbox.prefix}WEBHOOK_KEY to"
            " what `postal default-dkim-record` prints",
            logging.ERROR,
        )
    body = _read(req, hook, length, limit, setting)
    try:
        signature.check(body, keys)
    except SignatureError as error:
        raise _forged(hook, error) from None
    return body, media_type


def _forged(hook: Hook, error: SignatureError) -> _RefusedError:
    return _RefusedError(
        hook.wrong_signature, "wrong signature", str(error), logging.WARNING
    )


def _length(
    environ: dict[str, Any], hook: Hook, limit: int, setting: str
) -> int | None:
    """Check Content-Length; ``None`` if the server marks the end in another way."""
    text = environ.get("CONTENT_LENGTH") or ""
    if not text and environ.get("wsgi.input_terminated"):
        return None
    if not (text.isascii() and text.isdigit()):
        raise _RefusedError(
            hook.malformed, "no length", "Content-Length is no number", logging.WARNING
        )
    if len(text) > 15 or int(text) > limit:
        raise _too_large(hook, setting, text[:20], limit)
    return int(text)


def _too_large(hook: Hook, setting: str, size: str, limit: int) -> _RefusedError:
    return _RefusedError(
        hook.too_large,
        "too large",
        f"the body has {size} bytes, and {limit} are allowed; raise {setting} if it is"
        " genuine",
        logging.ERROR,
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
        raise _RefusedError(
            hook.unauthorized,
            "wrong password",
            "basic auth is missing or wrong: does the URL in Postal carry the"
            f" user:password of {setting}?",
            logging.WARNING,
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
        raise _RefusedError(
            hook.malformed,
            "the body is short",
            f"the body could not be read: {type(error).__name__}",
            logging.WARNING,
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
        raise _RefusedError(hook.malformed, "the body is short", why, logging.ERROR)
    return body


def _read_input(stream: Any, length: int) -> bytes:
    """Read so many bytes, or to the end of the input."""
    body: bytes = stream.read(length)
    while len(body) < length and (piece := stream.read(length - len(body))):
        body += piece
    return body


def _dispatch(
    postal: Postal,
    app: Flask,
    hook: Hook,
    event: TrackingEvent | ServerEvent | InboundEvent,
) -> Response:
    inbox = postal.inbox(app)
    outcome = dispatch(postal, app, event, inbox.cache)
    if outcome is Dispatched.HANDLED:
        return answer(200, "ok")
    if outcome is Dispatched.UNHEARD:
        inbox.note_unheard(type(event).__name__)
        if hook is INBOUND:
            return answer(503, "no receiver for inbound mail")
        return answer(200, "ok, nobody listens")
    if outcome is Dispatched.BUSY:
        return answer(503, "being handled right now")
    if outcome is Dispatched.FAILED:
        return answer(500, "a receiver failed")
    return answer(outcome.value, "rejected")
