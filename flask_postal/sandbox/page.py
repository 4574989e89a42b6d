"""Views of the sandbox's web page: messages, their events, and buttons to trigger more.

All HTML is rendered on the server. A small script refreshes the page after changes,
accepts dropped files, copies settings, and remembers the width at which HTML is shown.
Without JavaScript the page works too, but has to be reloaded by hand.
"""

from __future__ import annotations

import base64
import re
from collections.abc import Mapping
from typing import Any
from urllib.parse import unquote, urlsplit

from flask import (
    Blueprint,
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

from ..vocabulary import MESSAGE_EVENTS, SERVER_EVENTS, find_event
from .compose import AttachedFile, compose_mail, reply_to
from .current import current_simulation
from .endpoint import FORMATS
from .faults import ABOUT, API_FAULTS, Fault
from .incoming import MAX_MAIL
from .presentation import FILTERS, IMAGES, MAIL_POLICY, file_response, timeline
from .records import Mail, WebhookRequest
from .scenarios import SCENARIOS
from .store import MAX_MAILS

__all__ = ["page"]

#: Maximum total size in bytes of the images that are embedded in the HTML view.
MAX_SHOWN = 10_000_000
_CID = re.compile(r"cid:([^\"'\s>)]+)", re.IGNORECASE)
_VIEWS = ("html", "text", "headers", "raw", "attachments")
# The page shows text that anybody may have written, in every field of a message. If one
# of them were not escaped, this policy keeps a browser from running it: there are no
# inline scripts or styles, and nothing is loaded from or sent to other hosts. So don't
# add 'unsafe-inline': scripts and styles go into the static files. HTML of messages has
# a policy of its own, MAIL_POLICY, and is shown in a sandboxed frame.
_PAGE_POLICY = (
    "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
    " img-src 'self'; frame-src 'self'; form-action 'self'; base-uri 'none';"
    " frame-ancestors 'none'"
)

page: Blueprint = Blueprint(
    "page",
    __name__,
    template_folder="templates",
    static_folder="static",
    static_url_path="/page-static",
)
for _name, _filter in FILTERS.items():
    page.add_app_template_filter(_filter, _name)


class _Id(IntegerConverter):
    """URL converter for the id of a message or a request.

    A number that is too large for SQLite is replaced by the largest that fits. No
    message has that id, so the response is the page for an unknown message.
    """

    def to_python(self, value: str) -> int:
        largest = 2**63 - 1
        return min(int(value), largest) if len(value) < 20 else largest


page.record(lambda state: state.app.url_map.converters.update(id=_Id))


# ---- around the views


@page.context_processor
def _common() -> dict[str, Any]:
    simulation = current_simulation()
    hook = simulation.tracking_url or simulation.inbound_url
    parts = urlsplit(hook) if hook else None
    query = request.args.get("q", "")[:200]
    return {
        "sandbox": simulation,
        "app_url": f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}/"
        if parts
        else None,
        "mails": simulation.store.list_mails(query),
        "query": query,
        "version": g.version,
    }


@page.before_request
def _note_version() -> None:
    # Read before anything else, so that changes during the request cause a refresh.
    g.version = current_simulation().version


@page.after_request
def _protect(response: AnyResponse) -> AnyResponse:
    response.headers.setdefault("Content-Security-Policy", _PAGE_POLICY)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Referrer-Policy"] = "same-origin"
    response.headers["Cache-Control"] = "no-store"
    return response


@page.errorhandler(404)
def _not_found(error: NotFound) -> tuple[str, int]:
    return _error_page(404, "Not found", str(error.description), kept=MAX_MAILS)


@page.errorhandler(413)
def _too_large(error: RequestEntityTooLarge) -> tuple[str, int]:
    problem = f"An email may have at most {MAX_MAIL:,} bytes, with its files encoded."
    return _error_page(413, "Too large", problem)


def _error_page(
    status: int, title: str, problem: str, **context: Any
) -> tuple[str, int]:
    text = render_template(
        "error.html", current=None, title=title, problem=problem, **context
    )
    return text, status


# ---- views that show something


@page.get("/")
def index() -> str:
    """Show the list of messages."""
    return render_template("list.html", current=None, scenarios=SCENARIOS)


@page.get("/version")
def version() -> dict[str, int]:
    """Return the number by which the script detects changes."""
    return {"version": current_simulation().version}


