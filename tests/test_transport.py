"""The HTTP transport: no message is sent twice, and no error contains the API key."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from flask_postal import (
    APIError,
    ConfigurationError,
    Message,
    MessageError,
    TransportError,
)
from flask_postal.sending import http

from .conftest import MakeApp
from .mails import message as make_message
from .secret import SECRET, everything_about
from .servers import (
    Act,
    Loopback,
    accept,
    accept_and_close,
    answering,
    close_after_the_body,
    hang,
    loopback,
    refusing,
    reset_after_the_body,
    reset_before_the_body,
    self_signed,
    truncate,
)

Send = Callable[..., Any]


@pytest.fixture
def send(make_app: MakeApp, monkeypatch: pytest.MonkeyPatch) -> Send:
    """Send a message to a server, from one app per server and without waiting."""
    monkeypatch.setattr(http, "_sleep", lambda seconds: None)
    apps: dict[str, Any] = {}

    def send(
        server: Loopback | str, message: Message | None = None, **more: Any
    ) -> Any:
        url = server if isinstance(server, str) else server.url
        if url not in apps:
            settings = {"POSTAL_API_KEY": SECRET, "POSTAL_TIMEOUT": "2, 0.5", **more}
            apps[url] = make_app(POSTAL_API_URL=url, **settings)
        app, postal = apps[url]
        with app.app_context():
            return postal.send(message or make_message())

    return send


def test_one_connection_carries_many_mails(send: Send) -> None:
    with loopback() as server:
        for _ in range(5):
            assert send(server).recipients["ana@example.com"].id == 1
    assert server.connections == 1
    assert len(server.bodies) == 5
    request = server.bodies[0]
    assert request.head.startswith("POST /api/v1/send/message HTTP/1.1\r\n")
    assert request.headers["x-server-api-key"] == SECRET
    assert request.headers["content-type"] == "application/json"
    assert request.headers["user-agent"].startswith("Flask-Postal/")


def test_after_a_refused_connection_nothing_was_sent(send: Send) -> None:
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    with pytest.raises(TransportError, match=r"refused.*; nothing was sent") as caught:
        send(f"http://127.0.0.1:{port}")
    assert caught.value.maybe_sent is False


@pytest.mark.parametrize("retries", [0, 1, 2])
def test_connect_retries_sets_how_often_connecting_is_retried(
    send: Send, tmp_path: Path, retries: int
) -> None:
    context, bundle = self_signed(tmp_path)
    with (
        loopback(tls=context, reset_first=99) as server,
        pytest.raises(TransportError, match="nothing was sent"),
    ):
        send(server, POSTAL_CA_BUNDLE=bundle, POSTAL_CONNECT_RETRIES=retries)
    assert server.connections == retries + 1
    assert server.requests == []


def test_a_reset_during_the_tls_handshake_is_retried(
    send: Send, tmp_path: Path
) -> None:
    context, bundle = self_signed(tmp_path)
    with loopback(tls=context, reset_first=1) as server:
        result = send(server, POSTAL_CA_BUNDLE=bundle)
    assert result.recipients["ana@example.com"].id == 1
    assert server.connections == 2
    assert len(server.bodies) == 1


@pytest.mark.parametrize(
    "act",
    [
        reset_before_the_body,
        reset_after_the_body,
        close_after_the_body,
        hang,
        truncate,
        answering("200 OK", b'{"status": "success", "data": '),
    ],
    ids=[
        "reset before the body",
        "reset after the body",
        "closed after the body",
        "hang",
        "truncated answer",
        "truncated JSON",
    ],
)
@pytest.mark.parametrize("warm", [False, True], ids=["cold", "warm"])
def test_a_message_that_may_have_been_sent_is_not_retried(
    send: Send, act: Act, warm: bool
) -> None:
    acts = [accept, act] if warm else [act]
    with loopback(*acts) as server:
        if warm:
            send(server)
        with pytest.raises(
            TransportError, match="may have queued the message"
        ) as caught:
            send(server)
    assert caught.value.maybe_sent is True
    assert server.connections == 1
    assert len(server.requests) <= (2 if warm else 1)
    assert SECRET not in everything_about(caught.value)


def test_a_connection_that_the_server_closed_is_not_used_again(send: Send) -> None:
    with loopback(accept_and_close) as server:
        send(server)
        assert server.closed.wait(5)
        send(server)
    assert server.connections == 2
    assert len(server.bodies) == 2


def test_a_connection_idle_for_over_ten_seconds_is_not_used_again(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = [1000.0]
    monkeypatch.setattr(http, "_clock", lambda: now[0])
    with loopback() as server:
        send(server)
        now[0] += 9
        send(server)
        assert server.connections == 1
        now[0] += 11
        send(server)
    assert server.connections == 2
    assert len(server.bodies) == 3


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 T", "308 P"])
def test_a_redirect_is_never_followed(send: Send, status: str) -> None:
    with loopback() as other:
        location = f"Location: {other.url}/api/v1/send/message"
        with (
            loopback(answering(status, b"", location)) as server,
            pytest.raises(
                APIError, match="never followed; set POSTAL_API_URL"
            ) as caught,
        ):
            send(server)
    assert caught.value.http_status == int(status[:3])
    assert len(server.requests) == 1
    assert (other.connections, other.requests) == (0, [])


def test_the_time_to_connect_is_limited(send: Send) -> None:
    # A server with a full backlog accepts no connections.
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        port = full.getsockname()[1]
        waiting = []
        for _ in range(4):
            client = socket.socket()
            client.setblocking(False)
            client.connect_ex(("127.0.0.1", port))
            waiting.append(client)
        started = time.monotonic()
        with pytest.raises(TransportError, match=r"[Tt]imed out"):
            send(
                f"http://127.0.0.1:{port}",
                POSTAL_TIMEOUT=0.3,
                POSTAL_CONNECT_RETRIES=1,
            )
        assert time.monotonic() - started < 5
        for client in waiting:
            client.close()


def test_an_invalid_certificate_is_refused_without_a_retry(
    send: Send, tmp_path: Path
) -> None:
    context, _ = self_signed(tmp_path)
    with (
        loopback(tls=context) as server,
        pytest.raises(TransportError, match=r"CERTIFICATE_VERIFY_FAILED.*nothing was"),
    ):
        send(server)
    assert server.connections == 1
    assert server.requests == []


def test_ca_bundle_allows_a_private_ca(send: Send, tmp_path: Path) -> None:
    context, bundle = self_signed(tmp_path)
    with loopback(tls=context) as server:
        send(server, POSTAL_CA_BUNDLE=bundle)
        send(server)
    assert server.connections == 1


def test_the_ca_bundle_of_the_environment_is_used(
    send: Send, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    context, bundle = self_signed(tmp_path)
    monkeypatch.setenv("REQUESTS_CA_BUNDLE", bundle)
    with loopback(tls=context) as server:
        send(server)
    assert len(server.bodies) == 1


def test_an_invalid_ca_bundle_is_an_error_that_names_the_setting(
    send: Send, tmp_path: Path
) -> None:
    nothing = tmp_path / "empty.pem"
    nothing.write_text("nothing")
    with pytest.raises(ConfigurationError, match="set POSTAL_CA_BUNDLE") as caught:
        send(refusing().replace("http:", "https:"), POSTAL_CA_BUNDLE=str(nothing))
    assert caught.value.key == "POSTAL_CA_BUNDLE"


def test_the_proxy_of_the_environment_is_used_and_read_once(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    with loopback() as proxy:
        monkeypatch.setenv("HTTP_PROXY", proxy.url)
        send("http://postal.invalid")
        monkeypatch.delenv("HTTP_PROXY")
        send("http://postal.invalid")
    assert proxy.connections == 1
    assert proxy.bodies[0].head.startswith("POST http://postal.invalid/api/v1/send/")


def test_large_attachments_are_encoded_while_they_are_sent(
    send: Send, tmp_path: Path
) -> None:
    data = bytes(range(256)) * 3000 + b"\xff"
    path = tmp_path / "report.bin"
    path.write_bytes(data)
    message = make_message()
    message.attach("a.bin", "application/octet-stream", data)
    message.attach_file(path)
    with loopback() as server:
        result = send(server, message)
    assert result.endpoint == "send/message"
    import base64

    sent = server.bodies[0].json["attachments"]
    assert [a["name"] for a in sent] == ["a.bin", "report.bin"]
    assert all(base64.b64decode(a["data"], validate=True) == data for a in sent)


def test_a_file_that_shrinks_while_it_is_sent_is_an_error(
    send: Send, tmp_path: Path, make_app: MakeApp
) -> None:
    path = tmp_path / "report.bin"
    path.write_bytes(b"\xff" * 500_000)
    message = make_message()
    message.attach_file(path)
    with loopback() as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY=SECRET)
        with app.app_context():
            prepared = postal.prepare(message)
            path.write_bytes(b"\xff" * 1000)
            with pytest.raises(MessageError, match="was changed while") as caught:
                postal.deliver(prepared)
    assert server.bodies == []
    assert SECRET not in everything_about(caught.value)


def test_threads_share_the_pool_but_not_their_responses(make_app: MakeApp) -> None:
    with loopback() as server:
        app, postal = make_app(POSTAL_API_URL=server.url, POSTAL_API_KEY=SECRET)
        wrong = []

        def work(number: int) -> None:
            with app.app_context():
                for turn in range(10):
                    address = f"user{number}-{turn}@example.com"
                    result = postal.send(make_message(recipients=[address]))
                    if list(result.recipients) != [address]:
                        wrong.append(address)

        threads = [threading.Thread(target=work, args=(n,)) for n in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert wrong == []
    assert server.connections <= 8
    assert len({r.json["to"][0] for r in server.bodies}) == 80


def test_a_response_that_is_too_large_is_not_read_completely(
    send: Send, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "MAX_RESPONSE", 100_000)
    with (
        loopback(answering("200 OK", b"x" * 300_000)) as server,
        pytest.raises(TransportError, match="larger than 100000 bytes"),
    ):
        send(server)
    assert len(server.requests) == 1
