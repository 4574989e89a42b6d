"""Decodes the encoded words of headers (RFC 2047)."""

from __future__ import annotations

import binascii
import re

from .charsets import decode

__all__ = ["decode_words"]

#: Characters of a header in which encoded words are decoded; the rest stays encoded.
MAX_DECODED = 20_000

_BEGIN = re.compile(r"=\?([^?\s]{1,100})\?([bBqQ])\?")


def decode_words(value: str) -> str:
    """Decode the encoded words of a header, leaving all other text unchanged.

    Adjacent words in the same charset are joined before they are decoded, because some
    programs split multibyte characters between them. A damaged word loses characters
    but isn't dropped.

    :param value: The unfolded value of the header.
    """
    if "=?" not in value:
        return value
    head, tail = value[:MAX_DECODED], value[MAX_DECODED:]
    pieces: list[str] = []
    run, run_charset = b"", ""
    end = 0
    for begin in _BEGIN.finditer(head):
        if begin.start() < end:
            continue  # inside the previous word
        stop = head.find("?=", begin.end())
        if stop < 0:
            break
        between = head[end : begin.start()]
        charset = begin[1].partition("*")[0]  # RFC 2231: utf-8*en
        data = _decode_text(begin[2], head[begin.end() : stop])
        # Whitespace between two encoded words isn't part of the text (RFC 2047, 6.2).
        adjacent = bool(run_charset) and (not between or between.isspace())
        if adjacent and charset.lower() == run_charset:
            run += data
        else:
            if run_charset:
                pieces.append(decode(run, run_charset)[0])
            if not adjacent:
                pieces.append(between)
            run, run_charset = data, charset.lower()
        end = stop + 2
    if run_charset:
        pieces.append(decode(run, run_charset)[0])
    return "".join([*pieces, head[end:], tail])


def _decode_text(encoding: str, text: str) -> bytes:
    data = text.encode("utf-8", "replace")
    if encoding in "qQ":
        return binascii.a2b_qp(data, header=True)
    try:
        return binascii.a2b_base64(data + b"=" * (-len(data) % 4))
    except binascii.Error:
        letters = re.sub(rb"[^A-Za-z0-9+/]", b"", data)
        return binascii.a2b_base64(letters[: len(letters) // 4 * 4])
