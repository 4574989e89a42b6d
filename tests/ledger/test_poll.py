"""Events whose webhook never came are read from Postal's API, and emitted once."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
import sqlalchemy as sa

from flask_postal import APIError, TrackingEvent, TransportError, tracking_received
from flask_postal.ledger import poll as poll_module
from flask_postal.ledger.columns import now
from flask_postal.ledger.identity import identity_of
from flask_postal.ledger.missed import events_of, webhook_body
from flask_postal.ledger.poll_times import pause_before_poll
from flask_postal.sandbox import Sandbox
from flask_postal.sandbox.webhook_client import WebhookResponse
from flask_postal.sending.stored import (
    _read_deliveries,
    _read_details,
    fetch_deliveries,
)
from flask_postal.testing import sandboxed
from flask_postal.webhooks.tracking import parse_tracking

from ..captures import CAPTURES, api_capture
from .world import World, enqueue, past, run

#: What happens to the mails of the sandbox's recipients with these names.
EXPECTED = {
    "ana": ["delivered"],
    "delayed": ["deferred", "delivered"],
    "bounced": ["delivered", "bounced"],
    "failed": ["failed"],
    "held": ["queued"],
}
MINUTES, HOURS, DAYS = (timedelta(**{unit: 1}) for unit in ("minutes", "hours", "days"))


@pytest.fixture
def world(database_url: str) -> Iterator[World]:
    made = World(database_url, POSTAL_DEFAULT_SENDER="app@example.com")
    made.postal._transport = None
    made.app.register_blueprint(made.postal.blueprint)
    with made.app.app_context():
        made.db.create_all()
        yield made
        made.session.remove()
        made.db.engine.dispose()


@pytest.fixture
def sandbox(world: World) -> Iterator[Sandbox]:
    with sandboxed(world.app) as made:
        yield made


@pytest.fixture
def seen() -> Iterator[list[Any]]:
    """What receivers have got."""
    events: list[Any] = []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        events.append(event)

    with tracking_received.connected_to(on_tracking):
        yield events


def silence(sandbox: Sandbox) -> Callable[[], None]:
    """Lose all webhooks, until the returned function is called."""
    target = sandbox.target
    sandbox.call_with(lambda url, body, headers: WebhookResponse(-2, "down"))
    return lambda: sandbox.call_with(target)


def send(world: World, *names: str) -> None:
    for name in names:
        enqueue(world, recipients=[f"{name}@example.com"], metadata={"to": name})
    world.ledger.drain()


def make_due(world: World, **values: Any) -> None:
    """Let time pass until all mails are asked for."""
    recipients, content = (
        world.ledger.models.table(n) for n in ("recipient", "content")
    )
    late = now() - timedelta(minutes=20)
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.update(recipients)
            .where(recipients.c.poll_at.is_not(None))
            .values(poll_at=past(), told_at=late, **values)
        )
        connection.execute(sa.delete(content).where(content.c.owner == "poll:postal"))
    world.ledger.of(world.app)._polls["postal"]._not_before = None


def found(seen: list[Any]) -> dict[str, list[str]]:
    """The events of each recipient, in their order."""
    by_name: dict[str, list[str]] = {}
    for event in seen:
        name = event.recipient.partition("@")[0]
        by_name.setdefault(name, []).append(str(event.event_type))
    return by_name


def rows(world: World) -> list[Any]:
    table = world.ledger.models.table("recipient")
    with world.db.engine.connect() as connection:
        return list(connection.execute(sa.select(table).order_by(table.c.id)))


# ---- outages


@pytest.mark.parametrize("outage", [36 * MINUTES, 6 * HOURS, 2 * DAYS], ids=str)
def test_every_event_of_an_outage_reaches_receivers_once(
    world: World, sandbox: Sandbox, seen: list[Any], outage: timedelta
) -> None:
    send(world, *EXPECTED)
    end = silence(sandbox)
    sandbox.advance(seconds=outage.total_seconds())
    assert seen == []
    make_due(world)
    world.ledger.drain()
    assert found(seen) == EXPECTED
    assert {event.source for event in seen} == {"poll"}
    assert all(event.metadata == {"to": _name(event)} for event in seen)
    # What comes late after all is merged.
    end()
    for request in [*sandbox.requests]:
        assert sandbox.retry(request).attempts[-1].status == 200
    make_due(world)
    world.ledger.drain()
    assert found(seen) == EXPECTED
    assert [row.status for row in rows(world)] == [
        states[-1] for states in EXPECTED.values()
    ]


def _name(event: Any) -> str:
    return str(event.recipient.partition("@")[0])


def test_events_that_came_are_not_emitted_again(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, *EXPECTED)
    sandbox.advance(hours=1)
    assert found(seen) == EXPECTED
    make_due(world)
    world.ledger.drain()
    assert found(seen) == EXPECTED
    assert {event.source for event in seen} == {"webhook"}


def test_an_event_that_was_missed_between_others_is_emitted_too(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, "delayed")
    end = silence(sandbox)
    sandbox.advance(minutes=1)
    end()
    # Postal's webhook is lost for good before the next event.
    sandbox.call_with(lambda *args: WebhookResponse(-2, "down"))
    sandbox.advance(minutes=1)
    end()
    sandbox.advance(minutes=60)
    seen.clear()
    table = world.ledger.models.table("event")
    with world.db.engine.begin() as connection:
        connection.execute(sa.delete(table).where(table.c.event_type == "deferred"))
    make_due(world)
    world.ledger.drain()
    assert found(seen) == {"delayed": ["deferred"]}
    assert rows(world)[0].status == "delivered"


def test_a_polled_event_looks_like_its_webhook(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, "delayed", "bounced", "held")
    requests: list[bytes] = []

    def lose(url: str, body: bytes, headers: dict[str, str]) -> WebhookResponse:
        requests.append(body)
        return WebhookResponse(-2, "down")

    sandbox.call_with(lose)
    sandbox.advance(minutes=10)
    make_due(world)
    world.ledger.drain()
    came = dict(_comparable(json.loads(body)) for body in requests)
    assert dict(_comparable(event.esp_event) for event in seen) == came
    assert len(came) == 5
    assert all(event.event_id is None for event in seen)
    assert all(event.timestamp is not None for event in seen)


def _comparable(body: Any) -> tuple[Any, Any]:
    """A key and the payload, to the microsecond."""
    payload = dict(body["payload"])
    mail = payload.get("message") or payload["original_message"]
    if "timestamp" in payload:
        payload["timestamp"] = pytest.approx(payload["timestamp"], abs=2e-6)
    return (body["event"], mail["token"]), payload


def test_receivers_that_fail_are_retried_for_polled_events_too(
    world: World, sandbox: Sandbox
) -> None:
    errors, calls = [LookupError()], []

    def on_tracking(app: Any, event: Any, **extra: Any) -> None:
        calls.append(event)
        if errors:
            raise errors.pop()

    send(world, "ana")
    silence(sandbox)
    sandbox.advance(minutes=1)
    with tracking_received.connected_to(on_tracking):
        make_due(world)
        world.ledger.drain()
        table = world.ledger.models.table("event")
        with world.db.engine.begin() as connection:
            connection.execute(sa.update(table).values(due_at=past()))
        world.ledger.drain()
    assert len(calls) == 2


def test_without_receivers_missed_events_are_noted(
    world: World, sandbox: Sandbox
) -> None:
    send(world, "ana")
    silence(sandbox)
    sandbox.advance(minutes=1)
    make_due(world)
    world.ledger.drain()
    assert rows(world)[0].status == "delivered"
    (record,) = world.ledger.find_events(state="done")
    assert record.source == "poll"


# ---- when


@pytest.mark.parametrize(
    ("status", "minutes"),
    [
        (None, [10, 20, 40, 80, 160, 320, 360, 360]),
        ("queued", [60, 120, 240, 360, 360]),
        ("deferred", [60, 120, 240, 360, 360]),
        *((status, [3 * 24 * 60, None]) for status in ("delivered", "failed")),
        *((status, [3 * 24 * 60, None]) for status in ("opened", "bounced")),
    ],
)
def test_pauses_grow_and_end(status: str | None, minutes: list[int | None]) -> None:
    pauses = [pause_before_poll(status, polls) for polls in range(len(minutes))]
    assert pauses == [None if m is None else timedelta(minutes=m) for m in minutes]
    assert pause_before_poll(status, 36) is None


def test_a_mail_is_asked_for_until_it_is_too_old(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, "ana")
    (row,) = rows(world)
    assert timedelta(minutes=9) < row.poll_at - now() < timedelta(minutes=10)
    make_due(world)
    world.ledger.drain()
    (row,) = rows(world)
    assert (row.polls, row.status) == (1, None)
    assert timedelta(minutes=19) < row.poll_at - now() < timedelta(minutes=20)
    sandbox.advance(minutes=1)
    (row,) = rows(world)
    assert (row.polls, row.status) == (0, "delivered")
    assert timedelta(days=2.9) < row.poll_at - now() < timedelta(days=3)
    make_due(world)
    world.ledger.drain()
    assert rows(world)[0].poll_at is None


def test_what_may_have_been_purged_is_not_emitted_again(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, "ana")
    silence(sandbox)
    sandbox.advance(minutes=1)
    ledger = world.ledger.of(world.app)
    object.__setattr__(ledger.settings, "keep_rows", 0.0)
    make_due(world)
    world.ledger.drain()
    assert seen == []


# ---- Postal


def test_a_mail_of_another_server_is_left_alone(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, "ana")
    silence(sandbox)
    sandbox.advance(minutes=1)
    make_due(world, token="of-another-one")
    world.ledger.drain()
    assert (seen, rows(world)[0].poll_at) == ([], None)


def test_a_mail_that_postal_has_deleted_is_not_asked_for_again(
    world: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def gone(*arguments: Any) -> Any:
        raise APIError("gone", code="MessageNotFound", http_status=200)

    send(world, "ana")
    monkeypatch.setattr(poll_module, "fetch_deliveries", gone)
    make_due(world)
    world.ledger.drain()
    assert rows(world)[0].poll_at is None


def test_it_asks_again_when_postal_is_back(
    world: World,
    sandbox: Sandbox,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    def down(*arguments: Any) -> Any:
        raise TransportError("refused", maybe_sent=False)

    send(world, "ana")
    silence(sandbox)
    sandbox.advance(minutes=1)
    with monkeypatch.context() as patch:
        patch.setattr(poll_module, "fetch_deliveries", down)
        make_due(world)
        world.ledger.drain()
    assert "Postal can't be asked for missing events" in caplog.text
    world.ledger.drain()
    assert seen == []  # in a minute
    make_due(world)
    world.ledger.drain()
    assert found(seen) == {"ana": ["delivered"]}


def test_calls_in_a_minute_are_bounded(
    world: World,
    sandbox: Sandbox,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    calls: list[int] = []

    def counted(transport: Any, number: int) -> Any:
        calls.append(number)
        return fetch_deliveries(transport, number)

    monkeypatch.setattr(poll_module, "fetch_deliveries", counted)
    monkeypatch.setattr(poll_module, "PER_MINUTE", 8)
    send(world, *["ana"] * 10)
    silence(sandbox)
    sandbox.advance(minutes=1)
    make_due(world)
    for _ in range(3):
        world.ledger.drain()
    assert len(calls) == 3  # two calls each; a third may be needed
    due_at = world.ledger.of(world.app).next_due()
    assert due_at is not None
    assert timedelta(seconds=30) < due_at - now() <= timedelta(seconds=60)
    for _ in range(10):
        make_due(world)
        world.ledger.drain()
    assert found(seen)["ana"] == ["delivered"] * 10


def test_nothing_is_asked_while_sending_is_suppressed(
    world: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    send(world, "ana")
    make_due(world)
    monkeypatch.setattr(poll_module, "fetch_deliveries", None)
    with world.postal.reconfigured(world.app, POSTAL_SUPPRESS_SEND=True):
        assert world.ledger.drain() == 0
        assert world.ledger.of(world.app).next_due() is None


def test_a_mail_that_always_fails_holds_up_no_other(
    world: World,
    sandbox: Sandbox,
    seen: list[Any],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def failing(transport: Any, number: int) -> Any:
        if number == 1:
            raise TransportError("HTTP 500", maybe_sent=False)
        return fetch_deliveries(transport, number)

    send(world, "ana", "bea")
    silence(sandbox)
    sandbox.advance(minutes=1)
    monkeypatch.setattr(poll_module, "fetch_deliveries", failing)
    make_due(world)
    for _ in range(2):
        world.ledger.drain()
        world.ledger.of(world.app)._polls["postal"]._not_before = None
    assert found(seen) == {"bea": ["delivered"]}
    assert rows(world)[0].poll_at > now()


# ---- the alarm


def test_an_app_without_webhooks_makes_no_alarm(
    database_url: str, caplog: pytest.LogCaptureFixture
) -> None:
    world = World(database_url, POSTAL_DEFAULT_SENDER="app@example.com")
    world.postal._transport = None
    with world.app.app_context(), sandboxed(world.app) as sandbox:
        world.db.create_all()
        send(world, "ana", "bea", "cleo", "dora")
        sandbox.advance(minutes=1)
        make_due(world)
        world.ledger.drain()
        assert [row.status for row in rows(world)] == ["delivered"] * 4
        assert "don't arrive" not in caplog.text
        world.session.remove()
        world.db.engine.dispose()


def test_silent_webhooks_make_one_alarm_in_an_hour(
    world: World, sandbox: Sandbox, caplog: pytest.LogCaptureFixture
) -> None:
    send(world, "ana", "bea")
    end = silence(sandbox)
    sandbox.advance(minutes=1)
    make_due(world)
    world.ledger.drain()
    assert "don't arrive" not in caplog.text
    for _ in range(3):
        send(world, "cleo", "dora", "eve")
        sandbox.advance(minutes=1)
        _keep_state(world)
        world.ledger.drain()
    errors = [r for r in caplog.records if "don't arrive" in r.getMessage()]
    assert [r.levelname for r in errors] == ["ERROR"]
    assert "The last one came never" in errors[0].getMessage()
    # The webhooks are mended.
    end()
    caplog.clear()
    send(world, "fay")
    sandbox.advance(minutes=1)
    _forget_alarm(world)
    send(world, "gail")
    silence(sandbox)
    sandbox.advance(minutes=1)
    _keep_state(world)
    world.ledger.drain()
    assert "don't arrive" not in caplog.text


def _keep_state(world: World) -> None:
    """As make_due, but what earlier turns have noted stays."""
    recipients = world.ledger.models.table("recipient")
    late = now() - timedelta(minutes=20)
    with world.db.engine.begin() as connection:
        connection.execute(
            sa.update(recipients)
            .where(recipients.c.status.is_(None))
            .values(poll_at=past(), told_at=late)
        )
    world.ledger.of(world.app)._polls["postal"]._not_before = None


def _forget_alarm(world: World) -> None:
    content = world.ledger.models.table("content")
    with world.db.engine.begin() as connection:
        where = content.c.owner == "poll:postal"
        data = connection.scalar(sa.select(content.c.data).where(where))
        left = json.loads(bytes(data))
        left["state"].pop("alarmed_at")
        connection.execute(
            sa.update(content).where(where).values(data=json.dumps(left).encode())
        )


# ---- by hand


def test_reconcile_asks_at_once(
    world: World, sandbox: Sandbox, seen: list[Any]
) -> None:
    send(world, *EXPECTED)
    silence(sandbox)
    sandbox.advance(hours=1)
    code, output = run(world, "reconcile", "--since", "2026-01-01")
    assert (code, output) == (
        0,
        "asked about 5 recipients: 7 events were missing\n",
    )
    world.ledger.drain()
    assert found(seen) == EXPECTED
    tomorrow = (datetime.now(UTC) + timedelta(days=1)).isoformat()
    code, output = run(world, "reconcile", "--since", tomorrow)
    assert output == "asked about 0 recipients: 0 events were missing\n"
    assert "no ISO date" in run(world, "reconcile", "--since", "yesterday")[1]
    with pytest.raises(ValueError, match="aware"):
        world.ledger.reconcile(datetime(2026, 1, 1))


def test_reconcile_says_that_postal_can_not_be_asked(
    world: World, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    def down(*arguments: Any) -> Any:
        raise TransportError("refused", maybe_sent=False)

    send(world, "ana")
    monkeypatch.setattr(poll_module, "fetch_deliveries", down)
    code, output = run(world, "reconcile", "--since", "2026-01-01")
    assert (code, output) == (1, "Error: refused\n")


# ---- what Postal tells


def test_recorded_deliveries_have_the_identity_of_their_webhooks() -> None:
    """Every attempt in the recorded API answers whose webhook was recorded too."""
    webhooks = {}
    for path in (CAPTURES / "webhooks").glob("*.body"):
        body = path.read_bytes()
        event = parse_tracking(body)
        webhooks[identity_of("postal", event, body)] = event
    tokens = {e.id: e.token for e in webhooks.values() if e.id is not None}
    compared = 0
    for name in ("sent", "softfail", "hardfail", "held"):
        capture = api_capture(f"messages-deliveries-{name}")
        number = capture["request"]["body"]["id"]
        deliveries = _read_deliveries(capture["response"]["body"]["data"])
        events = events_of("postal", tokens.get(number) or "?", deliveries)
        assert len(events) == len(deliveries)
        compared += sum(e.identities[0] in webhooks for e in events)
    assert compared >= 3


def test_strange_answers_of_the_api_are_no_events() -> None:
    times: list[Any] = [None, "1", float("nan"), float("inf"), -1, 1e300, [], {}]
    data: list[Any] = [{"status": "Sent", "timestamp": time} for time in times]
    data += [{"status": status, "timestamp": 1.0} for status in (None, 7, "Error", "")]
    data += [{"status": "Bounced", "timestamp": 1.0, "details": "no id"}, None, 5]
    assert events_of("postal", "t", _read_deliveries(data)) == []
    (event,) = events_of(
        "postal",
        "t",
        _read_deliveries(
            [{"status": "Bounced", "timestamp": 1.5, "details": "See <msg:9>"}]
        ),
    )
    body = webhook_body(event, _read_details({"id": 3, "token": "t"}), None)
    parsed = parse_tracking(body)
    assert isinstance(parsed, TrackingEvent)
    assert (parsed.id, parsed.token, parsed.bounce) == (3, "t", {"id": 9})
    assert identity_of("postal", parsed, body) == event.identities[0]
