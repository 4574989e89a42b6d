"""Dead addresses and those of complainers get no more mail; all others do."""

from __future__ import annotations

import base64
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from flask_postal import (
    ConfigurationError,
    MessageError,
    SuppressionReason,
    TransportError,
    inbound_received,
    message_sent,
    tracking_received,
    unsubscribed,
)
from flask_postal.ledger import Ledger, LedgerModels
from flask_postal.ledger.columns import now
from flask_postal.sandbox import Sandbox, SigningKey, complaint_about, compose_mail
from flask_postal.testing import WebhookClient, sandboxed

from ..mails import message
from ..test_seams import Recorder
from .world import World, enqueue, run, states

KEY = SigningKey.generate(1024)


class Shop(World):
    """An app with a ledger and webhooks, that can be connected to a sandbox."""

    def __init__(self, url: str, **config: Any) -> None:
        super().__init__(url, POSTAL_DEFAULT_SENDER="shop@example.com", **config)
        self.postal._transport = None
        self.app.register_blueprint(self.postal.blueprint)

    def suppress(self, address: str, *args: Any, **kwargs: Any) -> bool:
        added: bool = self.ledger.suppressions.add(address, *args, **kwargs)
        self.session.commit()
        return added

    def reasons(self, address: str | None = None) -> list[tuple[str, str]]:
        self.session.rollback()
        found = self.ledger.suppressions.find(address)
        return sorted((record.address, record.reason) for record in found)


def made(url: str, **config: Any) -> Iterator[Shop]:
    shop = Shop(url, **config)
    with shop.app.app_context():
        shop.db.create_all()
        yield shop
        shop.session.remove()
        shop.db.engine.dispose()


@pytest.fixture
def shop(database_url: str) -> Iterator[Shop]:
    yield from made(database_url)


@pytest.fixture
def sandbox(shop: Shop) -> Iterator[Sandbox]:
    with sandboxed(shop.app, key=KEY) as found:
        yield found


def delivered_to(sandbox: Sandbox) -> list[str]:
    return sorted(mail.recipient for mail in sandbox.messages)


# ---- what enters


@pytest.mark.parametrize("how", ["send", "enqueue"])
def test_a_permanent_failure_and_a_bounce_suppress_and_nothing_else_does(
    shop: Shop, sandbox: Sandbox, how: str
) -> None:
    names = ("failed", "bounced", "ana", "deferred", "held")
    for name in names:
        mail = message(recipients=f"{name}@example.com")
        shop.postal.send(mail) if how == "send" else enqueue(
            shop, recipients=mail.recipients
        )
    sandbox.advance(hours=48)
    expected = {"failed@example.com", "bounced@example.com"}
    if how == "send":  # the ledger does not know the mail, nor fetches bounces of it
        expected = {"failed@example.com"}
    for name in names:
        address = f"{name}@example.com"
        assert shop.postal.is_suppressed(address) == (address in expected)
    assert set(shop.reasons()) == {(address, "bounce") for address in expected}


def test_the_record_tells_the_event_and_what_the_server_said(
    shop: Shop, sandbox: Sandbox
) -> None:
    enqueue(shop, recipients="bounced@example.com")
    enqueue(shop, recipients="Failed@Example.com")
    sandbox.advance(hours=48)
    for address in ("bounced@example.com", "failed@example.com"):
        (record,) = shop.ledger.suppressions.find(address)
        event = shop.ledger.get_event(record.event_id)
        assert event.event_type == address.partition("@")[0]
        assert "550" in record.detail
        assert record.until is None
        assert record.since.tzinfo is UTC


def test_a_bounce_mail_that_cannot_be_fetched_is_fetched_later(
    shop: Shop, sandbox: Sandbox
) -> None:
    enqueue(shop, recipients="bounced@example.com")
    shop.ledger.drain()
    pipeline = shop.postal._of(shop.app).pipeline
    working = pipeline.transport
    pipeline.transport = Recorder(TransportError("no route", maybe_sent=False))
    sandbox.advance(hours=1)
    assert not shop.postal.is_suppressed("bounced@example.com")
    pipeline.transport = working
    table = shop.ledger.models.table("recipient")
    with shop.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(bounce_at=now()))
    shop.ledger.drain()
    assert shop.postal.is_suppressed("bounced@example.com")


def test_a_bounce_mail_that_postal_has_deleted_suppresses_nobody(
    shop: Shop, sandbox: Sandbox
) -> None:
    enqueue(shop, recipients="bounced@example.com")
    shop.ledger.drain()
    table = shop.ledger.models.table("recipient")
    with shop.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(bounce_id=987, bounce_at=now()))
    shop.ledger.drain()
    assert shop.reasons() == []
    with shop.db.engine.connect() as connection:
        row = connection.execute(sa.select(table)).one()
    assert (row.bounce_type, row.bounce_at) == ("unknown", None)


def test_another_tenant_suppresses_nobody(shop: Shop) -> None:
    """Any mail server of an installation can sign events."""
    with WebhookClient(shop.app, key=KEY) as client:
        client.tracking("failed", "boss@example.com")
        assert not shop.postal.is_suppressed("boss@example.com")
    secret = {"POSTAL_WEBHOOK_SECRET": "postal:secret"}
    with (
        shop.postal.reconfigured(shop.app, **secret),
        WebhookClient(shop.app, key=KEY) as client,
    ):
        client.tracking("failed", "boss@example.com")
        assert shop.postal.is_suppressed("boss@example.com")


# ---- failures in a row


