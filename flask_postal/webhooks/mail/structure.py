"""Cuts a mail into its parts, without reading it line by line.

Only the lines that divide parts are looked for; what stands between them is left as it
is until it is asked for. The work is bounded for the whole mail, whatever its
boundaries say: what goes over a bound is left unread, and said in ``problems``.
"""

from __future__ import annotations

import re
from functools import cached_property

from ...values import as_line
from .charsets import decode, is_like_ascii
from .encoded_words import decode_words
from .headers import MAX_BYTES, HeaderBlock, read_headers
from .parameters import Parameters, read_parameters
from .transfer_encoding import decode_transfer

__all__ = ["Part", "Structure", "cut"]

#: Parts that are read; a mail with more is a weapon.
MAX_PARTS = 1000
#: How deep multiparts may stand in each other: each level is searched once more.
MAX_DEPTH = 30
#: Bytes of a text that may be blank.
MAX_BLANK = 10_000
#: Characters of a file's name that are read, still encoded.
MAX_NAME = 2_000
#: Lines that begin like a boundary, in the whole mail.
MAX_MARKS = 20_000

_CR, _LF = b"\r\n"
_AFTER_MARK = re.compile(rb"(--)?[ \t]*+\r*+(?:\n|\Z)")


class Part:
    """A part that is no multipart: its headers, and where its content stands.

    :param raw: The mail.
    :param block: The headers of the part.
    :param end: Where its content ends (``start`` is where it begins).
    :param parent: The subtype of the multipart around it, ``""`` for none.
    :param default_type: Its media type if it names none.
    :param is_first: Whether it is the first part of the multipart around it.
    """

    def __init__(
        self,
        raw: bytes,
        block: HeaderBlock,
        end: int,
        parent: str = "",
        default_type: str = "text/plain",
        *,
        is_first: bool = False,
    ) -> None:
        self._raw = raw
        #: Names and values of its headers, as :func:`.read_headers` returns them.
        self.items: list[tuple[str, str]] = block.items
        self.start: int = block.end
        self.end = end
        self._default_type = default_type
        self.parent = parent
        #: Whether it is a form of the text, and no file, also if it has a name: what
        #: is in multipart/alternative, and the root of multipart/related (RFC 2387).
        self.is_form: bool = parent == "alternative" or (
            parent == "related" and is_first
        )

    @cached_property
    def _headers(self) -> dict[str, str]:
        """The first value of each header, by lower-case name."""
        return {name.lower(): value for name, value in reversed(self.items)}

    @cached_property
    def _type(self) -> Parameters:
        text = self._headers.get("content-type")
        if not text:
            return Parameters(self._default_type)
        return read_parameters(text, media_type=True)

    @cached_property
    def _disposition(self) -> Parameters:
        return read_parameters(self._headers.get("content-disposition", ""))

    @property
    def kind(self) -> str:
        """The media type by which it is read: RFC 2045 has text/plain where what is
        said makes no sense."""
        return self._type.value or "text/plain"

    @property
    def role_type(self) -> str:
        """The media type by which its place in the mail is decided: a multipart in
        name only is a text."""
        return "text/plain" if self.kind.startswith("multipart/") else self.kind

    @property
    def content_type(self) -> str:
        """The media type that its author claims, or ``application/octet-stream``."""
        return self.role_type if self._type.value else "application/octet-stream"

    @property
    def disposition(self) -> str:
        """``"attachment"``, ``"inline"``, any other word, or ``""``."""
        return self._disposition.value

    @property
    def charset(self) -> str | None:
        """The charset that is declared, as it is written."""
        return self._type.get("charset")

    @property
    def boundary(self) -> str | None:
        """What divides the parts of a multipart."""
        return self._type.get("boundary")

    def parameter(self, name: str) -> str | None:
        """Return a parameter of Content-Type."""
        return self._type.get(name)

    @cached_property
    def filename(self) -> str | None:
        """The name of the file, in one line."""
        name = self._disposition.get("filename") or self._type.get("name")
        name = (name or "")[:MAX_NAME]
        return ((as_line(decode_words(name)) or "").strip() or None) if name else None

    @cached_property
    def content_id(self) -> str | None:
        """What ``cid:`` refers to, without angle brackets."""
        value = self._headers.get("content-id", "")[:1000]
        return (as_line(value) or "").strip(" <>") or None

    def content(self) -> bytes:
        """Return the content, decoded."""
        encoding = self._headers.get("content-transfer-encoding", "")
        return decode_transfer(self._raw, self.start, self.end, encoding)

    def text(self) -> tuple[str, str | None]:
        """Return the content as text, lines ended by ``\\n``, and what is wrong with
        it."""
        content = self.content()
        if b"\r\n" in content and is_like_ascii(self.charset):
            # In bytes: a string may take four times the memory, and twice for a moment.
            content = content.replace(b"\r\n", b"\n")
        return decode(content, self.charset)

    @cached_property
    def is_blank(self) -> bool:
        """Whether there is nothing to read in it. A long part is not looked at."""
        if self.end - self.start > MAX_BLANK:
            return False
        text = self.text()[0]
        return not text or text.isspace()


