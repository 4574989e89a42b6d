"""Splits a MIME message into its parts, without reading it line by line.

Only the lines with boundaries are searched for. The content between them is neither
copied nor decoded until it is used.

This is used instead of the standard library's ``email`` parser for two reasons. The
first is hostile mail. With ``email.policy.default``, a Content-Type of 25 kB of
semicolons takes 1.4 s (Python 3.11) and the time grows with the square of the length,
and other mails raise RecursionError or IndexError. Here reading everything in a mail of
10 MB takes less than 0.5 s, whatever the mail (docs/hostile-table.md). The second is
the speed with usual mail: requests with a mail of 20 kB were handled five times as fast
as by Anymail, which uses that parser, and those with 10 MB nearly three times. Where
the standard library's parser is right, the result is the same; tests compare the two
with random mails.
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

#: Parts that are read. Usual mail has a few dozen at most, while 10 MB have room for
#: hundreds of thousands of empty ones, each of which costs an object and its headers.
MAX_PARTS = 1000
#: Nested multiparts. Each level searches the same bytes again, so the time is the depth
#: times the size: with 30 levels 10 MB take 0.45 s, the most in docs/hostile-table.md.
MAX_DEPTH = 30
#: Bytes of a text part that is checked for being blank, which means decoding it.
MAX_BLANK = 10_000
#: Characters of a file name that are read, before encoded words are decoded.
MAX_NAME = 2_000
#: Lines in the whole mail that begin with a boundary. The limit isn't per multipart, or
#: many multiparts would multiply it.
MAX_MARKS = 20_000

_CR, _LF = b"\r\n"
_AFTER_MARK = re.compile(rb"(--)?[ \t]*+\r*+(?:\n|\Z)")


class Part:
    """A part of a mail: its headers, and the position of its content.

    Headers and content are decoded when they are used.

    :param raw: The whole mail.
    :param block: The headers of the part.
    :param end: The offset in ``raw`` at which the content ends.
    :param parent: The subtype of the enclosing multipart; ``""`` if there is none.
    :param default_type: The media type if the part has no Content-Type.
    :param is_first: Whether it is the first part of the enclosing multipart.
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
        #: Names and values of the headers, as :func:`.read_headers` returns them.
        self.items: list[tuple[str, str]] = block.items
        self.start: int = block.end
        self.end = end
        self._default_type = default_type
        self.parent = parent
        #: Whether it is a version of the text and not a file, even if it has a file
        #: name: the parts of a multipart/alternative, and the root of a
        #: multipart/related (RFC 2387).
        self.is_form: bool = parent == "alternative" or (
            parent == "related" and is_first
        )

    @cached_property
    def _headers(self) -> dict[str, str]:
        """The first value of each header, by its lower-case name."""
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
        """The media type that decides how the part is parsed.

        It is text/plain if the declared one is invalid (RFC 2045, 5.2).
        """
        return self._type.value or "text/plain"

    @property
    def role_type(self) -> str:
        """The media type that decides whether the part is a text or a file.

        A multipart in which no boundary was found is treated as text.
        """
        return "text/plain" if self.kind.startswith("multipart/") else self.kind

    @property
    def content_type(self) -> str:
        """The declared media type, or ``application/octet-stream`` if it is invalid."""
        return self.role_type if self._type.value else "application/octet-stream"

    @property
    def disposition(self) -> str:
        """The disposition: ``"attachment"``, ``"inline"``, another word, or ``""``."""
        return self._disposition.value

    @property
    def charset(self) -> str | None:
        """The declared charset, as the mail spells it."""
        return self._type.get("charset")

    @property
    def boundary(self) -> str | None:
        """The boundary of a multipart."""
        return self._type.get("boundary")

    def parameter(self, name: str) -> str | None:
        """Return a parameter of Content-Type."""
        return self._type.get(name)

    @cached_property
    def filename(self) -> str | None:
        """The decoded file name, in one line; ``None`` if there is none."""
        name = self._disposition.get("filename") or self._type.get("name")
        name = (name or "")[:MAX_NAME]
        return ((as_line(decode_words(name)) or "").strip() or None) if name else None

    @cached_property
    def content_id(self) -> str | None:
        """The Content-ID, to which ``cid:`` links refer, without angle brackets."""
        value = self._headers.get("content-id", "")[:1000]
        return (as_line(value) or "").strip(" <>") or None

    def content(self) -> bytes:
        """Return the content, with its transfer encoding decoded."""
        encoding = self._headers.get("content-transfer-encoding", "")
        return decode_transfer(self._raw, self.start, self.end, encoding)

    def text(self) -> tuple[str, str | None]:
        """Return the content as text, and a problem with its charset or ``None``.

        Line endings are ``\\n``.
        """
        content = self.content()
        if b"\r\n" in content and is_like_ascii(self.charset):
            # Replaced in the bytes, because a str may take four times the memory, and
            # replacing needs a second copy for a moment.
            content = content.replace(b"\r\n", b"\n")
        return decode(content, self.charset)

    @cached_property
    def is_blank(self) -> bool:
        """Whether the text is empty or whitespace; ``False`` for any long part."""
        if self.end - self.start > MAX_BLANK:
            return False
        text = self.text()[0]
        return not text or text.isspace()


