"""The sandbox's page: mails, what became of them, and buttons for what may happen.

Everything is rendered here. The little JavaScript fetches the page again when something
has changed, takes files that are dropped, copies settings, and remembers the width that
mails are shown in. Without it the page works too, but has to be reloaded.
"""

from __future__ import annotations

import base64
import json
import re
import shlex
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any
from urllib.parse import quote, unquote, urlsplit

from flask import (
    Blueprint,
    Flask,
    Response,
    abort,
    g,
    redirect,
    render_template,
    request,
    url_for,
)
from werkzeug.exceptions import NotFound, RequestEntityTooLarge
from werkzeug.routing import IntegerConverter
from werkzeug.wrappers import Response as AnyResponse

from .compose import AttachedFile, compose_mail, reply_to
from .endpoint import FORMATS
from .engine import MAX_MAIL
from .faults import ABOUT, API_FAULTS, Fault
from .store import MAX_MAILS, Mail, WebhookRequest
from .trigger import EVENTS, SERVER_EVENTS

if TYPE_CHECKING:
    from .engine import Engine
    from .server import Sandbox

__all__ = ["add_page"]

#: What may be shown as an image; SVG is a document and may hold a script.
_IMAGES = frozenset({"image/png", "image/jpeg", "image/gif", "image/webp"})
#: Bytes of images that are shown in a mail.
MAX_SHOWN = 10_000_000
_CID = re.compile(r"cid:([^\"'\s>)]+)", re.IGNORECASE)
_VIEWS = ("html", "text", "headers", "raw", "attachments")
_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)
#: For what comes out of a mail: no script, no plugin, nothing from elsewhere.
_MAIL_POLICY = "default-src 'none'; style-src 'unsafe-inline'; img-src data:; sandbox"
_BUTTONS = ("delivered", "deferred", "failed", "held", "bounced", "opened", "clicked")


@dataclass(frozen=True, slots=True)
class Entry:
    """One line of a mail's timeline."""

    at: float
    title: str
    kind: str
    description: str | None = None
    output: str | None = None
    request: WebhookRequest | None = None


class _Id(IntegerConverter):
    """The number of a mail or a request.

    A number that is too large for SQLite becomes the largest that it takes. No mail
    has that one, so the answer is the page for an unknown mail.
    """

    def to_python(self, value: str) -> int:
        largest = 2**63 - 1
        return min(int(value), largest) if len(value) < 20 else largest


