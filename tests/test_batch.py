from __future__ import annotations

import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_postal import (
    APIError,
    CancelSend,
    Message,
    MessageError,
    Postal,
    message_sending,
    message_sent,
    send_failed,
)

from .conftest import MakeApp
from .mails import message
from .servers import Exchange, accept, loopback, refusing


@pytest.fixture
def testing(tmp_path: Path) -> Iterator[tuple[Flask, Postal]]:
    folder = tmp_path / "templates"
    folder.mkdir()
    (folder / "hi.txt").write_text("Hello {{ name }}, {{ offer }}")
    (folder / "broken.txt").write_text("{{ 1 / zero }}")
    app = Flask("tests", root_path=str(tmp_path))
    app.testing = True
    postal = Postal(app)
    with app.app_context():
        yield app, postal


@pytest.mark.parametrize("concurrency", [1, 3])
def test_outcomes_keep_the_order_and_failures_do_not_stop_the_batch(
    make_app: MakeApp, concurrency: int
) -> None:
    def act(exchange: Exchange) -> bool:
        request = exchange.read_body()
        if request.json["to"] == ["u3@example.com"]:
            exchange.answer("502 Bad Gateway", b"")
            return True
        from .servers import success

        exchange.answer("200 OK", success(request))
        return True

    messages = [message(recipients=[f"u{n}@example.com"]) for n in range(10)]
    messages[5].subject = "a\nb"
    messages[7].template = "not/there"
    with loopback(act) as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY="k")
        with app.app_context():
            outcomes = postal.send_many(iter(messages), concurrency=concurrency)
    assert [outcome.message for outcome in outcomes] == messages
    assert all(a.message is b for a, b in zip(outcomes, messages, strict=True))
    failed = {n for n, outcome in enumerate(outcomes) if outcome.error is not None}
    assert failed == {3, 5, 7}
    assert isinstance(outcomes[3].error, APIError)
    assert isinstance(outcomes[5].error, MessageError)
    for n in set(range(10)) - failed:
        result = outcomes[n].result
        assert result is not None
        assert list(result.recipients) == [f"u{n}@example.com"]
    assert len(server.bodies) == 8
    assert server.connections <= 3


def test_only_http_runs_in_threads_and_concurrency_limits_them(
    make_app: MakeApp,
) -> None:
    under_way: list[int] = []
    most = [0]
    lock = threading.Lock()
    together = threading.Barrier(3, timeout=5)

    def act(exchange: Exchange) -> bool:
        with lock:
            under_way.append(1)
            most[0] = max(most[0], len(under_way))
        together.wait()
        with lock:
            under_way.pop()
        return accept(exchange)

    threads: list[str] = []

    def note(app: Flask, **extra: Any) -> None:
        threads.append(threading.current_thread().name)

    with loopback(act) as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY="k")
        with (
            app.app_context(),
            message_sending.connected_to(note),
            message_sent.connected_to(note),
        ):
            postal.send_many([message() for _ in range(9)], concurrency=3)
    assert most == [3]
    assert len(threads) == 18
    assert set(threads) == {threading.current_thread().name}


def test_concurrency_one_starts_no_threads(make_app: MakeApp) -> None:
    threads: set[str] = set()

    def sent(app: Flask, **extra: Any) -> None:
        threads.update(thread.name for thread in threading.enumerate())

    with loopback(accept) as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY="k")
        with app.app_context(), message_sent.connected_to(sent, app):
            outcomes = postal.send_many([message(), message()], concurrency=1)
    assert all(outcome.result for outcome in outcomes)
    assert not [name for name in threads if name.startswith("postal-send")]


def test_progress_is_reported(testing: tuple[Flask, Postal]) -> None:
    _, postal = testing
    seen: list[tuple[int, int | None]] = []
    messages = [message(), message(subject="a\nb"), message()]
    postal.send_many(messages, on_progress=lambda *args: seen.append(args))
    assert seen[-1] == (3, 3)
    assert [done for done, _ in seen] == [1, 2, 3]
    postal.send_many(iter(messages), on_progress=lambda *args: seen.append(args))
    assert seen[3:] == [(1, None), (2, None), (3, None)]


def test_an_iterable_is_not_read_far_ahead(testing: tuple[Flask, Postal]) -> None:
    _, postal = testing
    made = []
    done = [0]

    def messages() -> Iterator[Message]:
        for n in range(50):
            made.append(n)
            assert len(made) - done[0] <= 9
            yield message()

    def progress(number: int, total: int | None) -> None:
        done[0] = number

    outcomes = postal.send_many(messages(), concurrency=4, on_progress=progress)
    assert len(outcomes) == 50


def test_a_cancelled_message_has_a_result_without_recipients(
    testing: tuple[Flask, Postal],
) -> None:
    _, postal = testing

    def cancel(app: Flask, **extra: Any) -> None:
        raise CancelSend

    with message_sending.connected_to(cancel):
        (outcome,) = postal.send_many([message()])
    assert outcome.error is None
    assert outcome.result is not None
    assert dict(outcome.result.recipients) == {}


