"""Webhook keys: their formats, discovery and rotation, and checking signatures."""

from __future__ import annotations

import contextlib
import json
import logging
import threading
import time
from collections.abc import Callable
from typing import Any

import pytest
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, rsa

from flask_postal import ConfigurationError, SignatureError
from flask_postal.sandbox import Sandbox, SigningKey
from flask_postal.webhooks import discovery
from flask_postal.webhooks.discovery import STALE, DiscoveredKeys, _Attempt, fetch_jwks
from flask_postal.webhooks.keys import load_keys
from flask_postal.webhooks.signature import verify

from .captures import (
    CAPTURES,
    DKIM_RECORD,
    JWKS,
    KEY1024_DKIM_RECORD,
    KID,
    PUBLIC_KEY_P,
    Recorded,
    flip_bit,
)
from .conftest import MakeApp
from .servers import answering, loopback, refusing

SENT = Recorded.load("webhooks/MessageSent")
KEY = load_keys(DKIM_RECORD)[0]
KEY1024 = load_keys(KEY1024_DKIM_RECORD)[0]


def pem(key: Any) -> str:
    return str(
        key.public_bytes(
            serialization.Encoding.PEM, serialization.PublicFormat.SubjectPublicKeyInfo
        ).decode()
    )


def private_pem(bits: int = 2048) -> str:
    key = rsa.generate_private_key(65537, bits)
    return key.private_bytes(
        serialization.Encoding.PEM,
        serialization.PrivateFormat.PKCS8,
        serialization.NoEncryption(),
    ).decode()


PEM = pem(KEY.rsa)


@pytest.mark.parametrize(
    "value",
    [
        PUBLIC_KEY_P,
        f"  {PUBLIC_KEY_P}\n",
        DKIM_RECORD,
        f'"{DKIM_RECORD[:200]}" "{DKIM_RECORD[200:]}"',
        f"p={PUBLIC_KEY_P}",
        PEM,
        PEM.replace("\n", "\\n"),
        PEM.replace("\n", "\r\n"),
        PEM.encode(),
        PEM + PEM,
        JWKS,
        json.dumps(JWKS),
        JWKS["keys"][0],
        json.dumps(JWKS["keys"][0]),
        [PUBLIC_KEY_P],
        (DKIM_RECORD, PEM, JWKS),
    ],
)
def test_a_key_is_loaded_from_every_format(value: Any) -> None:
    assert load_keys(value) == (KEY,)
    assert (KEY.kid, KEY.bits) == (KID, 2048)


def test_several_keys_can_be_set_for_rotation() -> None:
    assert load_keys([DKIM_RECORD, KEY1024_DKIM_RECORD]) == (KEY, KEY1024)
    both = {"keys": JWKS["keys"] + SigningKey.generate(1024).jwks()["keys"]}
    assert len(load_keys(both)) == 2
    assert load_keys(PEM + "\n" + pem(KEY1024.rsa)) == (KEY, KEY1024)
    assert KEY1024.bits == 1024
    expected = json.loads((CAPTURES / "key1024-jwks.json").read_text())["keys"][0][
        "kid"
    ]
    assert KEY1024.kid == expected


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("", "empty"),
        ("nonsense", "not a public key"),
        ("no key!", "not base64"),
        ("p=", "not a public key"),
        (PUBLIC_KEY_P.strip()[:-20], "not a complete one"),
        ([], "no key"),
        ([""], "empty"),
        (5, "no key"),
        ("{", "begins like JSON"),
        ("{}", "not an RSA key"),
        ({"keys": []}, "no keys"),
        ({"kty": "EC"}, "not an RSA key"),
        ({**JWKS["keys"][0], "d": "x"}, "private key"),
        ({**JWKS["keys"][0], "use": "enc"}, "RS256"),
        ({**JWKS["keys"][0], "alg": "RS512"}, "RS256"),
        ({**JWKS["keys"][0], "kid": "x"}, "kid"),
        ({**JWKS["keys"][0], "n": "AQAB"}, "."),
        ({**JWKS["keys"][0], "n": "%"}, "base64url"),
        ({**JWKS["keys"][0], "e": 5}, "base64url"),
        (private_pem(), "private key"),
        (private_pem().replace("\n", "\\n"), "private key"),
        (pem(ec.generate_private_key(ec.SECP256R1()).public_key()), "RSA"),
        ("-----BEGIN PUBLIC KEY-----\nx\n-----END PUBLIC KEY-----", "not a public key"),
    ],
)
def test_anything_but_a_public_rsa_key_is_refused_with_a_hint(
    value: Any, why: str
) -> None:
    cure = rf"{why}.*default-dkim-record"
    with pytest.raises(ConfigurationError, match=cure) as caught:
        load_keys(value)
    assert caught.value.key == "POSTAL_WEBHOOK_KEY"
    assert "BEGIN" not in str(caught.value)


