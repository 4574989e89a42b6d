"""The public page: the contact form."""

from __future__ import annotations

from typing import Any

from flask import Blueprint, flash, redirect, render_template, url_for
from flask_wtf import FlaskForm
from werkzeug.wrappers import Response
from wtforms import EmailField, StringField, TextAreaField
from wtforms.validators import InputRequired, Length, ValidationError

from flask_postal import Message, MessageError

from . import postal
from .mail import confirm, may_confirm
from .models import Entry, db
from .receivers import open_ticket
from .text import line, text

__all__ = ["blueprint"]

blueprint = Blueprint("public", __name__)


def can_be_answered(form: Any, field: Any) -> None:
    """Validate an address with the same checks as when a message is sent to it."""
    try:
        postal.prepare(Message("x", [(form.name.data or "", field.data)], body="x"))
    except MessageError as error:
        raise ValidationError("Is this your address?") from error


class ContactForm(FlaskForm):  # type: ignore[misc]
    """The contact form."""

    name = StringField("Your name", [Length(max=100)])
    email = EmailField(
        "Your mail address",
        [
            InputRequired("We need an address to reply to."),
            can_be_answered,
            Length(max=255),
        ],
    )
    subject = StringField(
        "Subject", [InputRequired("What is it about?"), Length(max=200)]
    )
    text = TextAreaField(
        "Message", [InputRequired("Write a message."), Length(max=20_000)]
    )


@blueprint.route("/", methods=["GET", "POST"])
def contact() -> str | Response:
    """Show the form. When it is submitted, open a ticket and confirm it by mail."""
    form = ContactForm()
    if not form.validate_on_submit():
        return render_template("contact.html", form=form)
    name, email = line(form.name.data, 100), line(form.email.data, 255)
    entry = Entry(author=name or email, text=text(form.text.data))
    ticket = open_ticket(email, name, str(form.subject.data), entry)
    if may_confirm(ticket):
        confirm(ticket)
        flash(f"Thank you. A mail to {email} is on its way.", "good")
    else:
        flash(
            "Thank you. We have your message. We have sent several mails to this"
            " address in the last hour, so this message is not confirmed by mail.",
            "good",
        )
    db.session.commit()
    return redirect(url_for(".contact"))
