"""A mail is its author's only if the author's domain answers for it."""

from __future__ import annotations

import base64
import itertools
import json
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest
from flask import Flask
from hypothesis import given, settings
from hypothesis import strategies as st

from flask_postal import (
    Authentication,
    InboundMessage,
    Postal,
    inbound_received,
)
from flask_postal.sandbox import Sandbox, SandboxDNS, SigningKey, compose_mail
from flask_postal.sandbox.endpoint import FORMATS, receive_headers
from flask_postal.testing import sandboxed
from flask_postal.webhooks.inbound import parse_inbound
from flask_postal.webhooks.mail.authentication import resolver, resolving_with
from flask_postal.webhooks.mail.base64_mail import Base64Mail
from flask_postal.webhooks.mail.raw import RawMail

#: Its keys take a tenth of a second each, so all tests share them.
DNS = SandboxDNS()
ANA = "Ana <ana@bank.example>"
KEYS = Path(__file__).parent / "data" / "dkim"


def names() -> SandboxDNS:
    """A DNS with the keys of the shared one, and records of its own."""
    made = SandboxDNS()
    made._keys = DNS._keys
    for key in ("bank.example", "mail.bank.example", "evil.example", "example"):
        made._records[f"sandbox._domainkey.{key}", "TXT"] = DNS._records[
            f"sandbox._domainkey.{key}", "TXT"
        ]
    made.publish("_dmarc.bank.example", "v=DMARC1; p=reject")
    return made


@pytest.fixture
def dns() -> SandboxDNS:
    return names()


def compose(sender: str = ANA, text: str = "Pay me.\r\n", **headers: str) -> bytes:
    return compose_mail(
        "Bill", text, to="desk@example.com", sender=sender, headers=headers
    )


def signed(
    raw: bytes | None = None, domain: str = "bank.example", **options: Any
) -> bytes:
    return DNS.sign(compose() if raw is None else raw, domain, **options)


def received(
    raw: bytes, *, sender: str | None = "x@other.example", client: str = "192.0.2.1"
) -> InboundMessage:
    """The mail as Postal passes it on."""
    raw = receive_headers(time.time(), client=client) + raw
    source = RawMail(Base64Mail(raw=raw), null_sender=sender is None)
    return InboundMessage(source, envelope_sender=sender)


def judged(raw: bytes, dns: SandboxDNS, **envelope: Any) -> Authentication:
    return received(raw, **envelope).authenticate(dns)


def verdict(raw: bytes, dns: SandboxDNS, **envelope: Any) -> str:
    return str(judged(raw, dns, **envelope).verdict)


# ---- what passes


@pytest.mark.parametrize(
    "canonicalize",
    list(itertools.product([b"simple", b"relaxed"], repeat=2)),
    ids=lambda pair: b"-".join(pair).decode(),
)
@pytest.mark.parametrize("ends", [b"\r\n", b"\n"])
def test_a_signature_verifies_over_what_postal_passes_on(
    dns: SandboxDNS, canonicalize: tuple[bytes, bytes], ends: bytes
) -> None:
    raw = signed(
        compose(text="Hi  there \r\n\r\nAna\r\n\r\n\r\n"), canonicalize=canonicalize
    )
    found = judged(raw.replace(b"\r\n", ends), dns)
    assert (found.verdict, found.domain, found.policy) == (
        *("pass", "bank.example"),
        "reject",
    )
    assert found
    (signature,) = found.dkim
    assert (signature.domain, signature.selector) == ("bank.example", "sandbox")
    assert (signature.result, signature.reason) == ("pass", None)


def test_received_lines_on_top_change_nothing(dns: SandboxDNS) -> None:
    raw = b"Received: from a (b [192.0.2.9]) by c; x\r\n" * 3 + signed()
    assert verdict(raw, dns) == "pass"
    # Signed as not being there, which Postal's own header must not break.
    oversigned = signed(include_headers=[b"from", b"subject", b"x-postal-spam"])
    assert verdict(oversigned, dns) == "pass"


