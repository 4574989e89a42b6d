"""The base64 of a raw mail, decoded when it is asked for, and not further."""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from contextlib import suppress

from ...errors import PayloadError

__all__ = ["Base64Mail", "cut_out", "decode"]

#: Bytes of a body from which on the mail in it is not decoded before it is asked for.
LARGE = 4 * 1024
#: Bytes of JSON that are decoded at once.
STEP = 1024 * 1024
#: Bytes of JSON in which the headers of a mail are looked for, one after the other.
HEADS = (8 * 1024, 64 * 1024)
#: Bytes of JSON that Postal writes before and after the mail, at most.
AROUND = 4 * 1024

_START = b'"message":"'
# How Postal writes base64 into JSON: lines of 60 characters, each ended by \n.
_BEGINNING = re.compile(rb"(?:[A-Za-z0-9+/]{60}\\n){16}")
_END = re.compile(rb"[A-Za-z0-9+/]{0,59}={0,2}(?:\\n)?")


class Base64Mail:
    """A mail in base64.

    :param text: The base64, with line breaks, or ...
    :param raw: ... the mail itself.
    """

    __slots__ = ("_raw", "_text", "damaged")

    def __init__(
        self, *, text: memoryview | None = None, raw: bytes | None = None
    ) -> None:
        self._text = text
        self._raw = raw
        #: Whether the base64 turned out to be broken.
        self.damaged: bool = False

    def all(self) -> bytes:
        """Decode the whole mail; what is no base64 in it is left out."""
        if self._raw is None:
            text = self._text or memoryview(b"")
            try:
                self._raw = _decode(text)
            except ValueError:
                self.damaged = True
                self._raw = _salvage(bytes(text))
            self._text = None
        return self._raw

    def beginnings(self) -> Iterator[bytes]:
        """Decode ever more of it, but not all: headers seldom need much."""
        if self._raw is not None:
            yield self._raw
        for size in HEADS:
            if self._text is not None and len(self._text) > size:
                with suppress(ValueError):
                    yield _decode(self._text[: size // 62 * 62])


def cut_out(body: bytes) -> tuple[bytes, memoryview] | None:
    """Cut the mail out of a large body as Postal writes it.

    :returns: The JSON with an empty message, and the mail's base64; ``None`` for a body
        that only a JSON parser should take apart.
    """
    start = body.find(_START, 0, AROUND) + len(_START)
    if len(body) < LARGE or start < len(_START):
        return None
    end = body.find(b'"', start)
    if not 0 <= len(body) - end <= AROUND or not _BEGINNING.match(body, start, end):
        return None
    last = start + (end - start) // 62 * 62
    if not _END.fullmatch(body, last, end):
        return None
    rest = body[:start] + body[end:]
    if rest.count(b'"message"') != 1 or b"\\u" in rest:
        return None
    return rest, memoryview(body)[start:end]


def decode(text: str) -> Base64Mail:
    """Decode a mail at once, and strictly.

    :raises PayloadError: if it is no base64.
    """
    try:
        return Base64Mail(raw=base64.b64decode(text.replace("\n", ""), validate=True))
    except (binascii.Error, ValueError):
        raise PayloadError("the message is not base64") from None


def _decode(text: memoryview) -> bytes:
    """Decode in pieces of whole lines, so that the text is never copied as a whole."""
    step = STEP // 62 * 62
    try:
        return b"".join(
            [_decode_piece(text[at : at + step]) for at in range(0, len(text), step)]
        )
    except ValueError:
        return _decode_piece(text)  # the lines are not all of one length


def _decode_piece(text: memoryview) -> bytes:
    letters = json.loads(b'"%b"' % bytes(text))
    data = binascii.a2b_base64(letters)
    # The decoder skips foreign characters, and ends at padding: then it is short.
    padding = letters[-4:].count("=")
    if len(data) != (len(letters) - letters.count("\n") - padding) * 3 // 4:
        raise ValueError("the base64 is damaged")
    return data


def _salvage(text: bytes) -> bytes:
    """Decode what there is of base64."""
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", re.sub(rb"\\.", b"", text))
    return binascii.a2b_base64(letters[: len(letters) // 4 * 4])
