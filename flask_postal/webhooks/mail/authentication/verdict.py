"""Combine DKIM, SPF and DMARC into a verdict about the author of a mail."""

from __future__ import annotations

import logging
import time
from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum

from ....address import Address, parse_address
from ....errors import MessageError
from ..headers import HeaderBlock, end_of_headers, read_date
from .client import Client, SPFResult, check_client, envelope_domain, read_client
from .policy import Policy, aligned, read_policy
from .resolver import Lookups, Resolver, resolver_in_use
from .signatures import Signature, check_signatures

__all__ = [
    "UNKNOWN",
    "UNREADABLE",
    "Authentication",
    "AuthenticationVerdict",
    "authenticate",
]

_log = logging.getLogger("flask_postal.webhooks")

#: Seconds that all look-ups for a mail may take together.
TIMEOUT = 2.0
_EXTRA = "install Flask-Postal[authentication]"


class AuthenticationVerdict(StrEnum):
    """Whether a mail comes from the domain in its From header."""

    PASS = "pass"  # noqa: S105 #: The domain answers for it.
    FAIL = "fail"  #: The domain says that such a mail is not from it.
    NONE = "none"  #: Nobody answers for it, and nobody says that it is forged.
    UNKNOWN = "unknown"  #: It can't be told, or can't be told now.


@dataclass(frozen=True, slots=True)
class Authentication:
    """Who answers for a mail.

    :param verdict: Whether it comes from the domain in its From header.
    :param domain: The domain that answers for it, by a signature (DKIM) or for the
        client (SPF); ``None`` unless the verdict is ``pass``. It has the same owner as
        the domain in From.
    :param reason: Why the verdict is what it is, for logs.
    :param policy: What the domain in From wants to be done with other mail (DMARC):
        ``none``, ``quarantine`` or ``reject``; ``None`` if it doesn't say.
    :param dkim: The signatures by domains of the same owner.
    :param spf: What the domain of the envelope says about the client, if it has the
        same owner; ``None`` if it doesn't, or if Postal doesn't tell the client.
    """

    verdict: AuthenticationVerdict
    domain: str | None = None
    reason: str = ""
    policy: str | None = None
    dkim: Sequence[Signature] = ()
    spf: SPFResult | None = None

    def __bool__(self) -> bool:
        """Return whether the verdict is ``pass``."""
        return self.verdict is AuthenticationVerdict.PASS


UNKNOWN = Authentication(
    AuthenticationVerdict.UNKNOWN, reason="Postal has sent fields, and not the mail"
)
UNREADABLE = Authentication(
    AuthenticationVerdict.UNKNOWN, reason="the mail can't be read; see its defects"
)


def authenticate(
    raw: bytes,
    head: HeaderBlock,
    author: Address | None,
    authors: Sequence[Address],
    sender: str | None,
    *,
    resolver: Resolver | None = None,
    timeout: float = TIMEOUT,
) -> Authentication:
    """Find out who answers for a mail.

    :param raw: The mail as Postal has received it.
    :param head: Its headers.
    :param author: Whom readers are shown as the author.
    :param authors: The addresses in From.
    :param sender: The envelope sender; ``None`` for the null sender.
    :param resolver: Asks DNS.
    :param timeout: Seconds that all look-ups may take together.
    """
    try:
        _check_extra()
        resolver = resolver or resolver_in_use()
    except ImportError:
        _log.error("mail can't be authenticated: %s", _EXTRA)
        return Authentication(AuthenticationVerdict.UNKNOWN, reason=_EXTRA)
    lines = [value for name, value in head.items if name.lower() == "from"]
    shown = set() if author is None else {author.addr_spec}
    if len(lines) > 1 or {a.addr_spec for a in authors} != shown:
        return Authentication(
            AuthenticationVerdict.FAIL, reason="it names more than one author"
        )
    domain = None if author is None else _ascii(author.domain)
    if domain is None:
        return Authentication(
            AuthenticationVerdict.NONE, reason="its From header has no domain"
        )
    return _Mail(raw, head, domain, sender, Lookups(resolver, timeout)).judged()


def _check_extra() -> None:
    """Import what the extra brings."""
    import dkim  # noqa: F401
    import publicsuffixlist  # noqa: F401
    import spf  # noqa: F401


