"""RSA key pair with which a Postal installation signs its webhooks."""

from __future__ import annotations

import base64
import math
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import rsa

from ..errors import ConfigurationError
from ..webhooks.keys import PublicKey
from ..webhooks.signature import sign

__all__ = ["SigningKey"]


@dataclass(frozen=True, slots=True)
class SigningKey:
    """RSA key of a Postal installation; all its mail servers sign with the same one.

    :param private: The private key.
    """

    private: rsa.RSAPrivateKey

    @classmethod
    def generate(cls, bits: int = 2048) -> SigningKey:
        """Generate a new key.

        :param bits: Its size. Postal's installer makes keys of 1024 bits.
        """
        return cls(rsa.generate_private_key(public_exponent=65537, key_size=bits))

    @classmethod
    def load(cls, path: Path, bits: int = 2048) -> SigningKey:
        """Read the key in a PEM file; create the file, readable by its owner only, if
        there is none.

        :param bits: The size of a new key.
        :raises ConfigurationError: if the file doesn't contain an RSA key.
        """
        if not path.exists():
            key = cls.generate(bits)
            key.save(path)
            return key
        path.chmod(0o600)
        try:
            private = serialization.load_pem_private_key(path.read_bytes(), None)
        except (ValueError, TypeError, UnsupportedAlgorithm):
            private = None
        if not isinstance(private, rsa.RSAPrivateKey):
            raise ConfigurationError(
                f"{path} contains no RSA key; delete it, and the sandbox makes a new"
                " one"
            )
        return cls(private)

    def save(self, path: Path) -> None:
        """Write the key to a PEM file with mode 0600."""
        pem = self.private.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
        path.unlink(missing_ok=True)
        file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with open(file, "wb") as opened:
            opened.write(pem)

    def record(self) -> str:
        """Return the public key as ``postal default-dkim-record`` prints it."""
        der = self.private.public_key().public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
        )
        return f"v=DKIM1; t=s; h=sha256; p={base64.b64encode(der).decode()};"

    @property
    def public(self) -> PublicKey:
        """The public key, with its key id."""
        return PublicKey.of(self.private.public_key())

    def headers(self, body: bytes) -> dict[str, str]:
        """Return the three signature headers for a request body."""
        return sign(body, self.private)

    def jwks(self) -> dict[str, Any]:
        """Return the content of ``/.well-known/jwks.json``."""
        public = self.public
        numbers = public.rsa.public_numbers()
        return {
            "keys": [
                {
                    "kty": "RSA",
                    "n": _base64url(numbers.n),
                    "e": _base64url(numbers.e),
                    "use": "sig",
                    "alg": "RS256",
                    "kid": public.kid,
                }
            ]
        }


def _base64url(number: int) -> str:
    data = number.to_bytes(math.ceil(number.bit_length() / 8), "big")
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
