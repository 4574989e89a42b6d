"""The message class. A message is plain data, and is validated when it is sent."""

from __future__ import annotations

import copy
import secrets
from collections.abc import Callable, Iterable, Mapping
from datetime import datetime
from typing import Any, ClassVar, Self

from ..address import Address, AddressesLike, AddressLike
from ..errors import MessageError
from ..text import is_text
from .attachment import Attachment
from .message_json import evaluated, from_json, json_dict, to_json

__all__ = ["FIELDS", "Message"]

#: The parameters of :class:`Message`. Flask-Mail's come first and in its order, so that
#: positional arguments mean the same.
FIELDS = (
    "subject",
    "recipients",
    "body",
    "html",
    "alts",
    "sender",
    "cc",
    "bcc",
    "attachments",
    "reply_to",
    "date",
    "charset",
    "extra_headers",
    "mail_options",
    "rcpt_options",
    "message_id",
    "tags",
    "metadata",
    "bounce",
    "track_opens",
    "track_clicks",
    "send_at",
    "template",
    "context",
    "esp_extra",
    "unsubscribe",
    "ignore_suppression",
)


class Message:
    """One message.

    The parameters up to ``rcpt_options`` have the names and the order of Flask-Mail's.

    Creating a message needs no app and validates nothing, except that values which
    could be read in two ways are refused. :meth:`.Postal.send` refuses a message if
    Postal would lose or change a part of it. A message can be pickled, and
    :meth:`to_dict` converts it to JSON, so that any task queue can carry it.

    An address is ``"ana@example.com"``, ``"Ana <ana@example.com>"``,
    ``("Ana", "ana@example.com")`` or an :class:`.Address`.

    :param subject: The subject.
    :param recipients: One address or a list. All recipients see these addresses; use
        :meth:`.Postal.send_batch` for separate messages.
    :param body: The plain text. It is not rendered as a template.
    :param html: The HTML. It is not rendered as a template.
    :param alts: Alternative forms of the content: texts by media type, such as
        ``"text/calendar; method=REQUEST"``.
    :param sender: The From address; :data:`POSTAL_DEFAULT_SENDER` if not given.
    :param cc: One address or a list, visible to all recipients.
    :param bcc: One address or a list, visible to no recipient.
    :param attachments: :class:`.Attachment` objects or tuples of their parameters; see
        :meth:`attach`, :meth:`attach_file` and :meth:`embed`.
    :param reply_to: One address or a list.
    :param date: The Date header: an aware datetime, or seconds since 1970; the time of
        sending if not given.
    :param charset: ``None`` or ``"utf-8"``; Postal sends nothing else.
    :param extra_headers: Values, or lists of values, by header name. ``Sender`` sets
        the visible Sender header; the envelope sender is always Postal's return path.
    :param mail_options: A parameter of Flask-Mail, unsupported.
    :param rcpt_options: A parameter of Flask-Mail, unsupported.
    :param message_id: The Message-ID, with or without angle brackets; generated if not
        given.
    :param tags: The tag, at most 255 characters, or a list with one tag. Postal keeps
        one tag per message.
    :param metadata: A parameter of django-anymail, unsupported.
    :param bounce: ``True`` sends the message with a null envelope sender (``<>``), as
        bounces are sent.
    :param track_opens: ``False``, together with ``track_clicks=False``, turns Postal's
        tracking off for this message. It can only be turned on in the settings of the
        mail server.
    :param track_clicks: See ``track_opens``.
    :param send_at: A parameter of django-anymail, unsupported.
    :param template: The name of Jinja templates without the file extension:
        ``"email/welcome"`` renders ``email/welcome.txt``, ``.html`` and ``.subject``,
        as far as they exist.
    :param context: The context of the templates.
    :param esp_extra: A dict that is merged into the JSON for Postal, for features that
        have no parameter here.
    :param unsubscribe: The name of a list, such as ``"news"``: the message gets a link
        by which its recipient leaves the list with one click (RFC 8058), and
        :data:`.unsubscribed` tells. For one recipient; see :meth:`.Postal.send_batch`.
    :param ignore_suppression: ``True`` sends the message to suppressed addresses too,
        such as a password reset that somebody waits for; see
        :meth:`.Postal.is_suppressed`.
    :raises MessageError: if a value has a wrong type or is ambiguous.
    """

    #: Whether it is sent without any content. Postal refuses that in ``send/message``,
    #: and takes it in ``send/raw``.
    may_be_blank: ClassVar[bool] = False

    subject: str | None
    body: str | None
    html: str | None
    mail_options: list[str] | None
    rcpt_options: list[str] | None
    track_opens: bool | None
    track_clicks: bool | None
    date: datetime | float | None
    charset: str | None
    send_at: datetime | float | None
    template: str | None
    unsubscribe: str | None
    bounce: bool | None
    ignore_suppression: bool | None

    def __init__(
        self,
        subject: str | None = "",
        recipients: AddressesLike | None = None,
        body: str | None = None,
        html: str | None = None,
        alts: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        sender: AddressLike | None = None,
        cc: AddressesLike | None = None,
        bcc: AddressesLike | None = None,
        attachments: Iterable[Attachment | tuple[Any, ...]] | None = None,
        reply_to: AddressesLike | None = None,
        date: datetime | float | None = None,
        charset: str | None = None,
        extra_headers: Mapping[str, Any] | Iterable[tuple[str, Any]] | None = None,
        mail_options: list[str] | None = None,
        rcpt_options: list[str] | None = None,
        *,
        message_id: str | None = None,
        tags: str | Iterable[str] | None = None,
        metadata: Mapping[str, Any] | None = None,
        bounce: bool | None = None,
        track_opens: bool | None = None,
        track_clicks: bool | None = None,
        send_at: datetime | float | None = None,
        template: str | None = None,
        context: Mapping[str, Any] | None = None,
        esp_extra: Mapping[str, Any] | None = None,
        unsubscribe: str | None = None,
        ignore_suppression: bool | None = None,
    ) -> None:
        self.subject, self.body, self.html = subject, body, html
        self.recipients: list[Any] = address_list(recipients, "recipients")
        self.alts: dict[str, Any] = _dict(alts, "alts")
        self.sender = sender
        self.cc: list[Any] = address_list(cc, "cc")
        self.bcc: list[Any] = address_list(bcc, "bcc")
        self.attachments: list[Attachment] = _attachments(attachments, "attachments")
        self.reply_to: list[Any] = address_list(reply_to, "reply_to")
        self.date, self.charset = date, charset
        self.extra_headers: dict[str, Any] = _headers(extra_headers, "extra_headers")
        self.mail_options, self.rcpt_options = mail_options, rcpt_options
        self.message_id = message_id
        self.tags: list[Any] = _tags(tags, "tags")
        self.metadata: dict[str, Any] = _dict(metadata, "metadata")
        self.track_opens, self.track_clicks = track_opens, track_clicks
        self.send_at, self.template, self.unsubscribe = send_at, template, unsubscribe
        self.context: dict[str, Any] = _dict(context, "context")
        self.esp_extra: dict[str, Any] = _dict(esp_extra, "esp_extra")
        self.bounce, self.ignore_suppression = bounce, ignore_suppression

    def add_recipient(self, recipient: AddressLike) -> None:
        """Append one address to ``recipients``."""
        self.recipients.append(recipient)

    def attach(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Any = None,
        disposition: str = "attachment",
    ) -> None:
        """Attach data.

        :param filename: The name that the recipient sees.
        :param content_type: The media type; guessed from the file name if not given.
        :param data: Bytes, text (sent as UTF-8) or an open file, which is read
            immediately.
        :param disposition: ``"attachment"``, or ``"inline"`` for a part that mail
            programs show in the message.
        :raises MessageError: if the data is none of these.
        """
        self.attachments.append(Attachment(filename, content_type, data, disposition))

    def attach_file(
        self,
        path: Any,
        filename: str | None = None,
        content_type: str | None = None,
    ) -> None:
        """Attach a file, which is read when the message is sent.

        :param path: The path of the file.
        :param filename: The name that the recipient sees; that of the file if not
            given.
        :param content_type: The media type; guessed from the file name if not given.
        """
        if filename is None:
            filename = str(path).replace("\\", "/").rpartition("/")[2]
        self.attachments.append(Attachment(filename, content_type, path=path))

    def embed(
        self,
        filename: str | None = None,
        content_type: str | None = None,
        data: Any = None,
        cid: str | None = None,
    ) -> str:
        """Attach an image inline, to be shown in the HTML.

        ::

            cid = message.embed("logo.png", "image/png", data)
            message.html = f'<img src="cid:{cid}" alt="Acme">'

        :param filename: The name of the image.
        :param content_type: The media type; guessed from the file name if not given.
        :param data: Bytes or an open file, which is read immediately.
        :param cid: The content id, without angle brackets; generated if not given.
        :returns: The content id.
        :raises MessageError: if the data is neither bytes, text nor a file.
        """
        cid = cid or f"{secrets.token_hex(12)}@flask-postal"
        self.attachments.append(
            Attachment(filename, content_type, data, "inline", content_id=cid)
        )
        return cid

    def copy(self) -> Self:
        """Return a copy that can be changed without changing the original.

        Lists and dicts are copied; their items are shared.
        """
        return copy.copy(self)

    def resolved(self) -> Self:
        """Return a copy with lazy strings evaluated and files read.

        The context of the template is left as it is.

        :raises MessageError: if a file can't be read or a string can't be encoded.
        """
        resolved = self.copy()
        for name in FIELDS:
            if name not in ("attachments", "context"):
                setattr(resolved, name, evaluated(getattr(self, name)))
        resolved.attachments = [item.resolved() for item in resolved.attachments]
        return resolved

    def to_dict(self) -> dict[str, Any]:
        """Return the message as a dict that can be serialized as JSON.

        Attachments are encoded in base64, times in ISO 8601. Empty fields are omitted.

        :raises MessageError: if a field can't be represented in JSON. If it is the
            context of the template, render the message with :meth:`.Postal.render`
            first.
        """
        message = self.resolved()
        values = {name: getattr(message, name) for name in FIELDS}
        return {
            name: to_json(name, value)
            for name, value in values.items()
            if value is not None and value not in ([], {}, "")
        }

    @classmethod
    def from_dict(cls, content: Mapping[str, Any]) -> Self:
        """Create a message from the dict that :meth:`to_dict` has returned.

        :raises MessageError: for a key that is not a parameter of :class:`Message`.
        """
        if unknown := content.keys() - set(FIELDS):
            raise MessageError(f"a message has no field {', '.join(sorted(unknown))}")
        return cls(**{name: from_json(name, value) for name, value in content.items()})

    def __copy__(self) -> Self:
        """Copy the message, its lists and its dicts; share the items.

        :raises MessageError: if an attribute has been set to a value of a wrong type.
        """
        other = self.__class__.__new__(self.__class__)
        state = other.__dict__
        state.update(self.__dict__)
        for name, tidy in _CONTAINERS.items():
            value = state[name]
            if type(value) is list or type(value) is dict:
                state[name] = value.copy()
            else:  # the app has assigned a single address, a tuple, None, ...
                state[name] = tidy(value, name)
        return other

    def __getstate__(self) -> dict[str, Any]:
        """Pickle the resolved message.

        The process that unpickles it may not have the files, and would evaluate lazy
        strings in another locale.
        """
        state = self.resolved().__dict__
        state["context"] = json_dict(self.context, "context")
        return state

    def __setstate__(self, state: dict[str, Any]) -> None:
        """Fill in fields that the version which pickled the message did not have."""
        self.__init__()  # type: ignore[misc]
        self.__dict__.update(state)

    def __deepcopy__(self, memo: dict[int, Any]) -> Self:
        other = self.__class__.__new__(self.__class__)
        other.__dict__.update(copy.deepcopy(self.__dict__, memo))
        return other

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Message):
            return NotImplemented
        return self.__dict__ == other.__dict__

    # Mutable, so not hashable.
    __hash__: ClassVar[None] = None  # type: ignore[assignment]

    def __repr__(self) -> str:
        return f"<{type(self).__name__} {self.subject!r} to {self.recipients!r}>"


