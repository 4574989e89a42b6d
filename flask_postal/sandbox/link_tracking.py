"""Rewrites an email as Postal's click and open tracking does, damage included."""

from __future__ import annotations

import re
from binascii import b2a_qp
from collections.abc import Callable
from email import message_from_bytes
from email.message import Message
from email.policy import compat32

__all__ = ["insert_tracking"]

_POLICY = compat32.clone(linesep="\r\n", max_line_length=0)
_HREF = re.compile(r"(<a\b[^>]*?\bhref=)([\"'])(https?://.+?)\2", re.IGNORECASE)
_PLAIN = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]]")
_QUOTED = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)
_BODY_END = re.compile(r"</body\s*>", re.IGNORECASE)
_PIXEL = (
    "<p class='ampimg' style='display:none;visibility:none;margin:0;padding:0;"
    "line-height:0;'><img src='{}' alt=''></p>"
)


def insert_tracking(raw: bytes, link: Callable[[str], str], pixel: str) -> bytes:
    """Return an email with tracked links, and with a tracking pixel in its HTML.

    Postal looks at text parts at the top level and inside of multipart/alternative and
    multipart/related, but not inside of a nested multipart/mixed. Attached text files
    are rewritten like any other text.

    Postal damages mail when it rewrites links, and this function repeats the damage on
    purpose. Otherwise a message would look right in the sandbox and arrive broken in
    production, and the ways in which Flask-Postal avoids the damage could not be
    tested. All of this was observed on a running Postal 3.3.6:

    - A part counts as HTML if its Content-Type contains ``text/html`` anywhere, even as
      the ``type=`` of a multipart/related. Such a part arrives as MIME source.
    - The lines of rewritten non-ASCII text end in CR CR LF, unless the part was encoded
      in base64 and its lines ended in LF.
    - A quoted file name that contains a quote or a backslash gains a backslash.

    :param raw: The message in MIME.
    :param link: Returns the tracked URL for the URL of a link.
    :param pixel: The URL of the tracking pixel.
    :returns: The rewritten message; ``raw`` itself if there was nothing to rewrite.
    """
    mail = message_from_bytes(raw, policy=compat32)
    parts = mail.get_payload()
    if isinstance(parts, list):
        changed = [_parse(p, link, pixel) for p in parts if isinstance(p, Message)]
    else:
        changed = [_parse(mail, link, pixel)]
    if not any(changed):
        return raw
    for part in mail.walk():
        if "Content-Disposition" in part:
            value = str(part["Content-Disposition"])
            part.replace_header("Content-Disposition", _QUOTED.sub(_escaped, value))
    return mail.as_bytes(policy=_POLICY)


def _escaped(quoted: re.Match[str]) -> str:
    return '"{}"'.format(quoted[1].replace("\\", "\\\\").replace('"', '\\"'))


def _parse(part: Message, link: Callable[[str], str], pixel: str) -> bool:
    content_type = str(part.get("Content-Type", ""))
    is_html = "text/html" in content_type
    if not is_html and "text/plain" not in content_type:
        children = part.get_payload()
        if not re.search("multipart/(alternative|related)", content_type) or not (
            isinstance(children, list)
        ):
            return False
        found = [_parse(c, link, pixel) for c in children if isinstance(c, Message)]
        return any(found)
    data = _content(part)
    text = data.decode("utf-8", "replace")
    if is_html:
        new = _HREF.sub(lambda m: f"{m[1]}{m[2]}{link(_unescape(m[3]))}{m[2]}", text)
        image = _PIXEL.format(pixel)
        new, bodies = _BODY_END.subn(lambda m: image + m[0], new, count=1)
        new = new if bodies else new + image
    else:
        new = _PLAIN.sub(lambda m: link(m[0]), text)
    if new == text:
        return False
    encoding = str(part.get("Content-Transfer-Encoding", "")).lower()
    keeps_lines = new.isascii() or (encoding == "base64" and "\r\n" not in text)
    del part["Content-Transfer-Encoding"]
    part["Content-Transfer-Encoding"] = "quoted-printable"
    part.set_param("charset", "UTF-8")
    end = "\r\n" if keeps_lines else "=0D\r\n"
    lines = new.replace("\r\n", "\n").split("\n")
    # The lines are encoded one by one, so that "=0D" and CRLF are not encoded again.
    part.set_payload(end.join(_quoted_printable(line) for line in lines))
    return True


def _content(part: Message) -> bytes:
    """Return the decoded content of a part; for a multipart, its MIME source."""
    data = part.get_payload(decode=True)
    if isinstance(data, bytes):
        return data
    return part.as_bytes(policy=_POLICY).partition(b"\r\n\r\n")[2]


def _quoted_printable(line: str) -> str:
    return b2a_qp(line.encode("utf-8", "replace"), istext=False).decode("ascii")


def _unescape(url: str) -> str:
    return url.replace("&amp;", "&")
