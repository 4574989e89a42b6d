"""Receivers that fail: the others still run, and the response is still right."""

from __future__ import annotations

import asyncio
import functools
from collections.abc import AsyncIterator, Callable, Iterator
from typing import Any

import pytest
from flask import Flask

from flask_postal import (
    Message,
    Postal,
    message_sent,
    send_failed,
    tracking_received,
)
from flask_postal.webhooks.dedupe import LEASE, CacheClaim, MemoryCache
from flask_postal.webhooks.dispatch import Dispatched

from .captures import DKIM_RECORD
from .conftest import MakeApp
from .test_dispatch import EVENT, SENT, run


class TimeoutOfGevent(BaseException):
    """Like gevent.Timeout, which is not an Exception either."""


@pytest.fixture
def app() -> Flask:
    app = Flask("tests")
    app.config.update(POSTAL_SUPPRESS_SEND=True, POSTAL_DEFAULT_SENDER="a@b.c")
    Postal(app)
    return app


def raising(error: BaseException) -> Callable[..., None]:
    def receiver(app: Flask, event: Any, **extra: Any) -> None:
        raise error

    return receiver


def connect(app: Flask, *receivers: Any) -> None:
    for receiver in receivers:
        tracking_received.connect(receiver, sender=app, weak=False)


@pytest.mark.parametrize(
    "error", [SystemExit(1), TimeoutOfGevent(), KeyboardInterrupt()]
)
def test_base_exceptions_are_raised_after_all_receivers_have_run(
    app: Flask, error: BaseException
) -> None:
    ran: list[str] = []
    cache = MemoryCache()

    def before(app: Flask, event: Any, **extra: Any) -> None:
        ran.append("before")

    def after(app: Flask, event: Any, **extra: Any) -> None:
        ran.append("after")

    connect(app, before, raising(error), after)
    for _ in range(2):
        with pytest.raises(type(error)):
            run(app, cache)
    assert sorted(ran) == ["after", "before"]
    # The lease was released, and the event is not marked as handled.
    delivery = CacheClaim(cache, f"postal\0TrackingEvent\0{EVENT.dedupe_key}")
    assert delivery.handled() is None
    assert delivery.lease() is True


def test_a_cancelled_async_receiver_is_an_ordinary_failure(app: Flask) -> None:
    ran = []

    async def cancelled(app: Flask, event: Any, **extra: Any) -> None:
        raise asyncio.CancelledError

    async def other(app: Flask, event: Any, **extra: Any) -> None:
        ran.append("other")

    connect(app, cancelled, other)
    assert run(app) is Dispatched.FAILED
    assert ran == ["other"]


def generator(app: Flask, event: Any, **extra: Any) -> Iterator[int]:
    yield 1


async def async_generator(app: Flask, event: Any, **extra: Any) -> AsyncIterator[int]:
    yield 1


def hidden(app: Flask, event: Any, **extra: Any) -> Any:
    return generator(app, event)