def fail(shop: Shop, address: str, days_ago: float, status: str = "failed") -> None:
    """Store a mail that has failed for now, some days ago."""
    record = enqueue(shop, recipients=address)
    table = shop.ledger.models.table("recipient")
    with shop.db.engine.begin() as connection:
        connection.execute(
            sa.update(table)
            .where(table.c.mail_id == record.id)
            .values(status=status, status_at=now() - timedelta(days=days_ago))
        )


def fail_now(shop: Shop, sandbox: Sandbox, address: str) -> None:
    """Have Postal give up a mail after 18 attempts."""
    enqueue(shop, recipients=address)
    shop.ledger.drain()
    sandbox.trigger("failed", to=address, set={"payload.output": "451 4.7.1 Try later"})


@pytest.mark.parametrize(
    ("ages", "expected"),
    [
        ([3.1, 2, 1, 0.5], True),
        ([2.9, 2, 1, 0.5], False),  # within three days
        ([9, 8, 7], False),  # four in all
        ([9, 8, 7, 6, 5, 4], True),
    ],
)
def test_five_failed_mails_in_a_row_over_three_days_suppress_for_a_month(
    shop: Shop, sandbox: Sandbox, ages: list[float], expected: bool
) -> None:
    for age in ages:
        fail(shop, "full@example.com", age)
    fail_now(shop, sandbox, "full@example.com")
    assert shop.postal.is_suppressed("full@example.com") == expected
    if expected:
        (record,) = shop.ledger.suppressions.find()
        assert record.reason == "failures"
        left = record.until - datetime.now(UTC)
        assert timedelta(days=29) < left <= timedelta(days=30)


@pytest.mark.parametrize("status", ["delivered", "opened", "clicked"])
def test_one_that_arrives_begins_the_count_anew(
    shop: Shop, sandbox: Sandbox, status: str
) -> None:
    for age in (9, 8, 7):
        fail(shop, "full@example.com", age)
    fail(shop, "full@example.com", 6, status)
    fail(shop, "full@example.com", 5)
    fail_now(shop, sandbox, "full@example.com")
    assert shop.reasons() == []


def test_after_a_pause_the_count_begins_anew(shop: Shop, sandbox: Sandbox) -> None:
    for age in (40, 39, 38, 37, 36, 0.5):
        fail(shop, "full@example.com", age)
    table = shop.ledger.models.table("suppression")
    until = datetime.now(UTC) + timedelta(minutes=1)
    shop.suppress("full@example.com", "failures", until=until)
    with shop.db.engine.begin() as connection:
        ended = now() - timedelta(days=1)
        connection.execute(sa.update(table).values(until=ended))
    shop.session.rollback()
    fail_now(shop, sandbox, "full@example.com")
    assert not shop.postal.is_suppressed("full@example.com")


def test_attempts_are_not_mails(shop: Shop, sandbox: Sandbox) -> None:
    record = enqueue(shop, recipients="full@example.com")
    shop.ledger.drain()
    for _ in range(8):
        sandbox.trigger("deferred", to="full@example.com")
    assert shop.ledger.get(record.id).recipients[0].status == "deferred"
    assert shop.reasons() == []


def test_a_pause_ends(shop: Shop) -> None:
    soon = datetime.now(UTC) + timedelta(hours=1)
    shop.suppress("ana@example.com", "failures", until=soon)
    assert shop.postal.is_suppressed("ana@example.com")
    table = shop.ledger.models.table("suppression")
    with shop.db.engine.begin() as connection:
        connection.execute(sa.update(table).values(until=now()))
    shop.session.rollback()
    assert not shop.postal.is_suppressed("ana@example.com")
    assert shop.suppress("ana@example.com", "failures", until=soon)
    assert shop.postal.is_suppressed("ana@example.com")


# ---- complaints


def received(shop: Shop) -> tuple[list[Any], list[Any]]:
    """Lists of the tracking events and of the unsubscriptions to come."""
    tracked: list[Any] = []
    left: list[Any] = []
    shop.on_tracking = lambda app, event, **extra: tracked.append(event)  # type: ignore[attr-defined]
    shop.on_left = lambda app, event, **extra: left.append(event)  # type: ignore[attr-defined]
    tracking_received.connect(shop.on_tracking, sender=shop.app)  # type: ignore[attr-defined]
    unsubscribed.connect(shop.on_left, sender=shop.app)  # type: ignore[attr-defined]
    return tracked, left


@pytest.mark.parametrize("format", ["raw-json", "raw-form"])
def test_a_complaint_is_an_event_of_its_mail_and_suppresses(
    shop: Shop, sandbox: Sandbox, format: str
) -> None:
    tracked, _ = received(shop)
    record = enqueue(shop, recipients=["ana@example.com", "bo@example.com"])
    sandbox.advance(minutes=1)
    (mail,) = [m for m in sandbox.messages if m.recipient == "bo@example.com"]
    report = complaint_about(mail)
    answer = sandbox.receive(report, to="abuse@example.com", format=format)
    assert answer.attempts[-1].status == 200  # without a receiver of inbound mail
    event = tracked[-1]
    assert (event.event_type, event.source) == ("complained", "report")
    assert event.recipient == "bo@example.com"
    assert (event.id, event.token) == (mail.id, mail.token)
    assert event.message_id == record.message_id
    found = shop.postal.mail_of(event)
    assert found is not None
    assert found.id == record.id
    assert shop.reasons() == [("bo@example.com", "complaint")]
    assert shop.ledger.get(record.id).recipients[1].status == "complained"
    before = len(tracked)
    sandbox.retry(answer)
    assert len(tracked) == before


