"""The planted secret: an API key that must not appear in any log, output or error."""

from __future__ import annotations

import pickle
import traceback
from pathlib import Path

TESTS = str(Path(__file__).parent)
SECRET = "planted-Secret-5f3e9c"


def everything_about(error: BaseException) -> str:
    """Return all text that a log, debugger or error tracker could show of an error."""
    seen = []
    todo: list[BaseException | None] = [error]
    while todo:
        current = todo.pop()
        if current is None or current in seen:
            continue
        seen.append(current)
        todo += [current.__cause__, current.__context__]
    texts = []
    for current in seen:
        texts += [str(current), repr(current), repr(vars(current)), repr(current.args)]
        for frame in traceback.StackSummary.extract(
            traceback.walk_tb(current.__traceback__), capture_locals=True
        ):
            if not frame.filename.startswith(TESTS):  # the tests know the secret
                texts.append(repr(frame.locals))
    texts.append(repr(pickle.dumps(error)))
    return "\n".join(texts)