# ---- the signature


@pytest.mark.parametrize("bits", [1024, 2048, 4096])
def test_signatures_are_verified_without_flask(bits: int) -> None:
    key = SigningKey.generate(bits)
    headers = key.headers(b"body")
    assert verify(b"body", headers, [KEY, key.public]) == key.public
    with pytest.raises(SignatureError, match="does not match"):
        verify(b"bodY", headers, [key.public])
    with pytest.raises(SignatureError, match="does not match"):
        verify(b"body", headers, [KEY])
    with pytest.raises(SignatureError, match="does not match"):
        verify(b"body", headers, [])


S256, S1, K = "X-Postal-Signature-256", "X-Postal-Signature", "X-Postal-Signature-KID"


def big(signature: str, add: int) -> str:
    """Return the signature plus a number, as an integer of one byte more."""
    import base64

    number = int.from_bytes(base64.b64decode(signature), "big") + add
    return base64.b64encode(number.to_bytes(257, "big")).decode()


ORIGINAL = {name: SENT.headers[name] for name in (S256, S1)}


@pytest.mark.parametrize(
    "headers",
    [
        {},
        {S256: ""},
        {S256: "", S1: ORIGINAL[S1]},
        {S256: ORIGINAL[S1]},
        {S1: ORIGINAL[S256]},
        {S1: ORIGINAL[S1], K: KID},
        {S256: ORIGINAL[S256], K: "0" * 64},
        {S256: ORIGINAL[S256], K: KID.upper()},
        {S256: ORIGINAL[S256] + "," + ORIGINAL[S256]},
        {S256: ORIGINAL[S256] + ORIGINAL[S256]},
        {S256: ORIGINAL[S256][:-2]},
        {S256: ORIGINAL[S256].rstrip("=")},
        {S256: ORIGINAL[S256] + "\n"},
        {S256: " " + ORIGINAL[S256]},
        {S256: ORIGINAL[S256][:4] + "\n" + ORIGINAL[S256][4:]},
        {S256: ORIGINAL[S256].replace("+", "-").replace("/", "_")},
        {S256: "é" + ORIGINAL[S256][1:]},
        {S256: big(ORIGINAL[S256], KEY.rsa.public_numbers().n)},
        {S256: big(ORIGINAL[S256], 0)},
        {S256: "A" * 344},
        {S256: "=" * 344},
    ],
)
def test_forged_signatures_are_refused(headers: dict[str, str]) -> None:
    with pytest.raises(SignatureError, match=r"signature|SHA"):
        verify(SENT.body, headers, [KEY])


def test_genuine_signatures_are_accepted() -> None:
    assert verify(SENT.body, {S256: ORIGINAL[S256], K: KID}, [KEY]) == KEY
    assert verify(SENT.body, {S1: ORIGINAL[S1]}, [KEY1024, KEY]) == KEY
    with pytest.raises(SignatureError, match="SHA-256 is required"):
        verify(SENT.body, {S1: ORIGINAL[S1]}, [KEY], require_sha256=True)
    with pytest.raises(SignatureError, match="does not match"):
        verify(flip_bit(SENT.body), {S1: ORIGINAL[S1]}, [KEY])