def test_a_complaint_is_passed_on_as_mail_too(shop: Shop, sandbox: Sandbox) -> None:
    mails: list[Any] = []

    def receiver(app: Any, event: Any, **extra: Any) -> None:
        mails.append(event.message)

    enqueue(shop)
    sandbox.advance(minutes=1)
    with inbound_received.connected_to(receiver, sender=shop.app):
        sandbox.receive(complaint_about(sandbox.messages[0]), to="abuse@example.com")
    assert mails[0].feedback_report.feedback_type == "abuse"
    assert mails[0].is_auto_reply


@pytest.mark.parametrize(
    "kind", ["fraud", "virus", "not-spam", "other", "auth-failure"]
)
def test_other_reports_suppress_nobody(shop: Shop, sandbox: Sandbox, kind: str) -> None:
    tracked, left = received(shop)
    enqueue(shop)
    sandbox.advance(minutes=1)
    before = len(tracked)
    report = complaint_about(sandbox.messages[0], feedback_type=kind)
    sandbox.receive(report, to="abuse@example.com")
    assert (len(tracked), left, shop.reasons()) == (before, [], [])


def forged(message_id: str, token: str | None, to: str) -> bytes:
    marked = f"X-Postal-MsgID: {token}\r\n" if token else ""
    return (
        "From: x@evil.example\r\nTo: abuse@example.com\r\nMIME-Version: 1.0\r\n"
        "Content-Type: multipart/report; boundary=b\r\n\r\n"
        "--b\r\nContent-Type: message/feedback-report\r\n\r\n"
        f"Feedback-Type: abuse\r\nOriginal-Rcpt-To: {to}\r\n\r\n"
        f"--b\r\nContent-Type: message/rfc822\r\n\r\n{marked}"
        f"Message-ID: <{message_id}>\r\nTo: {to}\r\n\r\n--b--\r\n"
    ).encode()


def test_a_report_of_a_stranger_suppresses_nobody(shop: Shop, sandbox: Sandbox) -> None:
    """Also if the stranger has got the same message."""
    tracked, _ = received(shop)
    record = enqueue(shop, recipients=["ana@example.com", "mallory@example.com"])
    sandbox.advance(minutes=1)
    tokens = {mail.recipient: mail.token for mail in sandbox.messages}
    before = len(tracked)
    for message_id, token in (
        ("made-up@example.com", None),
        ("made-up@example.com", "0123456789abcdef"),
        (record.message_id, None),
        (record.message_id, "0123456789abcdef"),
        ("made-up@example.com", tokens["mallory@example.com"]),
    ):
        sandbox.receive(
            forged(message_id, token, "ana@example.com"), to="abuse@example.com"
        )
    assert shop.reasons() == []
    assert [event.recipient for event in tracked[before:]] == [None] * 5
    own = forged(record.message_id, tokens["mallory@example.com"], "ana@example.com")
    sandbox.receive(own, to="abuse@example.com")
    assert shop.reasons() == [("mallory@example.com", "complaint")]


def test_the_message_id_alone_proves_the_only_recipient(
    shop: Shop, sandbox: Sandbox
) -> None:
    record = enqueue(shop)
    sandbox.advance(minutes=1)
    report = forged(record.message_id, None, "somebody@else.example")
    sandbox.receive(report, to="abuse@example.com")
    assert shop.reasons() == [("ana@example.com", "complaint")]


def test_a_complaint_whose_receiver_fails_is_handled_later(
    shop: Shop, sandbox: Sandbox
) -> None:
    calls: list[str] = []

    def receiver(app: Any, event: Any, **extra: Any) -> None:
        if event.event_type == "complained":
            calls.append(event.recipient)
            if len(calls) == 1:
                raise ValueError("not now")

    with tracking_received.connected_to(receiver, sender=shop.app):
        enqueue(shop)
        sandbox.advance(minutes=1)
        report = complaint_about(sandbox.messages[0])
        answer = sandbox.receive(report, to="abuse@example.com")
        assert answer.attempts[-1].status == 200
        (stored,) = shop.ledger.find_events()
        shop.ledger.retry(stored)
        shop.session.commit()
        assert shop.ledger.process(stored.id) == "done"
    assert calls == ["ana@example.com"] * 2


# ---- what is left out


def test_suppressed_recipients_are_left_out_one_by_one(
    shop: Shop, sandbox: Sandbox
) -> None:
    for name in ("ana", "cy", "ed"):
        shop.suppress(f"{name}@example.com", "bounce")
    mail = message(
        recipients=["Ana <ana@example.com>", "bo@example.com"],
        cc=["cy@example.com", "di@example.com"],
        bcc=["Ed@example.com", "flo@example.com"],
    )
    result = shop.postal.send(mail)
    left = {a: r.suppressed for a, r in result.recipients.items() if r.suppressed}
    assert left == dict.fromkeys(
        ("ana@example.com", "cy@example.com", "Ed@example.com"),
        SuppressionReason.BOUNCE,
    )
    assert result.recipients["Ana <ana@example.com>"].id is None
    assert result.recipients["bo@example.com"].id
    assert not result.all_suppressed
    expected = ["bo@example.com", "di@example.com", "flo@example.com"]
    assert delivered_to(sandbox) == expected
    content = sandbox.messages[0].content
    assert [a.addr_spec for a in content.to] == ["bo@example.com"]
    assert [a.addr_spec for a in content.cc] == ["di@example.com"]
    sandbox.clear()
    record = shop.postal.enqueue(mail)
    shop.session.commit()
    assert delivered_to(sandbox) == expected
    assert {r.address: r.suppressed for r in record.recipients} == {
        **dict.fromkeys(left, "bounce"),
        **dict.fromkeys(expected),
    }
    assert states(shop) == ["accepted"]


