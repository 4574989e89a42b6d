"""Puts tracked links and a pixel into a mail, where Postal does."""

from __future__ import annotations

import re
from collections.abc import Callable
from email import message_from_bytes
from email.charset import QP, Charset
from email.message import Message
from email.policy import compat32

__all__ = ["insert_tracking"]

_READABLE = Charset("utf-8")
_READABLE.body_encoding = QP
_HREF = re.compile(r"(<a\b[^>]*?\bhref=)([\"'])(https?://.+?)\2", re.IGNORECASE)
_PLAIN = re.compile(r"https?://[^\s<>\"']+[^\s<>\"'.,;:!?)\]]")
_BODY_END = re.compile(r"</body\s*>", re.IGNORECASE)
_PIXEL = (
    "<p class='ampimg' style='display:none;visibility:none;margin:0;padding:0;"
    "line-height:0;'><img src='{}' alt=''></p>"
)


def insert_tracking(raw: bytes, link: Callable[[str], str], pixel: str) -> bytes:
    """Return a mail with its links led through Postal and a pixel in its HTML.

    Postal looks into the text parts at the top and into multipart/alternative and
    multipart/related, and into no multipart/mixed within a multipart. Attached texts
    are changed like all others.

    :param link: Makes the tracked address of a link.
    :param pixel: The address of the pixel.
    """
    mail = message_from_bytes(raw, policy=compat32)
    parts = mail.get_payload()
    if isinstance(parts, list):
        changed = [_parse(p, link, pixel) for p in parts if isinstance(p, Message)]
    else:
        changed = [_parse(mail, link, pixel)]
    if not any(changed):
        return raw
    return mail.as_bytes(policy=compat32.clone(linesep="\r\n", max_line_length=0))


def _parse(part: Message, link: Callable[[str], str], pixel: str) -> bool:
    kind = part.get_content_type()
    if kind in ("multipart/alternative", "multipart/related"):
        children = part.get_payload()
        children = children if isinstance(children, list) else []
        found = [_parse(c, link, pixel) for c in children if isinstance(c, Message)]
        return any(found)
    if kind not in ("text/plain", "text/html"):
        return False
    data = part.get_payload(decode=True)
    if not isinstance(data, bytes):
        return False
    text = data.decode("utf-8", "replace")
    if kind == "text/html":
        new = _HREF.sub(lambda m: f"{m[1]}{m[2]}{link(_unescape(m[3]))}{m[2]}", text)
        image = _PIXEL.format(pixel)
        new, bodies = _BODY_END.subn(lambda m: image + m[0], new, count=1)
        new = new if bodies else new + image
    else:
        new = _PLAIN.sub(lambda m: link(m[0]), text)
    if new == text:
        return False
    del part["Content-Transfer-Encoding"]
    if "charset" in str(part.get("Content-Type", "")).lower():
        part.set_param("charset", "UTF-8")
    part.set_payload(new, _READABLE)
    return True


def _unescape(url: str) -> str:
    return url.replace("&amp;", "&")
