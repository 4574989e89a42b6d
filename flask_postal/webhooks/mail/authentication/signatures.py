"""Checks the DKIM signatures of a mail (RFC 6376), with dkimpy.

dkimpy tells whether a signature is that of its domain. A signature that leaves out what
a reader sees proves nothing about it, so that more is checked here.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from dataclasses import dataclass
from typing import Any

from .policy import aligned
from .resolver import Lookups

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
    """A signature is valid or not, and proves nothing."""


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

    try:
        mail = dkim.DKIM(raw, logger=_quiet, minkey=LEAST_BITS)
    except dkim.DKIMException:
        return []  # its headers are not those of a mail
    headers = [value for name, value in mail.headers if _is_signature(name)]
    found: list[Signature] = []
    for index, value in enumerate(headers):
        try:
            tags = parse_tag_value(value)
            domain = tags[b"d"].decode("ascii").lower().rstrip(".")
            selector = tags[b"s"].decode("ascii")
        except (InvalidTagValueList, KeyError, UnicodeDecodeError):
            continue
        if len(found) == MAX_SIGNATURES or not aligned(domain, author):
            continue
        result, reason = _check(mail, index, tags, lookups, received_at)
        found.append(Signature(domain, selector, result, reason))
    return found


def _is_signature(name: bytes) -> bool:
    return name.lower() == b"dkim-signature"


def _check(
    mail: Any,
    index: int,
    tags: dict[bytes, bytes],
    lookups: Lookups,
    received_at: float,
) -> tuple[str, str | None]:
    """Return the result of one signature, and why it is no ``pass``."""
    missed: list[OSError] = []

    def find(name: bytes, timeout: float = 0) -> bytes | None:
        try:
            records = lookups(name.decode("ascii"), "TXT")
        except OSError as error:
            missed.append(error)
            return None
        return records[0].encode("latin-1") if records else None

    try:
        _check_worth(mail, tags, received_at)
        passed = mail.verify(index, dnsfunc=find)
    except _WorthlessError as error:
        return "fail", str(error)
    except Exception as error:  # noqa: BLE001
        # A stranger has written the signature and the key, and dkimpy raises all kinds
        # of errors for them.
        if not missed:
            return "fail", f"{type(error).__name__}: {error}"[:200]
        passed = False
    if missed:
        return "unknown", f"its key can't be looked up: {missed[0]}"
    return ("pass", None) if passed else ("fail", "it is not that of its domain")


def _check_worth(mail: Any, tags: dict[bytes, bytes], received_at: float) -> None:
    """Check that a signature covers what people see.

    :raises _WorthlessError: if it doesn't.
    """
    signed = Counter(re.split(rb"\s*:\s*", tags.get(b"h", b"").strip().lower()))
    there = Counter(name.lower() for name, _ in mail.headers)
    if not signed[b"from"]:
        raise _WorthlessError("it does not cover From")
    for name in _SINGLE:
        if there[name] > 1 and there[name] > signed[name]:
            raise _WorthlessError(f"it does not cover each {name.decode()}")
    if tags.get(b"a", b"").lower().endswith(b"sha1"):
        raise _WorthlessError("it uses SHA-1 (RFC 8301)")
    if b"l" in tags and _is_cut(mail, tags):
        raise _WorthlessError("it covers the beginning of the text only")
    expires = tags.get(b"x", b"").strip()
    if expires.isdigit() and int(expires[:20]) < received_at - SLOP:
        raise _WorthlessError("it had expired")


def _is_cut(mail: Any, tags: dict[bytes, bytes]) -> bool:
    from dkim.canonicalization import CanonicalizationPolicy

    form = CanonicalizationPolicy.from_c_value(tags.get(b"c", b"simple/simple"))
    length = tags[b"l"].strip()
    whole = len(form.canonicalize_body(mail.body))
    return not length.isdigit() or int(length[:20]) < whole
