"""Links to unsubscribe from a list, and the requests that they make.

The token in a link contains the list and the recipient. It is encrypted, so that web
server logs contain no addresses, and authenticated, so that nobody can make one for
another address. The key is derived from the app's ``SECRET_KEY``.
"""

from __future__ import annotations

import base64
import hmac
import json
import uuid
from datetime import UTC, datetime
from typing import Any
from urllib.parse import urlsplit

from flask import Flask, has_request_context, url_for
from werkzeug.routing import BuildError

from ..errors import ConfigurationError, PayloadError
from ..secret_keys import secret_keys
from ..settings import Settings, is_loopback
from ..values import as_str, read_json_object, utc_time
from .endpoints import find_endpoint
from .events import UnsubscribeEvent
from .verify import VerifiedRequest

__all__ = [
    "parse_unsubscribed",
    "read_token",
    "unsubscribe_url",
    "unsubscribed_request",
]

#: Characters of a token; longer ones are none of ours.
MAX_TOKEN = 4000


def unsubscribe_url(
    app: Flask, postal_key: str, settings: Settings, recipient: str, mailing_list: str
) -> str:
    """Return the link by which a recipient leaves a list.

    :param postal_key: The extension key, which is the name of the blueprint too.
    :raises ConfigurationError: if the app's URL or ``SECRET_KEY`` is not known, the
        blueprint is not registered, or the URL is not https (RFC 8058).
    """
    key = f"{settings.prefix}EXTERNAL_URL"
    cure = f"set {key} to the URL of the app, such as https://shop.example.com"
    endpoint = find_endpoint(app, postal_key, "unsubscribe")
    if endpoint is None:
        raise ConfigurationError(
            "unsubscribe= needs the page to unsubscribe; call"
            " app.register_blueprint(postal.blueprint)"
        )
    values = {"token": _token(app, postal_key, recipient, mailing_list)}
    try:
        if settings.external_url is not None:
            # On a subdomain it is a whole URL.
            built = urlsplit(app.url_map.bind("localhost").build(endpoint, values))
            url = settings.external_url + built.path
        elif has_request_context():
            url = url_for(endpoint, **values, _external=True)
        else:
            raise ConfigurationError(
                "there is no request that tells the URL of the app, which unsubscribe="
                f" needs; {cure}",
                key=key,
            )
    except BuildError:
        raise ConfigurationError(
            "the URL of the page to unsubscribe can't be built; register the blueprint"
            " with a url_prefix= without variables"
        ) from None
    if urlsplit(url).scheme != "https" and not is_loopback(url):
        raise ConfigurationError(
            f"the link to unsubscribe would be {url.rpartition('/')[0]!a}, and one"
            f" click works with https only; {cure}",
            key=key,
        )
    return url


def _token(app: Flask, postal_key: str, recipient: str, mailing_list: str) -> str:
    content = json.dumps([mailing_list, recipient], ensure_ascii=False).encode()
    token: bytes = _ciphers(app, postal_key)[0].encrypt(content)
    return token.decode().rstrip("=")


def read_token(app: Flask, postal_key: str, token: str) -> tuple[str, str] | None:
    """Return the recipient and the list of a link; ``None`` if it is none of ours."""
    from cryptography.fernet import InvalidToken

    if len(token) > MAX_TOKEN or not token.isascii():
        return None
    padded = token + "=" * (-len(token) % 4)
    for cipher in _ciphers(app, postal_key):
        try:
            content = json.loads(cipher.decrypt(padded))
        except InvalidToken:
            continue
        mailing_list, recipient = content
        return recipient, mailing_list
    return None


def _ciphers(app: Flask, postal_key: str) -> list[Any]:
    """Return what encrypts tokens, and what decrypts those of earlier secrets."""
    from cryptography.fernet import Fernet

    purpose = f"flask-postal unsubscribe {postal_key}".encode()
    secrets = secret_keys(app.config, "the links of unsubscribe= are encrypted with it")
    derived = [hmac.digest(secret, purpose, "sha256") for secret in secrets]
    return [Fernet(base64.urlsafe_b64encode(key)) for key in derived]


def unsubscribed_request(recipient: str, mailing_list: str) -> VerifiedRequest:
    """Return what is handled, and stored, when somebody has left a list."""
    content = {
        "id": str(uuid.uuid4()),
        "recipient": recipient,
        "list": mailing_list,
        "timestamp": datetime.now(UTC).timestamp(),
    }
    return VerifiedRequest("unsubscribe", json.dumps(content).encode())


def parse_unsubscribed(body: bytes) -> UnsubscribeEvent:
    """Parse what :func:`unsubscribed_request` has written.

    :raises PayloadError: if it is something else.
    """
    content = read_json_object(body)
    recipient, mailing_list = as_str(content.get("recipient")), content.get("list")
    if recipient is None or not isinstance(mailing_list, str):
        raise PayloadError("the body is no wish to unsubscribe")
    return UnsubscribeEvent(
        recipient=recipient,
        list=mailing_list,
        timestamp=utc_time(content.get("timestamp")),
        dedupe_key=f"link:{as_str(content.get('id'))}",
    )