@pytest.mark.parametrize("how", ["send", "send_many", "send_batch", "deliver"])
def test_a_mail_with_nobody_left_is_no_error_and_says_so(
    shop: Shop, sandbox: Sandbox, how: str
) -> None:
    shop.suppress("ana@example.com", "complaint")
    sent: list[Any] = []

    def receiver(app: Any, result: Any, **extra: Any) -> None:
        sent.append(result)

    postal, mail = shop.postal, message()
    with message_sent.connected_to(receiver, sender=shop.app):
        if how == "send":
            result = postal.send(mail)
        elif how == "deliver":
            result = postal.deliver(postal.prepare(mail))
        else:
            argument: Any = [mail] if how == "send_many" else mail
            (outcome,) = getattr(postal, how)(argument)
            result = outcome.result
    assert result.all_suppressed
    assert result.recipients["ana@example.com"].suppressed == "complaint"
    assert (result.message_id, result.endpoint) == (None, None)
    assert (sandbox.messages, sent) == ([], [])


def test_an_enqueued_mail_with_nobody_left_is_cancelled_and_says_so(
    shop: Shop, sandbox: Sandbox
) -> None:
    shop.suppress("ana@example.com", "complaint")
    record = shop.postal.enqueue(message(), key="once")
    shop.session.commit()
    assert record.state == "cancelled"
    assert record.error == "all of its recipients are suppressed"
    assert shop.postal.enqueue(message(), key="once").id == record.id
    assert sandbox.messages == []
    assert "ana@example.com" in run(shop, "mails", "--recipient", "ana@example.com")[1]


def test_a_mail_that_waits_is_checked_again(shop: Shop, sandbox: Sandbox) -> None:
    for recipients in (["ana@example.com", "bo@example.com"], ["ana@example.com"]):
        enqueue(shop, recipients=recipients)
    enqueue(shop, ignore_suppression=True)
    shop.suppress("ana@example.com", "bounce")
    table = shop.ledger.models.table("mail")
    with shop.db.engine.begin() as connection:
        earlier = now() - timedelta(hours=1)
        connection.execute(sa.update(table).values(created_at=earlier))
    shop.ledger.drain()
    assert states(shop) == ["accepted", "cancelled", "accepted"]
    assert delivered_to(sandbox) == ["ana@example.com", "bo@example.com"]
    first = shop.ledger.get(1)
    assert [r.suppressed for r in first.recipients] == ["bounce", None]


def test_a_message_can_ignore_it(shop: Shop, sandbox: Sandbox) -> None:
    shop.suppress("ana@example.com", "bounce")
    result = shop.postal.send(message(ignore_suppression=True))
    assert result.recipients["ana@example.com"].suppressed is None
    enqueue(shop, ignore_suppression=True)
    assert delivered_to(sandbox) == ["ana@example.com"] * 2


ADDRESSES = [f"{name}@example.com" for name in "abcdefgh"]


@settings(
    max_examples=30,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(
    places=st.dictionaries(
        st.sampled_from(ADDRESSES),
        st.sampled_from(["recipients", "cc", "bcc"]),
        min_size=1,
    ),
    suppressed=st.dictionaries(
        st.sampled_from(ADDRESSES), st.sampled_from(list(SuppressionReason))
    ),
    counted=st.sets(st.sampled_from(list(SuppressionReason))),
    upper=st.booleans(),
)
def test_exactly_the_others_get_the_mail(
    shop: Shop,
    places: dict[str, str],
    suppressed: dict[str, SuppressionReason],
    counted: set[SuppressionReason],
    upper: bool,
) -> None:
    table = shop.ledger.models.table("suppression")
    with shop.db.engine.begin() as connection:
        connection.execute(sa.delete(table))
    for address, reason in suppressed.items():
        shop.suppress(address, reason)
    shop.ledger.of(shop.app).suppressions.__init__(shop.ledger.models, counted)  # type: ignore[misc]
    fields: dict[str, list[str]] = {"recipients": [], "cc": [], "bcc": []}
    for address, place in places.items():
        fields[place].append(address.upper() if upper else address)
    prepared = shop.postal.prepare(message(**fields))
    left = {a for a in places if suppressed.get(a) not in counted}
    assert {a.addr_spec.lower() for a in prepared.recipients.values()} == left
    assert {a.lower(): r for a, r in prepared.left_out.items()} == {
        a: suppressed[a] for a in places if a not in left
    }
    body = b"".join(prepared.body.pieces()).decode().lower()
    assert {a for a in ADDRESSES if a in body} == left


# ---- settings, lists, spellings


def test_the_setting_chooses_what_counts(database_url: str) -> None:
    for value, counts in (
        ({"bounce"}, True),
        ("bounce, manual", True),
        ({"complaint"}, False),
        ((), False),
        ("", False),
    ):
        for shop in made(database_url, POSTAL_SUPPRESSION=value):
            shop.suppress("ana@example.com", "bounce")
            assert shop.postal.is_suppressed("ana@example.com") == counts


@pytest.mark.parametrize("value", ["bounces", {"bounce", 3}, 7])
def test_another_setting_is_an_error(value: Any) -> None:
    with pytest.raises(ConfigurationError, match="POSTAL_SUPPRESSION"):
        Shop("sqlite://", POSTAL_SUPPRESSION=value)


def test_a_list_is_left_alone(shop: Shop) -> None:
    shop.suppress("ana@example.com", "unsubscribe", list="news")
    assert shop.postal.is_suppressed("ana@example.com", list="news")
    assert not shop.postal.is_suppressed("ana@example.com", list="offers")
    assert not shop.postal.is_suppressed("ana@example.com")


@pytest.mark.parametrize(
    "spelling", ["Ana@Bücher.example", "ANA@xn--bcher-kva.EXAMPLE"]
)
def test_spellings_of_an_address_are_one(shop: Shop, spelling: str) -> None:
    shop.suppress("ana@bücher.example")
    assert shop.postal.is_suppressed(spelling)
    assert not shop.suppress(spelling)
    assert shop.ledger.suppressions.remove(spelling) == 1
    assert not shop.postal.is_suppressed("ana@bücher.example")


def test_what_the_caller_has_not_committed_counts_and_can_be_rolled_back(
    shop: Shop,
) -> None:
    shop.ledger.suppressions.add("ana@example.com")
    assert shop.postal.is_suppressed("ana@example.com")
    shop.session.rollback()
    assert not shop.postal.is_suppressed("ana@example.com")


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        ({"address": "nobody"}, MessageError),
        ({"address": "ana@example.com", "list": " news"}, MessageError),
        ({"address": "ana@example.com", "list": ""}, MessageError),
        ({"address": "ana@example.com", "reason": "anger"}, ValueError),
        ({"address": "ana@example.com", "until": datetime(2030, 1, 1)}, ValueError),
    ],
)
def test_what_makes_no_sense_is_refused(
    shop: Shop, arguments: dict[str, Any], error: type[Exception]
) -> None:
    with pytest.raises(error):
        shop.ledger.suppressions.add(**arguments)


