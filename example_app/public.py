"""The page that everybody sees: the contact form."""

from __future__ import annotations

from flask import Blueprint, current_app, flash, redirect, render_template, url_for
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import StringField, TextAreaField
from wtforms.validators import InputRequired, Length, Regexp

from flask_postal import PostalError

from .mail import send_confirmation
from .models import Entry
from .receivers import open_ticket

__all__ = ["blueprint"]

blueprint = Blueprint("public", __name__)

_ADDRESS = r"[^\s@<>,]+@[^\s@<>,]+\.[^\s@<>,]+\Z"


class ContactForm(FlaskForm):  # type: ignore[misc]
    """What somebody wants from us."""

    name = StringField("Your name", [Length(max=100)])
    email = StringField(
        "Your mail address",
        [
            InputRequired("We need an address to answer to."),
            Regexp(
                r"[^\s@<>,]+@[^\s@<>,]+\.[^\s@<>,]+$", message="Is this an address?"
            ),
            Length(max=255),
        ],
    )
    subject = StringField(
        "Subject", [InputRequired("What is it about?"), Length(max=200)]
    )
    text = TextAreaField("Message", [InputRequired("What is it?"), Length(max=20_000)])


@blueprint.route("/", methods=["GET", "POST"])
def contact() -> str | Response:
    """Show the form; open a ticket and confirm it."""
    form = ContactForm()
    if not form.validate_on_submit():
        return render_template("contact.html", form=form)
    name = " ".join(str(form.name.data or "").split())
    email = str(form.email.data)
    entry = Entry(author=name or email, text=str(form.text.data))
    ticket = open_ticket(email, name, str(form.subject.data), entry)
    try:
        send_confirmation(ticket)
    except PostalError as error:
        current_app.logger.warning("ticket %d is not confirmed: %s", ticket.id, error)
        flash("We have your message, but could not send you a mail about it.", "bad")
    else:
        flash(f"Thank you. We have sent a mail to {email}.", "good")
    return redirect(url_for(".contact"))