@pytest.mark.parametrize(
    ("sender", "domain", "policy", "expected"),
    [
        ("a@bank.example", "mail.bank.example", "v=DMARC1; p=reject", "pass"),
        ("a@mail.bank.example", "bank.example", "v=DMARC1; p=reject", "pass"),
        ("a@bank.example", "mail.bank.example", "v=DMARC1;p=reject;adkim=s", "fail"),
        ("a@bank.example", "bank.example", "v=DMARC1; p=reject; adkim=s", "pass"),
        ("a@BANK.Example", "bank.example", "v=DMARC1; p=reject", "pass"),
        ("a@bank.example", "evil.example", "v=DMARC1; p=reject", "fail"),
        ("a@bank.example", "evil.example", "v=DMARC1; p=quarantine", "fail"),
        ("a@bank.example", "evil.example", "v=DMARC1; p=none", "none"),
        ("a@bank.example", "evil.example", "v=DMARC1; p=nonsense", "none"),
        ("a@bank.example", "evil.example", "v=DMARC2; p=reject", "none"),
        ("a@x.bank.example", "evil.example", "v=DMARC1; p=none; sp=reject", "fail"),
        ("a@x.bank.example", "evil.example", "v=DMARC1; p=reject; sp=none", "none"),
        ("a@x.bank.example", "evil.example", "v=DMARC1; p=reject", "fail"),
        ("a@bank.example", "example", "v=DMARC1; p=reject", "fail"),  # a public suffix
        ("a@other.example", "evil.example", "v=DMARC1; p=reject", "none"),
    ],
)
def test_the_domain_that_signs_must_be_the_authors(
    dns: SandboxDNS, sender: str, domain: str, policy: str, expected: str
) -> None:
    dns.remove("_dmarc.bank.example")
    dns.publish("_dmarc.bank.example", policy)
    assert verdict(signed(compose(sender), domain), dns) == expected


def test_two_policies_are_none(dns: SandboxDNS) -> None:
    dns.publish("_dmarc.bank.example", "v=DMARC1; p=none")
    assert verdict(compose(), dns) == "none"
    assert judged(compose(), dns).policy is None


def test_one_good_signature_is_enough(dns: SandboxDNS) -> None:
    once = signed()
    twice = DNS.sign(once, "evil.example")
    thrice = twice.replace(b"\r\n", b"\r\n", 1)
    broken = (
        b"DKIM-Signature: v=1; d=bank.example; s=x; a=rsa-sha256; h=from; bh=; b=\r\n"
    )
    for raw in (twice, thrice, broken + once, once.replace(b"\r\n ", b"\r\n\t \t")):
        assert verdict(raw, dns) == "pass"