def test_require_sha256_refuses_requests_with_sha1_only(make_app: MakeApp) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_REQUIRE_SHA256=True)
    old = SENT.without(S256, K)
    assert SENT.post(app.test_client(), headers=old).status_code == 403
    assert SENT.post(app.test_client()).status_code == 200


# ---- discovery


class Server:
    """A fake jwks.json and clock that the test controls."""

    def __init__(self, *keys: SigningKey) -> None:
        self.keys = list(keys)
        self.now = 1000.0
        self.fetches = 0
        self.down = False
        self.gate: Callable[[], Any] = lambda: None

    def fetch(self) -> bytes:
        self.fetches += 1
        self.gate()
        if self.down:
            raise OSError("refused")
        jwks = [key.jwks()["keys"][0] for key in self.keys]
        return json.dumps({"keys": jwks}).encode()

    def found(self) -> DiscoveredKeys:
        return DiscoveredKeys(self.fetch, lambda: self.now)


@pytest.fixture(scope="module")
def one() -> SigningKey:
    return SigningKey.generate(1024)


@pytest.fixture(scope="module")
def two() -> SigningKey:
    return SigningKey.generate(1024)


def settle(server: Server, fetches: int) -> None:
    """Wait until so many fetches have been made, and check that it's no more."""
    deadline = time.monotonic() + 5
    while server.fetches < fetches and time.monotonic() < deadline:
        time.sleep(0.001)
    time.sleep(0.01)
    assert server.fetches == fetches


def test_keys_are_fetched_on_the_first_request_and_on_an_unknown_kid(
    one: SigningKey, two: SigningKey
) -> None:
    server = Server(one)
    keys = server.found()
    assert server.fetches == 0
    assert keys.find(one.public.kid) == (one.public,)
    assert keys.find(None) == (one.public,)
    assert keys.find(two.public.kid) == ()  # too early to ask again
    assert server.fetches == 1
    server.keys.append(two)
    server.now += 31
    assert keys.find(two.public.kid) == (two.public,)
    assert keys.find(None) == (one.public, two.public)
    assert server.fetches == 2


def test_keys_are_fetched_at_most_once_in_30_seconds(one: SigningKey) -> None:
    server = Server(one)
    server.down = True
    keys = server.found()
    for _ in range(5):
        assert keys.find("x") == ()
        server.now += 6
    assert server.fetches == 1
    assert keys.find("x") == ()
    assert server.fetches == 2


def test_a_known_key_is_found_without_waiting_for_a_refresh(one: SigningKey) -> None:
    server = Server(one)
    keys = server.found()
    keys.find(None)
    release = threading.Event()
    server.gate = release.wait
    server.now += 16 * 60
    started = time.monotonic()
    for _ in range(3):
        assert keys.find(one.public.kid) == (one.public,)
    assert time.monotonic() - started < 0.5
    settle(server, 2)
    release.set()


def test_the_last_valid_key_set_is_kept_for_seven_days(one: SigningKey) -> None:
    server = Server(one)
    keys = server.found()
    keys.find(None)
    server.down = True
    server.now += 6 * 24 * 3600
    assert keys.find(one.public.kid) == (one.public,)
    settle(server, 2)
    server.now += 2 * 24 * 3600
    assert keys.find(one.public.kid) == ()


@pytest.mark.parametrize(
    "content", [b"", b"<html>", b"{}", b"\xff", b'{"keys": []}', b'{"keys": [{}]}']
)
def test_an_invalid_key_set_does_not_replace_a_valid_one(
    one: SigningKey, content: bytes
) -> None:
    server = Server(one)
    keys = DiscoveredKeys(
        lambda: server.fetch() if server.fetches == 0 else content, lambda: server.now
    )
    assert keys.find(None) == (one.public,)
    server.now += 3600
    assert keys.find("unknown") == ()
    assert keys.find(one.public.kid) == (one.public,)


