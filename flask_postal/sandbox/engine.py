"""The heart of the sandbox: mails go in, things happen to them, webhooks go out.

Nothing here listens or waits. :meth:`Engine.run` does what is due by a time;
:mod:`.server` calls it when the time has come.
"""

from __future__ import annotations

import base64
import logging
import random
import secrets
import string
import threading
import uuid
from collections.abc import Callable, Mapping, Sequence
from typing import Any
from urllib.parse import urlsplit

from ..sending.result import new_token
from .clock import Clock
from .endpoint import inbound_request, receive_headers
from .faults import Fault, Faults
from .link_tracking import insert_tracking
from .mail_reader import PostalMail
from .scenarios import scenario_for
from .store import Attempt, Job, Mail, Store, WebhookRequest
from .traffic import SigningKey, message_payload, serialize, webhook, webhook_body
from .trigger import EVENTS, KINDS, SERVER, SERVER_EVENTS, server_payload, set_path
from .verdicts import judge_inbound, judge_tracking
from .webhook_client import Target, WebhookResponse, call_url, check_target

__all__ = ["MAX_MAIL", "SERVER_TOKEN", "Engine"]

_log = logging.getLogger("flask_postal.sandbox")

#: What stands for the mail server in tracked links and return paths.
SERVER_TOKEN = "sndbox"  # noqa: S105
#: Bytes of a mail.
MAX_MAIL = 25 * 1024 * 1024
#: Seconds by which a webhook is late, or lets the next ones pass.
_DELAYS = {Fault.LATE: 20 * 60.0, Fault.REORDER: 5.0}

_HOST = "sandbox.localhost (127.0.0.1)"
_DETAILS = {
    "Sent": ("Message for {to} accepted by " + _HOST, "250 2.0.0 OK queued"),
    "SoftFail": (
        f"Temporary SMTP delivery error when sending to {_HOST}",
        "450 4.2.0 Greylisted, try again later",
    ),
    "HardFail": (
        f"Permanent SMTP delivery error when sending to {_HOST}",
        "550 5.1.1 No such user <{to}> here",
    ),
    "Held": ("Server is in development mode.", ""),
    "Error": (
        "An internal error occurred while sending this message. This message will be"
        " retried automatically.",
        "Mysql2::Error: Data too long for column 'tag' at row 1",
    ),
}
#: What Postal notes of a mail after an SMTP session.
_ATTEMPTED = ("Sent", "SoftFail", "HardFail")