@pytest.mark.parametrize(
    ("record", "client", "sender", "expected"),
    [
        ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.1", "b@bank.example", "pass"),
        ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.1", "b@MAIL.bank.example", "pass"),
        ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.2", "b@bank.example", "fail"),
        ("v=spf1 ip4:192.0.2.1 ~all", "192.0.2.2", "b@bank.example", "fail"),
        ("v=spf1 ip4:192.0.2.1 ?all", "192.0.2.2", "b@bank.example", "fail"),
        ("v=spf1 ip6:2001:db8::/32 -all", "2001:db8::7", "b@bank.example", "pass"),
        ("v=spf1 a mx include:spf.example -all", "192.0.2.3", "b@bank.example", "pass"),
        ("v=spf1 a mx include:spf.example -all", "192.0.2.4", "b@bank.example", "pass"),
        ("v=spf1 a mx include:spf.example -all", "192.0.2.5", "b@bank.example", "pass"),
        ("v=spf1 a mx include:spf.example -all", "192.0.2.6", "b@bank.example", "fail"),
        ("v=spf1 ip4:192.0.2.1 -all", "192.0.2.1", "b@evil.example", "fail"),
        ("v=spf1 nonsense", "192.0.2.1", "b@bank.example", "fail"),
        ("no record", "192.0.2.1", "b@bank.example", "fail"),
        ("v=spf1 redirect=bank.example", "192.0.2.1", "b@bank.example", "fail"),
    ],
)
def test_the_client_is_checked_as_postal_tells_it(
    dns: SandboxDNS, record: str, client: str, sender: str, expected: str
) -> None:
    for name in ("bank.example", "mail.bank.example", "evil.example"):
        dns.publish(name, record)
    dns.publish("bank.example", "192.0.2.3", "A")
    dns.publish("bank.example", "10 mx.bank.example", "MX")
    dns.publish("mx.bank.example", "192.0.2.4", "A")
    dns.publish("spf.example", "v=spf1 ip4:192.0.2.5 -all")
    found = judged(compose(), dns, client=client, sender=sender)
    assert found.verdict == expected
    if expected == "pass":
        assert found.domain == sender.partition("@")[2].lower()
        assert found.spf is not None
        assert found.spf.address == client


def test_the_client_that_a_stranger_claims_does_not_count(dns: SandboxDNS) -> None:
    dns.publish("bank.example", "v=spf1 ip4:192.0.2.1 -all")
    top = b"Received: from x (x [192.0.2.1]) by postal.example with SMTP; x\r\n"
    found = judged(top + compose(), dns, client="198.51.100.7", sender="b@bank.example")
    assert found.verdict == "fail"


def test_a_bounce_is_checked_by_the_name_of_its_server(dns: SandboxDNS) -> None:
    dns.publish("mail.sandbox.localhost", "v=spf1 ip4:192.0.2.1 -all")
    raw = compose("Mailer <mailer-daemon@mail.sandbox.localhost>")
    assert verdict(raw, dns, sender=None) == "pass"


# ---- what does not


@pytest.mark.parametrize(
    "changed",
    [
        (b"Pay me", b"Pay him"),
        (b"Subject: Bill", b"Subject: Bribe"),
        (b"Ana <ana@", b"Ana <boss@"),
    ],
)
def test_a_changed_mail_fails(dns: SandboxDNS, changed: tuple[bytes, bytes]) -> None:
    raw = signed()
    assert raw.count(changed[0]) == 1
    assert verdict(raw.replace(*changed), dns) == "fail"


@pytest.mark.parametrize(
    "header",
    [
        b"From: boss@bank.example",
        b"from : boss@bank.example",
        b"Subject: Bribe",
        b"Reply-To: x@evil.example\r\nReply-To: y@evil.example",
        b"To: x@evil.example",
        b'Content-Type: multipart/mixed; boundary="x"',
        b"MIME-Version: 1.0",
        b"Content-Transfer-Encoding: base64",
    ],
)
@pytest.mark.parametrize("place", ["above", "below"])
def test_a_second_header_of_a_kind_must_be_signed(
    dns: SandboxDNS, header: bytes, place: str
) -> None:
    raw = signed()
    first, _, rest = raw.partition(b"From:")
    if place == "above":
        added = header + b"\r\n" + raw
    else:
        added = (
            first
            + b"From:"
            + rest.replace(b"\r\n\r\n", b"\r\n" + header + b"\r\n\r\n", 1)
        )
    assert verdict(added, dns) == "fail"


@pytest.mark.parametrize(
    "sender",
    [
        "ana@bank.example, x@evil.example",
        "x@evil.example, ana@bank.example",
        "<ana@bank.example> <x@evil.example>",
        "ana@bank.example <x@evil.example>, y@z.example",
    ],
)
def test_several_authors_are_none(dns: SandboxDNS, sender: str) -> None:
    raw = compose("x@evil.example").replace(
        b"From: x@evil.example", f"From: {sender}".encode()
    )
    mail = received(signed(raw, "evil.example"))
    if mail.authenticate(dns):
        assert mail.from_email is not None
        assert mail.from_email.addr_spec == "x@evil.example"
        assert mail.authenticate(dns).domain == "evil.example"


