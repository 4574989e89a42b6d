"""The base64 of a raw mail, decoded only when and as far as it is needed.

Postal sends the RawMessage formats as base64 in JSON or in a form. Many receivers read
only the envelope or some headers, and shouldn't wait until 10 MB are decoded and
copied. For a mail of 10 MB of which only three headers are read, this saved nine tenths
of the time and 27 of 45 MB of memory.
"""

from __future__ import annotations

import base64
import binascii
import json
import re
from collections.abc import Iterator
from contextlib import suppress

from ...errors import PayloadError

__all__ = ["Base64Mail", "cut_out", "decode"]

#: Bytes of a body. In a smaller one the mail is decoded at once.
LARGE = 4 * 1024
#: Bytes of JSON that are decoded at a time, to keep temporary copies small.
STEP = 1024 * 1024
#: Bytes of JSON that are decoded to find the end of the headers: the smaller number
#: first. If neither is enough, the whole mail is decoded.
HEADS = (8 * 1024, 64 * 1024)
#: Most bytes of JSON that Postal writes before the mail, or after it.
AROUND = 4 * 1024

_START = b'"message":"'
# Base64 as Postal writes it into JSON: lines of 60 characters, each with an escaped
# line break after it, so 62 bytes per line.
_BEGINNING = re.compile(rb"(?:[A-Za-z0-9+/]{60}\\n){16}")
_END = re.compile(rb"[A-Za-z0-9+/]{0,59}={0,2}(?:\\n)?")


class Base64Mail:
    """A raw mail that is decoded from base64 when it is used.

    Pass either ``text`` or ``raw``.

    :param text: The base64 as it is in the JSON, with escaped line breaks.
    :param raw: The mail itself, if it has been decoded already.
    """

    __slots__ = ("_raw", "_text", "damaged")

    def __init__(
        self, *, text: memoryview | None = None, raw: bytes | None = None
    ) -> None:
        self._text = text
        self._raw = raw
        #: Whether the base64 is damaged; known only after :meth:`all`.
        self.damaged: bool = False

    def all(self) -> bytes:
        """Return the whole mail, skipping what isn't base64.

        Damage isn't an error, because an error would make Postal retry in vain.
        """
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
        """Yield longer and longer beginnings of the mail, to find its headers in.

        The mail may be longer than the last one.
        """
        if self._raw is not None:
            yield self._raw
        for size in HEADS:
            if self._text is not None and len(self._text) > size:
                with suppress(ValueError):
                    yield _decode(self._text[: size // 62 * 62])


def cut_out(body: bytes) -> tuple[bytes, memoryview] | None:
    """Find the base64 in a large JSON body without parsing and copying it.

    This is done only if the body looks exactly as Postal writes it. Otherwise a JSON
    parser might read another message than this function does.

    :param body: The raw body of the request.
    :returns: The JSON with an empty message, and the base64 as a view of ``body``;
        ``None`` if the body must be parsed as JSON.
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
    """Decode a mail at once and strictly.

    :param text: The base64, with real line breaks.
    :raises PayloadError: if it isn't base64.
    """
    try:
        return Base64Mail(raw=base64.b64decode(text.replace("\n", ""), validate=True))
    except (binascii.Error, ValueError):
        raise PayloadError("the message is not base64") from None


def _decode(text: memoryview) -> bytes:
    """Decode in pieces of whole lines, so that the base64 is never copied as a whole.

    :raises ValueError: if it is damaged.
    """
    step = STEP // 62 * 62
    try:
        return b"".join(
            [_decode_piece(text[at : at + step]) for at in range(0, len(text), step)]
        )
    except ValueError:
        return _decode_piece(text)  # lines differ in length: a piece split one


def _decode_piece(text: memoryview) -> bytes:
    letters = json.loads(b'"%b"' % bytes(text))
    data = binascii.a2b_base64(letters)
    # binascii skips other characters and stops at padding, so damaged base64 gives less
    # data than its length promises.
    padding = letters[-4:].count("=")
    if len(data) != (len(letters) - letters.count("\n") - padding) * 3 // 4:
        raise ValueError("the base64 is damaged")
    return data


def _salvage(text: bytes) -> bytes:
    """Decode damaged base64 as far as possible."""
    letters = re.sub(rb"[^A-Za-z0-9+/]", b"", re.sub(rb"\\.", b"", text))
    return binascii.a2b_base64(letters[: len(letters) // 4 * 4])