def test_without_a_ledger_it_says_how_to_get_one() -> None:
    from flask import Flask

    from flask_postal import Postal

    app = Flask(__name__)
    postal = Postal(app)
    with app.app_context(), pytest.raises(ConfigurationError, match="ledger"):
        postal.is_suppressed("ana@example.com")


def test_without_its_table_nothing_is_suppressed(
    shop: Shop, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    """An app that was not migrated yet sends its mail, and logs an error."""
    shop.ledger.models.table("suppression").drop(shop.db.engine)
    shop.postal.send(message())
    assert delivered_to(sandbox) == ["ana@example.com"]
    assert "flask db upgrade" in caplog.text
    assert "postal_suppression" in run(shop, "check")[1]


def test_models_of_the_apps_own_need_none(database_url: str) -> None:
    shop = Shop(database_url)
    models = shop.ledger.models
    given = {
        name: model for name, model in models.given().items() if name != "suppression"
    }
    bare = LedgerModels(**given)
    assert bare.suppression is None
    with pytest.raises(ConfigurationError, match="mail= is missing"):
        Ledger(shop.db, models=LedgerModels(**{**given, "mail": None}))


# ---- people


def test_the_commands_list_add_and_remove(shop: Shop) -> None:
    assert (
        run(shop, "suppressions", "add", "Ana@example.com", "--detail", "by phone")[0]
        == 0
    )
    assert "already" in run(shop, "suppressions", "add", "ana@example.com")[1]
    run(
        shop,
        "suppressions",
        "add",
        "bo@example.com",
        "--list",
        "news",
        "--reason",
        "unsubscribe",
    )
    listed = run(shop, "suppressions")[1]
    assert "ana@example.com  manual, since" in listed
    assert "by phone" in listed
    assert "bo@example.com  unsubscribe for the list news" in listed
    assert "bo@" not in run(shop, "suppressions", "--reason", "manual")[1]
    assert run(shop, "suppressions", "remove", "ana@example.com")[0] == 0
    code, text = run(shop, "suppressions", "remove", "ana@example.com")
    assert (code, "not suppressed" in text) == (1, True)


def test_addresses_that_postal_holds_are_shown_beside(
    shop: Shop, sandbox: Sandbox
) -> None:
    record = enqueue(shop)
    shop.ledger.drain()
    sandbox.trigger(
        "held",
        to="ana@example.com",
        set={"payload.details": "Recipient is on the suppression list"},
    )
    assert shop.ledger.get(record.id).recipients[0].reason == "suppressed"
    assert "ana@example.com  held by Postal" in run(shop, "suppressions")[1]


def test_addresses_are_exported_and_imported(shop: Shop, tmp_path: Any) -> None:
    until = datetime(2031, 1, 1, tzinfo=UTC)
    shop.suppress("ana@example.com", "bounce", detail='550 "no such", user')
    shop.suppress("bo@example.com", "unsubscribe", list="news")
    shop.suppress("cy@example.com", "failures", until=until)
    text = run(shop, "suppressions", "export")[1]
    before = shop.reasons()
    file = tmp_path / "out.csv"
    file.write_text(text)
    for name in ("ana", "bo", "cy"):
        assert shop.ledger.suppressions.remove(f"{name}@example.com")
    shop.session.commit()
    assert "added 3 of 3" in run(shop, "suppressions", "import", str(file))[1]
    assert "added 0 of 3" in run(shop, "suppressions", "import", str(file))[1]
    assert shop.reasons() == before
    assert run(shop, "suppressions", "export")[1] == text
    (cy,) = shop.ledger.suppressions.find("cy@example.com")
    assert cy.until == until


def test_a_file_is_imported_as_a_whole_or_not_at_all(shop: Shop, tmp_path: Any) -> None:
    file = tmp_path / "in.csv"
    file.write_text("ana@example.com\n\nbo@example.com\nnobody\n")
    code, text = run(shop, "suppressions", "import", str(file))
    assert code == 1
    assert "line 4" in text
    assert shop.reasons() == []
    file.write_text(
        "\ufeffReason,Address\r\ncomplaint,ana@example.com\r\n,bo@example.com\r\n"
    )
    assert run(shop, "suppressions", "import", str(file), "--reason", "bounce")[0] == 0
    assert shop.reasons() == [
        ("ana@example.com", "complaint"),
        ("bo@example.com", "bounce"),
    ]


def test_a_forgotten_address_is_not_kept_here_either(shop: Shop) -> None:
    shop.suppress("ana@example.com", "complaint")
    shop.ledger.forget("Ana@Example.com")
    assert shop.reasons() == []


def test_mail_that_is_no_report_makes_no_event(shop: Shop, sandbox: Sandbox) -> None:
    tracked, left = received(shop)
    mails: list[Any] = []

    def receiver(app: Any, event: Any, **extra: Any) -> None:
        mails.append(event.message)

    with inbound_received.connected_to(receiver, sender=shop.app):
        raw = compose_mail(to="abuse@example.com", text="I complain!")
        sandbox.receive(raw, to="abuse@example.com")
    assert (tracked, left, len(mails)) == ([], [], 1)
    assert mails[0].feedback_report is None


# ---- lists


LISTS = {"SECRET_KEY": "secret", "POSTAL_EXTERNAL_URL": "https://shop.example"}


@pytest.fixture
def lists(database_url: str) -> Iterator[Shop]:
    yield from made(database_url, **LISTS)


@pytest.mark.parametrize("how", ["send", "enqueue"])
def test_one_click_suppresses_for_the_list_alone(lists: Shop, how: str) -> None:
    """Without any receiver."""

    def send(**changes: Any) -> None:
        mail = message(**changes)
        lists.postal.send(mail) if how == "send" else lists.postal.enqueue(mail)
        lists.session.commit()

    with sandboxed(lists.app, key=KEY) as sandbox:
        send(unsubscribe="news")
        header = sandbox.messages[0].content.header("List-Unsubscribe") or ""
        assert lists.app.test_client().get(header.strip("<>")).status_code == 200
        assert lists.reasons() == []
        assert lists.app.test_client().post(header.strip("<>")).status_code == 200
        lists.session.rollback()
        (record,) = lists.ledger.suppressions.find()
        assert (record.address, record.list) == ("ana@example.com", "news")
        assert record.reason == "unsubscribe"
        assert lists.ledger.get_event(record.event_id).event_type == "unsubscribed"
        sandbox.clear()
        send(unsubscribe="news")
        assert sandbox.messages == []
        send(unsubscribe="offers")
        send()
        assert len(sandbox.messages) == 2


def test_a_receiver_of_a_click_is_called_again_once_it_works(lists: Shop) -> None:
    calls: list[Any] = []

    def receiver(app: Any, event: Any, **extra: Any) -> None:
        calls.append(event)
        if len(calls) == 1:
            raise ValueError("not now")

    with unsubscribed.connected_to(receiver, sender=lists.app):
        link = lists.postal.unsubscribe_url("ana@example.com", "news")
        assert lists.app.test_client().post(link).status_code == 200
        (stored,) = lists.ledger.find_events()
        lists.ledger.retry(stored)
        lists.session.commit()
        lists.ledger.drain()
    assert [(e.recipient, e.list) for e in calls] == [("ana@example.com", "news")] * 2
    assert calls[0].dedupe_key == calls[1].dedupe_key


def test_an_opt_out_report_is_about_the_list_of_its_mail(lists: Shop) -> None:
    _, left = received(lists)
    with sandboxed(lists.app, key=KEY) as sandbox:
        enqueue(lists, unsubscribe="news")
        sandbox.advance(minutes=1)
        mail = sandbox.messages[0]
        report = complaint_about(mail, feedback_type="opt-out")
        sandbox.receive(report, to="abuse@example.com")
    (event,) = left
    assert (event.recipient, event.list, event.source) == (
        *("ana@example.com", "news"),
        "report",
    )
    assert lists.reasons() == [("ana@example.com", "unsubscribe")]
    assert not lists.postal.is_suppressed("ana@example.com")


def test_receivers_get_the_message_as_it_was_enqueued(lists: Shop) -> None:
    sent: list[Any] = []

    def receiver(app: Any, message: Any, **extra: Any) -> None:
        sent.append(message)

    with (
        sandboxed(lists.app, key=KEY),
        message_sent.connected_to(receiver, sender=lists.app),
    ):
        enqueue(lists, unsubscribe="news", ignore_suppression=True)
        lists.ledger.drain()
    assert (sent[0].unsubscribe, sent[0].ignore_suppression) == ("news", True)
    assert sent[0].extra_headers == {}


def test_a_message_of_a_list_is_not_sent_without_the_table(lists: Shop) -> None:
    lists.ledger.models.table("suppression").drop(lists.db.engine)
    with sandboxed(lists.app, key=KEY), pytest.raises(sa.exc.DBAPIError):
        lists.postal.send(message(unsubscribe="news"))


# ---- what an attack has found


@pytest.mark.parametrize("how", ["missing", "locked"])
def test_a_look_up_that_fails_leaves_the_callers_work_alone(
    shop: Shop, sandbox: Sandbox, how: str
) -> None:
    table = shop.ledger.models.table("suppression")
    if how == "missing":
        table.drop(shop.db.engine)
    shop.session.add(shop.order(number="1"))
    shop.session.flush()
    locking = shop.db.engine.connect()
    if how == "locked" and shop.db.engine.dialect.name == "postgresql":
        locking.execute(sa.text("LOCK TABLE postal_suppression"))
        shop.session.execute(sa.text("SET LOCAL lock_timeout = '200ms'"))
    shop.postal.send(message())
    locking.close()
    shop.session.commit()
    with shop.db.engine.connect() as connection:
        assert connection.scalar(sa.select(sa.func.count()).select_from(shop.order))
    assert delivered_to(sandbox) == ["ana@example.com"]


def test_a_mail_about_a_failed_commit_is_sent(shop: Shop, sandbox: Sandbox) -> None:
    for number in range(2):
        shop.session.add(shop.order(number="same"))
        try:
            shop.session.commit()
        except sa.exc.IntegrityError:
            shop.postal.send(message(subject=f"It failed {number}"))
    shop.session.rollback()
    assert delivered_to(sandbox) == ["ana@example.com"]


@pytest.mark.parametrize("moment", ["after_commit", "after_rollback"])
def test_a_mail_can_be_sent_by_a_listener_of_the_session(
    shop: Shop, sandbox: Sandbox, moment: str
) -> None:
    def send(session: Any) -> None:
        shop.postal.send(message())

    session = shop.session()
    sa.event.listen(session, moment, send)
    shop.session.add(shop.order(number="1"))
    shop.session.flush()
    session.commit() if moment == "after_commit" else session.rollback()
    assert delivered_to(sandbox) == ["ana@example.com"]


def test_a_look_ends_nobodys_transaction_on_an_sqlite_in_memory() -> None:
    for shop in made("sqlite://"):
        shop.session.add(shop.order(number="1"))
        shop.session.flush()
        with shop.app.app_context():
            assert not shop.postal.is_suppressed("ana@example.com")
            shop.postal.prepare(message())
        shop.session.rollback()
        assert shop.session.scalar(sa.select(sa.func.count(shop.order.id))) == 0


def test_another_tenant_suppresses_no_recipient_of_a_message_it_has_got(
    shop: Shop,
) -> None:
    with sandboxed(shop.app, key=KEY) as sandbox:
        names = ["boss@example.com", "mallory@example.com"]
        record = enqueue(shop, recipients=names)
        body = "550 5.1.1 user unknown"
        enqueue(shop, recipients="mallory@example.com", body=body)
        sandbox.advance(minutes=1)
        with (
            shop.postal.reconfigured(
                shop.app, **{**sandbox.settings(), "POSTAL_WEBHOOK_SECRET": None}
            ),
            WebhookClient(shop.app, key=KEY) as client,
        ):
            for token in (None, "0123456789abcdef"):
                about = {"payload.message.message_id": record.message_id}
                client.tracking("failed", "boss@example.com", token=token, set=about)
            client.tracking(
                "bounced",
                "boss@example.com",
                set={
                    "payload.original_message.message_id": record.message_id,
                    "payload.bounce.id": 3,
                },
            )
            shop.ledger.drain()
            assert shop.reasons() == []
            known = shop.ledger.get(record.id).recipients[0]
            client.tracking(
                "failed", "boss@example.com", id=known.postal_id, token=known.token
            )
            assert shop.reasons() == [("boss@example.com", "bounce")]


def test_a_mail_that_is_no_bounce_of_this_one_suppresses_nobody(
    shop: Shop, sandbox: Sandbox
) -> None:
    body = "550 5.1.1 user unknown"
    for _ in range(2):
        enqueue(shop, body=body)
    shop.ledger.drain()
    sandbox.trigger("bounced", to="ana@example.com", set={"payload.bounce.id": 1})
    shop.ledger.drain()
    assert shop.reasons() == []


def test_a_report_without_a_token_proves_nobody_of_several_also_if_one_is_forgotten(
    shop: Shop, sandbox: Sandbox
) -> None:
    record = enqueue(shop, recipients=["boss@example.com", "mallory@example.com"])
    sandbox.advance(minutes=1)
    shop.ledger.forget("mallory@example.com")
    report = forged(record.message_id, None, "boss@example.com")
    sandbox.receive(report, to="abuse@example.com")
    assert shop.reasons() == []


def test_an_address_that_is_forgotten_while_its_bounce_is_fetched_stays_so(
    shop: Shop, sandbox: Sandbox
) -> None:
    enqueue(shop, recipients="bounced@example.com")
    shop.ledger.drain()
    pipeline = shop.postal._of(shop.app).pipeline

    class Forgetting:
        def __init__(self, transport: Any) -> None:
            self.transport = transport

        def call(self, endpoint: str, body: Any) -> Any:
            answer = self.transport.call(endpoint, body)
            shop.ledger.forget("bounced@example.com")
            return answer

    pipeline.transport = Forgetting(pipeline.transport)
    sandbox.advance(hours=1)
    assert shop.reasons() == []


def test_a_report_with_a_nul_is_passed_on(shop: Shop, sandbox: Sandbox) -> None:
    mails: list[Any] = []

    def receiver(app: Any, event: Any, **extra: Any) -> None:
        mails.append(event.message)

    headers = base64.encodebytes(b"Message-ID: <a\0b@example.com>\r\nX-Postal-MsgID: x")
    raw = forged("x@y", None, "ana@example.com").replace(
        b"Content-Type: message/rfc822\r\n\r\n",
        b"Content-Type: message/rfc822\r\nContent-Transfer-Encoding: base64\r\n\r\n"
        + headers,
    )
    with inbound_received.connected_to(receiver, sender=shop.app):
        assert sandbox.receive(raw, to="support@example.com").state == "taken"
    assert len(mails) == 1
    assert mails[0].feedback_report.message_id is None


def test_what_is_kept_of_a_complaint_is_forgotten_too(
    shop: Shop, sandbox: Sandbox
) -> None:
    raw = b"From: carl@example.com\r\nX: " + forged("a@b", None, "carl@example.com")
    received(shop)
    sandbox.receive(raw, to="abuse@example.com", sender="zoe@example.net")
    assert shop.count("event") == 1
    shop.ledger.forget("carl@example.com")
    assert shop.count("event") == 0


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("address,detail\nana@example.com,address\n", [("ana@example.com", "manual")]),
        (
            "address,list,reason\nana@example.com,address,unsubscribe\n",
            [("ana@example.com", "unsubscribe")],
        ),
        ("reason,address\nmanual\n", "line 2"),
        ("address,since\nana@example.com,0001-01-01T00:00:00+14:00\n", "line 2"),
        (f"address,detail\nana@example.com,{'x' * 200_000}\n", "line 2"),
        ("", []),
        ("address\n", []),
        ("ana@example.com;x\n", "line 1"),
    ],
)
def test_odd_files_are_imported_or_refused_with_a_line(
    shop: Shop, tmp_path: Any, text: str, expected: Any
) -> None:
    file = tmp_path / "in.csv"
    file.write_text(text)
    code, said = run(shop, "suppressions", "import", str(file))
    if isinstance(expected, str):
        assert (code, expected in said) == (1, True), said
        expected = []
    assert shop.reasons() == expected