def test_a_name_that_looks_like_an_address_is_a_name(dns: SandboxDNS) -> None:
    raw = signed(compose('"ana@bank.example" <x@evil.example>'), "evil.example")
    found = judged(raw, dns)
    assert (found.verdict, found.domain) == ("pass", "evil.example")


def test_a_signature_over_the_beginning_proves_nothing(dns: SandboxDNS) -> None:
    raw = signed(length=True)
    assert b"l=" in raw.partition(b"\r\n\r\n")[0]
    assert verdict(raw, dns) == "pass"  # all of it is signed
    found = judged(raw + b"And now for something else.\r\n", dns)
    assert found.verdict == "fail"
    assert "beginning" in str(found.dkim[0].reason)


def test_a_signature_that_leaves_from_out_proves_nothing(dns: SandboxDNS) -> None:
    raw = signed(include_headers=[b"from", b"subject"])
    head = raw.partition(b"From:")[0]
    without = raw.replace(
        head, head.replace(b"h=from : subject", b"h=subject").replace(b"from", b"x-a")
    )
    assert judged(without, dns).dkim[0].reason in (
        "it does not cover from",
        "it is not that of its domain",
    )
    assert verdict(without, dns) == "fail"


def test_small_keys_and_sha1_prove_nothing(dns: SandboxDNS) -> None:
    weak = SandboxDNS()
    weak.publish("_dmarc.bank.example", "v=DMARC1; p=reject")
    # No library makes such a key any more.
    weak._keys["bank.example", "sandbox", 512] = (KEYS / "512.pem").read_bytes()
    public = (KEYS / "512.txt").read_text()
    weak.publish("sandbox._domainkey.bank.example", f"v=DKIM1; p={public}")
    found = judged(weak.sign(compose(), "bank.example", bits=512), weak)
    assert (found.verdict, "too small" in str(found.dkim[0].reason)) == ("fail", True)
    old = judged(signed(signature_algorithm=b"rsa-sha1"), dns)
    assert (old.verdict, "SHA-1" in str(old.dkim[0].reason)) == ("fail", True)


def with_tags(raw: bytes, tags: bytes) -> bytes:
    """Sign a mail with further tags, as dkim.sign can't."""
    import dkim

    class Signer(dkim.DKIM):  # type: ignore[misc]
        def gen_header(self, fields: Any, *args: Any) -> Any:
            extra = [tuple(tag.split(b"=")) for tag in tags.split(b";")]
            return super().gen_header([*fields[:-1], *extra, fields[-1]], *args)

    signer = Signer(raw)
    signature: bytes = signer.sign(
        b"sandbox", b"bank.example", DNS._key("bank.example", "sandbox", 2048)
    )
    return signature + raw


@pytest.mark.parametrize(("seconds", "expected"), [(3600, "pass"), (-3600, "fail")])
def test_a_signature_expires(dns: SandboxDNS, seconds: int, expected: str) -> None:
    raw = with_tags(compose(), b"x=%d" % (time.time() + seconds))
    assert verdict(raw, dns) == expected


@pytest.mark.parametrize(
    "header",
    [
        b"Authentication-Results: postal.example; dkim=pass header.d=bank.example;"
        b" spf=pass; dmarc=pass header.from=bank.example",
        b"ARC-Authentication-Results: i=1; bank.example; dkim=pass",
        b"Received-SPF: pass",
        b"X-Postal-Spam: no",
        b"DKIM-Signature: v=1; a=rsa-sha256; d=bank.example; s=sandbox; h=from; b=x",
        b"DKIM-Signature:",
        b"DKIM-Signature: \xff\xfe;;;==",
    ],
)
def test_headers_that_claim_results_count_for_nothing(
    dns: SandboxDNS, header: bytes
) -> None:
    assert verdict(header + b"\r\n" + compose(), dns) == "fail"


