"""The DNS of a sandbox: records that are made up, and mail that is signed for them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from typing import Any

__all__ = ["SandboxDNS"]


class SandboxDNS:
    """Records of domains that need not exist; ``sandbox.dns``.

    It is used in place of the system's name servers within :func:`.testing.sandboxed`
    and the fixture ``postal_sandbox``, and can be passed as ``resolver`` to
    :meth:`.InboundMessage.authenticate`.
    """

    def __init__(self) -> None:
        self._records: defaultdict[tuple[str, str], list[str]] = defaultdict(list)
        self._keys: dict[tuple[str, str, int], bytes] = {}
        #: Names, or ends of names, that no name server answers for at the moment.
        self.unreachable: set[str] = set()

    def publish(self, name: str, value: str, record: str = "TXT") -> None:
        """Add a record.

        :param name: Such as ``"_dmarc.example.com"``.
        :param value: Such as ``"v=DMARC1; p=reject"``, or ``"10 mx.example.com"`` for
            ``MX``.
        :param record: ``TXT``, ``A``, ``AAAA``, ``MX`` or ``PTR``.
        """
        self._records[name.lower().rstrip("."), record].append(value)

    def remove(self, name: str, record: str = "TXT") -> None:
        """Remove all records of a name and a kind."""
        self._records.pop((name.lower().rstrip("."), record), None)

    def __call__(self, name: str, record: str, timeout: float) -> Sequence[str]:
        """Return the records of a name, as a resolver does.

        :raises TimeoutError: if it is among :attr:`unreachable`.
        """
        name = name.lower().rstrip(".")
        if any(name == end or name.endswith(f".{end}") for end in self.unreachable):
            raise TimeoutError(f"no answer about {name}")
        return list(self._records.get((name, record), ()))

    def sign(
        self,
        raw: bytes,
        domain: str,
        *,
        selector: str = "sandbox",
        bits: int = 2048,
        **options: Any,
    ) -> bytes:
        """Sign a mail as a domain, and publish its key (DKIM).

        It needs ``Flask-Postal[authentication]``.

        :param raw: A mail, such as :func:`.compose_mail` builds.
        :param selector: The name of the key.
        :param bits: The size of the key.
        :param options: Further parameters of ``dkim.sign``, such as
            ``include_headers``.
        :returns: The mail with a DKIM-Signature on top.
        """
        import dkim

        signature: bytes = dkim.sign(
            raw,
            selector.encode(),
            domain.encode(),
            self._key(domain, selector, bits),
            **options,
        )
        return signature + raw

    def _key(self, domain: str, selector: str, bits: int) -> bytes:
        known = (domain, selector, bits)
        if known not in self._keys:
            self._keys[known], public = _generate(bits)
            name = f"{selector}._domainkey.{domain}"
            self.remove(name)
            self.publish(name, f"v=DKIM1; k=rsa; p={public}")
        return self._keys[known]


def _generate(bits: int) -> tuple[bytes, str]:
    """Generate a key: the private one as PEM, and the public one as DKIM has it."""
    import base64

    from cryptography.hazmat.primitives import serialization
    from cryptography.hazmat.primitives.asymmetric import rsa

    key = rsa.generate_private_key(public_exponent=65537, key_size=bits)
    private = key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.TraditionalOpenSSL,
        serialization.NoEncryption(),
    )
    public = key.public_key().public_bytes(
        serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo
    )
    return private, base64.b64encode(public).decode()
