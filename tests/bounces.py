"""How well bounce mails are classified: ``python -m tests.bounces [FOLDER]``.

The folder has mails, and a ``labels.json`` with the right answer for each:
``{"01.eml": "permanent", ...}``. Those that are labelled ``unknown``, because nobody
could tell, are counted only where they are called permanent.
"""

from __future__ import annotations

import json
import sys
from dataclasses import dataclass, field
from pathlib import Path

from flask_postal.webhooks.mail.bounce_report import read_bounce

FOLDER = Path(__file__).parent / "data" / "bounces"


@dataclass
class Score:
    """What became of labelled bounces."""

    total: int = 0
    unknown: int = 0
    right: int = 0
    permanent: int = 0
    wrong_permanent: int = 0
    mistakes: list[str] = field(default_factory=list)

    def add(self, name: str, label: str, answer: str, why: str) -> None:
        self.total += 1
        self.permanent += answer == "permanent"
        self.wrong_permanent += answer == "permanent" != label
        if answer == "unknown":
            self.unknown += 1
        elif answer == label:
            self.right += 1
        elif label != "unknown" or answer == "permanent":
            self.mistakes.append(f"{name}: {label}, not {answer} ({why})")

    @property
    def answered(self) -> int:
        return self.right + len(self.mistakes)

    def table(self) -> str:
        return "\n".join(
            [
                "| bounces | answered | of these right | called permanent"
                " | of these wrong | unknown |",
                "| --- | --- | --- | --- | --- | --- |",
                f"| {self.total} | {self.answered} |"
                f" {_percent(self.right, self.answered)} | {self.permanent} |"
                f" {_percent(self.wrong_permanent, self.permanent)} |"
                f" {_percent(self.unknown, self.total)} |",
            ]
        )


def _percent(part: int, whole: int) -> str:
    return f"{100 * part / whole:.1f} %" if whole else "-"


def evaluate(folder: Path) -> Score:
    """Classify the mails of a folder."""
    score = Score()
    labels = json.loads((folder / "labels.json").read_text())
    for name, label in labels.items():
        report = read_bounce((folder / name).read_bytes())
        why = "; ".join(str(r.bounce_rule) for r in report.recipients)
        score.add(name, label, str(report.bounce_type), why)
    return score


def main() -> None:
    found = evaluate(Path(sys.argv[1]) if len(sys.argv) > 1 else FOLDER)
    sys.stdout.write("".join(f"{line}\n" for line in [*found.mistakes, found.table()]))


if __name__ == "__main__":
    main()
