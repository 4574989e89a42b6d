"""Tables of the documentation that are made from the tables in the code.

``python docs/tables.py`` prints them.
"""

from __future__ import annotations

from collections.abc import Iterable

from flask_postal.sandbox.faults import ABOUT, API_FAULTS, Fault
from flask_postal.sandbox.scenarios import SCENARIOS
from flask_postal.vocabulary import MESSAGE_EVENTS, SERVER_EVENTS

__all__ = ["TABLES"]


def table(heads: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Write a Markdown table."""
    lines = [heads, tuple("---" for _ in heads), *rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


TABLES = {
    "message_events": table(
        ("`event_type`", "Postal's event", "meaning", "further attributes"),
        [
            *(
                (f"`{e.event_type}`", str(e.name), e.meaning, e.attributes)
                for e in MESSAGE_EVENTS
            ),
            ("`unknown`", "anything newer", "see the dict itself", "`esp_event`"),
        ],
    ),
    "server_events": table(
        ("Postal's event", "meaning", "further attributes"),
        [(str(e.name), e.meaning, e.attributes) for e in SERVER_EVENTS],
    ),
    "scenarios": table(
        ("recipient", "what happens"),
        [
            ("anybody else", "delivered after a second"),
            *((f"`{name}@`", scenario.about) for name, scenario in SCENARIOS.items()),
        ],
    ),
    "api_faults": table(
        ("fault", "what happens to API calls"),
        [(f"`{f}`", ABOUT[f]) for f in Fault if f in API_FAULTS],
    ),
    "webhook_faults": table(
        ("fault", "what happens to webhooks"),
        [(f"`{f}`", ABOUT[f]) for f in Fault if f not in API_FAULTS],
    ),
    "event_words": ", ".join(event.word for event in MESSAGE_EVENTS),
}

if __name__ == "__main__":
    for name, text in TABLES.items():
        print(f"{name}\n\n{text}\n")  # noqa: T201
