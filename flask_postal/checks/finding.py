"""Result of one check of ``flask postal check``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """Result of one check.

    :param level: ``"ok"``, ``"warning"`` or ``"error"``.
    :param text: What was found.
    :param cure: How to fix it; ``""`` if there is nothing to fix.
    """

    level: str
    text: str
    cure: str = ""
