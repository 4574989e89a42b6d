"""A Postal server without a network: everything that its API, page and commands act on.

:class:`Simulation` joins the parts below it: outgoing and incoming mail, webhooks and
the schedule. :class:`.Sandbox` adds a port to listen on and the passing of time.
"""

from __future__ import annotations

import secrets
import threading
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from flask import Flask

from ..errors import ConfigurationError
from ..settings import SANDBOX_KEY
from ..vocabulary import find_event, known_events
from ..webhooks.replay import read_stored_request
from .clock import Clock
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
    """A simulated Postal server. Use :class:`.Sandbox`, which has the parameters."""

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
        #: The sandbox's time.
        self.clock: Clock = clock or Clock()
        #: The domains that may send; all if it is empty.
        self.domains: frozenset[str] = frozenset(domain.lower() for domain in domains)
        #: Grows with everything that happens; the page reloads when it does.
        self.version: int = 0
        #: Set when the sandbox stops; ends API calls that hang.
        self.stopping: threading.Event = threading.Event()
        self.store: Store = Store(database)
        #: The value for ``POSTAL_API_KEY``.
        self.api_key: str = self._kept(
            "api_key", f"{SANDBOX_KEY}{secrets.token_hex(12)}"
        )
        #: ``user:password`` that webhooks carry: ``POSTAL_WEBHOOK_SECRET``.
        self.webhook_secret: str = self._kept(
            "secret", f"sandbox:{secrets.token_hex(8)}"
        )
        self._join(key or SigningKey.generate(), tracking=tracking)

    def _join(self, key: SigningKey, *, tracking: bool) -> None:
        """Create the parts, each with what it needs of the others."""
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

        :raises ConfigurationError: while the sandbox does not listen.
        """
        raise ConfigurationError("the sandbox is not running; call start() first")

    def settings(self, name: str | None = None) -> dict[str, Any]:
        """Return the settings with which an app uses this sandbox.

        The webhook key is unset, because the app fetches it from the sandbox.

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
        return self._webhooks.key

    def rotate_key(self, key: SigningKey | None = None) -> SigningKey:
        """Sign with another key from now on, as after a key change in Postal.

        :param key: A new one is generated if not given.
        """
        self._webhooks.key = key or SigningKey.generate()
        if self._folder is not None:
            self._webhooks.key.save(self._folder / KEY_FILE)
        return self._webhooks.key

    @property
    def tracking_url(self) -> str | None:
        """The URL that events are posted to, on loopback; ``None`` posts nothing."""
        return self._webhooks.urls["tracking"]

    @tracking_url.setter
    def tracking_url(self, url: str | None) -> None:
        self._webhooks.urls["tracking"] = None if url is None else check_target(url)

    @property
    def inbound_url(self) -> str | None:
        """The URL that incoming mails are posted to, on loopback."""
        return self._webhooks.urls["inbound"]

    @inbound_url.setter
    def inbound_url(self, url: str | None) -> None:
        self._webhooks.urls["inbound"] = None if url is None else check_target(url)

    def deliver_to(self, app: Flask, postal_key: str = "postal") -> None:
        """Pass webhooks to an app in this process, without HTTP.

        :param postal_key: The name of the blueprint, ``postal_marketing`` for
            ``Postal(name="marketing")``.
        :raises ConfigurationError: if the app has no such blueprint.
        """
        urls = hook_urls(app, postal_key, "http://127.0.0.1:5000")
        self.tracking_url, self.inbound_url = urls
        self._webhooks.target = partial(call_app, app)

    @property
    def target(self) -> Target:
        """The function that webhooks are passed to; :meth:`call_with` sets it."""
        return self._webhooks.target

    def call_with(self, target: Target) -> None:
        """Pass webhooks to a function instead of posting them."""
        self._webhooks.target = target

    # ---- mails and requests

    @property
    def messages(self) -> list[Mail]:
        """The mails that the app has sent, one for each recipient, oldest first."""
        return [mail for mail in self.store.mails() if mail.direction == "outgoing"]

    @property
    def requests(self) -> list[WebhookRequest]:
        """The requests to the app's webhooks, oldest first."""
        return self.store.requests()

    def clear(self) -> None:
        """Delete all mails, requests and planned events, and switch all faults off."""
        self.store.clear()
        self.clear_faults()
        self._changed()

    # ---- events

    def trigger(
        self, event: str, *, to: str | None = None, set: Mapping[str, Any] | None = None
    ) -> WebhookRequest:
        """Post an event to the app now.

        :param event: As for :meth:`.Sandbox.wait_for`; also ``DomainDNSError``,
            ``SendLimitApproaching`` and ``SendLimitExceeded``.
        :param to: The event is about the last mail to this address; a mail is made up
            if there is none.
        :param set: Path -> value, to change in the body: ``{"payload.output": "..."}``.
        :returns: The request, with the app's response.
        :raises ValueError: for an unknown event or path.
        """
        row = find_event(event)
        if row is None:
            raise ValueError(f"no event {event!r}; there are {known_events()}")
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
        """Let an event happen to a mail; the app is told in its turn.

        :param event: As for :meth:`.Sandbox.wait_for`.
        :raises ValueError: for an unknown event, or one about the server.
        """
        row = find_event(event)
        if row is None or row.about != "message":
            raise ValueError(f"no event {event!r}; there are {known_events()}")
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
        """Accept a message as the API does, without its checks.

        :param raw: The message in MIME.
        :returns: A mail for each recipient.
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
    ) -> WebhookRequest:
        """Take a mail from outside and post it to the app now.

        :param raw: The mail; :func:`.compose_mail` and :func:`.reply_to` write one.
        :param to: The envelope recipient.
        :param sender: The envelope sender; ``None`` for ``<>``.
        :param format: ``"raw-json"``, ``"raw-form"``, ``"hash-json"`` or
            ``"hash-form"``: the format that the HTTP endpoint in Postal is set to.
        :param strip_replies: Whether the endpoint separates quoted replies.
        :param spam: Whether Postal takes the mail for spam.
        :returns: The request; ``.attempts[-1].verdict`` says what becomes of the mail.
        :raises ValueError: for an unknown format, and for a mail of over 25 MB.
        """
        return self.incoming.receive(
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
        stored = read_stored_request(body)
        request = stored.request
        return self._webhooks.post(
            request.hook, stored.event, request.media_type, request.body
        )

    def retry(self, request: WebhookRequest) -> WebhookRequest:
        """Post a request again now.

        :returns: The request, with the app's response as its last attempt.
        """
        return self._webhooks.retry(request)

    def post_foreign(self) -> WebhookRequest:
        """Post an event of another tenant of the same Postal now."""
        return self._webhooks.post_foreign(self._mailbox.last_to(None))

    # ---- faults

    def fault(self, fault: Fault | str, times: int | None = None) -> None:
        """Let something go wrong.

        :param fault: One of :class:`.Fault`, such as ``"502"`` or ``"duplicate"``.
        :param times: The number of calls it applies to; until :meth:`clear_faults` if
            not given.
        :raises ValueError: if there is no such fault.
        """
        self._webhooks.faults.add(fault, times)

    @property
    def faults(self) -> dict[str, int | None]:
        """The active faults, and the number of calls that each still applies to."""
        return self._webhooks.faults.active()

    def clear_faults(self) -> None:
        """Switch all faults off."""
        self._webhooks.faults.clear()

    def take_api_fault(self) -> Fault | None:
        """Return the fault that applies to this API call, and count the call."""
        return self._webhooks.faults.take(api=True)
