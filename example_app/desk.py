"""The pages for the people who answer tickets."""

from __future__ import annotations

import hmac
from typing import Any

from flask import (
    Blueprint,
    Response,
    abort,
    current_app,
    flash,
    redirect,
    render_template,
    request,
    url_for,
)
from flask_wtf import FlaskForm
from sqlalchemy import select
from sqlalchemy.orm import selectinload
from werkzeug.wrappers import Response as AnyResponse
from wtforms import TextAreaField
from wtforms.validators import InputRequired, Length

from flask_postal import MessageError

from .mail import answer, reply_address
from .models import Entry, File, Ticket, db, now
from .text import text

__all__ = ["blueprint"]

blueprint = Blueprint("desk", __name__, url_prefix="/desk")


class AnswerForm(FlaskForm):  # type: ignore[misc]
    """An answer to a ticket."""

    text = TextAreaField(
        "Your answer", [InputRequired("Write something."), Length(max=20_000)]
    )


@blueprint.before_request
def let_in() -> Response | None:
    """Require the password of the desk."""
    password = current_app.config["DESK_PASSWORD"]
    if current_app.config["DESK_OPEN"]:
        return None
    if not password:
        return Response(
            "Set DESK_PASSWORD to open the desk.\n", 403, mimetype="text/plain"
        )
    given = request.authorization.password if request.authorization else None
    if hmac.compare_digest(str(given or "").encode(), str(password).encode()):
        return None
    challenge = {"WWW-Authenticate": 'Basic realm="Help desk"'}
    return Response("Enter the password of the desk.\n", 401, challenge)


@blueprint.get("/")
def tickets() -> str:
    """List the tickets, open ones first, sorted by their last change."""
    everything = db.session.scalars(
        select(Ticket)
        .order_by(Ticket.is_open.desc(), Ticket.changed.desc())
        .options(selectinload(Ticket.entries).selectinload(Entry.mail))
    )
    return render_template("tickets.html", tickets=list(everything))


@blueprint.route("/ticket/<int(max=2147483647):number>", methods=["GET", "POST"])
def ticket(number: int) -> str | AnyResponse:
    """Show a ticket, and send an answer."""
    found = db.session.get(Ticket, number) or abort(404)
    form = AnswerForm()
    if form.validate_on_submit():
        try:
            answer(found, text(form.text.data))
        except MessageError as error:
            flash(f"Not sent: {error}", "bad")
        else:
            found.changed = now()
            db.session.commit()  # the answer and its mail, or neither
            return redirect(url_for(".ticket", number=number))
    return render_template(
        "ticket.html", ticket=found, form=form, address=reply_address(found)
    )


@blueprint.post("/ticket/<int(max=2147483647):number>/close")
def close(number: int) -> AnyResponse:
    """Close a ticket, or reopen it."""
    found: Any = db.session.get(Ticket, number) or abort(404)
    found.is_open = not found.is_open
    db.session.commit()
    return redirect(url_for(".ticket", number=number))


@blueprint.get("/file/<int(max=2147483647):number>")
def file(number: int) -> Response:
    """Send a file that came by mail as a download; browsers must never display it."""
    found = db.session.get(File, number) or abort(404)
    response = Response(found.content, mimetype="application/octet-stream")
    response.headers.set("Content-Disposition", "attachment", filename=found.name)
    response.headers["X-Content-Type-Options"] = "nosniff"
    response.headers["Content-Security-Policy"] = "default-src 'none'; sandbox"
    return response


@blueprint.after_request
def protect(response: AnyResponse) -> AnyResponse:
    """Keep browsers from loading anything that mail from strangers refers to."""
    response.headers.setdefault(
        "Content-Security-Policy",
        "default-src 'none'; style-src 'self'; script-src 'self'; connect-src 'self';"
        " img-src 'self'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'",
    )
    return response
