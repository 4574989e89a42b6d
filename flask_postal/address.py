"""Parse, validate, format and compare mail addresses.

Postal does not validate addresses: it answers "success" to anything, then retries for
hours, or delivers to a different address. Everything that it can't deliver to is
therefore refused here, before the message is sent.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import MessageError
from .text import header_text, is_text

__all__ = ["Address", "AddressLike", "AddressesLike", "parse_address"]

# RFC 5322 atext, with dots anywhere: addresses such as "a..b@" exist at large
# providers, although the RFC forbids them.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+", re.ASCII)
# A quoted local part, without ( ) < >. Postal strips "(...)" from addresses by a
# regular expression, even inside quotes: "a(b)c"@x.org is sent to "ac"@x.org.
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\()<>\x00-\x1f\x7f]|\\["\\ ])*"', re.ASCII)
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# Fast paths for the two most common forms: a bare address, and an address after a name
# that needs no quoting. Everything else takes the slower checks below.
_BARE = rf"{_LOCAL.pattern}@{_DOMAIN.pattern}"
_PLAIN = re.compile(_BARE, re.ASCII)
_NAMED = re.compile(rf"([^\W\d_][\w .'-]*) ?<({_BARE})>")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*", re.ASCII)
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)

#: Longest address, in characters. Postal answers HTTP 500 to a longer one.
MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Address:
    """One mail address with an optional display name.

    The attributes have the names of :class:`email.headerregistry.Address`. Creating an
    ``Address`` validates nothing; the address is checked when a message is sent.

    :param addr_spec: The bare address, such as ``ana@example.com``.
    :param display_name: The name, without quotes; ``""`` if there is none.
    """

    addr_spec: str
    display_name: str = ""

    @property
    def username(self) -> str:
        """The part before the last ``@``."""
        return self.addr_spec.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """The part after the last ``@``."""
        return self.addr_spec.rpartition("@")[2]

    @property
    def key(self) -> tuple[str, str]:
        """A value that is equal for two spellings of the same mailbox.

        Domains are compared case-insensitively. Local parts are not, because only the
        server that hosts the mailbox knows whether case matters.
        """
        local, _, domain = self.addr_spec.rpartition("@")
        return local, domain.lower()

    def __str__(self) -> str:
        """Format the address as in a header, with the name quoted if necessary."""
        name = self.display_name
        if not name:
            return self.addr_spec
        return f"{quote_name(name)} <{self.addr_spec}>"


AddressLike: TypeAlias = "str | Address | tuple[str | None, str]"
AddressesLike: TypeAlias = "AddressLike | Iterable[AddressLike]"


def quote_name(name: str) -> str:
    """Quote a display name if it contains characters that are special in a header."""
    plain = _ATOMS.fullmatch(name) if name.isascii() else not _SPECIALS.search(name)
    if plain and name == name.strip() and "  " not in name:
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_address(value: Any, field: str) -> tuple[Address, str]:
    """Parse and validate one address.

    :param value: ``"a@b"``, ``"Name <a@b>"``, ``(name, address)`` or an
        :class:`Address`.
    :param field: The parameter that the value came from, for the error message.
    :returns: The address with its domain in A-label form, because Postal does not
        convert international domains; and the bare address as the caller wrote it.
    :raises MessageError: if the value is not exactly one address that Postal can
        deliver to.
    """
    if type(value) is str and len(value) <= MAX_LENGTH:
        if _PLAIN.fullmatch(value):
            return Address(value), value
        if named := _NAMED.fullmatch(value):
            return Address(named[2], named[1].rstrip(" ")), named[2]
    if isinstance(value, Address):
        name, bare = value.display_name, value.addr_spec
    elif isinstance(value, (tuple, list)) and len(value) == 2:
        name = "" if value[0] is None else value[0]
        bare = value[1]
    elif is_text(value):
        name, bare = _split(str(value), field)
    else:
        raise MessageError(
            f"{field}: an address is a string or a (name, address) pair,"
            f" not {type(value).__name__}",
            field=field,
        )
    name = header_text(name, field, "the name of an address")
    written = header_text(bare, field, "an address").strip()
    return Address(_checked(written, field), name.strip()), written


def is_sendable(addr_spec: str) -> bool:
    """Return whether :func:`parse_address` accepts a bare address."""
    if len(addr_spec) <= MAX_LENGTH and _PLAIN.fullmatch(addr_spec):
        return True
    try:
        _checked(header_text(addr_spec, "address"), "address")
    except MessageError:
        return False
    return True


def _split(text: str, field: str) -> tuple[str, str]:
    """Split ``Name <a@b>`` into the name and the bare address.

    :raises MessageError: if the string contains more than one address. Postal would
        split it at every comma, even inside quotes.
    """
    text = text.strip(" \t")
    if not text.endswith(">"):
        return "", text
    before, bracket, bare = text[:-1].rpartition("<")
    name = before.strip(" \t")
    if not bracket:
        raise MessageError(f"{field}: {text!r} is not an address", field=field)
    if quoted := _QUOTED_NAME.fullmatch(name):
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), bare
    if any(c in name for c in '<>"') or ("@" in name and re.search("[,;]", name)):
        raise MessageError(
            f"{field}: {text!r} is not one address; pass a list with one address per"
            " item, and a name with special characters as a (name, address) pair",
            field=field,
        )
    return name, bare


def _checked(bare: str, field: str) -> str:
    """Validate a bare address, and return it with its domain in A-label form."""
    local, at, domain = bare.rpartition("@")
    if not (at and local and domain):
        raise MessageError(f"{field}: {bare!r} is not an address", field=field)
    if not _LOCAL.fullmatch(local):
        _check_odd_local(local, bare, field)
    if not _DOMAIN.fullmatch(domain):
        domain = _a_label(domain, bare, field)
    checked = f"{local}@{domain}"
    if len(checked) > MAX_LENGTH:
        raise MessageError(
            f"{field}: an address of {len(checked)} characters is too long;"
            f" Postal accepts at most {MAX_LENGTH}",
            field=field,
        )
    return checked


def _check_odd_local(local: str, bare: str, field: str) -> None:
    """Accept a valid quoted local part; explain what is wrong with any other."""
    if not local.isascii():
        raise MessageError(
            f"{field}: {bare!r} has non-ASCII characters before the @; Postal can't"
            " send to such addresses",
            field=field,
        )
    if _QUOTED_LOCAL.fullmatch(local):
        return
    if re.search(r"[()]", local):
        raise MessageError(
            f"{field}: {bare!r} contains parentheses; Postal strips them and would"
            " send to a different address",
            field=field,
        )
    if re.search(r"[,;]|@", local):
        raise MessageError(
            f"{field}: {bare!r} is not one address; pass a list with one address per"
            " item",
            field=field,
        )
    raise MessageError(f"{field}: {bare!r} is not an address", field=field)


def _a_label(domain: str, bare: str, field: str) -> str:
    if not domain.isascii():
        import idna  # installed with requests; rarely needed, so imported late

        try:
            # uts46 maps upper case first; plain IDNA 2008 refuses "Bücher.example".
            encoded = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError:
            encoded = ""
        if _DOMAIN.fullmatch(encoded):
            return encoded
    raise MessageError(
        f"{field}: the domain of {bare!r} is not a domain name", field=field
    )
