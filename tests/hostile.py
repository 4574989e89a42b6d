"""Malicious mails of any size, and the cost of reading them.

Run it to print the table of docs/performance.md::

    python -m tests.hostile > docs/hostile-table.md    # 10 MB each
    python -m tests.hostile 32                         # MB each

Each shape is measured in a separate process: all attributes of
:class:`.InboundMessage` are read, from the body of a request as Postal writes it.
"""

from __future__ import annotations

import base64
import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.mail.message import InboundMessage

__all__ = ["SHAPES", "read_all"]

MB = 1_000_000
ATTRIBUTES = [
    name
    for name in dir(InboundMessage)
    if not name.startswith("_") and name not in ("header", "defects")
]


def read_all(message: InboundMessage) -> dict[str, Any]:
    """Read every attribute."""
    return {name: getattr(message, name) for name in ATTRIBUTES}


def _fill(piece: bytes, size: int) -> bytes:
    return piece * max(1, size // len(piece))


def _text(charset: bytes, piece: bytes) -> Callable[[int], bytes]:
    head = b"Content-Type: text/plain; charset=" + charset + b"\r\n\r\n"
    return lambda size: head + _fill(piece, size)


def _header(name: bytes, piece: bytes, before: bytes = b"") -> Callable[[int], bytes]:
    return lambda size: name + b": " + before + _fill(piece, size) + b"\r\n\r\nx"


def _encoded(
    encoding: bytes, piece: bytes, begin: bytes = b""
) -> Callable[[int], bytes]:
    head = b"Content-Transfer-Encoding: " + encoding + b"\r\n\r\n" + begin
    return lambda size: head + _fill(piece, size)


def _nested(depth: int, piece: bytes) -> Callable[[int], bytes]:
    heads = b"".join(
        b'Content-Type: multipart/mixed; boundary="%d"\r\n\r\n--%d\r\n' % (n, n)
        for n in range(depth)
    )
    return lambda size: heads + b"\r\n" + _fill(piece, size)


def _parts(head: bytes) -> Callable[[int], bytes]:
    part = b"--b\r\n" + head + b"\r\n\r\nx\r\n"
    return lambda size: (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + _fill(part, size)
    )


def _four_headers(piece: bytes) -> Callable[[int], bytes]:
    return lambda size: (
        b"".join(
            name + b": " + _fill(piece, size // 4) + b"\r\n"
            for name in (b"From", b"To", b"Cc", b"Reply-To")
        )
        + b"\r\nx"
    )


def _usual(size: int) -> bytes:
    file = base64.encodebytes(bytes(n * 7 % 256 for n in range(256)) * (size // 350))
    return (
        b"From: Ana <ana@example.com>\r\nSubject: file\r\n"
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\ntext\r\n--b\r\n"
        b"Content-Type: application/pdf; name=a.pdf\r\n"
        b"Content-Transfer-Encoding: base64\r\n\r\n"
        + file.replace(b"\n", b"\r\n")
        + b"\r\n--b--\r\n"
    )


#: The name of each shape, and a function that makes such a mail of about a size.
SHAPES: dict[str, Callable[[int], bytes]] = {
    "a file, as usual": _usual,
    "a text, as usual": _text(b"utf-8", "Grüße aus Köln, und mehr davon\r\n".encode()),
    "text in emoji": _text(b"utf-8", "🎉x".encode()),
    "text of line breaks": _text(b"utf-8", b"\n"),
    "text of CR LF": _text(b"utf-8", b"\r\n"),
    "text of NUL": _text(b"utf-8", b"\0"),
    "text of quotes": _text(b"utf-8", b"> x\n"),
    "text of attributions": _text(b"utf-8", b"On 1 wrote:\n"),
    "charset punycode": _text(b"punycode", b"a-b9c"),
    "charset idna": _text(b"idna", b"xn--a."),
    "charset unicode_escape": _text(b"unicode_escape", b"\\u0041"),
    "charset zlib": _text(b"zlib", b"x"),
    "charset utf-7, damaged": _text(b"utf-7", b"+"),
    "charset utf-16, damaged": _text(b"utf-16", b"\x00\xd8"),
    "charset iso-2022-jp": _text(b"iso-2022-jp", b"\x1b$B!!\xff\x1b(B"),
    "charset windows-1258, undefined": _text(b"windows-1258", b"\xd2\x81"),
    "utf-8, damaged": _text(b"utf-8", b"\xff"),
    "headers without a name": lambda size: _fill(b":\r\n", size) + b"\r\nx",
    "short headers": lambda size: _fill(b"a:b\r\n", size) + b"\r\nx",
    "junk between headers": lambda size: _fill(b"a:b\r\njunk\r\n", size) + b"\r\nx",
    "one long header": _header(b"Subject", b"x"),
    "one header, folded": _header(b"Subject", b"\r\n x"),
    "encoded words in one header": _header(b"Subject", b"=?u?q?a?= "),
    "encoded words in headers": lambda size: (
        _fill(b"Subject: =?utf-8?b?eHg=?= =?utf-8?b?eA==?=\r\n", size) + b"\r\nx"
    ),
    "addresses": _four_headers(b"a@b.c,"),
    "addresses of @": _four_headers(b"@"),
    "addresses of parentheses": _four_headers(b"("),
    "addresses of quotes": _four_headers(b'"\\'),
    "addresses of brackets": _four_headers(b"<"),
    "addresses, odd": _four_headers(b"a b <c@d.e>;"),
    "references": _header(b"References", b"<a@b> "),
    "references without an end": _header(b"References", b"<a"),
    "parameters": _header(b"Content-Type", b";a=b", b"text/plain"),
    "parameters of semicolons": _header(b"Content-Type", b";", b"text/plain"),
    "parameters in pieces": _header(b"Content-Type", b';n*1*="%41"', b"text/plain"),
    "parts with long parameters": _parts(
        b'Content-Type: text/plain;a="' + b";" * 16_000 + b'"'
    ),
    "parts with long names": _parts(
        b"Content-Disposition: attachment; filename=" + b"=?u?q?a?=" * 1700
    ),
    "parts": _parts(b""),
    "parts without content": lambda size: (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n" + _fill(b"--b\r\n", size)
    ),
    "lines like boundaries": lambda size: (
        b"Content-Type: multipart/mixed; boundary=b\r\n\r\n--b\r\n\r\n"
        + _fill(b"--bx\r\n", size)
    ),
    "10 nested multiparts": _nested(10, b"x\r\n"),
    "30 nested multiparts": _nested(30, b"\n--x"),
    "1,000 nested multiparts": _nested(1000, b"\r\n"),
    "attached mails in each other": lambda size: _fill(
        b"Content-Type: message/rfc822\r\n\r\n", size
    ),
    "message/external-body": lambda size: (
        b"Content-Type: message/external-body\r\n\r\n" + _fill(b"a:b\r\n", size)
    ),
    "message/delivery-status": lambda size: (
        b"Content-Type: message/delivery-status\r\n\r\n" + _fill(b"a: b\r\n\r\n", size)
    ),
    "base64, damaged": _encoded(b"base64", b"!"),
    "base64 of short lines": _encoded(b"base64", b"YWFh\r\n"),
    "quoted-printable": _encoded(b"quoted-printable", b"=41"),
    "quoted-printable, damaged": _encoded(b"quoted-printable", b"="),
    "quoted-printable, soft breaks": _encoded(b"quoted-printable", b"=\r\n"),
    "uuencode": _encoded(b"uuencode", b"#86%A\r\n", b"begin 644 x\r\n"),
    "uuencode of empty lines": _encoded(b"uuencode", b"\n", b"begin 644 x\n"),
    "only CR": lambda size: _fill(b"\r", size),
    "only LF": lambda size: _fill(b"\n", size),
    "only colons": lambda size: _fill(b":", size),
}


def body_of(raw: bytes) -> bytes:
    """Return the body of a webhook request with this mail, as Postal writes it."""
    lines = base64.b64encode(raw)
    text = b"".join(lines[at : at + 60] + b"\\n" for at in range(0, len(lines), 60))
    return (
        b'{"id":5,"rcpt_to":"a@b.c","mail_from":null,"message":"'
        + text
        + (b'","base64":true,"size":%d}' % len(raw))
    )


def _measure(name: str, size: int) -> None:
    raw = SHAPES[name](size)
    event = parse_inbound(body_of(raw))
    read_all(parse_inbound(body_of(_usual(20_000))).message)  # imports, tables
    length = len(raw)
    del raw
    # Reset the peak, so that it counts reading the mail and not making it.
    with open("/proc/self/clear_refs", "w", encoding="ascii") as file:
        file.write("5")
    before, began = _peak_of_process(), time.process_time()
    read_all(event.message)
    took = time.process_time() - began
    grown = _peak_of_process() - before
    _print(json.dumps([length, took, grown]))


def _peak_of_process() -> int:
    with open("/proc/self/status", encoding="ascii") as file:
        line = next(line for line in file if line.startswith("VmHWM"))
    return int(line.split()[1]) * 1024


def _print(text: str) -> None:
    sys.stdout.write(f"{text}\n")
    sys.stdout.flush()


def main() -> None:
    """Print a table in Markdown."""
    size = int(float(sys.argv[1]) * MB) if len(sys.argv) > 1 else 10 * MB
    _print("| mail | MB | CPU s | CPU s per 10 MB | growth MB | times the mail |")
    _print("| --- | ---: | ---: | ---: | ---: | ---: |")
    for name in SHAPES:
        done = subprocess.run(
            [sys.executable, "-m", "tests.hostile", "--one", name, str(size)],
            check=True,
            capture_output=True,
            text=True,
        )
        length, took, grown = json.loads(done.stdout)
        _print(
            f"| {name} | {length / MB:.1f} | {took:.3f} | {took / length * 10 * MB:.3f}"
            f" | {grown / MB:.0f} | {grown / length:.1f} |"
        )
    version = ".".join(map(str, sys.version_info[:3]))
    _print(
        f"\nMeasured on {time.strftime('%Y-%m-%d')} with Python {version}, by"
        " `python -m tests.hostile`."
    )


if __name__ == "__main__":
    if sys.argv[1:2] == ["--one"]:
        _measure(sys.argv[2], int(sys.argv[3]))
    else:
        main()
