"""Verifies and makes Postal's signatures of request bodies.

A signature is RSA PKCS#1 v1.5 over the raw body only: not over the URL, the headers or
a timestamp. Postal sends it over SHA-256 in ``X-Postal-Signature-256`` and over SHA-1
in ``X-Postal-Signature``; Postal before 3.2 sends only the latter.
"""

from __future__ import annotations

import base64
import binascii
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Protocol

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.padding import PKCS1v15
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey

from ..errors import SignatureError
from .keys import PublicKey

__all__ = [
    "KID_HEADER",
    "SHA1_HEADER",
    "SHA256_HEADER",
    "Signature",
    "sign",
    "verify",
]


class Headers(Protocol):
    """Any mapping of headers, such as Werkzeug's ``request.headers``."""

    def get(self, key: str, /) -> str | None:
        """Return the value of a header, ignoring case, or ``None``."""


SHA256_HEADER = "X-Postal-Signature-256"
SHA1_HEADER = "X-Postal-Signature"
KID_HEADER = "X-Postal-Signature-KID"

_SHA256 = hashes.SHA256()
_SHA1 = hashes.SHA1()  # noqa: S303 - Postal before 3.2 has nothing else
_PADDING = PKCS1v15()


@dataclass(slots=True)
class Signature:
    """A well-formed signature from a request's headers, not yet verified.

    :param value: The signature, decoded from base64.
    :param algorithm: The hash that it was made with.
    :param kid: The key ID that the request names, or ``None``.
    """

    value: bytes
    algorithm: hashes.SHA256 | hashes.SHA1
    kid: str | None

    @classmethod
    def read(cls, headers: Headers, *, require_sha256: bool = False) -> Signature:
        """Read the signature headers, and check them as far as possible without a body.

        A SHA-256 signature alone decides if there is one: if it is invalid, a valid
        SHA-1 signature doesn't help. A request with a KID header needs it, because a
        Postal that sends one of these headers sends both. What is left is a request
        with nothing but a SHA-1 signature, as Postal before 3.2 sends it.

        :param headers: The request's headers.
        :param require_sha256: Refuse a request that has only a SHA-1 signature.
        :raises SignatureError: if there is no signature, or none that is accepted.
        """
        sha256, kid = headers.get(SHA256_HEADER), headers.get(KID_HEADER)
        if sha256 is not None:
            return cls(_decode(sha256), _SHA256, kid)
        sha1 = headers.get(SHA1_HEADER)
        if sha1 is None:
            raise SignatureError("no signature header")
        if kid is not None:
            raise SignatureError(
                "only a SHA-1 signature; a Postal that names its key signs with SHA-256"
            )
        if require_sha256:
            raise SignatureError("only a SHA-1 signature, but SHA-256 is required")
        return cls(_decode(sha1), _SHA1, kid)

    def check(self, body: bytes, keys: Iterable[PublicKey]) -> PublicKey:
        """Verify the signature, and return the key that made it.

        :param body: The raw body, as it was received.
        :param keys: The keys to try. If the request names a key, no other is tried.
        :raises SignatureError: if none of the keys has signed the body.
        """
        for key in keys:
            if self.kid is not None and key.kid != self.kid:
                continue
            try:
                key.rsa.verify(self.value, body, _PADDING, self.algorithm)
            except InvalidSignature:
                continue
            return key
        raise SignatureError("the signature does not match the body")


def verify(
    body: bytes,
    headers: Headers,
    keys: Iterable[PublicKey],
    *,
    require_sha256: bool = False,
) -> PublicKey:
    """Check that one of the given keys has signed a request.

    A SHA-1 signature is accepted only if there are neither a SHA-256 signature nor a
    KID header, as in requests from Postal before 3.2.

    :param body: The raw body. JSON that was parsed and serialised again doesn't match,
        because Postal escapes some characters.
    :param headers: The request's headers. The lookup must ignore case, as Werkzeug's
        does.
    :param keys: The keys to trust. If the KID header names one, no other is tried.
    :param require_sha256: Refuse a request that has only a SHA-1 signature.
    :returns: The key that has signed the request.
    :raises SignatureError: if none of them has.
    """
    return Signature.read(headers, require_sha256=require_sha256).check(body, keys)


def sign(body: bytes, key: RSAPrivateKey) -> dict[str, str]:
    """Return the three signature headers that Postal sends with a body.

    For tests and the sandbox: only Postal has the private key.

    :param body: The raw body.
    :param key: The private key to sign with.
    """
    return {
        KID_HEADER: PublicKey.of(key.public_key()).kid,
        SHA1_HEADER: _encode(key.sign(body, _PADDING, _SHA1)),
        SHA256_HEADER: _encode(key.sign(body, _PADDING, _SHA256)),
    }


def _decode(text: str) -> bytes:
    """Decode base64 strictly.

    Python's default mode skips characters that aren't base64, so that one signature
    would have many spellings.

    :raises SignatureError: if it isn't base64, or is too long for a signature.
    """
    if 0 < len(text) <= 2048:
        try:
            value = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            value = b""
        # Accept only the canonical spelling: even strict mode allows unused bits in
        # the last character to be set.
        if _encode(value) == text:
            return value
    raise SignatureError("the signature is not base64")


def _encode(signature: bytes) -> str:
    return base64.b64encode(signature).decode("ascii")