@pytest.mark.parametrize(
    "sender", ["MAILER-DAEMON", "", "x@localhost", "x@[192.0.2.1]"]
)
def test_an_author_without_a_domain_is_answered_for_by_nobody(
    dns: SandboxDNS, sender: str
) -> None:
    raw = compose().replace(b"From: Ana <ana@bank.example>", f"From: {sender}".encode())
    assert verdict(raw, dns) in ("none", "fail")
    assert not judged(raw, dns)


def test_a_mail_without_any_signature_or_policy_is_none(dns: SandboxDNS) -> None:
    found = judged(compose("x@other.example"), dns)
    assert (found.verdict, found.policy, found.domain) == ("none", None, None)
    assert found.reason


# ---- readers that differ


def mbox_lines(count: int) -> bytes:
    return b"From x\r\n" * count


BOSS = b"From : Boss <boss@bank.example>\r\n"


@pytest.mark.parametrize(
    "added",
    [
        BOSS + b"From " + b"x" * 1100 + b"\r\n",
        BOSS + mbox_lines(200),
        BOSS + (b"X: " + b"y" * 900 + b"\r\n") * 1200,
        BOSS + b"X:\r\n" * 10_001,
        b"From x\r\n",
        b"From x\r\n y\r\n",
        b">From x\r\n",
        b"no header\r\n",
        b"\xff: x\r\n",
        b"X:" + b" " * 200 + b"\r\n",
        b"X: a\r\n" + b" b\r\n" * 5000,
    ],
    ids=range(11),
)
def test_a_mail_that_two_readers_read_differently_does_not_pass(
    dns: SandboxDNS, added: bytes
) -> None:
    mail = received(added + signed())
    assert mail.authenticate(dns).verdict == "fail"
    assert "authentication" not in str(mail.defects)


def test_text_before_the_signed_one_does_not_pass(dns: SandboxDNS) -> None:
    head, body = signed().split(b"\r\n\r\n", 1)
    lines = b"From Monday on our account is 666.\r\n" * 30
    assert verdict(head + b"\r\n" + lines + b"\r\n" + body, dns) == "fail"


def test_a_folded_header_that_is_cut_does_not_pass(dns: SandboxDNS) -> None:
    raw = compose().replace(b"Subject: Bill", b"Subject: Do not\r\n pay this bill")
    raw = signed(raw)
    assert verdict(raw, dns) == "pass"
    cut = raw.replace(b"Do not\r\n", b"Do not\r\nFrom x\r\n")
    assert verdict(cut, dns) == "fail"


@pytest.mark.parametrize("header", [b"Reply-To: x@evil.example", b"Subject: Bribe"])
def test_what_is_answered_or_shown_must_be_signed(
    dns: SandboxDNS, header: bytes
) -> None:
    raw = compose().replace(b"Subject: Bill\r\n", b"")
    raw = signed(raw, include_headers=[b"from", b"date", b"to"])
    assert verdict(raw, dns) == "pass"
    assert verdict(header + b"\r\n" + raw, dns) == "fail"


@pytest.mark.parametrize(
    "received_line",
    [
        "from bank.example (bank.example [192.0.2.1]) by x (evil [198.51.100.7]) by p",
        "from evil (a [192.0.2.1]) by x (b [198.51.100.7]) by p",
        "from [192.0.2.1]) by x (evil [198.51.100.7]) by p",
        "from evil (evil [198.51.100.7]) by p\r\n ([192.0.2.1]) by p",
        "by p",
    ],
)
def test_the_client_does_not_write_its_own_address(
    dns: SandboxDNS, received_line: str
) -> None:
    dns.publish("bank.example", "v=spf1 ip4:192.0.2.1 -all")
    line = f"Received: {received_line} with SMTP; Sat, 28 Nov 2026 09:00:00 -0000\r\n"
    raw = b"X-Postal-Spam: no\r\n" + line.encode() + compose()
    mail = InboundMessage(
        RawMail(Base64Mail(raw=raw)), envelope_sender="b@bank.example"
    )
    assert mail.authenticate(dns).verdict == "fail"