def address_list(value: Any, field: str) -> list[Any]:
    """Return a list of addresses, given one or several. They are not validated.

    :raises MessageError: for a tuple that may be two addresses, or a name with an
        address.
    """
    if type(value) is list:
        return value.copy()
    if value is None:
        return []
    if isinstance(value, tuple) and len(value) == 2 and not isinstance(value[0], tuple):
        if isinstance(value[0], str) and "@" in value[0]:
            raise MessageError(
                f"{field}: {value!r} may be two addresses, or one with a name; pass a"
                " list",
                field=field,
            )
        if not isinstance(value[0], Address):
            return [value]
    if is_text(value) or isinstance(value, Address) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _dict(value: Any, field: str) -> dict[str, Any]:
    if value is None:
        return {}
    try:
        return dict(value)
    except (TypeError, ValueError):
        raise MessageError(f"{field} must be a dict", field=field) from None


def _headers(value: Any, field: str) -> dict[str, Any]:
    """Return a dict of headers. A name that occurs repeatedly gets a list."""
    if value is None or isinstance(value, Mapping):
        return _dict(value, field)
    headers: dict[str, Any] = {}
    try:
        for name, text in value:
            headers.setdefault(name, []).append(text)
    except (TypeError, ValueError):
        raise MessageError(
            f"{field} must be a dict or a list of pairs", field=field
        ) from None
    return {n: texts[0] if len(texts) == 1 else texts for n, texts in headers.items()}


def _tags(value: Any, _field: str) -> list[Any]:
    if value is None:
        return []
    if is_text(value) or not isinstance(value, Iterable):
        return [value]
    return list(value)


def _attachments(value: Any, field: str) -> list[Attachment]:
    if value is None:
        return []
    try:
        items = list(value)
    except TypeError:
        items = [None]
    attachments = []
    for item in items:
        if isinstance(item, tuple):
            attachments.append(Attachment(*item))
        elif isinstance(item, Attachment):
            attachments.append(item)
        else:
            raise MessageError(
                f"{field} must be a list of Attachment objects or of tuples"
                " (filename, content_type, data)",
                field=field,
            )
    return attachments


_CONTAINERS: dict[str, Callable[[Any, str], Any]] = {
    "recipients": address_list,
    "alts": _dict,
    "cc": address_list,
    "bcc": address_list,
    "attachments": _attachments,
    "reply_to": address_list,
    "extra_headers": _headers,
    "tags": _tags,
    "metadata": _dict,
    "context": _dict,
    "esp_extra": _dict,
}
