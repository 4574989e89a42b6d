"""Decodes Content-Transfer-Encodings, also damaged ones."""

from __future__ import annotations

import binascii
import re
from itertools import islice

__all__ = ["decode_transfer"]

#: Lines of uuencoded text that are read: UU_LINES, and one more per UU_LINE bytes.
#: Usual lines have 62 bytes, so this limits only texts of very short lines, each of
#: which costs a call.
UU_LINES, UU_LINE = 1000, 20

_UU = frozenset({"x-uuencode", "uuencode", "x-uue", "uue"})
_UU_BEGIN = re.compile(rb"(?m)^begin [0-7]{3,4} [^\r\n]*\r?\n")
_LINE = re.compile(rb"[^\n]*+\n?")
_WORD = re.compile(r"[\w-]+", re.ASCII)


def decode_transfer(raw: bytes, start: int, end: int, encoding: str) -> bytes:
    """Decode the content of a part.

    :param raw: The whole mail.
    :param start: The offset at which the content begins.
    :param end: The offset at which it ends.
    :param encoding: The value of the Content-Transfer-Encoding header.
    :returns: The decoded bytes; the content unchanged if the encoding is unknown or
        the content can't be decoded.
    """
    found = _WORD.search(encoding[:100])
    name = found[0].lower() if found else ""
    if name == "base64":
        return _base64(raw, start, end)
    content = raw[start:end]
    if name == "quoted-printable":
        return binascii.a2b_qp(content)
    if name in _UU:
        return _uu(content)
    return content


def _base64(raw: bytes, start: int, end: int) -> bytes:
    breaks = raw.count(b"\r", start, end) + raw.count(b"\n", start, end)
    length = end - start - breaks
    if length % 4 == 0:
        try:
            data = binascii.a2b_base64(memoryview(raw)[start:end])
        except binascii.Error:
            data = b""
        # binascii skips other characters and stops at padding, so damaged base64 gives
        # less data than its length promises.
        padding = raw.count(b"=", max(start, end - 6), end)
        if len(data) == length // 4 * 3 - padding:
            return data
    return _damaged_base64(raw[start:end])


def _damaged_base64(text: bytes) -> bytes:
    """Decode as the ``email`` package does.

    Padding may be missing, and characters that aren't base64 are skipped.
    """
    text = text.translate(None, b"\r\n")
    padding = b"=" * (-len(text) % 4)
    for attempt in (text + padding, text, text + b"=="):
        try:
            return binascii.a2b_base64(attempt)
        except binascii.Error:
            continue
    return text


def _uu(content: bytes) -> bytes:
    begin = _UU_BEGIN.search(content)
    if begin is None:
        return content
    pieces: list[bytes] = []
    lines = UU_LINES + len(content) // UU_LINE
    for found in islice(_LINE.finditer(content, begin.end()), lines):
        line = found[0].rstrip()
        if line in (b"", b"`", b"end"):
            break
        try:
            pieces.append(binascii.a2b_uu(line))
        except binascii.Error:
            # Some programs write lines that are longer than their length byte says.
            # The email package has the same workaround.
            said = (((line[0] - 32) & 63) * 4 + 5) // 3
            try:
                pieces.append(binascii.a2b_uu(line[:said]))
            except binascii.Error:
                break
    return b"".join(pieces)