def test_a_mail_that_begins_with_a_space_changes_nothing_of_postals(
    dns: SandboxDNS,
) -> None:
    dns.publish("bank.example", "v=spf1 ip4:192.0.2.1 -all")
    raw = b" (x [192.0.2.1]) by p with SMTP; Sat, 28 Nov 2026 09:00:00 -0000\r\n"
    found = judged(raw + compose(), dns, client="198.51.100.7", sender="b@bank.example")
    assert found.verdict == "fail"
    assert found.spf is not None
    assert found.spf.address == "198.51.100.7"


def test_international_domains_are_those_that_messages_are_sent_to(
    dns: SandboxDNS,
) -> None:
    raw = compose().replace(b"ana@bank.example", "ana@straße.example".encode())
    wrong, right = signed(raw, "strasse.example"), signed(raw, "xn--strae-oqa.example")
    for name in ("strasse.example", "xn--strae-oqa.example"):
        key = f"sandbox._domainkey.{name}", "TXT"
        dns._records[key] = DNS._records[key]
    assert verdict(wrong, dns) == "none"
    assert judged(right, dns).domain == "xn--strae-oqa.example"


def test_a_mail_that_is_read_late_has_not_expired(dns: SandboxDNS) -> None:
    import dkim

    at = time.time() - 24 * 3600
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(dkim.time, "time", lambda: at)
        raw = with_tags(compose(), b"x=%d" % (at + 4 * 3600))
    source = RawMail(Base64Mail(raw=receive_headers(at) + raw))
    assert InboundMessage(source).authenticate(dns).verdict == "pass"
    assert verdict(raw, dns) == "fail"  # received now


def test_other_records_at_the_name_of_a_key_are_left_alone(dns: SandboxDNS) -> None:
    key = dns._records["sandbox._domainkey.bank.example", "TXT"][0]
    others = ["v=spf1 -all", "some text", key]
    dns._records["sandbox._domainkey.bank.example", "TXT"] = others
    assert verdict(signed(), dns) == "pass"


def test_one_author_twice_is_one(dns: SandboxDNS) -> None:
    raw = compose().replace(
        b"Ana <ana@bank.example>", b"<ana@bank.example>, <ana@bank.example>"
    )
    assert verdict(signed(raw), dns) == "pass"


SPACES = " " * 200_000 + "x"


@pytest.mark.parametrize(
    "raw",
    [
        b"X: a" + b"\r\n a" * 400_000,
        signed(compose(text=SPACES[-50_000:]), canonicalize=(b"relaxed", b"relaxed")),
        signed(compose(text="y")).replace(b"s=sandbox", b"c=relaxed/relaxed; l=5; s=x")
        + SPACES.encode(),
        signed().replace(b"h=", b"h=" + b" " * 50_000),
        signed().replace(b"b=", b"b=A" + b" " * 50_000 + b"!"),
        signed() + b"\r\n" * 2_000_000,
        b"a:\r\n" * 1_000_000 + signed(),
    ],
    ids=range(7),
)
def test_no_mail_takes_long(dns: SandboxDNS, raw: bytes) -> None:
    mail = received(raw, sender="b@bank.example")
    assert mail.from_email is None or mail.text is not None
    began = time.process_time()
    assert mail.authenticate(dns).verdict
    assert time.process_time() - began < 1


# ---- DNS


