"""Read DMARC policies (RFC 7489), and compare the owners of domains."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache
from typing import Any

from .resolver import Lookups

__all__ = ["Policy", "aligned", "organization", "read_policy"]

_VERSION = re.compile(r"v\s*=\s*DMARC1\s*(?:;|$)")
_POLICIES = ("none", "quarantine", "reject")


@dataclass(frozen=True, slots=True)
class Policy:
    """The policy of a domain.

    :param policy: ``none``, ``quarantine`` or ``reject``.
    :param strict_dkim: Whether a signature must name the very same domain.
    :param strict_spf: The same for the envelope.
    """

    policy: str
    strict_dkim: bool = False
    strict_spf: bool = False


def read_policy(domain: str, lookups: Lookups) -> Policy | None:
    """Return the policy of a domain, or of the one that it belongs to.

    :param domain: The domain of the author, in A-label form.
    :returns: ``None`` if nobody has published one.
    :raises OSError: if it can't be looked up now.
    """
    tags = _record(domain, lookups)
    if tags is not None:
        return _policy(tags, "p")
    parent = organization(domain)
    if parent is None or parent == domain:
        return None
    tags = _record(parent, lookups)
    return None if tags is None else _policy(tags, "sp" if "sp" in tags else "p")


def _record(domain: str, lookups: Lookups) -> dict[str, str] | None:
    records = [r for r in lookups(f"_dmarc.{domain}", "TXT") if _VERSION.match(r)]
    if len(records) != 1:  # several are none (RFC 7489, 6.6.3)
        return None
    tags: dict[str, str] = {}
    for part in records[0].split(";"):
        name, equals, value = part.partition("=")
        if equals:
            tags.setdefault(name.strip().lower(), value.strip().lower())
    return tags


def _policy(tags: dict[str, str], name: str) -> Policy | None:
    policy = tags.get(name)
    if policy not in _POLICIES:
        # One that can be read all the same asks for reports (RFC 7489, 6.6.3).
        policy = "none" if "rua" in tags else None
    if policy is None:
        return None
    return Policy(policy, tags.get("adkim") == "s", tags.get("aspf") == "s")


def aligned(one: str, other: str, *, strict: bool = False) -> bool:
    """Tell whether two domains have the same owner.

    :param strict: Whether they must be the same.
    """
    if one == other or strict:
        return one == other
    owner = organization(one)
    return owner is not None and owner == organization(other)


def organization(domain: str) -> str | None:
    """Return the domain that somebody has registered; ``None`` for a public suffix."""
    found: str | None = _suffixes().privatesuffix(domain)
    return found


@cache
def _suffixes() -> Any:
    from publicsuffixlist import PublicSuffixList

    return PublicSuffixList()