def test_unusable_keys_in_the_set_are_ignored(one: SigningKey) -> None:
    others = [{"kty": "EC"}, "x", {"kty": "RSA", "n": "%"}, None]
    content = json.dumps({"keys": [*others, *one.jwks()["keys"]]}).encode()
    assert DiscoveredKeys(lambda: content).find(None) == (one.public,)


def test_fifty_threads_on_a_cold_cache_make_one_fetch(one: SigningKey) -> None:
    server = Server(one)
    barrier = threading.Barrier(50)
    server.gate = lambda: time.sleep(0.1)
    keys = server.found()
    results = []

    def work() -> None:
        barrier.wait()
        results.append(keys.find(one.public.kid))

    threads = [threading.Thread(target=work) for _ in range(50)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == [(one.public,)] * 50
    assert server.fetches == 1


def test_the_kid_is_logged_once(
    one: SigningKey, caplog: pytest.LogCaptureFixture
) -> None:
    server = Server(one)
    keys = server.found()
    with caplog.at_level(logging.INFO):
        for _ in range(3):
            keys.find(None)
            server.now += 3600
        settle(server, 3)
    assert caplog.text.count(one.public.kid) == 1


def test_an_unreachable_server_is_given_up_after_two_seconds(
    monkeypatch: pytest.MonkeyPatch, one: SigningKey
) -> None:
    monkeypatch.setattr(discovery, "TIMEOUT", 0.1)
    server = Server(one)
    release = threading.Event()
    server.gate = lambda: release.wait(10)
    started = time.monotonic()
    assert server.found().find(None) == ()
    assert time.monotonic() - started < 2
    release.set()


def test_discovery_works_end_to_end(
    make_app: MakeApp, sandbox: Sandbox, tracking: list[Any]
) -> None:
    app, _ = make_app(POSTAL_WEBHOOK_KEY=None, POSTAL_API_URL=sandbox.url)
    body = b'{"event": "MessageSent", "uuid": "u"}'
    headers = {"Content-Type": "application/json", **sandbox.key.headers(body)}
    client = app.test_client()
    assert (
        client.post("/postal/tracking/", data=body, headers=headers).status_code == 200
    )
    assert len(tracking) == 1
    # A Postal that serves keys signs with SHA-256.
    old = {S1: headers[S1], "Content-Type": "application/json"}
    assert client.post("/postal/tracking/", data=body, headers=old).status_code == 403


def test_keys_are_not_discovered_over_plain_http(make_app: MakeApp) -> None:
    app, postal = make_app(
        POSTAL_WEBHOOK_KEY=None, POSTAL_API_URL="http://postal.example.com"
    )
    with app.app_context():
        assert postal.webhooks.discovers_keys is False
    assert SENT.post(app.test_client()).status_code == 503


def without_body(head: bytes) -> bytes:
    return head.replace(b"\r\n\r\n", b"\r\nContent-Length: 0\r\n\r\n")


@pytest.mark.parametrize(
    "act",
    [
        answering("302 Found", b"", f"Location: {refusing()}/"),
        answering("404 Not Found", b"<html>"),
        answering("200 OK", b"x" * 100_000),
    ],
    ids=["redirect", "missing", "huge"],
)
def test_a_response_that_is_not_a_key_set_is_refused(act: Any) -> None:
    def get(exchange: Any) -> bool:
        exchange.head = without_body(exchange.head)
        return bool(act(exchange))

    with loopback(get) as server, pytest.raises(OSError, match=r"respon"):
        fetch_jwks(server.url, None)
    (request,) = server.requests
    assert request.head.startswith("GET /.well-known/jwks.json ")
    assert "x-server-api-key" not in request.headers
    assert "authorization" not in request.headers


def test_netrc_is_not_read(
    tmp_path: Any, monkeypatch: pytest.MonkeyPatch, sandbox: Sandbox
) -> None:
    netrc = tmp_path / "netrc"
    netrc.write_text("default login user password planted-Password-77\n")
    monkeypatch.setenv("NETRC", str(netrc))
    seen = []

    def get(exchange: Any) -> bool:
        seen.append(exchange.head)
        exchange.head = without_body(exchange.head)
        return bool(answering("200 OK", json.dumps(JWKS).encode())(exchange))

    with loopback(get) as server:
        assert load_keys(fetch_jwks(server.url, None).decode()) == (KEY,)
    assert b"Authorization" not in seen[0]


def test_keys_without_a_secret_are_warned_about_at_init_app(
    make_app: MakeApp, caplog: pytest.LogCaptureFixture
) -> None:
    make_app(POSTAL_WEBHOOK_SECRET="user:password")
    assert "WEBHOOK_SECRET" not in caplog.text
    make_app()
    assert caplog.text.count("POSTAL_WEBHOOK_SECRET is not set") == 1


# ---- a fetch takes two seconds at most, and one that hangs blocks nobody


def byte_by_byte(exchange: Any) -> bool:
    for byte in b"HTTP/1.1 200 OK\r\nX: " + b"y" * 1000:
        exchange.connection.sendall(bytes((byte,)))
        if exchange.server.stopping.wait(0.05):
            break
    return False


def trickled_body(exchange: Any) -> bool:
    exchange.connection.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 60000\r\n\r\n")
    for _ in range(1000):
        exchange.connection.sendall(b" ")
        if exchange.server.stopping.wait(0.05):
            break
    return False


def continuing(exchange: Any) -> bool:
    for _ in range(1000):
        exchange.connection.sendall(b"HTTP/1.1 100 Continue\r\n\r\n")
        if exchange.server.stopping.wait(0.05):
            break
    return False


@pytest.mark.parametrize("act", [byte_by_byte, trickled_body, continuing])
def test_a_fetch_ends_at_its_deadline_even_if_data_keeps_coming(
    act: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("flask_postal.webhooks.discovery.TIMEOUT", 0.5)

    def until_closed(exchange: Any) -> bool:
        exchange.head = without_body(exchange.head)
        with contextlib.suppress(OSError):
            return bool(act(exchange))
        return False

    with loopback(until_closed) as server:
        began = time.monotonic()
        with pytest.raises(OSError, match=r"(?i)connection|slow|timed out"):
            fetch_jwks(server.url, None)
        assert time.monotonic() - began < 5  # 50 s without a deadline
        server.stopping.set()


def test_a_fetch_that_hangs_is_given_up_after_five_seconds() -> None:
    now, fetches, hanging = 1000.0, 0, threading.Event()

    def fetch() -> bytes:
        nonlocal fetches
        fetches += 1
        if fetches == 1:
            hanging.wait(30)
            raise OSError("hung")
        return json.dumps(JWKS).encode()

    keys = DiscoveredKeys(fetch, lambda: now)
    first = keys._begin(now)
    assert keys._begin(now + STALE) is first
    now += STALE + 1
    second = keys._begin(now)
    assert second is not None
    assert second is not first
    assert second.done.wait(20)
    assert keys.find(None) == (KEY,)
    hanging.set()


def test_a_fetch_of_another_process_is_ignored() -> None:
    keys = DiscoveredKeys(lambda: json.dumps(JWKS).encode(), lambda: 1000.0)
    # As after a fork during a fetch: only the parent has the thread that fetches.
    keys._attempt = _Attempt(1000.0, process=-1)
    lock = keys._locks.setdefault(-1, threading.Lock())
    with lock:
        assert keys.find(None) == (KEY,)
