"""The sandbox as users hold it: it listens, keeps time and shows what happened."""

from __future__ import annotations

import logging
import secrets
import socket
import threading
import time
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import Any

from flask import Flask
from werkzeug.serving import BaseWSGIServer, WSGIRequestHandler, make_server

from ..errors import ConfigurationError
from ..settings import SANDBOX_KEY
from .api import create_app
from .clock import Clock, ManualClock
from .control import add_control
from .engine import Engine
from .faults import Fault
from .page import add_page
from .store import Mail, Store, WebhookRequest
from .traffic import SigningKey
from .trigger import EVENTS, KINDS, read_stored_request
from .webhook_client import Target, call_app, check_target

__all__ = ["Sandbox", "hook_urls"]

_log = logging.getLogger("flask_postal.sandbox")

KEY_FILE = "postal-sandbox.key"


class Sandbox:
    """A Postal on 127.0.0.1: it takes mail, sends it nowhere, and reports what becomes
    of it.

    ::

        with Sandbox() as sandbox:
            app.config.update(sandbox.settings())  # before init_app
            postal.init_app(app)
            sandbox.tracking_url = "http://127.0.0.1:5000/postal/tracking/"

    :param port: The port to listen on; 0 for a free one.
    :param folder: Where mails, the key and the API key are kept; in memory if not
        given.
    :param tracking_url: Where events are posted to; nowhere if not given.
    :param inbound_url: Where mail that comes in is posted to.
    :param key: The key to sign with; if not given the one in ``folder``, or a new one.
    :param clock: Its time. With a :class:`.ManualClock` nothing happens before
        :meth:`advance` or :meth:`wait_for` is called.
    :param domains: The domains that may send; all if not given.
    :param tracking: Whether links are tracked and a pixel is put into HTML.
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
        self._stopping = threading.Event()
        self._awaited: set[int] = set()
        #: Returns what a receiver of the app raised for a request, if anything is known
        #: of it: :meth:`wait_for` raises it. See :func:`.testing.sandboxed`.
        self.failure_of: Callable[[WebhookRequest], BaseException | None] | None = None
        self._folder = None if folder is None else Path(folder)
        database = None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            database = self._folder / "postal-sandbox.sqlite"
            database.touch(mode=0o600)
            key = key or SigningKey.load(self._folder / KEY_FILE)
        self._store = Store(database)
        #: The value for ``POSTAL_API_KEY``.
        self.api_key: str = self._kept(
            "api_key", f"{SANDBOX_KEY}{secrets.token_hex(12)}"
        )
        #: ``user:password`` that webhooks carry: ``POSTAL_WEBHOOK_SECRET``.
        self.webhook_secret: str = self._kept(
            "secret", f"sandbox:{secrets.token_hex(8)}"
        )
        self._engine = Engine(
            self._store,
            clock or Clock(),
            key or SigningKey.generate(),
            secret=self.webhook_secret,
            url=lambda: self.url,
            changed=self._changed,
        )
        self._engine.tracking = tracking
        self.tracking_url = tracking_url
        self.inbound_url = inbound_url
        #: The WSGI app: Postal's API, its keys and its tracked links.
        self.app: Flask = create_app(
            self._engine,
            api_key=lambda: self.api_key,
            domains=domains,
            stopping=self._stopping,
        )
        add_control(self.app, self)
        add_page(self.app, self, self._engine)

    def _kept(self, name: str, new: str) -> str:
        value = self._store.note(name)
        if value is None:
            self._store.set_note(name, new)
        return value or new

    # ---- where it is

    @property
    def url(self) -> str:
        """The value for ``POSTAL_API_URL``."""
        if self._server is None:
            raise ConfigurationError("the sandbox is not running; call start() first")
        return f"http://127.0.0.1:{self._server.port}"

    def settings(self, name: str | None = None) -> dict[str, Any]:
        """What an app needs in its configuration to use this sandbox.

        There is no webhook key in it: the app fetches it from here.

        :param name: The name of the app's Postal, where it has several.
        """
        prefix = f"POSTAL_{name.upper()}_" if name else "POSTAL_"
        return {
            f"{prefix}API_URL": self.url,
            f"{prefix}API_KEY": self.api_key,
            f"{prefix}WEBHOOK_SECRET": self.webhook_secret,
            f"{prefix}WEBHOOK_KEY": None,
        }

    @property
    def key(self) -> SigningKey:
        """The key that webhooks are signed with; see :meth:`rotate_key`."""
        return self._engine.key

    @property
    def tracking_url(self) -> str | None:
        """Where events are posted to, on loopback."""
        return self._engine.hooks["tracking"]

    @tracking_url.setter
    def tracking_url(self, url: str | None) -> None:
        self._engine.hooks["tracking"] = None if url is None else check_target(url)

    @property
    def inbound_url(self) -> str | None:
        """Where mail that comes in is posted to, on loopback."""
        return self._engine.hooks["inbound"]

    @inbound_url.setter
    def inbound_url(self, url: str | None) -> None:
        self._engine.hooks["inbound"] = None if url is None else check_target(url)

    def deliver_to(self, app: Flask, postal_key: str = "postal") -> None:
        """Hand webhooks to an app in this process, without HTTP.

        :param postal_key: The name of the blueprint, ``postal_marketing`` for
            ``Postal(name="marketing")``.
        :raises ConfigurationError: if the app has no such blueprint.
        """
        urls = hook_urls(app, postal_key, "http://127.0.0.1:5000")
        self.tracking_url, self.inbound_url = urls
        self._engine.call = partial(call_app, app)

    @property
    def target(self) -> Target:
        """What webhooks are handed to; :meth:`call_with` sets it."""
        return self._engine.call

    def call_with(self, target: Target) -> None:
        """Hand webhooks to a function in place of posting them."""
        self._engine.call = target

    # ---- running

    def start(self) -> Sandbox:
        """Begin to listen; once it does, nothing."""
        if self._server is not None:
            return self
        self._stopping.clear()
        with self._listener() as listener:
            server = make_server(
                *("127.0.0.1", self._port, self.app),
                threaded=True,
                request_handler=_Handler,
                passthrough_errors=True,
                fd=listener.fileno(),
            )
        server.daemon_threads = True  # type: ignore[attr-defined]
        # Looks for stop() 50 times a second: a test suite stops many.
        self._threads = [
            threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True)
        ]
        if not self._engine.clock.manual:
            self._threads.append(threading.Thread(target=self._work, daemon=True))
        self._server = server
        self._engine.begin()
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
        """Stop listening, if it does. A sandbox in memory forgets nothing by it."""
        server, self._server = self._server, None
        if server is None:
            return
        self._stopping.set()
        self._store.set_note("clock", str(self._engine.clock.now()))
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
        with self._wake:
            self._wake.notify_all()

    def _work(self) -> None:
        """Do what is due, until stop()."""
        engine = self._engine
        while not self._stopping.is_set():
            try:
                engine.run(engine.clock.now(), stopping=self._stopping.is_set)
            except Exception:  # noqa: BLE001
                # The sandbox goes on without it; a bug here must not end all webhooks.
                _log.exception("the sandbox failed")
            with self._wake:
                due = self._store.next_due()
                pause = 1.0
                if due is not None:
                    away = due - engine.clock.now()
                    pause = min(pause, engine.clock.real_seconds(away))
                if not self._stopping.is_set() and pause > 0:
                    self._wake.wait(pause)

    # ---- time

    def advance(
        self, *, hours: float = 0, minutes: float = 0, seconds: float = 0
    ) -> int:
        """Move the time of a :class:`.ManualClock` on, and let happen what is due.

        :returns: How much happened.
        :raises ConfigurationError: if the time passes by itself.
        """
        clock = self._engine.clock
        if not isinstance(clock, ManualClock):
            raise ConfigurationError(
                "this sandbox's time passes by itself; make it with"
                " Sandbox(clock=ManualClock()) to move it"
            )
        until = clock.now() + hours * 3600 + minutes * 60 + seconds
        done = self._engine.run(until, arrive=clock.set)
        clock.set(until)
        return done

    def wait_for(
        self, event: str, *, to: str | None = None, timeout: float = 10.0
    ) -> WebhookRequest:
        """Wait until the app has answered an event.

        With a :class:`.ManualClock` the time moves on to it at once. Each request is
        returned once: a second call waits for the next.

        :param event: Postal's name, such as ``"MessageSent"``, or one of
            ``event.event_type``, such as ``"delivered"``.
        :param to: Whom it is about.
        :param timeout: Seconds of the computer's time, at most.
        :returns: The request, with how the app answered.
        :raises AssertionError: if it does not come.
        :raises Exception: in a test with :func:`.testing.sandboxed` or the fixture
            ``postal_sandbox``: what the app's receiver raised.
        """
        name, deadline = EVENTS.get(event, event), time.monotonic() + timeout
        while True:
            for request in self._store.requests():
                if (
                    request.event == name
                    and request.attempts
                    and request.id not in self._awaited
                    and to in (None, request.recipient)
                ):
                    self._awaited.add(request.id)
                    if self.failure_of and (failure := self.failure_of(request)):
                        raise failure
                    return request
            left = deadline - time.monotonic()
            if left <= 0:
                break
            if self._engine.clock.manual:
                due = self._store.next_due()
                if due is None:
                    break
                self.advance(seconds=due - self._engine.clock.now())
            else:
                with self._wake:
                    self._wake.wait(min(left, 0.05))
        last = self.requests[-10:]
        seen = [f"{r.event} to {r.recipient} ({r.state})" for r in last]
        raise AssertionError(
            f"no {name}{f' to {to}' if to else ''} has come; there were"
            f" {', '.join(seen) or 'no webhooks at all'}"
        )

    # ---- what happened

    @property
    def messages(self) -> list[Mail]:
        """The mails the app has sent, one for each recipient, oldest first."""
        return [mail for mail in self._store.mails() if mail.direction == "outgoing"]

    @property
    def requests(self) -> list[WebhookRequest]:
        """The requests to the app's webhooks, oldest first."""
        return self._store.requests()

    def clear(self) -> None:
        """Forget all mails, requests, what is planned, and all faults."""
        self._store.clear()
        self.clear_faults()
        self._engine.version += 1

    # ---- what is to happen

    def trigger(
        self, event: str, *, to: str | None = None, set: Mapping[str, Any] | None = None
    ) -> WebhookRequest:
        """Post an event to the app now.

        :param event: As for :meth:`wait_for`; also ``DomainDNSError``,
            ``SendLimitApproaching`` and ``SendLimitExceeded``.
        :param to: About the last mail to this address; one is made up if there is none.
        :param set: Path -> value, to change in the body: ``{"payload.output": "..."}``.
        :returns: The request, with how the app answered.
        :raises ValueError: for an unknown event or path.
        """
        return self._engine.trigger(EVENTS.get(event, event), to, set or {})

    def happen(self, mail: Mail, event: str) -> None:
        """Let something happen to a mail; the event goes to the app in its turn.

        :param event: As for :meth:`wait_for`.
        :raises ValueError: for an unknown event.
        """
        name = EVENTS.get(event, event)
        kinds = [kind for kind, known in KINDS.items() if known == name]
        if not kinds:
            raise ValueError(f"no event {event!r}; there are {', '.join(EVENTS)}")
        self._engine.happen(mail, kinds[0])

    def receive(
        self,
        raw: bytes,
        *,
        to: str,
        sender: str | None = "zoe@example.net",
        format: str = "raw-json",
        strip_replies: bool = False,
        spam: bool = False,
    ) -> WebhookRequest:
        """Take a mail from outside and post it to the app now.

        :param raw: The mail; :func:`.compose_mail` and :func:`.reply_to` write one.
        :param to: The envelope recipient.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param format: ``"raw-json"``, ``"raw-form"``, ``"hash-json"`` or
            ``"hash-form"``: what the HTTP endpoint in Postal is set to.
        :param strip_replies: Another setting of it.
        :returns: The request; ``.attempts[-1].verdict`` tells what becomes of the mail.
        :raises ValueError: for an unknown format.
        """
        return self._engine.receive(
            raw,
            recipient=to,
            sender=sender,
            format=format,
            strip_replies=strip_replies,
            spam=spam,
        )

    def replay(self, file: Path | str) -> WebhookRequest:
        """Post a stored request again, signed with this sandbox's key.

        :param file: Its body, as Postal sent it.
        :raises ValueError: if it is neither an event nor a mail.
        """
        return self.post(Path(file).read_bytes())

    def post(self, body: bytes) -> WebhookRequest:
        """Post the body of a request, signed with this sandbox's key; see
        :meth:`replay`."""
        hook, event, media_type = read_stored_request(body)
        return self._engine.post_now(hook, event, media_type, body)

    def fault(self, fault: Fault | str, times: int | None = None) -> None:
        """Let something go wrong.

        :param fault: One of :class:`.Fault`, such as ``"502"`` or ``"duplicate"``.
        :param times: For so many calls; until :meth:`clear_faults` if not given.
        :raises ValueError: if there is no such fault.
        """
        self._engine.faults.add(fault, times)

    @property
    def faults(self) -> dict[str, int | None]:
        """The faults that are on, and for how many calls."""
        return self._engine.faults.active()

    def clear_faults(self) -> None:
        """Let nothing go wrong any more."""
        self._engine.faults.clear()

    def rotate_key(self, key: SigningKey | None = None) -> SigningKey:
        """Sign with another key from now on, as after a new one was set up in Postal.

        :param key: A new one if not given.
        """
        self._engine.key = key or SigningKey.generate()
        if self._folder is not None:
            self._engine.key.save(self._folder / KEY_FILE)
        return self._engine.key


def hook_urls(app: Flask, postal_key: str, base_url: str) -> tuple[str, str]:
    """Return where an app has its webhooks.

    :raises ConfigurationError: if it has none.
    """
    adapter = app.url_map.bind("localhost")
    paths = []
    for hook in ("tracking", "inbound"):
        endpoint = next(
            (
                name
                for name in app.view_functions
                if f".{name}".endswith(f".{postal_key}.{hook}")
            ),
            None,
        )
        if endpoint is None:
            raise ConfigurationError(
                "this app has no webhooks; call"
                " app.register_blueprint(postal.blueprint)"
            )
        paths.append(base_url.rstrip("/") + adapter.build(endpoint))
    return paths[0], paths[1]


class _Handler(WSGIRequestHandler):
    """Logs to logging, and takes no offence at a connection that was reset."""

    def run_wsgi(self) -> None:
        try:
            super().run_wsgi()
        except (OSError, ValueError):
            if self.connection.fileno() != -1:
                raise

    def log(self, type: str, message: str, *args: Any) -> None:
        _log.debug(message.rstrip("\n"), *args)
