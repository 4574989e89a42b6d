"""Dispatching events to receivers, and recognising duplicates."""

from __future__ import annotations

import asyncio
import functools
import sys
import threading
import time
from typing import Any

import pytest
from cachelib import FileSystemCache, NullCache, RedisCache, SimpleCache
from flask import Flask, current_app, g

from flask_postal import (
    ConfigurationError,
    Postal,
    RejectMail,
    inbound_received,
    tracking_received,
)
from flask_postal.webhooks import dedupe
from flask_postal.webhooks import dispatch as dispatching
from flask_postal.webhooks.dedupe import (
    CacheClaim,
    CacheStore,
    MemoryCache,
    check_cache,
)
from flask_postal.webhooks.dispatch import Dispatched, dispatch
from flask_postal.webhooks.events import TrackingEvent
from flask_postal.webhooks.tracking import parse_tracking

from .captures import Recorded
from .conftest import MakeApp

SENT = Recorded.load("webhooks/MessageSent")
EVENT = parse_tracking(SENT.body)
calls: list[str] = []


def first(app: Flask, event: Any, **extra: Any) -> None:
    calls.append("first")


def second(app: Flask, event: Any, **extra: Any) -> None:
    calls.append("second")
    if calls.count("second") == 1:
        raise LookupError("not yet")


@pytest.fixture(autouse=True)
def clear_calls() -> None:
    calls.clear()


class Clock:
    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture
def app() -> Flask:
    app = Flask("tests")
    Postal(app)
    return app


def run(app: Flask, cache: Any = None, event: Any = EVENT) -> Dispatched:
    """Dispatch the event, with or without a cache that recognises duplicates."""
    store = None if cache is None else CacheStore(cache)
    return dispatch(
        event, app, postal=app.extensions["postal"], scope="postal", store=store
    )


# ---- receivers


def test_dispatch_needs_no_request(app: Flask) -> None:
    with tracking_received.connected_to(first):
        assert run(app) is Dispatched.HANDLED
    assert calls == ["first"]
    assert run(app) is Dispatched.NO_RECEIVER


def test_a_retry_runs_only_receivers_that_have_not_succeeded(app: Flask) -> None:
    cache = MemoryCache()
    with tracking_received.connected_to(first), tracking_received.connected_to(second):
        assert run(app, cache) is Dispatched.FAILED
        assert run(app, cache) is Dispatched.HANDLED
        assert run(app, cache) is Dispatched.HANDLED
    assert sorted(calls) == ["first", "second", "second"]


def test_receivers_with_the_same_name_are_retried_together(app: Flask) -> None:
    def make(label: str) -> Any:
        def receiver(app: Flask, **extra: Any) -> None:
            calls.append(label)
            if label == "b" and calls.count("b") == 1:
                raise LookupError

        return receiver

    a, b = make("a"), make("b")
    cache = MemoryCache()
    with tracking_received.connected_to(a), tracking_received.connected_to(b):
        assert run(app, cache) is Dispatched.FAILED
        assert run(app, cache) is Dispatched.HANDLED
    assert sorted(calls) == ["a", "a", "b", "b"]


def test_a_receiver_without_a_name_runs_at_every_retry(app: Flask) -> None:
    nameless = functools.partial(first)
    cache = MemoryCache()
    with (
        tracking_received.connected_to(nameless),
        tracking_received.connected_to(second),
    ):
        assert run(app, cache) is Dispatched.FAILED
        assert run(app, cache) is Dispatched.HANDLED
        assert run(app, cache) is Dispatched.HANDLED
    assert sorted(calls) == ["first", "first", "second", "second"]


def test_each_receiver_has_an_app_context_of_its_own(app: Flask) -> None:
    seen = []

    def one(app: Flask, **extra: Any) -> None:
        g.mine = "one"
        seen.append(current_app.name)

    def two(app: Flask, **extra: Any) -> None:
        seen.append(g.get("mine"))

    with tracking_received.connected_to(one), tracking_received.connected_to(two):
        run(app)
    assert sorted(map(str, seen)) == ["None", "tests"]


def test_receivers_of_another_app_are_not_called(app: Flask) -> None:
    with tracking_received.connected_to(first, sender=Flask("other")):
        assert run(app) is Dispatched.NO_RECEIVER


