"""Reads inbound mail in the RawMessage formats, parsing only what is used."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property

from ...address import Address
from .addresses import are_cut, author_of, read_addresses
from .attachment import InboundAttachment
from .base64_mail import Base64Mail
from .encoded_words import decode_words
from .headers import HeaderBlock, read_date, read_headers
from .structure import Part, cut

__all__ = ["RawMail"]

#: Characters of all headers together in which encoded words are decoded.
MAX_DECODED = 300_000

#: Bytes of a part of a report that are read (RFC 3464, RFC 5965).
MAX_STATUS = 20_000

_DAMAGED = "message: its base64 is damaged"
_TEXTS = ("text/plain", "text/html")


@dataclass(slots=True)
class _Roles:
    """The parts of a mail, sorted by their use.

    :param texts: The text of the mail, by media type: text/plain and text/html.
    :param files: The attachments.
    :param inlines: The parts that the HTML refers to, by Content-ID.
    """

    texts: dict[str, Part] = field(default_factory=dict)
    files: list[Part] = field(default_factory=list)
    inlines: dict[str, Part] = field(default_factory=dict)


class RawMail:
    """The :class:`.MailSource` of the RawMessage formats.

    :param mail: The mail, which may not have been decoded from base64 yet.
    :param null_sender: Whether the envelope has no sender.
    """

    def __init__(self, mail: Base64Mail, *, null_sender: bool = False) -> None:
        self.defects: list[str] = []
        self.null_sender = null_sender
        self.marked_bounce: bool = False  # RawMessage doesn't say
        self._mail = mail

    @property
    def raw(self) -> bytes | None:
        return self._all()

    @property
    def head(self) -> HeaderBlock | None:
        return self._head

    def _all(self) -> bytes:
        data = self._mail.all()
        if self._mail.damaged:
            self._note(_DAMAGED)
        return data

    def _note(self, problem: str | None) -> None:
        if problem is not None and problem not in self.defects:
            self.defects.append(problem)

    # ---- headers

    @cached_property
    def _head(self) -> HeaderBlock:
        for beginning in self._mail.beginnings():
            if b"\n\r\n" in beginning or b"\n\n" in beginning:
                block = read_headers(beginning)
                break
        else:
            block = read_headers(self._all())
        self._note(block.problem)
        return block

    @cached_property
    def _by_name(self) -> dict[str, str]:
        """The first value of each header, by its lower-case name."""
        return {name.lower(): value for name, value in reversed(self._head.items)}

    def header_items(self) -> list[tuple[str, str]]:
        items, budget = [], MAX_DECODED
        for name, value in self._head.items:
            if "=?" in value:
                budget -= len(value)
                if budget < 0:
                    self._note("headers: too many encoded words; some stay encoded")
                else:
                    value = decode_words(value)
            items.append((name, value))
        return items

    def header(self, name: str) -> str | None:
        value = self._by_name.get(name)
        return None if value is None else decode_words(value)

    def addresses(self, name: str) -> list[Address]:
        values = [value for n, value in self._head.items if n.lower() == name]
        value = ", ".join(values)
        if are_cut(value):
            self._note(f"{name}: too many addresses or too long; the rest is not read")
        return read_addresses(value, encoded=True)

    def author(self) -> Address | None:
        value = self._by_name.get("from")
        return author_of(value, encoded=True) if value else None

    def date(self) -> datetime | None:
        return read_date(self._by_name.get("date"))

    def _verdict(self, name: str) -> str | None:
        """Return a header that Postal has added above the first Received header.

        The same headers further down were written by the author and prove nothing. If
        there is no Received header, the two can't be distinguished.
        """
        found = None
        for header, value in self._head.items:
            if header.lower() == "received":
                return found
            if header.lower() == name and found is None:
                found = value.strip()
        return None

    def spam_detected(self) -> bool | None:
        return {"yes": True, "no": False}.get(self._verdict("x-postal-spam") or "")

    def spam_score(self) -> float | None:
        score = self._verdict("x-postal-spam-score")
        number = None if score is None else float(score[:50])
        return number if number is not None and math.isfinite(number) else None

    # ---- parts

    @cached_property
    def _parts(self) -> list[Part]:
        """The parts with content, in order."""
        raw = self._all()
        # The headers may have been read from only the beginning of the mail, but their
        # offsets are the same in the whole mail.
        structure = cut(raw, self._head)
        for problem in structure.problems:
            self._note(problem)
        return structure.parts

    @cached_property
    def _roles(self) -> _Roles:
        """Decide for each part whether it is text of the mail, a file or inline.

        Of each kind of text the first part that isn't blank is chosen.
        """
        roles = _Roles()
        alone = len(self._parts) == 1
        for part in self._parts:
            kind = part.role_type
            attached = part.disposition == "attachment"
            if (
                kind in _TEXTS
                and not attached
                and (alone or part.filename is None or part.is_form)
            ):
                earlier = roles.texts.get(kind)
                if earlier is None or earlier.is_blank:
                    roles.texts[kind] = part
                    continue
                if part.is_blank:
                    continue
            if part.content_id and not attached:
                new = roles.inlines.setdefault(part.content_id, part) is part
                if new and part.parent == "related":
                    continue
            roles.files.append(part)
        if not roles.texts:
            # SMS gateways send their text as a part with a file name.
            for part in roles.files:
                if part.kind in _TEXTS and part.disposition != "attachment":
                    roles.texts.setdefault(part.kind, part)
            chosen = roles.texts.values()
            roles.files = [part for part in roles.files if part not in chosen]
        return roles

    def text(self) -> str | None:
        return self._text_of("text/plain")

    def html(self) -> str | None:
        return self._text_of("text/html")

    def _text_of(self, kind: str) -> str | None:
        part = self._roles.texts.get(kind)
        if part is None:
            return None
        text, problem = part.text()
        self._note(None if problem is None else f"text: {problem}")
        return text

    def stripped_text(self) -> str | None:
        return None  # Postal strips replies only in the Hash formats

    def attachments(self) -> list[InboundAttachment]:
        return [_attachment(part) for part in self._roles.files]

    def inlines(self) -> dict[str, InboundAttachment]:
        return {name: _attachment(p) for name, p in self._roles.inlines.items()}

    def part_types(self) -> list[str]:
        # Attachments don't count: a person may forward a bounce.
        return [part.kind for part in self._parts if part.disposition != "attachment"]

    def part_of(self, types: frozenset[str], limit: int = MAX_STATUS) -> bytes:
        part = next((p for p in self._parts if p.kind in types), None)
        return part.content()[:limit] if part else b""


def _attachment(part: Part) -> InboundAttachment:
    return InboundAttachment(
        part.filename, part.content_type, part.content(), part.content_id
    )
