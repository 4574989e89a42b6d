"""Why receivers have failed, as it is kept with an event."""

from __future__ import annotations

import traceback
from collections.abc import Iterable, Sequence
from typing import Any

from ..outcome import redact
from .columns import clean, now

__all__ = ["failure_of", "line_of", "with_failures"]

#: Failures of one event that are kept: the last ones.
MOST = 5
#: Characters of a traceback: its end, which tells the error.
LONGEST = 4000


def failure_of(
    receiver: str, error: BaseException, secrets: Iterable[str]
) -> dict[str, str]:
    """Describe a failure as it is stored, without passwords.

    :param receiver: The name of the receiver.
    :param secrets: Keys and passwords of the app, which an error may quote.
    """
    text = "".join(traceback.format_exception(error))
    return {
        "at": f"{now().isoformat()}Z",
        "receiver": receiver,
        "traceback": clean(_hide(text, secrets)[-LONGEST:], LONGEST),
    }


def line_of(error: BaseException, secrets: Iterable[str]) -> str:
    """Describe an error in a line."""
    # Not str(error): a bad __str__ of the app's own may raise.
    text = "".join(traceback.format_exception_only(error)).partition("\n")[0]
    return clean(_hide(text, secrets), 500)


def with_failures(
    before: Sequence[dict[str, Any]] | None, new: Sequence[dict[str, Any]]
) -> list[dict[str, Any]]:
    """Add failures to those of earlier attempts."""
    return [*(before or ()), *new][-MOST:]


def _hide(text: str, secrets: Iterable[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, "***")
    return redact(text)