class Structure:
    """The parts of a mail.

    :ivar parts: What holds something, in order.
    :ivar problems: What was left unread, and why.
    """

    def __init__(self, raw: bytes) -> None:
        self.parts: list[Part] = []
        self.problems: list[str] = []
        self._raw = raw
        self._marks = 0  # lines that began like a boundary

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def read(self, block: HeaderBlock) -> None:
        """Read all parts, beginning with the mail itself.

        :param block: Its headers.
        """
        budget = MAX_BYTES
        root = Part(self._raw, block, len(self._raw))
        todo: list[tuple[Part, int]] = [(root, 0)]
        while todo:
            part, depth = todo.pop()
            if not part.kind.startswith("multipart/"):
                if len(self.parts) == MAX_PARTS:
                    self._note(f"parts: more than {MAX_PARTS}; the rest is not read")
                    return
                self.parts.append(part)
                continue
            if depth == MAX_DEPTH:
                self._note("parts: nested too deeply; the innermost are not read")
                continue
            places = self._divide(part)
            if not places:
                self.parts.append(part)  # a multipart in name only
                continue
            subtype = part.kind.partition("/")[2]
            default = "message/rfc822" if subtype == "digest" else "text/plain"
            children: list[tuple[Part, int]] = []
            for start, end in places:
                if budget <= 0:
                    self._note("parts: too long headers; the rest is not read")
                    todo.clear()
                    break
                block = read_headers(self._raw, start, end, budget)
                if block.problem is not None:
                    self._note(f"part: {block.problem}")
                budget -= min(block.end, end) - start
                child = Part(
                    self._raw, block, end, subtype, default, is_first=not children
                )
                children.append((child, depth + 1))
            todo += reversed(children)

    def _divide(self, part: Part) -> list[tuple[int, int]]:
        """Find what stands between the boundaries of a multipart."""
        boundary = (part.boundary or "").rstrip()[:1000].encode("utf-8", "replace")
        if not boundary:
            return []
        raw, end = self._raw, part.end
        mark = b"\n--" + boundary
        places: list[tuple[int, int]] = []
        begun = -1
        # The line break before a boundary belongs to it. A part that has a
        # Content-Type has one before its content.
        at = raw.find(mark, part.start - 1, end)
        while at >= 0:
            self._marks += 1
            if self._marks > MAX_MARKS:
                self._note("parts: too many boundaries; the rest is not read")
                return places
            after = _AFTER_MARK.match(raw, at + len(mark), end)
            if after is None:  # a line that only begins like it
                at = raw.find(mark, at + 1, end)
                continue
            if 0 <= begun <= at:
                places.append((begun, at - (at > begun and raw[at - 1] == _CR)))
            if after[1] or len(places) > MAX_PARTS:
                return places
            begun = after.end()
            at = raw.find(mark, begun - 1, end)
        if begun >= 0:
            # Nobody closed it. At the end of the mail the standard library's parser
            # takes a line break away here too.
            if end == len(raw):
                end -= end > begun and raw[end - 1] == _LF
                end -= end > begun and raw[end - 1] == _CR
            places.append((begun, end))
        return places


def cut(raw: bytes, block: HeaderBlock | None = None) -> Structure:
    """Cut a mail into its parts.

    :param raw: The mail.
    :param block: Its headers, if they have been read.
    """
    structure = Structure(raw)
    structure.read(block if block is not None else read_headers(raw))
    return structure
