"""Renders the templates of a message with the app's Jinja."""

from __future__ import annotations

from flask import Flask, render_template
from jinja2 import TemplateNotFound

from ..errors import MessageError
from ..text import plain_text
from .message import Message

__all__ = ["render_templates"]

#: Ending of a template -> the field it fills.
PARTS = {"txt": "body", "html": "html", "subject": "subject"}


def render_templates(message: Message, app: Flask) -> None:
    """Render the message's templates into the fields that are not given.

    The app must be the current one.

    :raises MessageError: if there is no template of that name.
    """
    name = plain_text(message.template, "template")
    context = {str(name): value for name, value in message.context.items()}
    found = False
    for ending, field in PARTS.items():
        path = f"{name}.{ending}"
        try:
            template = app.jinja_env.get_template(path)
        except TemplateNotFound as error:
            if error.name != path:
                raise  # one that this one extends
            continue
        found = True
        if getattr(message, field):
            continue
        text = render_template(template, **context)
        setattr(message, field, " ".join(text.split()) if ending == "subject" else text)
    if not found:
        raise MessageError(
            "template: there is none of "
            + ", ".join(f"{name}.{ending}" for ending in PARTS)
            + "; leave the ending out of template=. They are looked for where the app's"
            " templates are",
            field="template",
        )
    message.template = None
    message.context = {}
