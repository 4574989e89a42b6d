"""Mail addresses: parse, check, format, compare.

What is refused here, Postal would accept: it answers "success" to anything, and then
fails for hours, or writes to somebody else.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, TypeAlias

from .errors import MessageError
from .text import header_text, is_text

__all__ = ["Address", "AddressLike", "AddressesLike", "parse_address"]

# RFC 5322 atext, and dots anywhere: "a..b@" exists at large providers.
_LOCAL = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~.-]+", re.ASCII)
# A quoted local part; without ( ) < >, which Postal cuts out of addresses.
_QUOTED_LOCAL = re.compile(r'"(?:[^"\\()<>\x00-\x1f\x7f]|\\["\\ ])*"', re.ASCII)
_LABEL = r"(?!-)[A-Za-z0-9_-]{1,63}(?<!-)"
_DOMAIN = re.compile(rf"{_LABEL}(?:\.{_LABEL})*", re.ASCII)
# What most addresses are: a bare one, and one behind a name of letters.
_BARE = rf"{_LOCAL.pattern}@{_DOMAIN.pattern}"
_PLAIN = re.compile(_BARE, re.ASCII)
_NAMED = re.compile(rf"([^\W\d_][\w .'-]*) ?<({_BARE})>")
_ATOMS = re.compile(r"[A-Za-z0-9!#$%&'*+/=?^_`{|}~ -]*", re.ASCII)
_SPECIALS = re.compile(r'[()<>\[\]:;@\\,."]')
_QUOTED_NAME = re.compile(r'"((?:[^"\\]|\\.)*)"', re.DOTALL)

#: Postal answers HTTP 500 to longer ones.
MAX_LENGTH = 255


@dataclass(frozen=True, slots=True)
class Address:
    """One mail address, with the name that is shown with it.

    The attributes are those of :class:`email.headerregistry.Address`.

    :param addr_spec: The bare address, ``ana@example.com``.
    :param display_name: The name, without quotes; ``""`` if there is none.
    """

    addr_spec: str
    display_name: str = ""

    @property
    def username(self) -> str:
        """What stands before the last ``@``."""
        return self.addr_spec.rpartition("@")[0]

    @property
    def domain(self) -> str:
        """What stands after the last ``@``."""
        return self.addr_spec.rpartition("@")[2]

    @property
    def key(self) -> tuple[str, str]:
        """What is equal for two spellings of one mailbox.

        Domains are compared without case; local parts are not, for they are the
        business of the server that hosts them.
        """
        local, _, domain = self.addr_spec.rpartition("@")
        return local, domain.lower()

    def __str__(self) -> str:
        """Format as a header shows it, with the name quoted where it needs it."""
        name = self.display_name
        if not name:
            return self.addr_spec
        return f"{quote_name(name)} <{self.addr_spec}>"


AddressLike: TypeAlias = "str | Address | tuple[str | None, str]"
AddressesLike: TypeAlias = "AddressLike | Iterable[AddressLike]"


def quote_name(name: str) -> str:
    """Put a display name in quotes if it would be read as something else without."""
    plain = _ATOMS.fullmatch(name) if name.isascii() else not _SPECIALS.search(name)
    if plain and name == name.strip() and "  " not in name:
        return name
    escaped = name.replace("\\", "\\\\").replace('"', '\\"')
    return f'"{escaped}"'


def parse_address(value: Any, field: str) -> tuple[Address, str]:
    """Read one address as the caller wrote it.

    :param value: ``"a@b"``, ``"Name <a@b>"``, ``(name, address)`` or an
        :class:`Address`.
    :param field: The parameter it came from, for the error.
    :returns: The address, its domain in A-label form, and the bare address in the
        caller's own spelling.
    :raises MessageError: if it is not exactly one address that Postal can handle.
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
    """Tell whether :func:`parse_address` takes a bare address."""
    if len(addr_spec) <= MAX_LENGTH and _PLAIN.fullmatch(addr_spec):
        return True
    try:
        _checked(header_text(addr_spec, "address"), "address")
    except MessageError:
        return False
    return True


def _split(text: str, field: str) -> tuple[str, str]:
    """Divide ``Name <a@b>``; a string with two addresses in it is refused."""
    text = text.strip(" \t")
    if not text.endswith(">"):
        return "", text
    before, bracket, bare = text[:-1].rpartition("<")
    name = before.strip(" \t")
    if not bracket:
        raise MessageError(f"{field}: {text!r} is no address", field=field)
    if quoted := _QUOTED_NAME.fullmatch(name):
        return re.sub(r"\\(.)", r"\1", quoted[1], flags=re.DOTALL), bare
    if any(c in name for c in '<>"') or ("@" in name and re.search("[,;]", name)):
        raise MessageError(
            f"{field}: {text!r} is not one address; pass a list with one address an"
            " item, and a name with special characters as a (name, address) pair",
            field=field,
        )
    return name, bare


def _checked(bare: str, field: str) -> str:
    """Return the address with its domain in A-label form, or raise."""
    local, at, domain = bare.rpartition("@")
    if not (at and local and domain):
        raise MessageError(f"{field}: {bare!r} is no address", field=field)
    if not _LOCAL.fullmatch(local):
        _check_odd_local(local, bare, field)
    if not _DOMAIN.fullmatch(domain):
        domain = _a_label(domain, bare, field)
    checked = f"{local}@{domain}"
    if len(checked) > MAX_LENGTH:
        raise MessageError(
            f"{field}: an address of {len(checked)} characters is too long;"
            f" Postal takes {MAX_LENGTH}",
            field=field,
        )
    return checked


def _check_odd_local(local: str, bare: str, field: str) -> None:
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
            f"{field}: {bare!r} has parentheses in it; Postal strips them and would"
            " write to somebody else",
            field=field,
        )
    if re.search(r"[,;]|@", local):
        raise MessageError(
            f"{field}: {bare!r} is not one address; pass a list with one address an"
            " item",
            field=field,
        )
    raise MessageError(f"{field}: {bare!r} is no address", field=field)


def _a_label(domain: str, bare: str, field: str) -> str:
    if not domain.isascii():
        import idna  # comes with requests; most mail never needs it

        try:
            encoded = idna.encode(domain, uts46=True).decode("ascii")
        except idna.IDNAError:
            encoded = ""
        if _DOMAIN.fullmatch(encoded):
            return encoded
    raise MessageError(
        f"{field}: the domain of {bare!r} is no domain name", field=field
    )