def add_page(app: Flask, sandbox: Sandbox, engine: Engine) -> None:
    """Add the page to the sandbox's app."""
    app.url_map.converters["id"] = _Id
    page = Blueprint(
        "page",
        __name__,
        template_folder="templates",
        static_folder="static",
        static_url_path="/page-static",
    )
    store = engine.store

    @page.app_template_filter()
    def clock(timestamp: float) -> str:
        return datetime.fromtimestamp(timestamp, UTC).astimezone().strftime("%H:%M:%S")

    @page.app_template_filter()
    def day(timestamp: float) -> str:
        when = datetime.fromtimestamp(timestamp, UTC).astimezone()
        return when.strftime("%Y-%m-%d %H:%M:%S")

    @page.app_template_filter()
    def size(count: int) -> str:
        return f"{count:,} B" if count < 10_000 else f"{count / 1000:,.0f} kB"

    @page.app_template_filter()
    def shell_settings(settings: Mapping[str, str | None]) -> str:
        return "\n".join(
            f"export FLASK_{name}={shlex.quote(value)}"
            for name, value in settings.items()
            if value is not None
        )

    @page.app_template_filter()
    def python_settings(settings: Mapping[str, str | None]) -> str:
        lines = [f"    {k}={v!r},\n" for k, v in settings.items() if v is not None]
        return f"app.config.update(\n{''.join(lines)})"

    @page.app_template_filter()
    def pretty(made: WebhookRequest) -> str:
        text = made.body.decode("utf-8", "replace")
        if made.content_type != "application/json":
            return text[:20_000]
        return json.dumps(json.loads(text), indent=2, ensure_ascii=False)[:20_000]

    @page.context_processor
    def common() -> dict[str, Any]:
        hook = sandbox.tracking_url or sandbox.inbound_url
        parts = urlsplit(hook) if hook else None
        query = request.args.get("q", "")[:200]
        return {
            "sandbox": sandbox,
            "app_url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
            if parts
            else None,
            "mails": store.list_mails(query),
            "query": query,
            "version": g.version,
        }

    @page.before_request
    def note_version() -> None:
        # Before anything is looked at: what happens meanwhile is shown the next time.
        g.version = engine.version

    @page.after_request
    def protect(response: AnyResponse) -> AnyResponse:
        response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Referrer-Policy"] = "same-origin"
        response.headers["Cache-Control"] = "no-store"
        return response

    @page.errorhandler(404)
    def not_found(error: NotFound) -> tuple[str, int]:
        return error_page(404, "Not found", str(error.description), kept=MAX_MAILS)

    @page.errorhandler(413)
    def too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
        problem = f"A mail with its files may have {MAX_MAIL:,} bytes, encoded."
        return error_page(413, "Too large", problem)

    def error_page(
        status: int, title: str, problem: str, **context: Any
    ) -> tuple[str, int]:
        text = render_template(
            "error.html", current=None, title=title, problem=problem, **context
        )
        return text, status

    def receive(raw: bytes, **options: Any) -> WebhookRequest:
        if len(raw) > MAX_MAIL:
            abort(413)
        return sandbox.receive(raw, **options)

    def find(number: int) -> Mail:
        found = store.mail(number)
        return found or abort(404, f"There is no mail no. {number}.")

    def find_request(number: int) -> WebhookRequest:
        found = store.request(number)
        return found or abort(404, f"There is no request no. {number}.")

    def back(number: int | None = None) -> AnyResponse:
        if number is None:
            return redirect(url_for("page.index"), 303)
        return redirect(url_for("page.mail", number=number), 303)

    def show_request(made: WebhookRequest) -> AnyResponse:
        """Go to a request that was posted again; it is open, and says how it went."""
        where: dict[str, Any] = {"posted": made.id, "_anchor": f"request-{made.id}"}
        if made.mail_id is None:
            return redirect(url_for("page.server", **where), 303)
        kept: dict[str, Any] = {n: request.args.get(n) for n in ("view", "q")}
        return redirect(url_for("page.mail", number=made.mail_id, **kept, **where), 303)

    def told(text: str) -> AnyResponse:
        return redirect(url_for("page.server", told=text), 303)

    # ---- looking

    @page.get("/")
    def index() -> str:
        return render_template("list.html", current=None)

    @page.get("/version")
    def version() -> dict[str, int]:
        return {"version": engine.version}

    @page.get("/mail/<id:number>")
    def mail(number: int) -> str:
        found = find(number)
        content = found.content
        views = [view for view in _VIEWS if _has(content, view)]
        view = request.args.get("view", "")
        return render_template(
            "mail.html",
            current=found,
            content=content,
            views=views,
            view=view if view in views else views[0],
            timeline=_timeline(store, found),
            bounces=[m for m in store.list_mails() if m.bounce_for_id == number],
            about=store.mail(found.bounce_for_id),
            buttons=_BUTTONS,
            formats=FORMATS,
        )

    @page.get("/mail/<id:number>/html")
    def html(number: int) -> AnyResponse:
        content = find(number).content

        left = MAX_SHOWN

        def embed(match: re.Match[str]) -> str:
            nonlocal left
            part = content.inlines.get(unquote(match[1].replace("&amp;", "&")))
            if part is None or part.content_type not in _IMAGES or part.size > left:
                return match[0]
            left -= part.size
            data = base64.b64encode(part.content).decode()
            return f"data:{part.content_type};base64,{data}"

        body = _CID.sub(embed, content.html or "")
        response = Response(body, mimetype="text/html")
        response.headers["Content-Security-Policy"] = _MAIL_POLICY
        return response

    @page.get("/mail/<id:number>/cid/<path:content_id>")
    def inline(number: int, content_id: str) -> AnyResponse:
        part = find(number).content.inlines.get(content_id)
        if part is None:
            abort(404, f"Mail no. {number} has no such image.")
        return _file(part.content, part.content_type, part.safe_filename)

    @page.get("/mail/<id:number>/attachment/<id:index>")
    def attachment(number: int, index: int) -> AnyResponse:
        files = find(number).content.attachments
        if index >= len(files):
            abort(404, f"Mail no. {number} has no such attachment.")
        return _file(files[index].content, "", files[index].safe_filename)

    @page.get("/mail/<id:number>/raw")
    def raw(number: int) -> AnyResponse:
        return _file(find(number).raw, "", f"mail-{number}.eml")

    # ---- doing

    @page.post("/mail/<id:number>/event")
    def event(number: int) -> AnyResponse:
        name = request.form.get("event", "")
        if name not in EVENTS:
            abort(400)
        found = find(number)
        sandbox.happen(found, name)
        return back(number)

    @page.post("/mail/<id:number>/resend")
    def resend(number: int) -> AnyResponse:
        return back(engine.resend(find(number)).id)

    @page.route("/mail/<id:number>/edit", methods=["GET", "POST"])
    def edit(number: int) -> str | AnyResponse:
        found = find(number)
        if request.method == "GET":
            return render_template("edit.html", current=found, content=found.content)
        form = request.form
        to = form.get("to", "").strip() or found.recipient
        changed = compose_mail(
            _line(form.get("subject", "")),
            form.get("text", ""),
            to=_address(to),
            sender=_address(found.sender or "app@example.com"),
            html=form.get("html") or None,
        )
        mails = engine.accept(
            [to],
            changed,
            sender=found.sender,
            subject=_line(form.get("subject", "")),
            message_id=found.message_id,
            tag=found.tag,
        )
        return back(mails[0].id)

    @page.post("/mail/<id:number>/reply")
    def reply(number: int) -> AnyResponse:
        form = request.form
        found = find(number)
        text, to = reply_to(
            found,
            form.get("text", ""),
            html=form.get("html") or None,
            attachments=_uploads(),
        )
        made = receive(text, to=to, sender=found.recipient, format=_format(form))
        return back(made.mail_id)

    @page.post("/mail/<id:number>/deliver")
    def deliver(number: int) -> AnyResponse:
        found = find(number)
        if found.direction != "incoming":
            abort(400)
        return show_request(engine.deliver_again(found, _format(request.form)))

    @page.post("/request/<id:number>/retry")
    def retry(number: int) -> AnyResponse:
        return show_request(engine.retry(find_request(number)))

    @page.get("/request/<id:number>/body")
    def request_body(number: int) -> AnyResponse:
        made = find_request(number)
        return _file(made.body, "", f"{made.event}-{number}.body")

    @page.route("/compose", methods=["GET", "POST"])
    def compose() -> str | AnyResponse:
        if request.method == "GET":
            return render_template("compose.html", current=None, formats=FORMATS)
        form = request.form
        to, sender = form.get("to", "").strip(), form.get("from", "").strip()
        dropped = request.files.get("eml")
        content = dropped.read() if dropped is not None else b""
        if not content:
            content = compose_mail(
                _line(form.get("subject", "")),
                form.get("text", ""),
                to=_address(to),
                sender=_address(sender or "zoe@example.net"),
                html=form.get("html") or None,
                attachments=_uploads(),
            )
        made = receive(
            content,
            to=to or "app@example.com",
            sender=sender or None,
            format=_format(form),
            strip_replies="strip_replies" in form,
            spam="spam" in form,
        )
        return back(made.mail_id)

    @page.get("/server")
    def server() -> str:
        own = store.requests_about(None)
        return render_template(
            "server.html",
            current=None,
            server_events=SERVER_EVENTS,
            api_faults=[f for f in Fault if f in API_FAULTS],
            webhook_faults=[f for f in Fault if f not in API_FAULTS],
            about=ABOUT,
            faults=sandbox.faults,
            requests=list(reversed(own))[:50],
        )

    @page.post("/server/event")
    def server_event() -> AnyResponse:
        name = request.form.get("event", "")
        if name not in SERVER_EVENTS:
            abort(400)
        made = sandbox.trigger(name)
        return told(f"{name}: {made.attempts[-1].verdict}")

    @page.post("/server/fault")
    def fault() -> AnyResponse:
        form = request.form
        if "clear" in form:
            sandbox.clear_faults()
        elif form.get("fault") in list(Fault):
            times = form.get("times", "")
            sandbox.fault(form["fault"], int(times) if times in ("1", "3") else None)
        else:
            abort(400)
        return redirect(url_for("page.server"), 303)

    @page.post("/server/key")
    def key() -> AnyResponse:
        sandbox.rotate_key()
        return told("There is a new key: the app has to find it")

    @page.post("/server/foreign")
    def foreign() -> AnyResponse:
        status = engine.foreign().attempts[-1].status
        verdict = "it got in" if 200 <= status < 300 else "refused, as it should be"
        return told(f"The other tenant's event was answered with {status}: {verdict}")

    @page.post("/clear")
    def clear() -> AnyResponse:
        sandbox.clear()
        return back()

    app.register_blueprint(page)