@pytest.mark.parametrize("asgiref", [True, False])
def test_async_receivers_run(
    app: Flask, asgiref: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    if not asgiref:
        monkeypatch.setitem(sys.modules, "asgiref", None)
        monkeypatch.setitem(sys.modules, "asgiref.sync", None)

    async def receiver(app: Flask, event: Any, **extra: Any) -> None:
        await asyncio.sleep(0)
        calls.append(current_app.name)

    with tracking_received.connected_to(receiver):
        assert run(app) is Dispatched.HANDLED
    assert calls == ["tests"]


def test_a_slow_receiver_is_warned_about(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter([0.0, 1.9, 10.0, 12.5])
    monkeypatch.setattr(dispatching, "_clock", lambda: next(times))
    with tracking_received.connected_to(first):
        run(app)
        assert "took" not in caplog.text
        run(app)
    assert "test_dispatch.first took 2.5 s" in caplog.text


def test_bouncing_wins_over_dropping(make_app: MakeApp) -> None:
    mail = Recorded.load("inbound/raw-json")

    def drop(app: Flask, **extra: Any) -> None:
        raise RejectMail("spam", bounce=False)

    def bounce(app: Flask, **extra: Any) -> None:
        raise RejectMail("no such mailbox")

    app, _ = make_app()
    with inbound_received.connected_to(drop), inbound_received.connected_to(bounce):
        assert mail.post(app.test_client()).status_code == 406


def test_a_rejection_is_not_forgotten_when_another_receiver_is_retried(
    make_app: MakeApp,
) -> None:
    mail = Recorded.load("inbound/raw-json")

    def reject(app: Flask, **extra: Any) -> None:
        calls.append("reject")
        raise RejectMail("no such mailbox")

    app, _ = make_app()
    with inbound_received.connected_to(reject), inbound_received.connected_to(second):
        statuses = [mail.post(app.test_client()).status_code for _ in range(3)]
    assert statuses == [500, 406, 406]
    assert sorted(calls) == ["reject", "second", "second"]


def test_a_receiver_stays_marked_if_others_are_disconnected(app: Flask) -> None:
    cache = MemoryCache()
    with tracking_received.connected_to(first):
        with tracking_received.connected_to(second):
            assert run(app, cache) is Dispatched.FAILED
        assert run(app, cache) is Dispatched.HANDLED
    assert calls.count("first") == 1


class Hidden:
    async def __call__(self, app: Flask, **extra: Any) -> None:
        await asyncio.sleep(0)
        calls.append("awaited")


async def coroutine(app: Flask, **extra: Any) -> None:
    await asyncio.sleep(0)
    calls.append("awaited")


@functools.wraps(coroutine)
def decorated(app: Flask, **extra: Any) -> Any:
    return coroutine(app, **extra)


@pytest.mark.parametrize("receiver", [Hidden(), decorated])
def test_a_coroutine_returned_by_a_plain_callable_is_awaited(
    app: Flask, receiver: Any
) -> None:
    with tracking_received.connected_to(receiver):
        assert run(app) is Dispatched.HANDLED
    assert calls == ["awaited"]


def test_twenty_parallel_duplicates_run_the_receiver_once(make_app: MakeApp) -> None:
    app, _ = make_app()
    barrier = threading.Barrier(20)
    statuses = []

    def receiver(app: Flask, **extra: Any) -> None:
        calls.append("called")
        time.sleep(0.05)

    def post() -> None:
        barrier.wait()
        statuses.append(SENT.post(app.test_client()).status_code)

    with tracking_received.connected_to(receiver):
        threads = [threading.Thread(target=post) for _ in range(20)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert calls == ["called"]
    assert set(statuses) <= {200, 503}
    assert 200 in statuses


def test_dedupe_can_be_switched_off(make_app: MakeApp, tracking: list[Any]) -> None:
    app, _ = make_app(POSTAL_DEDUPE_CACHE=None)
    for _ in range(2):
        assert SENT.post(app.test_client()).status_code == 200
    assert len(tracking) == 2


# ---- leases


def test_the_lease_of_a_crashed_worker_expires(app: Flask) -> None:
    clock = Clock()
    cache = MemoryCache(clock)
    crashed = CacheClaim(cache, "x", clock)
    assert crashed.lease()
    other = CacheClaim(cache, "x", clock)
    clock.now += 119
    assert not other.lease()
    clock.now += 2
    assert other.lease()
    other.release()
    assert CacheClaim(cache, "x", clock).lease()


def test_a_lease_expires_even_if_the_cache_ignores_the_timeout() -> None:
    clock = Clock()

    class Forever(MemoryCache):
        def set(self, key: str, value: Any, timeout: int) -> bool:
            return super().set(key, value, 10**9)

        def add(self, key: str, value: Any, timeout: int) -> bool:
            return super().add(key, value, 10**9)

    cache = Forever(clock)
    assert CacheClaim(cache, "x", clock).lease()
    clock.now += 121
    assert CacheClaim(cache, "x", clock).lease()
    assert not CacheClaim(cache, "x", clock).lease()


def test_releasing_an_expired_lease_does_not_release_the_next_one() -> None:
    clock = Clock()
    cache = MemoryCache(clock)
    slow, taker = CacheClaim(cache, "x", clock), CacheClaim(cache, "x", clock)
    assert slow.lease()
    clock.now += 121
    assert taker.lease()
    slow.release()
    assert not CacheClaim(cache, "x", clock).lease()


@pytest.mark.parametrize("error", [KeyboardInterrupt, SystemExit])
def test_a_lease_is_released_whatever_ends_the_receiver(
    app: Flask, error: type[BaseException]
) -> None:
    cache = MemoryCache()

    def dies(app: Flask, **extra: Any) -> None:
        raise error("the end")

    with tracking_received.connected_to(dies), pytest.raises(error, match="the end"):
        run(app, cache)
    with tracking_received.connected_to(first):
        assert run(app, cache) is Dispatched.HANDLED


def test_a_handled_delivery_is_remembered_for_48_hours(app: Flask) -> None:
    clock = Clock()
    cache = MemoryCache(clock)
    with tracking_received.connected_to(first):
        for hours in (0, 47, 47, 50):
            clock.now = 1000.0 + hours * 3600
            run(app, cache)
    assert calls == ["first", "first"]


def test_the_memory_cache_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(dedupe, "MAX_ENTRIES", 10)
    cache = MemoryCache()
    for number in range(100):
        cache.add(str(number), 1, 60)
    assert len(cache) == 10
    assert cache.get("99") == 1
    assert cache.get("0") is None


def test_deliveries_differ_by_server_and_dedupe_key(app: Flask) -> None:
    other = Postal(app, name="other")
    cache = MemoryCache()
    with tracking_received.connected_to(first):
        run(app, cache)
        dispatch(EVENT, app, postal=other, scope=other.key, store=CacheStore(cache))
        run(app, cache, TrackingEvent(event_type=EVENT.event_type, dedupe_key="u"))
    assert calls == ["first"] * 3


# ---- caches


class Broken:
    def __init__(self, *working: str) -> None:
        self.working = working

    def __getattr__(self, name: str) -> Any:
        def method(*arguments: Any) -> Any:
            if name not in self.working:
                raise ConnectionError("the cache is gone")
            return False if name == "add" else None

        return method


@pytest.mark.parametrize("working", [(), ("add",), ("add", "get"), ("get", "set")])
def test_a_broken_cache_never_loses_an_event(
    app: Flask, working: tuple[str, ...], caplog: pytest.LogCaptureFixture
) -> None:
    with tracking_received.connected_to(first):
        assert run(app, Broken(*working)) is Dispatched.HANDLED
    assert calls == ["first"]
    assert "cache for duplicates failed" in caplog.text


def test_a_cache_that_fails_slowly_is_asked_only_once(
    app: Flask, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Postal waits five seconds. The password in the cache's URL is not logged."""
    asked = []

    class Unreachable:
        def __getattr__(self, name: str) -> Any:
            def method(*arguments: Any) -> Any:
                asked.append(name)
                time.sleep(0.02)
                raise ConnectionError("redis://u:geheim@10.0.0.1/0 does not answer")

            return method

    monkeypatch.setattr(dedupe, "SLOW", 0.01)
    with tracking_received.connected_to(first):
        assert run(app, Unreachable()) is Dispatched.HANDLED
    assert (calls, len(asked)) == (["first"], 1)
    assert "geheim" not in caplog.text


@pytest.mark.parametrize(
    ("make", "why"),
    [
        (lambda tmp: SimpleCache(), "one process"),
        (lambda tmp: NullCache(), "stores nothing"),
        (lambda tmp: FileSystemCache(str(tmp)), "at the same time"),
        (lambda tmp: object(), "no add"),
        (lambda tmp: {}, "no add"),
    ],
)
def test_a_cache_without_an_atomic_add_is_refused_with_the_reason(
    make: Any, why: str, tmp_path: Any
) -> None:
    app = Flask("tests")
    app.config["POSTAL_DEDUPE_CACHE"] = make(tmp_path)
    with pytest.raises(ConfigurationError, match=why) as caught:
        Postal(app)
    assert caught.value.key == "POSTAL_DEDUPE_CACHE"


def test_the_backend_of_a_flask_caching_object_is_checked() -> None:
    from flask_caching import Cache

    app = Flask("tests")
    app.config["POSTAL_DEDUPE_CACHE"] = Cache()
    with pytest.raises(ConfigurationError, match="not initialised"):
        Postal(app)
    app.config["POSTAL_DEDUPE_CACHE"] = Cache(app, config={"CACHE_TYPE": "SimpleCache"})
    with pytest.raises(ConfigurationError, match="one process"):
        Postal(app)
    redis = RedisCache(host=object())
    assert check_cache(redis, "x") is redis


def test_a_string_is_refused_as_a_cache() -> None:
    app = Flask("tests")
    app.config["POSTAL_DEDUPE_CACHE"] = "redis://localhost"
    with pytest.raises(ConfigurationError, match="a cache object"):
        Postal(app)