def test_an_event_puts_nothing_into_the_table_that_is_no_address(shop: Shop) -> None:
    secret = {"POSTAL_WEBHOOK_SECRET": "postal:secret"}
    with (
        shop.postal.reconfigured(shop.app, **secret),
        WebhookClient(shop.app, key=KEY) as client,
    ):
        for address in (
            "",
            "x@[127.0.0.1]",
            "a b@example.com",
            "x" * 300 + "@a.example",
        ):
            client.tracking("failed", set={"payload.message.to": address})
    assert shop.reasons() == []


def test_what_a_server_says_stays_on_one_line(shop: Shop, sandbox: Sandbox) -> None:
    enqueue(shop)
    shop.ledger.drain()
    output = "550 5.1.1 no\x1b]0;owned\x07 such user\nboss@example.com  manual"
    sandbox.trigger("failed", to="ana@example.com", set={"payload.output": output})
    listed = run(shop, "suppressions")[1]
    assert "\x1b" not in listed
    assert "\nboss@" not in listed


def test_models_without_the_table_are_named_by_each_command(database_url: str) -> None:
    for shop in made(database_url):
        shop.ledger.suppressions._suppressions._table = None
        for command in ([], ["export"], ["add", "ana@example.com"]):
            code, text = run(shop, "suppressions", *command)
            assert (code, "SuppressionMixin" in text) == (1, True)