class Engine:
    """One Postal.

    :param url: Returns the sandbox's own address, for tracked links.
    :param changed: Called when there is something new to do or to see.
    """

    def __init__(
        self,
        store: Store,
        clock: Clock,
        key: SigningKey,
        *,
        secret: str,
        url: Callable[[], str],
        changed: Callable[[], None],
    ) -> None:
        self.store = store
        self.clock = clock
        self.key = key
        self.faults: Faults = Faults()
        self.tracking = True
        self.hooks: dict[str, str | None] = {"tracking": None, "inbound": None}
        self.call: Target = call_url
        self._secret = secret
        self._url = url
        self._tell = changed
        #: Grows with everything that happens, for the page.
        self.version: int = 0
        # Held while jobs are done; a webhook that moves the time on does some itself.
        self._turn = threading.RLock()
        self._doing: set[int] = set()

    def _changed(self) -> None:
        self.version += 1
        self._tell()

    # ---- mail out

    def accept(
        self,
        recipients: Sequence[str],
        raw: bytes,
        *,
        sender: str | None,
        subject: str | None,
        message_id: str | None,
        tag: str | None,
        bounce: bool = False,
        bounce_for_id: int = 0,
        broken: bool = False,
    ) -> list[Mail]:
        """Take a mail, once for each recipient.

        :param broken: Whether the worker fails at it, about which no webhook tells.
        """
        mails = []
        for recipient in recipients:
            now = self.clock.now()
            mail = self._store(
                raw,
                direction="outgoing",
                recipient=recipient,
                sender=sender,
                subject=subject,
                message_id=message_id,
                tag=tag,
                bounce=bounce,
                bounce_for_id=bounce_for_id,
            )
            mails.append(mail)
            _log.info("mail %d to %s: %a", mail.id, ascii(recipient), subject)
            steps = scenario_for(recipient).steps
            if broken:
                self._plan(now + steps[0].after, "step", mail=mail.id, kind="Error")
                continue
            for step in steps:
                self._plan(now + step.after, "step", mail=mail.id, kind=step.kind)
        self._changed()
        return mails

    def happen(self, mail: Mail, kind: str, **seen: Any) -> WebhookRequest | None:
        """Let something happen to a mail, and report it; see :meth:`note`."""
        return self.report(KINDS[kind], self.note(mail, kind, **seen), mail)

    def note(
        self,
        mail: Mail,
        kind: str,
        *,
        url: str | None = None,
        ip_address: str = "203.0.113.9",
        user_agent: str | None = "Mozilla/5.0 (Sandbox)",
    ) -> dict[str, Any]:
        """Let something happen to a mail.

        :param kind: One of :data:`.KINDS`.
        :param url: The link that was clicked; the mail's first if not given.
        :returns: The payload of the event about it.
        """
        if kind == "Bounced":
            bounce = self._bounce_of(mail)
            self._note_delivery(
                mail,
                "Bounced",
                "We've received a bounce message for this e-mail. See"
                f" <msg:{bounce.id}> for details.",
                "",
            )
            return {"original_message": _named(mail), "bounce": _named(bounce)}
        payload: dict[str, Any] = {"message": _named(mail)}
        if kind not in ("Loaded", "Clicked"):
            return payload | self._attempt(mail, kind)
        seen = {"ip_address": ip_address, "user_agent": user_agent}
        if kind == "Clicked":
            links = self.store.links(mail.id)
            token, known = links[0] if links else (new_token(), None)
            url = url or known or "https://example.com/"
            payload |= {"url": url, "token": token}
        self.store.add_activity(
            mail_id=mail.id,
            kind="click" if kind == "Clicked" else "load",
            url=url,
            timestamp=self.clock.now(),
            **seen,
        )
        return payload | seen

    def trigger(
        self, event: str, to: str | None, changes: Mapping[str, Any]
    ) -> WebhookRequest:
        """Let something happen now, and post the event about it at once.

        :param event: Postal's name.
        :raises ValueError: for an unknown event or path.
        """
        kinds = {name: kind for kind, name in KINDS.items()}
        now, mail = self.clock.now(), None
        if event in SERVER_EVENTS:
            payload = server_payload(event, now)
        elif event in kinds:
            mail = self._last_to(to)
            payload = self.note(mail, kinds[event])
        else:
            known = ", ".join([*EVENTS, *kinds, *SERVER_EVENTS])
            raise ValueError(f"no event {event!r}; there are {known}")
        body = webhook_body(event, payload, now)
        for path, value in changes.items():
            set_path(body, path, value)
        number = None if mail is None else mail.id
        return self._post(
            self._add_request(
                number, "tracking", event, "application/json", serialize(body)
            )
        )

    def _last_to(self, to: str | None) -> Mail:
        """Return the last mail to an address; a new one if there is none."""
        for mail in reversed(self.store.mails()):
            if mail.direction == "outgoing" and to in (None, mail.recipient):
                return mail
        to, message_id = to or "ana@example.com", f"{uuid.uuid4()}@rp.sandbox.localhost"
        text = (
            f"To: {to}\r\nSubject: Made up\r\nMessage-ID: <{message_id}>\r\n\r\nHi\r\n"
        )
        return self._store(
            text.encode("utf-8", "replace"),
            direction="outgoing",
            recipient=to,
            sender="app@example.com",
            subject="Made up",
            message_id=message_id,
        )

    def _attempt(self, mail: Mail, status: str) -> dict[str, Any]:
        details, output = (text.format(to=mail.recipient) for text in _DETAILS[status])
        if status in _ATTEMPTED and mail.delivered is None:
            self.store.update_mail(mail.id, delivered=self._deliver(mail))
        return self._note_delivery(mail, status, details, output)

    def _note_delivery(
        self, mail: Mail, status: str, details: str, output: str
    ) -> dict[str, Any]:
        now, attempted = self.clock.now(), status in _ATTEMPTED
        took = None if not attempted else round(random.uniform(0.01, 0.09), 2)  # noqa: S311
        alphabet = string.ascii_uppercase + string.digits
        self.store.add_delivery(
            mail_id=mail.id,
            status=status,
            details=details[:250],
            output=output[:250] or None,
            sent_with_ssl=False,
            log_id=None if not attempted else "".join(random.choices(alphabet, k=8)),  # noqa: S311
            time=took,
            timestamp=now,
        )
        self.store.update_mail(mail.id, status=status, last_attempt=now)
        return {
            "status": status,
            "details": details[:250],
            "output": output[:250],
            "sent_with_ssl": False if attempted else None,
            "timestamp": now,
            "time": took,
        }

    def _deliver(self, mail: Mail) -> bytes:
        """Do to a mail what Postal does before it leaves."""
        raw = mail.raw

        def link(url: str) -> str:
            token = new_token()
            self.store.add_link(token, mail.id, url)
            return f"{self._url()}/{SERVER_TOKEN}/{token}"

        if self.tracking:
            pixel = f"{self._url()}/img/{SERVER_TOKEN}/{mail.token}"
            try:
                raw = insert_tracking(raw, link, pixel)
            except (RecursionError, LookupError, ValueError, TypeError):
                # What the standard library can't read is delivered as it is.
                _log.warning("mail %d can't be read; it is not tracked", mail.id)
        return f"X-Postal-MsgID: {mail.token}\r\n".encode() + raw

    def _bounce_of(self, mail: Mail) -> Mail:
        """Store the mail by which another server sends this one back."""
        message_id = _new_message_id()
        text = (
            "From: Mail Delivery System <MAILER-DAEMON@sandbox.localhost>\r\n"
            f"To: {SERVER_TOKEN}@rp.sandbox.localhost\r\n"
            "Subject: Undelivered Mail Returned to Sender\r\n"
            f"Message-ID: <{message_id}>\r\n\r\n"
            f"<{mail.recipient}>: mailbox unavailable\r\n"
        )
        bounce = self._store_incoming(
            text.encode("utf-8", "replace"),
            recipient=f"{SERVER_TOKEN}@rp.sandbox.localhost",
            sender=None,
            bounce=True,
            bounce_for_id=mail.id,
        )
        self._note_delivery(
            bounce,
            "Processed",
            f"This has been detected as a bounce message for <msg:{mail.id}>.",
            "",
        )
        return bounce

    def resend(self, mail: Mail) -> Mail:
        """Take a mail that was sent once more."""
        (again,) = self.accept(
            [mail.recipient],
            mail.raw,
            sender=mail.sender,
            subject=mail.subject,
            message_id=mail.message_id,
            tag=mail.tag,
        )
        return again

    # ---- mail in

    def receive(
        self,
        raw: bytes,
        *,
        recipient: str,
        sender: str | None,
        format: str = "raw-json",
        strip_replies: bool = False,
        spam: bool = False,
    ) -> WebhookRequest:
        """Take a mail from outside, and post it to the app at once.

        :raises ValueError: for an unknown format, and a mail of over 25 MB.
        """
        if len(raw) > MAX_MAIL:
            raise ValueError(f"the mail has {len(raw):,} bytes; {MAX_MAIL:,} may be")
        top = receive_headers(self.clock.now(), spam=spam)
        mail = self._store_incoming(top + raw, recipient=recipient, sender=sender)
        return self.deliver_again(mail, format, strip_replies=strip_replies)

    def deliver_again(
        self, mail: Mail, format: str, *, strip_replies: bool = False
    ) -> WebhookRequest:
        """Post a mail that came in to the app now."""
        body, media_type = inbound_request(mail, format, strip_replies=strip_replies)
        request = self._add_request(mail.id, "inbound", format, media_type, body)
        return self._post(request)

    def _store_incoming(
        self,
        raw: bytes,
        *,
        recipient: str,
        sender: str | None,
        bounce: bool = False,
        bounce_for_id: int = 0,
    ) -> Mail:
        message = PostalMail(raw)
        return self._store(
            raw,
            direction="incoming",
            recipient=recipient,
            sender=sender,
            subject=message.header("subject") or None,
            message_id=message.message_id,
            bounce=bounce,
            bounce_for_id=bounce_for_id,
        )

    def _store(self, raw: bytes, *, subject: str | None, **values: Any) -> Mail:
        return self.store.add_mail(
            **{"tag": None, "bounce": False, "bounce_for_id": 0, **values},
            token=new_token(),
            subject=subject[:200] if subject else subject,
            timestamp=self.clock.now(),
            status="Pending",
            raw=raw,
        )

    # ---- webhooks

    def report(
        self, event: str, payload: Mapping[str, Any], mail: Mail | None = None
    ) -> WebhookRequest | None:
        """Post an event to the app, as soon as its turn comes.

        :returns: The request, or ``None`` where no webhook is set up.
        """
        if self.hooks["tracking"] is None:
            self._changed()
            return None
        fault = self.faults.take(api=False)
        if fault is None and mail is not None and mail.direction == "outgoing":
            fault = scenario_for(mail.recipient).webhooks
        now = self.clock.now()
        foreign = fault is Fault.FOREIGN
        body = webhook(event, _foreign(payload) if foreign else payload, now)
        request = self._add_request(
            None if mail is None else mail.id,
            "tracking",
            event,
            "application/json",
            body,
            secret=not foreign,
            state="dropped" if fault is Fault.DROP else "pending",
        )
        if fault is not None:
            _log.info("fault: %s befalls %s", fault, event)
        if fault is not Fault.DROP:
            due = now + (_DELAYS.get(fault, 0.0) if fault is not None else 0.0)
            for _ in range(2 if fault is Fault.DUPLICATE else 1):
                self._plan(due, "post", request=request.id)
        self._changed()
        return request

    def post_now(
        self, hook: str, event: str, media_type: str, body: bytes
    ) -> WebhookRequest:
        """Post a body as it is, signed anew, and return how the app answered."""
        return self._post(self._add_request(None, hook, event, media_type, body))

    def retry(self, request: WebhookRequest) -> WebhookRequest:
        """Post a request again now."""
        return self._post(request)

    def foreign(self) -> WebhookRequest:
        """Post an event of another tenant of the same Postal now."""
        mail = self._last_to(None)
        payload = _foreign({"message": _named(mail), **_SENT_ELSEWHERE})
        body = webhook("MessageSent", payload, self.clock.now())
        return self._post(
            self._add_request(
                *(None, "tracking", "MessageSent", "application/json", body),
                secret=False,
            )
        )

    def _add_request(
        self,
        mail_id: int | None,
        hook: str,
        event: str,
        media_type: str,
        body: bytes,
        *,
        secret: bool = True,
        state: str = "pending",
    ) -> WebhookRequest:
        return self.store.add_request(
            mail_id=mail_id,
            hook=hook,
            event=event,
            content_type=media_type,
            body=body,
            created=self.clock.now(),
            state=state,
            secret=secret,
            url=self.hooks[hook] if hook == "tracking" else None,
        )

    def _post(self, request: WebhookRequest) -> WebhookRequest:
        """Make one attempt, judge the answer, and plan the next."""
        # Of events Postal remembers the address, of mails it asks for today's.
        url = request.url or self.hooks[request.hook]
        headers = {
            "Content-Type": request.content_type,
            **self.key.headers(request.body),
        }
        if request.secret and url is not None and urlsplit(url).username is None:
            pair = base64.b64encode(self._secret.encode()).decode()
            headers["Authorization"] = f"Basic {pair}"
        if url is None:
            answer = WebhookResponse(-2, f"no {request.hook} URL is set up")
        else:
            try:
                answer = self.call(check_target(url), request.body, headers)
            except Exception as error:  # noqa: BLE001
                # An app in this process, or a function: no answer, whatever it raises.
                _log.exception("the webhook at %s failed", _without_password(url))
                answer = WebhookResponse(-2, f"{type(error).__name__}: {error}"[:250])
        number = len(request.attempts) + 1
        judge = judge_tracking if request.hook == "tracking" else judge_inbound
        verdict = judge(answer.status, number)
        shown = _without_password(url or "")
        attempt = Attempt(
            self.clock.now(), shown, answer.status, answer.text, verdict.text
        )
        self.store.add_attempt(request.id, verdict.state, attempt)
        about = f"mail {request.mail_id}, " if request.mail_id is not None else ""
        to = request.recipient
        _log.info(
            "%s%s%s%s -> %s",
            about,
            request.event,
            f" to {to!a}" if to else "",
            "" if request.secret else " (of another tenant)",
            verdict.text,
        )
        if verdict.again_in is not None and url is not None:
            due = self.clock.now() + verdict.again_in
            self._plan(due, "post", request=request.id)
        mail = None if request.mail_id is None else self.store.mail(request.mail_id)
        if request.hook == "inbound" and mail is not None:
            self._report_inbound(mail, attempt, verdict.state, bounces=verdict.bounces)
        self._changed()
        return self.store.request(request.id) or request

    def _report_inbound(
        self, mail: Mail, attempt: Attempt, state: str, *, bounces: bool
    ) -> None:
        """Tell how the app answered a mail, as Postal does of incoming mail."""
        status = {"taken": "Sent", "pending": "SoftFail"}.get(state, "HardFail")
        details = f"Received a {attempt.status} from {attempt.url}"
        if bounces and mail.sender and not mail.bounce:
            bounce = self._bounce_to_author(mail)
            details += (
                f". Sent bounce message to sender (see message <msg:{bounce.id}>)"
            )
        payload = {
            "message": _named(mail),
            **self._note_delivery(mail, status, details, attempt.answer),
        }
        self.report(KINDS[status], payload, mail)

    def _bounce_to_author(self, mail: Mail) -> Mail:
        message_id = _new_message_id()
        text = (
            "From: Mail Delivery Service <postmaster@sandbox.localhost>\r\n"
            f"To: {mail.sender}\r\n"
            f"Subject: Mail Delivery Failed ({mail.subject or ''})\r\n"
            f"Message-ID: <{message_id}>\r\n"
            "Auto-Submitted: auto-replied\r\n\r\n"
            f"Your message to {mail.recipient} could not be delivered.\r\n"
        )
        (bounce,) = self.accept(
            [mail.sender or ""],
            text.encode("utf-8", "replace"),
            sender=None,
            subject=f"Mail Delivery Failed ({mail.subject or ''})",
            message_id=message_id,
            tag=None,
            bounce=True,
            bounce_for_id=mail.id,
        )
        return bounce

    # ---- time

    def begin(self) -> None:
        """Go on where the time was when the sandbox was last seen."""
        seen = self.store.note("clock")
        if seen is not None and not self.clock.manual:
            self.clock.go_on_from(float(seen))

    def _plan(self, due: float, name: str, **arguments: Any) -> None:
        self.store.add_job(due, name, arguments)

    def run(
        self,
        until: float,
        arrive: Callable[[float], Any] = float,
        stopping: Callable[[], bool] = bool,
    ) -> int:
        """Do all that is due by a time, in its order; return how much it was.

        :param arrive: Called with the time of each before it is done.
        :param stopping: Tells whether to leave the rest for later.
        """
        done = 0
        with self._turn:
            while not stopping():
                job = self.store.next_job(until, self._doing)
                if job is None:
                    break
                arrive(job.due)
                self._doing.add(job.id)
                try:
                    self._do(job)
                except Exception:
                    self.store.remove_job(job.id)
                    raise
                finally:
                    self._doing.discard(job.id)
                # Only now: a sandbox that is killed does it when it runs again.
                self.store.remove_job(job.id)
                self.store.set_note("clock", str(self.clock.now()))
                done += 1
        return done

    def _do(self, job: Job) -> None:
        if job.name == "step":
            mail = self.store.mail(job.arguments["mail"])
            if mail is not None and job.arguments["kind"] == "Error":
                self._attempt(mail, "Error")
                self._changed()
            elif mail is not None:
                self.happen(mail, job.arguments["kind"])
        elif job.name == "post":
            request = self.store.request(job.arguments["request"])
            if request is not None:
                self._post(request)