@pytest.mark.parametrize(
    ("unreachable", "raw", "expected"),
    [
        ("sandbox._domainkey.bank.example", signed(), "unknown"),
        ("_dmarc.bank.example", compose(), "unknown"),
        ("_dmarc.bank.example", signed(), "pass"),  # the very same domain
        ("_dmarc.bank.example", signed(domain="mail.bank.example"), "unknown"),
        ("evil.example", signed(domain="evil.example"), "fail"),
        ("bank.example", compose(), "unknown"),
    ],
)
def test_what_cannot_be_looked_up_is_unknown(
    dns: SandboxDNS, unreachable: str, raw: bytes, expected: str
) -> None:
    dns.unreachable.add(unreachable)
    assert verdict(raw, dns, sender="b@bank.example") == expected


def test_a_key_that_cannot_be_looked_up_hides_no_other_signature(
    dns: SandboxDNS,
) -> None:
    raw = DNS.sign(signed(domain="mail.bank.example"), "bank.example")
    dns.unreachable.add("sandbox._domainkey.bank.example")
    found = judged(raw, dns)
    assert (found.verdict, found.domain) == ("pass", "mail.bank.example")
    assert [s.result for s in found.dkim] == ["unknown", "pass"]


def test_all_look_ups_together_take_two_seconds(dns: SandboxDNS) -> None:
    asked: list[float] = []

    def slow(name: str, record: str, timeout: float) -> Any:
        asked.append(timeout)
        time.sleep(min(timeout, 0.15))
        raise TimeoutError("slow")

    raw = signed()
    for number in range(20):
        raw = DNS.sign(raw, "bank.example") if number < 3 else raw
    mail = received(raw, sender="b@bank.example")
    began = time.monotonic()
    assert mail.authenticate(slow, timeout=0.5).verdict == "unknown"
    assert time.monotonic() - began < 1.0
    assert asked == sorted(asked, reverse=True)
    assert max(asked) <= 0.5


@pytest.mark.parametrize("error", [ValueError, RecursionError, KeyError, UnicodeError])
def test_no_error_of_a_resolver_is_raised(error: type[Exception]) -> None:
    def broken(name: str, record: str, timeout: float) -> Any:
        raise error("x")

    mail = received(signed(), sender="b@bank.example")
    assert mail.authenticate(broken).verdict in ("unknown", "fail")
    assert not mail.authenticate(broken)


@settings(max_examples=60, deadline=None)
@given(
    records=st.lists(
        st.one_of(
            st.text(max_size=60),
            st.sampled_from(
                [
                    *("v=DMARC1", "v=DMARC1;", "v=DMARC1; p", "v=DKIM1; p=", "v=spf1"),
                    *("v=spf1 include:bank.example", "v=spf1 exists:%{i}.%{h}.x -all"),
                    *("v=spf1 a:%{x} -all", "v=spf1 ptr -all", "k=ed25519; p=AAAA"),
                    "v=DKIM1; k=rsa; p=AAAA",
                ]
            ),
        ),
        max_size=3,
    )
)
def test_no_record_makes_a_forged_mail_pass_or_raises(records: list[str]) -> None:
    def strange(name: str, record: str, timeout: float) -> Any:
        return records if record == "TXT" else []

    for raw in (compose(), signed(domain="evil.example"), signed()):
        found = received(raw, sender="b@bank.example").authenticate(strange)
        assert found.verdict != "pass"


@settings(max_examples=100, deadline=None)
@given(st.binary(max_size=200))
def test_no_mail_raises(junk: bytes) -> None:
    dns = names()
    for raw in (
        junk,
        b"From: a@bank.example\r\n" + junk,
        junk + signed(),
        b"DKIM-Signature: " + junk,
    ):
        mail = received(raw, sender="b@bank.example")
        assert mail.authenticate(dns).verdict
        assert mail.defects == [] or "authentication" not in str(mail.defects)


# ---- the formats, the sandbox, and the extra


