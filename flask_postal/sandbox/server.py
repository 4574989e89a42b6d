"""The public class :class:`Sandbox`: a simulated Postal with a port and a clock."""

from __future__ import annotations

import logging
import socket
import threading
import time
from collections.abc import Callable, Collection, Iterable
from pathlib import Path
from types import TracebackType
from typing import Any

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ..errors import ConfigurationError
from ..vocabulary import names_of
from .api import api, create_app
from .clock import Clock, ManualClock
from .control import control
from .page import page
from .records import WebhookRequest
from .signing_key import SigningKey
from .simulation import Simulation

__all__ = ["Sandbox"]

_log = logging.getLogger("flask_postal.sandbox")


class Sandbox(Simulation):
    """Simulated Postal server on 127.0.0.1, for development and tests.

    It accepts messages, delivers none of them, and reports what happens to them with
    signed webhooks. It implements the API of Postal 3.3 as observed on a running
    server.

    ::

        with Sandbox() as sandbox:
            app.config.update(sandbox.settings())  # before init_app
            postal.init_app(app)
            sandbox.tracking_url = "http://127.0.0.1:5000/postal/tracking/"

    :param port: The port to listen on; 0 picks a free one.
    :param folder: The folder in which messages, signing key and API key are stored;
        everything is kept in memory if not given.
    :param tracking_url: The URL that events are posted to; none are posted if not
        given.
    :param inbound_url: The URL that incoming mail is posted to.
    :param key: The key to sign with; the one in ``folder``, or a new one, if not given.
    :param clock: The sandbox's clock. With a :class:`.ManualClock` nothing happens
        until :meth:`advance` or :meth:`wait_for` is called.
    :param domains: The domains that may send; all if not given.
    :param tracking: Whether links are tracked and a pixel is added to HTML.
    :raises ConfigurationError: if a URL is not on loopback, or the key in ``folder``
        can't be read.
    """

    def __init__(
        self,
        *,
        port: int = 0,
        folder: Path | str | None = None,
        tracking_url: str | None = None,
        inbound_url: str | None = None,
        key: SigningKey | None = None,
        clock: Clock | None = None,
        domains: Iterable[str] = (),
        tracking: bool = True,
    ) -> None:
        self._port = port
        self._server: BaseWSGIServer | None = None
        self._threads: list[threading.Thread] = []
        self._wake = threading.Condition()
        self._awaited: set[int] = set()
        #: Returns the exception that a receiver of the app raised for a request, or
        #: ``None``; :meth:`wait_for` raises it. :func:`.testing.sandboxed` sets it.
        self.failure_of: Callable[[WebhookRequest], BaseException | None] | None = None
        super().__init__(
            folder=folder, key=key, clock=clock, domains=domains, tracking=tracking
        )
        self.tracking_url = tracking_url
        self.inbound_url = inbound_url
        #: The WSGI app: Postal's API, public keys, tracked links, and the web page.
        self.app: Flask = create_app(self, api, control, page)

    @property
    def url(self) -> str:
        """The value for ``POSTAL_API_URL``."""
        if self._server is None:
            return super().url
        return f"http://127.0.0.1:{self._server.port}"

    # ---- running

    def start(self) -> Sandbox:
        """Start to listen; do nothing if already started.

        :raises ConfigurationError: if the port is in use.
        """
        if self._server is not None:
            return self
        self.stopping.clear()
        with self._listener() as listener:
            server = make_server(
                *("127.0.0.1", self._port, self.app),
                threaded=True,
                request_handler=_Handler,
                passthrough_errors=True,
                fd=listener.fileno(),
            )
        server.daemon_threads = True  # type: ignore[attr-defined]
        # Polls for stop() every 20 ms, not every 500: a test suite stops many servers.
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        ]
        if not self.clock.manual:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
        self._server = server
        self._schedule.resume()
        for thread in self._threads:
            thread.start()
        return self

    def _listener(self) -> socket.socket:
        problem = None
        try:
            return socket.create_server(("127.0.0.1", self._port))
        except OSError as error:
            problem = error.strerror
        raise ConfigurationError(
            f"the sandbox can't listen on port {self._port} ({problem}); choose another"
        )

    def stop(self) -> None:
        """Stop listening; do nothing if not started. Nothing is deleted."""
        server, self._server = self._server, None
        if server is None:
            return
        self.stopping.set()
        self._schedule.save_time()
        self._changed()
        server.shutdown()
        for thread in self._threads:
            if thread is not threading.current_thread():
                thread.join()
        server.server_close()

    def __enter__(self) -> Sandbox:
        return self.start()

    def __exit__(
        self,
        exc_type: type[BaseException] | None,
        exc: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _changed(self) -> None:
        super()._changed()
        with self._wake:
            self._wake.notify_all()

    def _work(self) -> None:
        """Run due jobs until :meth:`stop` is called."""
        while not self.stopping.is_set():
            try:
                self._schedule.run(self.clock.now(), stopping=self.stopping.is_set)
            except Exception:  # noqa: BLE001
                # Continue with the next job: one bug must not stop all webhooks.
                _log.exception("the sandbox failed")
            with self._wake:
                due = self.store.next_due()
                pause = 1.0
                if due is not None:
                    away = due - self.clock.now()
                    pause = min(pause, self.clock.real_seconds(away))
                if not self.stopping.is_set() and pause > 0:
                    self._wake.wait(pause)

    # ---- time

    def advance(
        self, *, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> int:
        """Move a :class:`.ManualClock` forward, and run everything that is due.

        The app has answered all webhooks when this returns.

        :returns: The number of events and webhooks that were due.
        :raises ConfigurationError: if the sandbox has another clock.
        """
        clock = self.clock
        if not isinstance(clock, ManualClock):
            raise ConfigurationError(
                "the clock of this sandbox runs by itself; create it with"
                " Sandbox(clock=ManualClock()) to advance it"
            )
        self.catch_up()
        until = clock.now() + hours * 3600 + minutes * 60 + seconds
        done = self._schedule.run(until, arrive=clock.set)
        clock.set(until)
        self.follow_up()
        return done

    def wait_for(
        self, event: str, *, to: str | None = None, timeout: float = 10.0
    ) -> WebhookRequest:
        """Wait until the app has answered a webhook about an event.

        With a :class:`.ManualClock` this does not wait but moves the time forward. Each
        request is returned once: a second call waits for the next one.

        :param event: Postal's name, such as ``"MessageSent"``, or a value of
            ``event.event_type``, such as ``"delivered"``.
        :param to: The recipient of the message; any if not given.
        :param timeout: The maximum time to wait, in seconds of real time.
        :returns: The request, with the app's response.
        :raises AssertionError: if there is no such request in time.
        :raises Exception: whatever the app's receiver has raised, in a test with
            :func:`.testing.sandboxed` or the fixture ``postal_sandbox``.
        """
        self.catch_up()
        names, deadline = names_of(event), time.monotonic() + timeout
        while (request := self._next_answered(names, to)) is None:
            left = deadline - time.monotonic()
            due = self.store.next_due()
            if left <= 0 or (self.clock.manual and due is None):
                break
            if self.clock.manual and due is not None:
                self.advance(seconds=due - self.clock.now())
            else:
                with self._wake:
                    self._wake.wait(min(left, 0.05))
        if request is None:
            wanted = f"{' or '.join(sorted(names))} webhook{f' to {to}' if to else ''}"
            last = self.requests[-10:]
            seen = [f"{r.event} to {r.recipient} ({r.state})" for r in last]
            raise AssertionError(
                f"no {wanted} was posted; there were"
                f" {', '.join(seen) or 'no webhooks at all'}"
            )
        if self.failure_of and (failure := self.failure_of(request)):
            raise failure
        return request

    def _next_answered(
        self, names: Collection[str], to: str | None
    ) -> WebhookRequest | None:
        """Return the first answered request that has not been returned before."""
        for request in self.store.requests():
            if (
                request.event in names
                and request.attempts
                and request.id not in self._awaited
                and to in (None, request.recipient)
            ):
                self._awaited.add(request.id)
                return request
        return None


class _Handler(WSGIRequestHandler):
    """Request handler that uses logging, and allows views to reset the connection."""

    def run_wsgi(self) -> None:
        try:
            super().run_wsgi()
        except (OSError, ValueError):
            if self.connection.fileno() != -1:
                raise

    def log(self, type: str, message: str, *args: Any) -> None:
        _log.debug(message.rstrip("\n"), *args)