def _has(content: Any, view: str) -> bool:
    if view == "html":
        return bool(content.html)
    if view == "text":
        return bool(content.text) or not content.html
    return view != "attachments" or bool(content.attachments or content.inlines)


def _timeline(store: Any, mail: Mail) -> list[Entry]:
    """What happened to a mail, oldest first."""
    made = store.requests_about(mail.id)
    accepted = "accepted" if mail.direction == "outgoing" else "came in"
    entries = [Entry(mail.timestamp, accepted, "Pending")]
    for delivery in store.deliveries(mail.id):
        entries.append(
            Entry(
                delivery["timestamp"],
                delivery["status"],
                delivery["status"],
                delivery["details"],
                delivery["output"],
            )
        )
    for seen in store.activity(mail.id):
        title = "Clicked" if seen["kind"] == "click" else "Opened"
        about = ", ".join(t for t in (seen["url"], seen["user_agent"]) if t)
        entries.append(Entry(seen["timestamp"], title, title, about))
    entries += [Entry(r.created, r.event, r.state, request=r) for r in made]
    return sorted(entries, key=lambda entry: entry.at)


def _file(content: bytes, content_type: str, name: str) -> AnyResponse:
    """Answer with a part of a mail, which is anything but trusted."""
    image = content_type in _IMAGES
    response = Response(
        content, mimetype=content_type if image else "application/octet-stream"
    )
    if not image:
        ascii_name = re.sub(r"[^\w.() -]", "_", name, flags=re.ASCII)
        disposition = f"attachment; filename=\"{ascii_name}\"; filename*=UTF-8''"
        response.headers["Content-Disposition"] = disposition + quote(name, safe="")
    response.headers["Content-Security-Policy"] = _MAIL_POLICY
    return response


def _uploads() -> list[AttachedFile]:
    """Return the files of the form's field "files"."""
    return [
        (_line(file.filename or "file"), _media_type(file.mimetype), file.read())
        for file in request.files.getlist("files")
        if file.filename
    ]


def _format(form: Mapping[str, str]) -> str:
    format_ = form.get("format", "raw-json")
    return format_ if format_ in FORMATS else abort(400)


def _line(text: str) -> str:
    return re.sub(r"[\x00-\x1f\x7f]", "", " ".join(text.split()))


def _address(text: str) -> str:
    """Return an address that the standard library can write; it is only shown."""
    text = _line(text)
    usual = re.fullmatch(r"[^<>]*<?[^\s<>@]+@[^\s<>@]+>?", text)
    return text if usual and "=?" not in text else "unreadable@address.invalid"


def _media_type(text: str) -> str:
    return (
        text if re.fullmatch(r"[\w.+-]+/[\w.+-]+", text) else "application/octet-stream"
    )