@pytest.fixture
def desk() -> Iterator[tuple[Sandbox, list[Any]]]:
    app = Flask("desk")
    postal = Postal(app)
    app.register_blueprint(postal.blueprint)
    found: list[Any] = []

    def on_mail(app: Flask, event: Any, **extra: Any) -> None:
        found.append(event.message.authentication)

    with (
        inbound_received.connected_to(on_mail, sender=app),
        app.app_context(),
        sandboxed(app, key=SigningKey.generate(1024)) as sandbox,
    ):
        yield sandbox, found


@pytest.mark.parametrize("format", FORMATS)
def test_only_the_whole_mail_can_be_checked(
    desk: tuple[Sandbox, list[Any]], format: str
) -> None:
    sandbox, found = desk
    raw = sandbox.dns.sign(compose(), "bank.example", bits=1024)
    sandbox.receive(raw, to="desk@example.com", format=format)
    assert found[0].verdict == ("pass" if format.startswith("raw") else "unknown")


def test_the_sandbox_has_clients(desk: tuple[Sandbox, list[Any]]) -> None:
    sandbox, found = desk
    sandbox.dns.publish("bank.example", "v=spf1 ip4:192.0.2.1 -all")
    for client in ("192.0.2.1", "192.0.2.2"):
        sandbox.receive(
            compose(), to="desk@example.com", sender="b@bank.example", client=client
        )
    assert [str(one.verdict) for one in found] == ["pass", "none"]


def test_mails_of_a_real_postal_can_be_read() -> None:
    folder = Path(__file__).parent / "data" / "captures" / "inbound"
    files = sorted(folder.glob("raw-*.body"))
    assert files
    for file in files:
        name = file.name.replace(".body", ".headers.json")
        headers = json.loads((folder / name).read_text())["headers"]
        media_type = headers["Content-Type"]
        message = parse_inbound(file.read_bytes(), media_type).message
        found = message.authenticate(SandboxDNS())
        assert found.verdict in ("none", "fail")
        received_line = message.header("received") or ""
        assert "[127.0.0.1]" in received_line


def test_a_real_postals_form_of_a_signed_mail_verifies(dns: SandboxDNS) -> None:
    """As raw-json.body has it: base64 with a newline every 60 characters."""
    raw = receive_headers(time.time()) + signed()
    text = base64.b64encode(raw).decode()
    lines = "\n".join(text[i : i + 60] for i in range(0, len(text), 60)) + "\n"
    body = json.dumps(
        {
            "id": 1,
            "rcpt_to": "desk@example.com",
            "mail_from": "a@bank.example",
            "message": lines,
            "base64": True,
            "size": len(raw),
        }
    ).encode()
    with resolving_with(dns):
        assert parse_inbound(body).message.authentication.verdict == "pass"


def test_without_the_extra_it_is_unknown_and_says_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, dns: SandboxDNS
) -> None:
    mail = received(signed())
    monkeypatch.setitem(sys.modules, "dkim", None)
    with resolving_with(dns):
        found = mail.authentication
    assert mail.authenticate(dns) == found
    assert found.verdict == "unknown"
    assert "Flask-Postal[authentication]" in found.reason
    assert "Flask-Postal[authentication]" in caplog.text


def test_it_is_asked_once(dns: SandboxDNS) -> None:
    asked: list[str] = []

    def counting(name: str, record: str, timeout: float) -> Any:
        asked.append(name)
        return dns(name, record, timeout)

    mail = received(signed())
    with resolving_with(counting):
        assert mail.authentication is mail.authentication
    assert len(asked) == len(set(asked)) == 2


def test_the_systems_resolver_answers_or_says_that_it_cannot() -> None:
    resolve = resolver.system_resolver()
    assert resolve("a..b", "TXT", 0.1) == []
    assert resolve("x" * 70 + ".example", "TXT", 0.1) == []
    with suppress(OSError):  # no name server answers here
        assert resolve("_dmarc.nowhere.invalid", "TXT", 0.5) == []
