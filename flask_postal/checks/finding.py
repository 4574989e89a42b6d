"""One finding of ``flask postal check``."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["Finding"]


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked at.

    :param level: ``"ok"``, ``"warning"`` or ``"error"``.
    :param text: What was found.
    :param cure: What to do about it; ``""`` where all is well.
    """

    level: str
    text: str
    cure: str = ""
