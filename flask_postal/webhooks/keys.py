"""Loads Postal's public keys from DKIM records, PEM, JWK and JWKS."""

from __future__ import annotations

import base64
import binascii
import hashlib
import json
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.rsa import (
    RSAPublicKey,
    RSAPublicNumbers,
)

from ..errors import ConfigurationError

__all__ = ["PublicKey", "load_keys"]

#: Accepted sizes. The minimum can't be higher, because Postal's official installer
#: makes keys of 1024 bits. The maximum limits the time of a verification.
MIN_BITS, MAX_BITS = 1024, 8192


@dataclass(frozen=True, slots=True)
class PublicKey:
    """A public key whose signatures are accepted.

    Postal has one RSA key for the whole installation, shared by all its mail servers.

    :param kid: The key ID, as in Postal's ``X-Postal-Signature-KID`` header: the
        SHA-256 of the key's PKCS#1 DER, in lower-case hex.
    :param rsa: The key itself.
    """

    kid: str
    rsa: RSAPublicKey = field(repr=False, compare=False)

    @property
    def bits(self) -> int:
        """The size of the key in bits."""
        return self.rsa.key_size

    @classmethod
    def of(cls, rsa: RSAPublicKey) -> PublicKey:
        """Wrap an RSA key, and compute its key ID."""
        pkcs1 = rsa.public_bytes(
            serialization.Encoding.DER, serialization.PublicFormat.PKCS1
        )
        return cls(hashlib.sha256(pkcs1).hexdigest(), rsa)


def load_keys(value: Any, setting: str = "POSTAL_WEBHOOK_KEY") -> tuple[PublicKey, ...]:
    """Load one or several public keys.

    :param value: The DKIM record that ``postal default-dkim-record`` prints, or only
        the base64 after its ``p=``; a PEM public key, with real line breaks or ``\\n``;
        a JWK or JWKS as text or dict; or a list of any of these.
    :param setting: The name of the setting, for error messages.
    :returns: The keys in order, without duplicates.
    :raises ConfigurationError: for anything else, such as a private key, a key that
        isn't RSA, or one outside of 1024 to 8192 bits.
    """
    try:
        keys = list(_load(value))
    except (ValueError, UnsupportedAlgorithm, RecursionError) as error:
        problem = str(error)
    else:
        return tuple({key.kid: key for key in keys}.values())
    raise ConfigurationError(
        f"{setting}: {problem}; run `postal default-dkim-record` on your Postal and"
        " paste what it prints",
        key=setting,
    )


def _load(value: Any) -> Iterable[PublicKey]:
    if isinstance(value, bytes):
        value = value.decode("ascii")
    if isinstance(value, str):
        yield from _load_text(value.strip())
    elif isinstance(value, Mapping):
        yield from _load_json(value)
    elif isinstance(value, (list, tuple, set, frozenset)) and value:
        for item in value:
            yield from _load(item)
    else:
        raise ValueError("it contains no key")


def _load_text(text: str) -> Iterable[PublicKey]:
    if not text:
        raise ValueError("it is empty")
    if "PRIVATE KEY" in text:
        raise ValueError(
            "this is a private key; it must not leave Postal, and only the public key"
            " is needed here"
        )
    if text.startswith("{"):
        try:
            content = json.loads(text)
        except ValueError:
            raise ValueError("it begins like JSON but is not valid JSON") from None
        yield from _load_json(content)
    elif "-----BEGIN" in text:
        pems = text.replace("\\r", "").replace("\\n", "\n")
        for pem in re.split(r"(?<=-----)\s+(?=-----BEGIN)", pems):
            yield _checked(_public_key(serialization.load_pem_public_key, pem.encode()))
    else:
        if record := re.search(r"(?:^|[;\s\"])p\s*=\s*([^;]*)", text):
            text = record[1]
        # DNS tools print a long record as several quoted strings.
        yield _load_der(re.sub(r'[\s"]+', "", text))


def _load_der(text: str) -> PublicKey:
    try:
        der = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ValueError("it is not base64, PEM or a JWK") from None
    return _checked(_public_key(serialization.load_der_public_key, der))


def _public_key(load: Callable[[bytes], object], data: bytes) -> object:
    try:
        return load(data)
    except (ValueError, UnsupportedAlgorithm):
        # cryptography's own messages are several lines long, and don't help here.
        raise ValueError("it is not a public key, or not a complete one") from None


def _load_json(content: Any) -> Iterable[PublicKey]:
    if not isinstance(content, Mapping):
        raise ValueError("it is not a JWK, which is a JSON object")
    if "keys" not in content:
        yield _load_jwk(content)
        return
    keys = content["keys"]
    if not isinstance(keys, list) or not keys:
        raise ValueError("the JWKS contains no keys")
    for key in keys:
        yield _load_jwk(key)


def _load_jwk(jwk: Any) -> PublicKey:
    if not isinstance(jwk, Mapping) or jwk.get("kty") != "RSA":
        raise ValueError("the JWK is not an RSA key")
    if "d" in jwk:
        raise ValueError("the JWK contains a private key; use the public one")
    if jwk.get("use", "sig") != "sig" or jwk.get("alg", "RS256") != "RS256":
        raise ValueError("the JWK is not for RS256 signatures")
    modulus, exponent = (_big_number(jwk.get(name)) for name in ("n", "e"))
    key = _checked(RSAPublicNumbers(exponent, modulus).public_key())
    if jwk.get("kid") not in (None, key.kid):
        raise ValueError("the JWK's kid is not the SHA-256 of its key")
    return key


def _big_number(value: Any) -> int:
    if not isinstance(value, str) or not re.fullmatch(r"[A-Za-z0-9_-]{1,2048}", value):
        raise ValueError("the JWK's n and e must be base64url")
    padded = value + "=" * (-len(value) % 4)
    try:
        return int.from_bytes(base64.urlsafe_b64decode(padded), "big")
    except binascii.Error:
        raise ValueError("the JWK's n and e must be base64url") from None


def _checked(key: object) -> PublicKey:
    if not isinstance(key, RSAPublicKey):
        raise ValueError("Postal signs with RSA keys, but this is another kind of key")
    if not MIN_BITS <= key.key_size <= MAX_BITS:
        raise ValueError(
            f"an RSA key of {key.key_size} bits; {MIN_BITS} to {MAX_BITS} are accepted"
        )
    return PublicKey.of(key)
