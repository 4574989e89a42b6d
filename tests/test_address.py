from __future__ import annotations

import email.utils
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from flask_postal import Address, MessageError
from flask_postal.address import parse_address


@pytest.mark.parametrize(
    ("value", "name", "addr_spec"),
    [
        ("ana@example.com", "", "ana@example.com"),
        ("  ana@example.com ", "", "ana@example.com"),
        ("<ana@example.com>", "", "ana@example.com"),
        ("Ana <ana@example.com>", "Ana", "ana@example.com"),
        ('"Doe, Jane" <jane@example.com>', "Doe, Jane", "jane@example.com"),
        (r'"O\"Neil \\ Bob" <b@example.com>', 'O"Neil \\ Bob', "b@example.com"),
        ("ana@example.com <ana@example.com>", "ana@example.com", "ana@example.com"),
        (("Doe, Jane", "jane@example.com"), "Doe, Jane", "jane@example.com"),
        ((None, "jane@example.com"), "", "jane@example.com"),
        (("", "jane@example.com"), "", "jane@example.com"),
        (Address("a@example.com", "A"), "A", "a@example.com"),
        ("Zoë <zoe@example.com>", "Zoë", "zoe@example.com"),
        ("first.last+tag@example.co.uk", "", "first.last+tag@example.co.uk"),
        ("a..b@docomo.ne.jp", "", "a..b@docomo.ne.jp"),
        ('"john doe"@example.com', "", '"john doe"@example.com'),
        ("root@localhost", "", "root@localhost"),
        ("x@Bücher.example", "", "x@xn--bcher-kva.example"),
        ("x@faß.de", "", "x@xn--fa-hia.de"),
        ("x@xn--bcher-kva.example", "", "x@xn--bcher-kva.example"),
        ("x@例え。テスト", "", "x@xn--r8jz45g.xn--zckzah"),
        ("x@EXAMPLE.com", "", "x@EXAMPLE.com"),
    ],
)
def test_an_address_is_read(value: Any, name: str, addr_spec: str) -> None:
    address, _ = parse_address(value, "recipients")
    assert (address.display_name, address.addr_spec) == (name, addr_spec)


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "not an address"),
        ("not an address", "not an address"),
        ("@example.com", "not an address"),
        ("ana@", "not an address"),
        ("ana@example..com", "not a domain name"),
        ("ana@-example.com", "not a domain name"),
        ("ana@example.com.", "not a domain name"),
        ("ana@exa mple.com", "not a domain name"),
        ("ana@[127.0.0.1]", "not a domain name"),
        ("ana@i❤.ws", "not a domain name"),
        ("a@b.c, d@e.f", "not one address"),
        ("a@b.c; d@e.f", "not one address"),
        ("A <a@b.c>, D <d@e.f>", "not one address"),
        ("a@b.c, D <d@e.f>", "not one address"),
        ("A <a@b.c> <d@e.f>", "not one address"),
        ("a@b.c d@e.f", "not one address"),
        ("zoë@example.com", "non-ASCII characters before the @"),
        ('"a(b)c"@example.com', "parentheses"),
        ("ana(work)@example.com", "parentheses"),
        ('"a<b>c"@example.com', "not an address"),
        ("ana@example.com\nBcc: eve@example.com", "line feed"),
        ("Ana\r <ana@example.com>", "carriage return"),
        (("Ana\n", "ana@example.com"), "line feed"),
        (("Ana", "ana@example.com\0"), "NUL"),
        (("A\ud800", "ana@example.com"), "surrogate"),
        ("a" * 244 + "@example.com", "too long"),
        ("x@" + "a." * 126 + "com", "too long"),
        (5, "not int"),
        (None, "not NoneType"),
        (b"a@b.c", "not bytes"),
        (("a", "b", "c"), "not tuple"),
        (("Ana", None), "not NoneType"),
        (["a@b.c"], "not list"),
    ],
)
def test_anything_but_a_single_address_is_refused(value: Any, why: str) -> None:
    with pytest.raises(MessageError, match=f"cc: .*{why}") as caught:
        parse_address(value, "cc")
    assert caught.value.field == "cc"


@pytest.mark.parametrize(
    ("address", "text"),
    [
        (Address("a@b.c"), "a@b.c"),
        (Address("a@b.c", "Ana"), "Ana <a@b.c>"),
        (Address("a@b.c", "Ana Lee-Smith"), "Ana Lee-Smith <a@b.c>"),
        (Address("a@b.c", "Doe, Jane"), '"Doe, Jane" <a@b.c>'),
        (Address("a@b.c", 'A "B" \\'), '"A \\"B\\" \\\\" <a@b.c>'),
        (Address("a@b.c", "José Núñez"), "José Núñez <a@b.c>"),
        (Address("a@b.c", "Dœ, Jane"), '"Dœ, Jane" <a@b.c>'),
    ],
)
def test_names_are_quoted_if_necessary(address: Address, text: str) -> None:
    assert str(address) == text


def test_only_the_domain_is_case_insensitive() -> None:
    assert Address("Ana@Example.com").key == Address("Ana@example.COM").key
    assert Address("Ana@example.com").key != Address("ana@example.com").key


@given(
    st.text(max_size=30), st.from_regex(r"[a-z]{1,8}@[a-z]{1,8}\.org", fullmatch=True)
)
def test_a_formatted_address_parses_back_to_itself(name: str, bare: str) -> None:
    try:
        address, _ = parse_address((name, bare), "to")
    except MessageError:
        assert any(c in name for c in "\r\n\0") or not _encodable(name)
        return
    assert parse_address(str(address), "to")[0] == address
    if name.isascii() and name.isprintable():
        assert email.utils.parseaddr(str(address)) == (name.strip(), bare)


@given(st.text(max_size=60))
def test_any_text_is_parsed_or_refused(text: str) -> None:
    try:
        address, _ = parse_address(text, "to")
    except MessageError:
        return
    assert address.addr_spec.isascii()
    assert not any(c in str(address) for c in "\r\n\0")
    assert parse_address(address, "to")[0] == address


def _encodable(text: str) -> bool:
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
