"""Simulated Postal server without a port, on which API, page and commands act.

:class:`Simulation` connects outgoing mail, incoming mail, webhooks and the schedule.
:class:`.Sandbox` adds a port to listen on, and a thread that runs what is due.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

from ..errors import ConfigurationError
from ..settings import SANDBOX_KEY
from ..vocabulary import find_event, known_events
from ..webhooks.replay import read_stored_request
from .clock import Clock
from .dns import SandboxDNS
from .faults import Fault
from .incoming import IncomingMail
from .mailbox import Mailbox
from .outgoing import OutgoingMail
from .records import Mail, WebhookRequest
from .schedule import Schedule
from .signing_key import SigningKey
from .store import Store
from .webhook_bodies import serialize, server_payload, set_path, webhook_body
from .webhook_client import Target, call_app, check_target, hook_urls
from .webhook_sender import WebhookSender

__all__ = ["Simulation"]

KEY_FILE = "postal-sandbox.key"


class Simulation:
    """Simulated Postal server, the base class of :class:`.Sandbox`.

    Create a :class:`.Sandbox`, which also documents the parameters.
    """

    def __init__(
        self,
        *,
        folder: Path | str | None = None,
        key: SigningKey | None = None,
        clock: Clock | None = None,
        domains: Iterable[str] = (),
        tracking: bool = True,
    ) -> None:
        self._folder = None if folder is None else Path(folder)
        database = None
        if self._folder is not None:
            self._folder.mkdir(parents=True, exist_ok=True)
            database = self._folder / "postal-sandbox.sqlite"
            database.touch(mode=0o600)
            key = key or SigningKey.load(self._folder / KEY_FILE)
        #: The sandbox's clock.
        self.clock: Clock = clock or Clock()
        #: The domains that may send; all if it is empty.
        self.domains: frozenset[str] = frozenset(domain.lower() for domain in domains)
        #: Incremented on every change; the page refreshes when it differs.
        self.version: int = 0
        #: Set when the sandbox stops, so that API calls with the fault "hang" end.
        self.stopping: threading.Event = threading.Event()
        #: Called before messages are read and time moves, so that a test helper can let
        #: the app send what is due.
        self.catch_up: Callable[[], object] = bool
        #: Called once time has moved, so that the app can look up what has happened.
        self.follow_up: Callable[[], object] = bool
        #: The DNS records that the authors of incoming mail have.
        self.dns: SandboxDNS = SandboxDNS()
        self.store: Store = Store(database)
        #: The value for ``POSTAL_API_KEY``.
        self.api_key: str = self._kept(
            "api_key", f"{SANDBOX_KEY}{secrets.token_hex(12)}"
        )
        #: The value for ``POSTAL_WEBHOOK_SECRET``: ``user:password``, sent by webhooks.
        self.webhook_secret: str = self._kept(
            "secret", f"sandbox:{secrets.token_hex(8)}"
        )
        self._join(key or SigningKey.generate(), tracking=tracking)

    def _join(self, key: SigningKey, *, tracking: bool) -> None:
        """Create the components, each with those that it needs."""
        self._schedule = Schedule(self.store, self.clock)
        self._mailbox = Mailbox(self.store, self.clock)
        self._webhooks = WebhookSender(
            self.store,
            self.clock,
            self._schedule,
            key=key,
            secret=self.webhook_secret,
            changed=self._changed,
        )
        self.outgoing: OutgoingMail = OutgoingMail(
            self.store,
            self.clock,
            self._schedule,
            self._mailbox,
            self._webhooks,
            url=lambda: self.url,
            tracking=tracking,
            changed=self._changed,
        )
        self.incoming: IncomingMail = IncomingMail(
            self.clock, self._mailbox, self._webhooks, self.outgoing
        )

    def _kept(self, name: str, new: str) -> str:
        value = self.store.note(name)
        if value is None:
            self.store.set_note(name, new)
        return value or new

    def _changed(self) -> None:
        self.version += 1

    # ---- addresses and keys

    @property
    def url(self) -> str:
        """The value for ``POSTAL_API_URL``.

        :raises ConfigurationError: if the sandbox has not been started.
        """
        raise ConfigurationError("the sandbox is not running; call start() first")

    def settings(self, name: str | None = None) -> dict[str, Any]:
        """Return the settings with which an app sends to this sandbox.

        ``POSTAL_WEBHOOK_KEY`` is unset, because the app fetches the key from the
        sandbox.

        :param name: The name of the app's Postal, if it has several.
        :raises ConfigurationError: if the sandbox has not been started.
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
        """The key that webhooks are signed with; :meth:`rotate_key` changes it."""
        return self._webhooks.key

    def rotate_key(self, key: SigningKey | None = None) -> SigningKey:
        """Sign with another key from now on, as after a change of Postal's key.

        :param key: A new one is generated if not given.
        """
        self._webhooks.key = key or SigningKey.generate()
        if self._folder is not None:
            self._webhooks.key.save(self._folder / KEY_FILE)
        return self._webhooks.key

    @property
    def tracking_url(self) -> str | None:
        """The loopback URL that events are posted to; ``None`` posts nothing.

        :raises ConfigurationError: if it is set to a URL that is not on loopback.
        """
        return self._webhooks.urls["tracking"]

    @tracking_url.setter
    def tracking_url(self, url: str | None) -> None:
        self._webhooks.urls["tracking"] = None if url is None else check_target(url)

    @property
    def inbound_url(self) -> str | None:
        """The loopback URL that incoming mail is posted to.

        :raises ConfigurationError: if it is set to a URL that is not on loopback.
        """
        return self._webhooks.urls["inbound"]

    @inbound_url.setter
    def inbound_url(self, url: str | None) -> None:
        self._webhooks.urls["inbound"] = None if url is None else check_target(url)

    def deliver_to(self, app: Flask, postal_key: str = "postal") -> None:
        """Deliver webhooks to an app in this process, without HTTP.

        :param postal_key: The name of the blueprint: ``"postal_marketing"`` for
            ``Postal(name="marketing")``.
        :raises ConfigurationError: if the app has no such blueprint.
        """
        urls = hook_urls(app, postal_key, "http://127.0.0.1:5000")
        self.tracking_url, self.inbound_url = urls
        self._webhooks.target = partial(call_app, app)

    @property
    def target(self) -> Target:
        """The function that delivers webhooks; :meth:`call_with` sets it."""
        return self._webhooks.target

    def call_with(self, target: Target) -> None:
        """Deliver webhooks with a function instead of posting them over HTTP.

        :param target: Called with the URL, the body as bytes and a dict of headers;
            returns a :class:`.WebhookResponse`.
        """
        self._webhooks.target = target

    # ---- messages and requests

    @property
    def messages(self) -> list[Mail]:
        """The messages that the app has sent, one per recipient, oldest first."""
        self.catch_up()
        return [mail for mail in self.store.mails() if mail.direction == "outgoing"]

    @property
    def requests(self) -> list[WebhookRequest]:
        """The requests to the app's webhooks, past and planned, oldest first."""
        return self.store.requests()

    def clear(self) -> None:
        """Delete all messages, requests and planned events; switch all faults off."""
        self.store.clear()
        self.clear_faults()
        self._changed()

    # ---- events

    def trigger(
        self, event: str, *, to: str | None = None, set: Mapping[str, Any] | None = None
    ) -> WebhookRequest:
        """Post an event to the app now.

        :param event: Postal's name, such as ``"MessageSent"``, ``"DomainDNSError"``,
            ``"SendLimitApproaching"`` or ``"SendLimitExceeded"``, or a value of
            ``event.event_type``, such as ``"delivered"``.
        :param to: The address of a recipient: the event is about the last message to
            it, or about a sample message if there is none.
        :param set: Path -> value of changes to the body, such as
            ``{"payload.output": "550 5.7.1 Blocked"}``.
        :returns: The request, with the app's response.
        :raises ValueError: for an unknown event or path.
        """
        row = find_event(event)
        if row is None:
            raise ValueError(f"unknown event {event!r}; use one of {known_events()}")
        now, mail = self.clock.now(), None
        if row.about == "server":
            payload = server_payload(row, now)
        else:
            mail = self._mailbox.last_to(to)
            payload = self.outgoing.note(mail, row)
        body = webhook_body(str(row.name), payload, now)
        for path, value in (set or {}).items():
            set_path(body, path, value)
        return self._webhooks.post(
            "tracking", str(row.name), "application/json", serialize(body), mail
        )

    def happen(self, mail: Mail, event: str) -> None:
        """Apply an event to a message, and plan the webhook that reports it.

        :param event: As for :meth:`.Sandbox.wait_for`.
        :raises ValueError: for an unknown event, or one about the mail server.
        """
        row = find_event(event)
        if row is None or row.about != "message":
            raise ValueError(f"unknown event {event!r}; use one of {known_events()}")
        self.outgoing.happen(mail, row)

    def accept(
        self,
        recipients: list[str],
        raw: bytes,
        *,
        sender: str | None = None,
        subject: str | None = None,
        message_id: str | None = None,
        tag: str | None = None,
    ) -> list[Mail]:
        """Accept a message as the API does, but without its checks.

        :param recipients: The envelope recipients.
        :param raw: The message in MIME.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param message_id: The Message-ID, without angle brackets.
        :returns: The stored message for each recipient.
        """
        return self.outgoing.accept(
            recipients,
            raw,
            sender=sender,
            subject=subject,
            message_id=message_id,
            tag=tag,
        )

    def receive(
        self,
        raw: bytes,
        *,
        to: str,
        sender: str | None = "zoe@example.net",
        format: str = "raw-json",
        strip_replies: bool = False,
        spam: bool = False,
        client: str = "127.0.0.1",
    ) -> WebhookRequest:
        """Post inbound mail to the app now, as if it came from outside.

        :param raw: The email in MIME; :func:`.compose_mail` and :func:`.reply_to` build
            one.
        :param to: The envelope recipient.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param format: ``"raw-json"``, ``"raw-form"``, ``"hash-json"`` or
            ``"hash-form"``: the format that the HTTP endpoint in Postal is set to.
        :param strip_replies: Whether the HTTP endpoint is set to separate quoted
            replies.
        :param spam: Whether Postal classifies the mail as spam.
        :param client: The IP address of the server that it came from, for SPF.
        :returns: The request, with the app's response; ``.attempts[-1].verdict`` says
            what Postal does after it.
        :raises ValueError: for an unknown format, or an email of over 25 MB.
        """
        return self.incoming.receive(
            raw,
            recipient=to,
            sender=sender,
            format=format,
            strip_replies=strip_replies,
            spam=spam,
            client=client,
        )

    def replay(self, file: Path | str) -> WebhookRequest:
        """Post a stored webhook request again, signed with this sandbox's key.

        :param file: A file with the body of the request, as Postal sent it.
        :returns: The request, with the app's response.
        :raises ValueError: if it is neither an event nor inbound mail.
        """
        return self.post(Path(file).read_bytes())

    def post(self, body: bytes) -> WebhookRequest:
        """Post the body of a stored webhook request; see :meth:`replay`."""
        stored = read_stored_request(body)
        request = stored.request
        return self._webhooks.post(
            request.hook, stored.event, request.media_type, request.body
        )

    def retry(self, request: WebhookRequest) -> WebhookRequest:
        """Post a webhook request again now.

        :returns: The request, with the app's response as its last attempt.
        """
        return self._webhooks.retry(request)

    def post_foreign(self) -> WebhookRequest:
        """Post an event of another tenant of the same Postal installation now.

        Its signature is valid, but it doesn't carry this mail server's secret. An app
        with ``POSTAL_WEBHOOK_SECRET`` refuses it.
        """
        return self._webhooks.post_foreign(self._mailbox.last_to(None))

    # ---- faults

    def fault(self, fault: Fault | str, times: int | None = None) -> None:
        """Switch a fault on.

        :param fault: One of :class:`.Fault`, such as ``"502"`` or ``"duplicate"``.
        :param times: The number of calls or webhooks that it applies to; until
            :meth:`clear_faults` is called if not given.
        :raises ValueError: if there is no such fault, or ``times`` is below 1.
        """
        self._webhooks.faults.add(fault, times)

    @property
    def faults(self) -> dict[str, int | None]:
        """The active faults, and the number of calls that each still applies to."""
        return self._webhooks.faults.active()

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._webhooks.faults.clear()

    def plan(self, seconds: float, job: str, **arguments: Any) -> None:
        """Plan a job for later; :meth:`on` says what it does.

        :param arguments: The job's arguments, which must be JSON.
        """
        self._schedule.plan(self.clock.now() + seconds, job, **arguments)

    def on(self, job: str, worker: Callable[..., None]) -> None:
        """Set the function that does a planned job."""
        self._schedule.register(job, worker)

    def take_api_fault(self) -> Fault | None:
        """Return the fault that applies to this API call, and count the call."""
        return self._webhooks.faults.take(api=True)