@page.get("/mail/<id:number>")
def mail(number: int) -> str:
    """Show a message, with its content and its timeline."""
    store, found = current_simulation().store, _find(number)
    content = found.content
    views = [view for view in _VIEWS if _has(content, view)]
    view = request.args.get("view", "")
    return render_template(
        "mail.html",
        current=found,
        content=content,
        views=views,
        view=view if view in views else views[0],
        timeline=timeline(store, found),
        bounces=[m for m in store.list_mails() if m.bounce_for_id == number],
        about=store.mail(found.bounce_for_id),
        buttons=[event.word for event in MESSAGE_EVENTS],
        formats=FORMATS,
    )


@page.get("/mail/<id:number>/html")
def html(number: int) -> AnyResponse:
    """Return the HTML of a message with its embedded images, for a sandboxed frame."""
    content = _find(number).content

    left = MAX_SHOWN

    def embed(match: re.Match[str]) -> str:
        nonlocal left
        part = content.inlines.get(unquote(match[1].replace("&amp;", "&")))
        if part is None or part.content_type not in IMAGES or part.size > left:
            return match[0]
        left -= part.size
        data = base64.b64encode(part.content).decode()
        return f"data:{part.content_type};base64,{data}"

    body = _CID.sub(embed, content.html or "")
    response = Response(body, mimetype="text/html")
    response.headers["Content-Security-Policy"] = MAIL_POLICY
    return response


@page.get("/mail/<id:number>/cid/<path:content_id>")
def inline(number: int, content_id: str) -> AnyResponse:
    """Return an embedded image of a message."""
    part = _find(number).content.inlines.get(content_id)
    if part is None:
        abort(404, f"Message no. {number} has no such image.")
    return file_response(part.content, part.content_type, part.safe_filename)


@page.get("/mail/<id:number>/attachment/<id:index>")
def attachment(number: int, index: int) -> AnyResponse:
    """Return an attachment of a message as a download."""
    files = _find(number).content.attachments
    if index >= len(files):
        abort(404, f"Message no. {number} has no such attachment.")
    return file_response(files[index].content, "", files[index].safe_filename)


@page.get("/mail/<id:number>/raw")
def raw(number: int) -> AnyResponse:
    """Return a message in MIME as a download."""
    return file_response(_find(number).raw, "", f"mail-{number}.eml")


# ---- views that do something


@page.post("/mail/<id:number>/event")
def event(number: int) -> AnyResponse:
    """Apply an event to a message."""
    name = request.form.get("event", "")
    row = find_event(name)
    if row is None or row.about != "message":
        abort(400)
    current_simulation().happen(_find(number), name)
    return _back(number)


@page.post("/mail/<id:number>/resend")
def resend(number: int) -> AnyResponse:
    """Accept a message again."""
    return _back(current_simulation().outgoing.resend(_find(number)).id)


@page.route("/mail/<id:number>/edit", methods=["GET", "POST"])
def edit(number: int) -> str | AnyResponse:
    """Show a form to edit a message, or accept the edited message."""
    found = _find(number)
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
    mails = current_simulation().accept(
        [to],
        changed,
        sender=found.sender,
        subject=_line(form.get("subject", "")),
        message_id=found.message_id,
        tag=found.tag,
    )
    return _back(mails[0].id)


@page.post("/mail/<id:number>/reply")
def reply(number: int) -> AnyResponse:
    """Post a reply to a message as inbound mail."""
    form = request.form
    found = _find(number)
    text, to = reply_to(
        found,
        form.get("text", ""),
        html=form.get("html") or None,
        attachments=_uploads(),
    )
    made = _receive(text, to=to, sender=found.recipient, format=_format(form))
    return _back(made.mail_id)


@page.post("/mail/<id:number>/deliver")
def deliver(number: int) -> AnyResponse:
    """Post inbound mail to the app again."""
    found = _find(number)
    if found.direction != "incoming":
        abort(400)
    return _show_request(
        current_simulation().incoming.post(found, _format(request.form))
    )


@page.post("/request/<id:number>/retry")
def retry(number: int) -> AnyResponse:
    """Post a webhook request again."""
    return _show_request(current_simulation().retry(_find_request(number)))


@page.get("/request/<id:number>/body")
def request_body(number: int) -> AnyResponse:
    """Return the body of a webhook request as a download."""
    made = _find_request(number)
    return file_response(made.body, "", f"{made.event}-{number}.body")


