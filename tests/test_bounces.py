"""Whether to try an address again: replies, bounce mails, and the events about both."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest
from flask import Flask

from flask_postal import (
    BounceReason,
    BounceType,
    Message,
    Postal,
    tracking_received,
)
from flask_postal.bounce_rules import STATUSES, STRONG, WEAK
from flask_postal.bounce_types import classify_reply
from flask_postal.outcome import read_outcome
from flask_postal.testing import sandboxed
from flask_postal.webhooks.mail.bounce_report import read_bounce

from .bounces import FOLDER, evaluate

REPLIES = json.loads((FOLDER / "replies.json").read_text())


def outcome(reply: str, details: str = "Permanent SMTP delivery error") -> Any:
    return read_outcome("HardFail", details, reply)


@pytest.mark.parametrize("example", REPLIES, ids=lambda e: e["reply"][:60])
def test_replies_are_classified(example: dict[str, str]) -> None:
    found = outcome(example["reply"])
    assert found["bounce_type"] == example["type"], found["bounce_rule"]


@pytest.mark.parametrize(
    ("reply", "reason", "rule"),
    [
        ("550 5.1.1 x", "mailbox", "status 5.1.1"),
        ("550 User unknown", "mailbox", "mailbox-unknown"),
        ("550 5.1.8 Sender address rejected: Domain not found", "sender", "sender"),
        ("552 5.2.2 over quota", "full", "full"),
        ("550 blocked using Spamhaus", "reputation", "reputation"),
        ("550 5.7.26 unauthenticated", "authentication", "status 5.7.26"),
        ("552 5.3.4 Message size exceeds limit", "size", "size"),
        ("550 5.4.4 Name service error for name=x", "host", "host-unknown"),
        ("551 5.1.6 x", "moved", "status 5.1.6"),
        ("554 5.7.1 x", "policy", "status 5.7.1"),
        ("554 no", None, None),
    ],
)
def test_the_reason_and_the_rule_are_told(
    reply: str, reason: str | None, rule: str | None
) -> None:
    found = outcome(reply)
    assert (found["bounce_reason"], found["bounce_rule"]) == (reason, rule)


def test_a_code_of_4xx_is_never_permanent() -> None:
    for reply in ("450 User unknown", "550 4.1.1 User unknown", "451 no such domain"):
        found = outcome(reply)
        assert found["bounce_type"] == "temporary"


def test_what_postal_gave_up_is_temporary() -> None:
    found = outcome("", "Maximum number of delivery attempts (18) has been reached.")
    assert (found["bounce_type"], found["reject_reason"]) == ("temporary", "timed_out")


def test_only_failures_and_bounces_have_a_type() -> None:
    for status in ("Sent", "SoftFail", "Held", None):
        assert read_outcome(status, "", "450 4.2.0 x")["bounce_type"] is None
    assert read_outcome("Bounced", "", "")["bounce_type"] == "unknown"


@pytest.mark.parametrize(
    ("reply", "reason"),
    [
        ("550 5.7.1 user unknown", "invalid"),
        ("550 User unknown", "invalid"),
        ("550 5.1.8 Sender address rejected: Domain not found", "blocked"),
        ("550 5.4.1 Recipient address rejected: Access denied", "invalid"),
        ("550 5.1.1 over quota", "bounced"),
    ],
)
def test_the_reject_reason_follows(reply: str, reason: str) -> None:
    assert outcome(reply)["reject_reason"] == reason


def test_what_strangers_choose_decides_nothing() -> None:
    for name in ("spam", "quota", "sender-rejected", "user.unknown"):
        reply = f"550 5.1.1 <{name}@example.com>: https://example.com/spam/blacklist"
        assert outcome(reply)["bounce_rule"] == "status 5.1.1"


def test_rules_have_names_of_their_own_and_say_where_they_come_from() -> None:
    rules = [*STRONG, *WEAK]
    assert len({rule.name for rule in rules}) == len(rules)
    assert all(rule.source for rule in rules)
    used = {status.reason for status in STATUSES.values()} | {r.reason for r in rules}
    assert used <= set(BounceReason)
    # It tells why, and not whether it will be enabled again.
    open_ones = [rule.name for rule in rules if rule.type is BounceType.UNKNOWN]
    assert open_ones == ["mailbox-disabled"]


@pytest.mark.parametrize(
    "text",
    ["user " * 20_000, "mailbox is " * 9_000, "a@" * 50_000, "550-" * 25_000],
    ids=["words", "pairs", "addresses", "codes"],
)
def test_hostile_replies_take_bounded_time(text: str) -> None:
    began = time.process_time()
    for _ in range(10):
        classify_reply(550, None, text)
    assert time.process_time() - began < 1


# ---- bounce mails


def test_the_labelled_bounce_mails() -> None:
    """``python -m tests.bounces`` prints the table."""
    score = evaluate(FOLDER)
    assert score.total >= 60
    assert score.mistakes == []
    assert score.wrong_permanent == 0
    assert score.unknown <= 0.35 * score.total


def test_a_report_tells_about_each_recipient() -> None:
    raw = b"\r\n".join(
        [
            b"From: MAILER-DAEMON@x.example",
            b"MIME-Version: 1.0",
            b"Content-Type: multipart/report; report-type=delivery-status; boundary=b",
            b"",
            b"--b",
            b"Content-Type: message/delivery-status",
            b"",
            b"Reporting-MTA: dns; x.example",
            b"",
            b"Final-Recipient: rfc822; <ana@example.com>",
            b"Action: failed",
            b"Status: 5.0.0 (permanent)",
            b"Diagnostic-Code: smtp; 550 5.1.1 User",
            b" unknown",
            b"",
            b"Original-Recipient: rfc822;bo@example.com",
            b"Action: Delayed",
            b"Status: 4.4.1",
            b"",
            b"Final-Recipient: rfc822; c@example.com",
            b"Action: delivered",
            b"Status: 2.0.0",
            b"--b--",
        ]
    )
    report = read_bounce(raw)
    ana, bo, c = report.recipients
    assert (ana.address, ana.action, ana.status) == (
        "ana@example.com",
        "failed",
        "5.0.0",
    )
    assert ana.diagnostic == "550 5.1.1 User unknown"
    assert (ana.bounce_type, ana.bounce_reason) == ("permanent", "mailbox")
    assert (bo.address, bo.bounce_type) == ("bo@example.com", "temporary")
    assert (c.bounce_type, c.bounce_rule) == ("unknown", "delivered")
    assert report.bounce_type == "unknown"  # they differ
    assert report.message.is_bounce


@pytest.mark.parametrize(
    "raw", [b"", b"\xff" * 5000, b"Content-Type: multipart/report"]
)
def test_what_is_no_bounce_mail_is_unknown(raw: bytes) -> None:
    (recipient,) = read_bounce(raw).recipients
    assert (recipient.address, recipient.bounce_type) == (None, "unknown")


def test_the_bounce_mail_of_an_event_is_fetched_and_read() -> None:
    app = Flask("bounces")
    app.config["TESTING"] = True
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    seen: list[Any] = []

    def on_tracking(app: Flask, event: Any, **extra: Any) -> None:
        seen.append(event)

    with (
        app.app_context(),
        sandboxed(app) as sandbox,
        tracking_received.connected_to(on_tracking, sender=app),
    ):
        for name in ("bounced+ana", "failed+bo"):
            postal.send(
                Message("x", f"{name}@example.com", "x", sender="a@example.com")
            )
        sandbox.advance(minutes=10)
        bounced = next(event for event in seen if event.event_type == "bounced")
        report = postal.bounce_report(bounced)
        others = [event for event in seen if event.event_type != "bounced"]
        assert others
        assert [postal.bounce_report(event) for event in others] == [None] * len(others)
    assert bounced.bounce_type == "unknown"
    assert report is not None
    assert report.recipients[0].bounce_type == "permanent"
    assert report.message.is_bounce
