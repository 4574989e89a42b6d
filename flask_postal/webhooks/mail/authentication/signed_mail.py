"""Decide whether the signatures of a mail can be verified, and canonicalize its body.

dkimpy skips lines that other parsers take for headers, or for the beginning of the
text, so it might verify something else than what people see. Some of its regular
expressions take quadratic time. Therefore it only gets mails with well-formed headers
and of a bounded size, and bodies that have been canonicalized in linear time.
"""

from __future__ import annotations

import re

__all__ = ["can_be_verified", "canonical_body"]

#: Bytes and lines of headers, and bytes of white space in a row.
MAX_HEAD, MAX_HEAD_LINES, MAX_SPACES = 100_000, 3000, 100
#: Bytes and lines of a mail. Postal takes 14 MB, which are 200,000 lines of base64.
MAX_MAIL, MAX_LINES = 30_000_000, 500_000
_BLANK = re.compile(rb"(?:^|\r?\n)\r?\n")
_LINE = re.compile(rb"\r?\n")
_HEADER = re.compile(rb"[!-9;-~]+:|[ \t]+[^ \t]")


def can_be_verified(raw: bytes) -> bool:
    """Return whether a mail is within the bounds, and its headers are well-formed."""
    if len(raw) > MAX_MAIL or raw.count(b"\n") > MAX_LINES:
        return False
    blank = _BLANK.search(raw, 0, MAX_HEAD)
    if blank is None:  # there is no text, or the headers are too long
        return False
    head = raw[: blank.start()]
    lines = _LINE.split(head)
    if len(lines) > MAX_HEAD_LINES or b" " * MAX_SPACES in head.replace(b"\t", b" "):
        return False
    return head[:1] not in (b" ", b"\t") and all(map(_HEADER.match, lines))


def canonical_body(body: bytes, *, relaxed: bool) -> bytes:
    """Return a body as it is signed (RFC 6376, 3.4), in a time that grows with it.

    :param body: The body, with CR LF at the end of each line.
    """
    if relaxed:
        body = body.replace(b"\t", b" ")
        while b"  " in body:
            body = body.replace(b"  ", b" ")
        body = body.replace(b" \r\n", b"\r\n")
    end = len(body)
    while body.endswith(b"\r\n", 0, end):
        end -= 2
    if end == 0:
        return b"" if relaxed else b"\r\n"
    return body[:end] + b"\r\n"
