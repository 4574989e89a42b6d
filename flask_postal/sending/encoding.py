"""Writes text and addresses so that what is read is what was meant."""

from __future__ import annotations

import base64
import re

from ..address import Address, quote_name

__all__ = ["encoded_words", "json_address", "json_text", "mime_address", "mime_text"]

#: Bytes of UTF-8 in one encoded word. RFC 2047 allows 45; with these it still fits
#: into the first line, behind the header's name, and none is left blank.
_WORD = 30
#: An SMTP line is at most 998 characters long, and only folds at a blank.
_UNFOLDABLE = re.compile(r"\S{900}")


def encoded_words(text: str) -> str:
    """Encode text as RFC 2047 encoded words, never dividing a character."""
    chunks: list[bytes] = []
    chunk = b""
    for character in text:
        encoded = character.encode()
        if len(chunk) + len(encoded) > _WORD:
            chunks.append(chunk)
            chunk = b""
        chunk += encoded
    chunks.append(chunk)
    return " ".join(f"=?utf-8?b?{base64.b64encode(c).decode()}?=" for c in chunks)


def mime_text(text: str) -> str:
    """Write unstructured header text as ASCII that reads back to the same."""
    if (
        text.isascii()
        and text.isprintable()
        and "=?" not in text
        and text == text.strip()
        and not _UNFOLDABLE.search(text)
    ):
        return text
    return encoded_words(text) if text else ""


def mime_address(address: Address) -> str:
    """Write an address as ASCII for a header."""
    name = address.display_name
    if not name:
        return address.addr_spec
    if name.isascii() and name.isprintable() and "=?" not in name and len(name) < 200:
        return str(address)
    return f"{encoded_words(name)} <{address.addr_spec}>"


def json_text(text: str) -> str:
    """Write header text for Postal's JSON.

    Postal encodes non-ASCII text itself, and takes text that looks like an encoded
    word for one.
    """
    return encoded_words(text) if "=?" in text else text


def json_address(address: Address) -> str:
    """Write an address for Postal's JSON."""
    name = address.display_name
    if "=?" in name:
        return f"{encoded_words(name)} <{address.addr_spec}>"
    return f"{quote_name(name)} <{address.addr_spec}>" if name else address.addr_spec
