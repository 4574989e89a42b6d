"""Writes docs/performance.md from the JSON output of the benchmarks.

python docs/make_performance.py out.json > docs/performance.md
"""

from __future__ import annotations

import json
import statistics
import sys
from typing import Any

TITLES = {
    "S1": "one small mail per call, HTTP",
    "S2": "the same over HTTPS",
    "S3-1M": "a mail with an attachment of 1 MB",
    "S3-10M": "a mail with an attachment of 10 MB",
    "S3-10M-file": "the same, the attachment a file",
    "S4-loop": "personalised mails one after another, 20 ms latency",
    "S4-loop-tls": "the same over HTTPS",
    "S4-t8": "1,000 personalised mails, 8 threads, 20 ms latency",
    "S4-t8-5": "the same, a server of 5 threads",
    "S4-t16": "the same, 16 threads",
    "S4-t16-tls": "the same over HTTPS",
    "S4-cpu": "the same, 16 threads, no latency",
    "W1": "a tracking webhook, RSA-2048",
    "W1-1024": "the same, RSA-1024",
    "W2": "an inbound mail of 20 kB, read whole",
    "W2-headers": "the same, three headers read",
    "W2-none": "the same, only the envelope read",
    "W3": "an inbound mail with 10 MB, read whole",
    "W3-headers": "the same, three headers read",
    "W3-none": "the same, only the envelope read",
    "W4": "a forged tracking webhook",
    "W4-inbound": "a forged inbound request",
    "W5": "a tracking webhook through gunicorn, 2 workers",
    "I": "start of a minimal app",
}
LIMITS = (
    "limit-streamed",
    "limit-build+http.client",
    "limit-http.client",
    "limit-flask-lazy",
    "limit-flask-verified",
    "limit-flask-inbound",
    "bare-flask",
)
HEAD = """| workload | | faster than Anymail | slower than the limit | memory |
| --- | --- | --- | --- | --- |"""


def seconds(data: dict[str, Any]) -> list[float]:
    """The time of each round."""
    if "per_s" in data:
        return [1 / rate for rate in data["per_s"]]
    return list(data.get("wall_s") or [])


def ratio(slow: list[float], fast: list[float]) -> str:
    """How many times, round by round; the median."""
    pairs = [a / b for a, b in zip(slow, fast, strict=False)]
    return f"{statistics.median(pairs):.2f}" if pairs else ""


def main() -> None:
    """Print the page."""
    with open(sys.argv[1]) as file:
        results = json.load(file)
    lines = [HEAD]
    for key, title in TITLES.items():
        data = results["workloads"].get(key) or {}
        if "flask_postal" not in data:
            continue
        ours = seconds(data["flask_postal"])
        limit = next((name for name in LIMITS if name in data), None)
        memory = data["flask_postal"].get("peak_extra_mb")
        lines.append(
            f"| {key} | {title} | {ratio(seconds(data['anymail']), ours)}"
            f" | {ratio(ours, seconds(data[limit])) if limit else ''}"
            f" | {'' if memory is None else f'{memory:.1f}'} |"
        )
    when, python = str(results["when"])[:10], results["python"]
    lines += [
        "",
        f"Measured on {when} with Python {python}, by `python run.py S W I --json"
        " out.json`",
        "of the benchmarks and `python docs/make_performance.py out.json >"
        " docs/performance-table.md`.",
    ]
    sys.stdout.write("\n".join(lines) + "\n")


if __name__ == "__main__":
    main()
