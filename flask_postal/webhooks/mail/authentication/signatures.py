"""Verify the DKIM signatures of a mail (RFC 6376), with dkimpy.

dkimpy verifies the signature itself. This module also checks that the signature covers
what people see, which a valid signature need not do.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

from .policy import aligned
from .resolver import Lookups
from .signed_mail import can_be_verified, canonical_body

__all__ = ["Signature", "check_signatures"]

#: Signatures that are checked; a mail has two or three.
MAX_SIGNATURES = 5
#: Bits of an RSA key that are trusted (RFC 8301).
LEAST_BITS = 1024
#: Seconds for which a clock may be wrong.
SLOP = 300
#: Headers of which readers show one. A second one must be signed too, or somebody may
#: have added it to a mail that was signed for another purpose.
_SINGLE = (
    *(b"from", b"subject", b"date", b"to", b"cc", b"sender", b"reply-to"),
    *(b"message-id", b"in-reply-to", b"references", b"mime-version"),
    *(b"content-type", b"content-transfer-encoding", b"content-disposition"),
)
#: What a signature must cover if it is there: nobody signs mail without it, and an
#: answer goes where Reply-To says.
_SHOWN = (b"from", b"subject", b"reply-to")
#: What a record must have to be a key; a domain may have others at the same name.
_KEY = re.compile(r"(?:^|;)\s*p\s*=")
# It would log what a stranger has written.
_quiet = logging.Logger("flask_postal.dkim", logging.CRITICAL + 1)


@dataclass(frozen=True, slots=True)
class Signature:
    """A DKIM signature by a domain with the same owner as the author's.

    :param domain: The domain that has signed.
    :param selector: The name of its key.
    :param result: ``pass``, ``fail``, or ``unknown`` if its key can't be looked up now.
    :param reason: Why it is not ``pass``.
    """

    domain: str
    selector: str
    result: str
    reason: str | None = None


class _WorthlessError(Exception):
    """The signature proves nothing, even if it is valid."""


def check_signatures(
    raw: bytes, author: str, lookups: Lookups, received_at: float
) -> list[Signature]:
    """Check the signatures that could answer for an author.

    :param raw: The mail, without what was added when it was received.
    :param author: The domain of the author, in A-label form.
    :param received_at: When the mail was received, in seconds since 1970.
    """
    import dkim
    from dkim.util import InvalidTagValueList, parse_tag_value

    if not can_be_verified(raw):
        return []
    mail = dkim.DKIM(raw, logger=_quiet, minkey=LEAST_BITS)
    headers = [(name, value) for name, value in mail.headers if _is_signature(name)]
    found: list[Signature] = []
    for header in headers:
        try:
            tags = parse_tag_value(header[1])
            domain = tags[b"d"].decode("ascii").lower().rstrip(".")
            selector = tags[b"s"].decode("ascii")
        except (InvalidTagValueList, KeyError, UnicodeDecodeError):
            continue
        if len(found) == MAX_SIGNATURES or not aligned(domain, author):
            continue
        check = _Check(mail, header, tags, received_at)
        found.append(Signature(domain, selector, *check.run(lookups)))
    return found


def _is_signature(name: bytes) -> bool:
    return name.lower() == b"dkim-signature"


class _Check:
    """The check of one signature.

    :param header: Its name and value, as dkimpy has them.
    :param tags: Its fields.
    """

    def __init__(
        self,
        mail: Any,
        header: tuple[bytes, bytes],
        tags: dict[bytes, bytes],
        received_at: float,
    ) -> None:
        self._mail = mail
        self._header = header
        self._tags = tags
        self._received_at = received_at
        self._signed = [h.strip().lower() for h in tags.get(b"h", b"").split(b":")]

    def run(self, lookups: Lookups) -> tuple[str, str | None]:
        """Return the result, and why it is no ``pass``."""
        missed: list[OSError] = []

        def find(name: bytes, timeout: float = 0) -> bytes | None:
            try:
                records = lookups(name.decode("ascii"), "TXT")
            except OSError as error:
                missed.append(error)
                return None
            keys = [r for r in records if _KEY.search(r)]
            return keys[0].encode("latin-1") if keys else None

        try:
            self._check_worth()
            passed = self._verify(find)
        except _WorthlessError as error:
            return "fail", str(error)
        except Exception as error:  # noqa: BLE001
            # A stranger has written the signature and the key, and dkimpy raises all
            # kinds of errors for them.
            if not missed:
                return "fail", f"{type(error).__name__}: {error}"[:200]
            passed = False
        if missed:
            return "unknown", f"its key can't be looked up: {missed[0]}"
        return ("pass", None) if passed else ("fail", "it is not that of its domain")

    def _verify(self, find: Callable[..., bytes | None]) -> bool:
        """Verify the signature as ``DKIM.verify`` does.

        But whether it has expired does not depend on when it is read.
        """
        import dkim

        mail, tags = self._mail, self._tags
        dkim.validate_signature_fields({k: tags[k] for k in tags if k != b"x"})
        mail.signature_fields = tags
        mail.domain, mail.selector = tags[b"d"], tags[b"s"]
        mail.include_headers = tuple(self._signed)
        body, mail.body = mail.body, self._body
        try:
            passed: bool = mail.verify_sig(
                tags, list(self._signed), list(self._header), find
            )
        finally:
            mail.body = body
        return passed

    @cached_property
    def _body(self) -> bytes:
        relaxed = self._tags.get(b"c", b"").partition(b"/")[2] == b"relaxed"
        return canonical_body(self._mail.body, relaxed=relaxed)

    def _check_worth(self) -> None:
        """Check that the signature covers what people see.

        :raises _WorthlessError: if it doesn't.
        """
        signed = Counter(self._signed)
        there = Counter(name.lower() for name, _ in self._mail.headers)
        for name in _SHOWN:
            if there[name] and not signed[name]:
                raise _WorthlessError(f"it does not cover {name.decode()}")
        for name in _SINGLE:
            if there[name] > 1 and there[name] > signed[name]:
                raise _WorthlessError(f"it does not cover each {name.decode()}")
        if self._tags.get(b"a", b"").lower().endswith(b"sha1"):
            raise _WorthlessError("it uses SHA-1 (RFC 8301)")
        length = self._tags.get(b"l")
        if length is not None and not (
            length.isdigit() and int(length[:20]) >= len(self._body)
        ):
            raise _WorthlessError("it covers the beginning of the text only")
        expires = self._tags.get(b"x", b"")
        if expires and not (
            expires.isdigit() and int(expires[:20]) >= self._received_at - SLOP
        ):
            raise _WorthlessError("it had expired")
