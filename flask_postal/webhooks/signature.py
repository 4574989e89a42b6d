"""Postal's signature over a request's raw body: verify it, and make it.

RSA PKCS#1 v1.5, over SHA-256 in ``X-Postal-Signature-256`` and over SHA-1 in
``X-Postal-Signature``; Postal before 3.2 sends only the latter.
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
    """What headers are to :func:`verify`: anything with Werkzeug's ``get``."""

    def get(self, key: str, /) -> str | None:
        """Return the value of a header, or ``None``; upper and lower case are one."""


SHA256_HEADER = "X-Postal-Signature-256"
SHA1_HEADER = "X-Postal-Signature"
KID_HEADER = "X-Postal-Signature-KID"

_SHA256 = hashes.SHA256()
_SHA1 = hashes.SHA1()  # noqa: S303 - what old Postals sign with
_PADDING = PKCS1v15()


@dataclass(slots=True)
class Signature:
    """A well-formed signature, taken from a request's headers."""

    value: bytes
    algorithm: hashes.SHA256 | hashes.SHA1
    kid: str | None

    @classmethod
    def read(cls, headers: Headers, *, require_sha256: bool = False) -> Signature:
        """Check what can be checked without a body.

        :raises SignatureError: if there is no signature that may count.
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
            raise SignatureError("only a SHA-1 signature, and SHA-256 is required")
        return cls(_decode(sha1), _SHA1, kid)

    def check(self, body: bytes, keys: Iterable[PublicKey]) -> PublicKey:
        """Return the key that made it.

        :raises SignatureError: if none did.
        """
        for key in keys:
            if self.kid is not None and key.kid != self.kid:
                continue
            try:
                key.rsa.verify(self.value, body, _PADDING, self.algorithm)
            except InvalidSignature:
                continue
            return key
        raise SignatureError("the signature does not fit the body")


def verify(
    body: bytes,
    headers: Headers,
    keys: Iterable[PublicKey],
    *,
    require_sha256: bool = False,
) -> PublicKey:
    """Check that one of our Postal's keys has signed these bytes.

    The SHA-256 signature decides if it is there; the SHA-1 one can't rescue it, and
    counts only where there is no KID header, as Postal before 3.2 sends it.

    :param body: The body as it came, before anything decoded it.
    :param headers: The request's headers. The look-up must ignore case, as Werkzeug's
        does.
    :param keys: The keys to trust. One whose id the KID header names is the only one
        tried.
    :param require_sha256: Refuse a request with nothing but a SHA-1 signature.
    :returns: The key that fits.
    :raises SignatureError: if none does.
    """
    return Signature.read(headers, require_sha256=require_sha256).check(body, keys)


def sign(body: bytes, key: RSAPrivateKey) -> dict[str, str]:
    """Make the three headers that Postal sends with a body.

    For tests and the sandbox; an app has no use for it.
    """
    return {
        KID_HEADER: PublicKey.of(key.public_key()).kid,
        SHA1_HEADER: _encode(key.sign(body, _PADDING, _SHA1)),
        SHA256_HEADER: _encode(key.sign(body, _PADDING, _SHA256)),
    }


def _decode(text: str) -> bytes:
    """Decode strict base64: Python's own skips foreign characters."""
    if 0 < len(text) <= 2048:
        try:
            value = binascii.a2b_base64(text, strict_mode=True)
        except ValueError:
            value = b""
        # One spelling for one signature: no more padding, no bits left over.
        if _encode(value) == text:
            return value
    raise SignatureError("the signature is not base64")


def _encode(signature: bytes) -> str:
    return base64.b64encode(signature).decode("ascii")