def test_errors_in_receivers_and_templates_do_not_stop_the_batch(
    testing: tuple[Flask, Postal],
) -> None:
    _, postal = testing

    def broken(app: Flask, message: Message, **extra: Any) -> None:
        if message.subject == "broken":
            raise LookupError("no such list")

    messages = [
        message(subject="broken"),
        message(body=None, template="broken", context={"zero": 0}),
        message(),
    ]
    with message_sending.connected_to(broken):
        outcomes = postal.send_many(messages)
    kinds = [type(outcome.error) for outcome in outcomes]
    assert kinds == [LookupError, ZeroDivisionError, type(None)]


def test_each_failure_is_signalled_once(make_app: MakeApp) -> None:
    seen: list[Any] = []

    def note(app: Flask, error: Any, **extra: Any) -> None:
        seen.append(error)

    app, postal = make_app(POSTAL_API_URL=refusing(), POSTAL_API_KEY="k")
    app.config["POSTAL_CONNECT_RETRIES"] = 0
    with app.app_context(), send_failed.connected_to(note):
        outcomes = postal.send_many([message(), message(subject="a\nb")])
    assert sorted(map(str, seen)) == sorted(str(o.error) for o in outcomes)


def test_an_iterable_that_raises_ends_the_batch(
    testing: tuple[Flask, Postal],
) -> None:
    _, postal = testing

    def messages() -> Iterator[Message]:
        yield message()
        yield message()
        raise LookupError("the cursor is gone")

    with (
        postal.record_messages() as outbox,
        pytest.raises(LookupError, match="the cursor is gone"),
    ):
        postal.send_many(messages())
    assert len(outbox) == 2


def test_every_sent_message_is_signalled_even_if_on_progress_raises(
    make_app: MakeApp,
) -> None:
    told = []

    def note(app: Flask, **extra: Any) -> None:
        told.append(1)

    def stop(done: int, total: int | None) -> None:
        raise LookupError("stop")

    with loopback() as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY="k")
        with (
            app.app_context(),
            message_sent.connected_to(note),
            pytest.raises(LookupError, match="stop"),
        ):
            postal.send_many([message() for _ in range(7)], on_progress=stop)
    assert len(told) == len(server.bodies)


@pytest.mark.parametrize("concurrency", [0, -1])
def test_concurrency_is_at_least_one(
    testing: tuple[Flask, Postal], concurrency: int
) -> None:
    with pytest.raises(ValueError, match="at least 1"):
        testing[1].send_many([], concurrency=concurrency)


# ---- send_batch: one private message per recipient


def test_a_batch_is_one_private_mail_per_recipient(
    testing: tuple[Flask, Postal],
) -> None:
    _, postal = testing
    source = message(
        recipients=["Ana <ana@example.com>", "bob@Bücher.example", "cy@example.com"],
        body=None,
        template="hi",
        context={"name": "friend", "offer": "10 %"},
    )
    data = {
        "ana@EXAMPLE.com": {"name": "Ana"},
        "bob@xn--bcher-kva.example": {"name": "Bob", "offer": "20 %"},
    }
    with postal.record_messages() as outbox:
        outcomes = postal.send_batch(source, merge_data=data)
    assert [m.recipients for m in outbox] == [
        ["Ana <ana@example.com>"],
        ["bob@Bücher.example"],
        ["cy@example.com"],
    ]
    assert [m.body for m in outbox] == [
        "Hello Ana, 10 %",
        "Hello Bob, 20 %",
        "Hello friend, 10 %",
    ]
    results = [outcome.result for outcome in outcomes]
    assert [len(r.recipients) for r in results if r is not None] == [1, 1, 1]
    assert source.context == {"name": "friend", "offer": "10 %"}


def test_a_batch_without_data_needs_no_template(testing: tuple[Flask, Postal]) -> None:
    source = message(recipients=["a@b.c", "A@b.c", "a@B.c", "d@e.f"])
    outcomes = testing[1].send_batch(source)
    assert [o.message.recipients for o in outcomes] == [["a@b.c"], ["A@b.c"], ["d@e.f"]]


@pytest.mark.parametrize(
    ("changes", "data", "field", "why"),
    [
        ({"cc": "c@d.e"}, None, "cc", "separate message to each recipient"),
        ({"bcc": "c@d.e"}, None, "bcc", "separate message to each recipient"),
        ({"message_id": "a@b.c"}, None, "message_id", "same Message-ID"),
        ({"recipients": []}, None, "recipients", "no recipients"),
        ({"template": "hi"}, {"x@y.z": {}}, "merge_data", "not one of the recipients"),
        ({}, {"ana@example.com": {}}, "merge_data", "pass template="),
        ({"template": "hi"}, {"nobody": {}}, "merge_data", "not an address"),
    ],
)
def test_an_invalid_batch_is_refused_before_anything_is_sent(
    testing: tuple[Flask, Postal],
    changes: dict[str, Any],
    data: Any,
    field: str,
    why: str,
) -> None:
    _, postal = testing
    with (
        postal.record_messages() as outbox,
        pytest.raises(MessageError, match=why) as caught,
    ):
        postal.send_batch(message(**changes), merge_data=data)
    assert caught.value.field == field
    assert outbox == []