def _ascii(domain: str) -> str | None:
    """Return a domain in A-label form, as a message would be sent to it."""
    try:
        address, _ = parse_address(f"x@{domain.strip().rstrip('.')}", "from")
    except MessageError:
        return None
    found = address.domain.lower()
    return found if "." in found else None


class _Mail:
    """A mail with one author."""

    def __init__(
        self,
        raw: bytes,
        head: HeaderBlock,
        author: str,
        sender: str | None,
        lookups: Lookups,
    ) -> None:
        self._author = author
        self._sender = sender
        self._lookups = lookups
        self._raw, self._client = _as_sent(raw, head)
        self._missed: list[str] = []
        self._knows_policy = True

    def judged(self) -> Authentication:
        policy = self._policy()
        signatures = check_signatures(
            self._raw, self._author, self._lookups, self._received_at()
        )
        strict = policy is not None and policy.strict_dkim
        for signature in signatures:
            if not aligned(signature.domain, self._author, strict=strict):
                continue
            if signature.result == "pass" and self._is_sure(signature.domain):
                return self._made(
                    AuthenticationVerdict.PASS,
                    f"{signature.domain} has signed it",
                    policy,
                    signatures,
                    None,
                    signature.domain,
                )
            if signature.result == "unknown":
                self._missed.append(str(signature.reason))
        spf = self._spf(strict=policy is not None and policy.strict_spf)
        if spf is not None and spf.result == "pass" and self._is_sure(spf.domain):
            return self._made(
                AuthenticationVerdict.PASS,
                f"{spf.domain} says that {spf.address} may send for it",
                policy,
                signatures,
                spf,
                spf.domain,
            )
        if spf is not None and spf.result == "temperror":
            self._missed.append(f"the records of {spf.domain} can't be looked up")
        if self._missed:
            verdict, reason = AuthenticationVerdict.UNKNOWN, self._missed[0]
        elif policy is not None and policy.policy != "none":
            verdict = AuthenticationVerdict.FAIL
            reason = f"{self._author} wants such mail to be refused (DMARC)"
        else:
            verdict, reason = AuthenticationVerdict.NONE, "nobody answers for it"
        return self._made(verdict, reason, policy, signatures, spf)

    def _policy(self) -> Policy | None:
        try:
            return read_policy(self._author, self._lookups)
        except OSError as error:
            self._missed.append(f"its policy can't be looked up: {error}")
            self._knows_policy = False
            return None

    def _is_sure(self, domain: str) -> bool:
        """Tell whether a domain answers for the author whatever the policy may say."""
        return self._knows_policy or domain == self._author

    def _received_at(self) -> float:
        try:
            at = read_date(self._client.date if self._client else None)
        except (ValueError, TypeError, IndexError, OverflowError):
            at = None
        return time.time() if at is None else at.timestamp()

    def _spf(self, *, strict: bool) -> SPFResult | None:
        if self._client is None:
            return None
        domain = envelope_domain(self._sender, self._client)
        if not domain or not aligned(domain, self._author, strict=strict):
            return None  # it could not answer for the author
        return check_client(self._client, self._sender, self._lookups)

    @staticmethod
    def _made(
        verdict: AuthenticationVerdict,
        reason: str,
        policy: Policy | None,
        signatures: Sequence[Signature],
        spf: SPFResult | None,
        domain: str | None = None,
    ) -> Authentication:
        return Authentication(
            verdict,
            domain,
            reason,
            None if policy is None else policy.policy,
            tuple(signatures),
            spf,
        )


def _as_sent(raw: bytes, head: HeaderBlock) -> tuple[bytes, Client | None]:
    """Return a mail without the headers that Postal has added, and its client.

    Postal adds its verdict about spam, and one line, Received, above those of the mail.
    If the mail begins with a space, that belongs to no header of Postal's.
    """
    for above, (name, _) in enumerate(head.items):
        if name.lower() == "received":
            start = end_of_headers(raw, above)
            end = raw.find(b"\n", start) + 1 or len(raw)
            line = raw[start:end].rstrip(b"\r\n").decode("latin-1")
            return raw[end:], read_client(line)
        if not name.lower().startswith("x-postal-"):
            break
    return raw, None