@pytest.mark.parametrize("receiver", [generator, async_generator, hidden])
def test_a_generator_as_a_receiver_fails_with_a_hint(
    make_app: MakeApp, receiver: Any, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()
    connect(app, receiver)
    assert SENT.post(app.test_client()).status_code == 500
    assert "is a generator function, so its body has not run; remove" in caplog.text


def without_extra(app: Flask, event: Any) -> None: ...
def without_event(app: Flask, **extra: Any) -> None:
    raise TypeError("own")


async def async_without_extra(app: Flask, event: Any) -> None: ...


@pytest.mark.parametrize(
    ("receiver", "signature"),
    [
        (without_extra, "def without_extra(app, event, **extra)"),
        (async_without_extra, "async def async_without_extra(app, event, **extra)"),
        (functools.partial(without_extra), "def receiver(app, event, **extra)"),
    ],
)
def test_a_receiver_with_a_wrong_signature_fails_with_a_hint(
    make_app: MakeApp,
    receiver: Any,
    signature: str,
    caplog: pytest.LogCaptureFixture,
) -> None:
    app, _ = make_app()
    connect(app, receiver)
    assert SENT.post(app.test_client()).status_code == 500
    assert f"write it as {signature}" in caplog.text


def test_a_type_error_raised_by_a_receiver_gets_no_hint(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()
    connect(app, without_event)
    assert SENT.post(app.test_client()).status_code == 500
    assert "TypeError: own" in caplog.text
    assert "write it as" not in caplog.text


@pytest.mark.parametrize(
    "error", [SystemExit(1), TimeoutOfGevent(), asyncio.CancelledError(), ValueError()]
)
def test_errors_in_message_sent_do_not_make_send_raise(
    app: Flask, error: BaseException
) -> None:
    ran = []

    def after(app: Flask, message: Message, **extra: Any) -> None:
        ran.append(message.subject)

    def fails(app: Flask, **extra: Any) -> None:
        raise error

    with (
        message_sent.connected_to(fails, sender=app),
        message_sent.connected_to(after, sender=app),
        app.app_context(),
    ):
        result = app.extensions["postal"].send(Message("x", ["a@b.c"], body="x"))
    assert result.recipients["a@b.c"].id
    assert ran == ["x"]


def test_errors_in_send_failed_do_not_hide_the_send_error(app: Flask) -> None:
    def fails(app: Flask, **extra: Any) -> None:
        raise SystemExit(1)

    with (
        send_failed.connected_to(fails, sender=app),
        app.app_context(),
        pytest.raises(ValueError, match="no content"),
    ):
        app.extensions["postal"].send(Message("x", ["a@b.c"]))


async def async_receiver(app: Flask, message: Message, **extra: Any) -> None:
    ran_in_loop.append(message.subject)


ran_in_loop: list[Any] = []


def test_async_receivers_run_if_send_is_called_in_an_event_loop(app: Flask) -> None:
    async def main() -> None:
        with app.app_context():
            app.extensions["postal"].send(Message("x", ["a@b.c"], body="x"))

    with message_sent.connected_to(async_receiver, sender=app):
        asyncio.run(main())
    assert ran_in_loop == ["x"]


# ---- marks and leases with unexpected values


@pytest.mark.parametrize("mark", [True, 0, 1, 302, 500, 503, "200", None, 1e9, [200]])
def test_an_invalid_mark_is_ignored(app: Flask, mark: Any) -> None:
    class Marked(MemoryCache):
        def get(self, key: str) -> Any:
            return mark if key.endswith(":done") else super().get(key)

    ran = []

    def receiver(app: Flask, event: Any, **extra: Any) -> None:
        ran.append(event)

    connect(app, receiver)
    assert run(app, Marked()) is Dispatched.HANDLED
    assert len(ran) == 1


@pytest.mark.parametrize("status", [200, 406, 429])
def test_a_valid_mark_is_respected(status: int) -> None:
    delivery = CacheClaim(MemoryCache(), "x")
    delivery.done(status)
    delivery.mark("receiver", status)
    assert (delivery.handled(), delivery.has_done("receiver")) == (status, status)


def test_a_lease_is_respected_if_its_owners_clock_is_ahead() -> None:
    now = 1000.0
    cache = MemoryCache(lambda: now)
    ahead = CacheClaim(cache, "x", lambda: now + 5)
    delivery = CacheClaim(cache, "x", lambda: now)
    assert ahead.lease() is True
    assert delivery.lease() is False
    ahead.release()
    assert delivery.lease() is True


def test_a_lease_expires_after_two_minutes_at_most() -> None:
    now = 1000.0
    cache = MemoryCache(lambda: now)
    delivery = CacheClaim(cache, "x", lambda: now)
    cache.set(f"{delivery._key}:lease", 1e12, 10**9)
    assert delivery.lease() is False
    now += LEASE + 1
    assert delivery.lease() is True


# ---- code of the app that runs after ours


def test_a_teardown_function_that_raises_does_not_change_the_response(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()
    ran = []

    def receiver(app: Flask, event: Any, **extra: Any) -> None:
        ran.append(event)

    connect(app, receiver)

    @app.teardown_request
    def fails(error: BaseException | None) -> None:
        raise LookupError("the app's own fault")

    answer = SENT.post(app.test_client())
    assert (answer.status_code, answer.text) == (200, "ok")
    assert answer.headers["Content-Length"] == "2"
    assert len(ran) == 1
    assert "the app's own fault" in caplog.text
    assert "the app raised after the webhook was handled" in caplog.text


def test_an_error_when_the_response_is_closed_does_not_change_it(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    app, _ = make_app()
    connect(app, first)

    def fails() -> None:
        raise LookupError("at the end")

    @app.after_request
    def at_the_end(response: Any) -> Any:
        response.call_on_close(fails)
        return response

    assert SENT.post(app.test_client()).status_code == 200
    assert "at the end" in caplog.text


def first(app: Flask, event: Any, **extra: Any) -> None: ...


def test_a_middleware_may_copy_the_environ() -> None:
    app = Flask("tests")
    app.config.update(POSTAL_WEBHOOK_KEY=DKIM_RECORD)
    inner = app.wsgi_app

    def copying(environ: Any, start_response: Any) -> Any:
        return inner(dict(environ), start_response)

    app.wsgi_app = copying  # type: ignore[method-assign]
    app.register_blueprint(Postal(app).blueprint)
    connect(app, first)
    assert SENT.post(app.test_client()).status_code == 200


def test_a_generator_middleware_is_closed() -> None:
    app = Flask("tests")
    closed = []

    def lazy(environ: Any, start_response: Any) -> Any:
        try:
            start_response("200 OK", [("Content-Type", "text/plain")])
            yield b"a page"
            yield b", and more"
        finally:
            closed.append(environ["PATH_INFO"])

    app.wsgi_app = lazy  # type: ignore[method-assign]
    app.register_blueprint(Postal(app).blueprint)
    answer = app.test_client().get("/other")
    assert answer.text == "a page, and more"
    assert closed == ["/other"]


def test_teardown_errors_of_other_views_are_raised(make_app: MakeApp) -> None:
    app, _ = make_app()

    @app.route("/page")
    def page() -> str:
        return "a page"

    @app.teardown_request
    def fails(error: BaseException | None) -> None:
        raise LookupError("the app's own fault")

    with pytest.raises(LookupError, match="own fault"):
        app.test_client().get("/page")


def test_no_method_of_the_app_is_replaced(make_app: MakeApp) -> None:
    """A later version of Flask may call them with other arguments."""
    app, _ = make_app()
    replaced = [name for name in vars(app) if callable(getattr(Flask, name, None))]
    # Flask documents that a middleware replaces this attribute.
    assert set(replaced) - {"json", "cli"} == {"wsgi_app"}


@pytest.mark.parametrize("lazily", [True, False])
def test_a_response_from_a_middleware_becomes_503(
    make_app: MakeApp, lazily: bool
) -> None:
    app = Flask("tests")

    def page(environ: Any, start_response: Any) -> Any:
        start_response("200 OK", [("Content-Type", "text/html")])
        return [b"a friendly page"]

    def lazy(environ: Any, start_response: Any) -> Any:
        yield from page(environ, start_response)

    app.wsgi_app = lazy if lazily else page  # type: ignore[method-assign]
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    answer = SENT.post(app.test_client())
    assert answer.status_code == 503
    assert answer.text.startswith("not answered by Flask-Postal")
    assert app.test_client().get("/other").text == "a friendly page"