def test_receivers_hear_of_a_message_whose_rest_is_suppressed(
    shop: Shop, sandbox: Sandbox
) -> None:
    sent: list[Any] = []

    def receiver(app: Any, result: Any, **extra: Any) -> None:
        sent.append(result)

    record = enqueue(shop, recipients=["ana@example.com", "bo@example.com"])
    tables = shop.ledger.models
    with shop.db.engine.begin() as connection:
        row = tables.table("recipient")
        one = sa.update(row).where(row.c.address == "bo@example.com")
        connection.execute(one.values(postal_id=7, token="t7"))
        earlier = now() - timedelta(hours=1)
        connection.execute(sa.update(tables.table("mail")).values(created_at=earlier))
    shop.suppress("ana@example.com")
    with message_sent.connected_to(receiver, sender=shop.app):
        shop.ledger.drain()
    assert states(shop) == ["accepted"]
    assert {a: (r.id, r.suppressed) for a, r in sent[0].recipients.items()} == {
        "ana@example.com": (None, "manual"),
        "bo@example.com": (7, None),
    }
    assert sandbox.messages == []
    assert record.message_id == sent[0].message_id


def test_an_address_that_postal_delivers_to_again_is_not_held(
    shop: Shop, sandbox: Sandbox
) -> None:
    for status, reason in (("queued", "suppressed"), ("delivered", None)):
        record = enqueue(shop, recipients="Ana@Example.com")
        table = shop.ledger.models.table("recipient")
        with shop.db.engine.begin() as connection:
            one = sa.update(table).where(table.c.mail_id == record.id)
            connection.execute(one.values(status=status, reason=reason))
        shop.session.rollback()
        held = shop.ledger.suppressions.held_by_postal("ana@example.com")
        assert held == (["Ana@Example.com"] if reason else [])


def test_a_bounce_names_its_recipient_in_any_case(shop: Shop, sandbox: Sandbox) -> None:
    enqueue(shop, recipients="Bounced@Example.com")
    sandbox.advance(hours=1)
    assert shop.reasons() == [("bounced@example.com", "bounce")]


def test_what_is_read_from_our_own_server_counts_without_a_secret(shop: Shop) -> None:
    with sandboxed(shop.app, key=KEY) as sandbox:
        enqueue(shop, recipients="failed@example.com")
        shop.ledger.drain()
        without = {**sandbox.settings(), "POSTAL_WEBHOOK_SECRET": None}
        sandbox.tracking_url = None
        with shop.postal.reconfigured(shop.app, **without):
            sandbox.advance(minutes=10)
            table = shop.ledger.models.table("recipient")
            with shop.db.engine.begin() as connection:
                change = sa.update(table).values(poll_at=now(), told_at=None)
                connection.execute(change)
            shop.app.config["POSTAL_SUPPRESS_SEND"] = False
            shop.ledger.drain()
    assert shop.reasons() == [("failed@example.com", "bounce")]