class Structure:
    """The parts of a mail.

    :param raw: The whole mail.
    :ivar parts: The parts with content, in order; the multiparts that contain them are
        not in the list.
    :ivar problems: What was left unread, and why.
    """

    def __init__(self, raw: bytes) -> None:
        self.parts: list[Part] = []
        self.problems: list[str] = []
        self._raw = raw
        self._marks = 0  # lines that begin with a boundary, see MAX_MARKS

    def _note(self, problem: str) -> None:
        if problem not in self.problems:
            self.problems.append(problem)

    def read(self, block: HeaderBlock) -> None:
        """Find all parts, beginning with the mail itself.

        :param block: The headers of the mail.
        """
        # A loop instead of recursion, which deep nesting would overflow. The headers of
        # all parts share one budget, so that many parts can't multiply the limit.
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
                self.parts.append(part)  # no boundary: it is text
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
        """Find the parts between the boundaries of a multipart.

        :returns: For each part the offsets at which its headers begin and it ends.
        """
        boundary = (part.boundary or "").rstrip()[:1000].encode("utf-8", "replace")
        if not boundary:
            return []
        raw, end = self._raw, part.end
        mark = b"\n--" + boundary
        places: list[tuple[int, int]] = []
        begun = -1
        # The line break before a boundary is part of it (RFC 2046, 5.1.1). There always
        # is one to start with, because a multipart has headers before its content.
        at = raw.find(mark, part.start - 1, end)
        while at >= 0:
            self._marks += 1
            if self._marks > MAX_MARKS:
                self._note("parts: too many boundaries; the rest is not read")
                return places
            after = _AFTER_MARK.match(raw, at + len(mark), end)
            if after is None:  # a longer line that begins with the boundary
                at = raw.find(mark, at + 1, end)
                continue
            if 0 <= begun <= at:
                places.append((begun, at - (at > begun and raw[at - 1] == _CR)))
            if after[1] or len(places) > MAX_PARTS:
                return places
            begun = after.end()
            at = raw.find(mark, begun - 1, end)
        if begun >= 0:
            # The last boundary is missing. At the end of the mail the standard
            # library's parser removes a line break here too.
            if end == len(raw):
                end -= end > begun and raw[end - 1] == _LF
                end -= end > begun and raw[end - 1] == _CR
            places.append((begun, end))
        return places


def cut(raw: bytes, block: HeaderBlock | None = None) -> Structure:
    """Split a mail into its parts.

    :param raw: The whole mail.
    :param block: The headers of the mail, if they have been read already.
    """
    structure = Structure(raw)
    structure.read(block if block is not None else read_headers(raw))
    return structure
