"""Render the templates of a message in the app's Jinja environment."""

from __future__ import annotations

from flask import Flask, render_template
from jinja2 import TemplateNotFound

from ..errors import MessageError
from ..text import plain_text
from .message import Message

__all__ = ["render_templates"]

#: The fields that templates fill, by their file extensions.
PARTS = {"txt": "body", "html": "html", "subject": "subject"}


def render_templates(message: Message, app: Flask) -> None:
    """Render a message's templates into those of its fields that are empty.

    ``template`` and ``context`` of the message are cleared. The subject's whitespace
    is collapsed, because a header can't contain line breaks.

    :param message: The message, which is changed.
    :param app: The app, which must be the current one.
    :raises MessageError: if there is no template of that name with any extension.
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
                raise  # the template exists, and extends or includes a missing one
            continue
        found = True
        if getattr(message, field):
            continue
        text = render_template(template, **context)
        setattr(message, field, " ".join(text.split()) if ending == "subject" else text)
    if not found:
        raise MessageError(
            "template: found none of "
            + ", ".join(f"{name}.{ending}" for ending in PARTS)
            + " in the app's template folders; pass template= without the file"
            " extension",
            field="template",
        )
    message.template = None
    message.context = {}