_SENT_ELSEWHERE = {
    "status": "Sent",
    "details": "Message accepted by another tenant's recipient",
    "output": "250 OK",
    "sent_with_ssl": False,
    "time": 0.05,
}


def _new_message_id() -> str:
    return f"{uuid.uuid4()}@rp.sandbox.localhost"


def _named(mail: Mail) -> dict[str, Any]:
    return message_payload(
        id=mail.id,
        token=mail.token,
        message_id=mail.message_id,
        to=mail.recipient,
        sender=mail.sender,
        subject=mail.subject,
        timestamp=mail.timestamp,
        tag=mail.tag,
        direction=mail.direction,
        spam_status=mail.spam_status,
    )


def _foreign(payload: Mapping[str, Any]) -> dict[str, Any]:
    """Return what another tenant's mail server reports about a mail of its own."""
    changed = dict(payload)
    for name in ("message", "original_message"):
        if name in changed:
            changed[name] = {
                **changed[name],
                "id": 1 + secrets.randbelow(1000),
                "token": new_token(),
                "message_id": f"{uuid.uuid4()}@rp.tenant.localhost",
                "from": "billing@tenant.localhost",
            }
    if "server" in changed:
        changed["server"] = {**SERVER, "name": "Tenant", "permalink": "tenant"}
    return changed


def _without_password(url: str) -> str:
    scheme, separator, rest = url.partition("://")
    host, slash, path = rest.partition("/")
    return f"{scheme}{separator}{host.rpartition('@')[2]}{slash}{path}"