@page.route("/compose", methods=["GET", "POST"])
def compose() -> str | AnyResponse:
    """Show a form for inbound mail, or post the submitted mail to the app."""
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
    made = _receive(
        content,
        to=to or "app@example.com",
        sender=sender or None,
        format=_format(form),
        strip_replies="strip_replies" in form,
        spam="spam" in form,
    )
    return _back(made.mail_id)


@page.get("/server")
def server() -> str:
    """Show the page about the mail server: events, faults, key and settings."""
    simulation = current_simulation()
    own = simulation.store.requests_about(None)
    return render_template(
        "server.html",
        current=None,
        server_events=[event.name for event in SERVER_EVENTS],
        api_faults=[f for f in Fault if f in API_FAULTS],
        webhook_faults=[f for f in Fault if f not in API_FAULTS],
        about=ABOUT,
        faults=simulation.faults,
        requests=list(reversed(own))[:50],
    )


@page.post("/server/event")
def server_event() -> AnyResponse:
    """Post an event about the mail server."""
    name = request.form.get("event", "")
    if name not in [event.name for event in SERVER_EVENTS]:
        abort(400)
    made = current_simulation().trigger(name)
    return _told(f"{name}: {made.attempts[-1].verdict}")


@page.post("/server/fault")
def fault() -> AnyResponse:
    """Switch a fault on, or all faults off."""
    form = request.form
    if "clear" in form:
        current_simulation().clear_faults()
    elif form.get("fault") in list(Fault):
        times = form.get("times", "")
        current_simulation().fault(
            form["fault"], int(times) if times in ("1", "3") else None
        )
    else:
        abort(400)
    return redirect(url_for("page.server"), 303)


@page.post("/server/key")
def key() -> AnyResponse:
    """Generate a new signing key."""
    current_simulation().rotate_key()
    return _told("The sandbox signs with a new key, which the app has to fetch")


@page.post("/server/foreign")
def foreign() -> AnyResponse:
    """Post an event of another tenant of the same Postal."""
    status = current_simulation().post_foreign().attempts[-1].status
    verdict = "accepted" if 200 <= status < 300 else "refused, as it should be"
    return _told(f"The app answered the other tenant's event with {status}: {verdict}")


@page.post("/clear")
def clear() -> AnyResponse:
    """Delete all messages."""
    current_simulation().clear()
    return _back()


# ---- helpers of the views


def _receive(raw: bytes, **options: Any) -> WebhookRequest:
    if len(raw) > MAX_MAIL:
        abort(413)
    return current_simulation().receive(raw, **options)


def _find(number: int) -> Mail:
    found = current_simulation().store.mail(number)
    return found or abort(404, f"There is no message no. {number}.")


def _find_request(number: int) -> WebhookRequest:
    found = current_simulation().store.request(number)
    return found or abort(404, f"There is no request no. {number}.")


def _back(number: int | None = None) -> AnyResponse:
    if number is None:
        return redirect(url_for("page.index"), 303)
    return redirect(url_for("page.mail", number=number), 303)


def _show_request(made: WebhookRequest) -> AnyResponse:
    """Redirect to a request that was posted again, and show its details."""
    where: dict[str, Any] = {"posted": made.id, "_anchor": f"request-{made.id}"}
    if made.mail_id is None:
        return redirect(url_for("page.server", **where), 303)
    kept: dict[str, Any] = {n: request.args.get(n) for n in ("view", "q")}
    return redirect(url_for("page.mail", number=made.mail_id, **kept, **where), 303)


def _told(text: str) -> AnyResponse:
    return redirect(url_for("page.server", told=text), 303)


def _has(content: Any, view: str) -> bool:
    if view == "html":
        return bool(content.html)
    if view == "text":
        return bool(content.text) or not content.html
    return view != "attachments" or bool(content.attachments or content.inlines)


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
    """Return an address that the standard library can format.

    It is used for the headers only, where it is shown; the envelope keeps the text.
    """
    text = _line(text)
    usual = re.fullmatch(r"[^<>]*<?[^\s<>@]+@[^\s<>@]+>?", text)
    return text if usual and "=?" not in text else "unreadable@address.invalid"


def _media_type(text: str) -> str:
    return (
        text if re.fullmatch(r"[\w.+-]+/[\w.+-]+", text) else "application/octet-stream"
    )
