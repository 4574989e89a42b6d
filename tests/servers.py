"""Servers on loopback that fail in all the ways a network can fail."""

from __future__ import annotations

import datetime
import ipaddress
import json
import socket
import ssl
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec


@dataclass
class Request:
    """A request, as far as the server has read it."""

    head: str
    body: bytes
    whole: bool

    @property
    def json(self) -> Any:
        return json.loads(self.body)

    @property
    def headers(self) -> dict[str, str]:
        lines = self.head.split("\r\n")[1:]
        return {k.lower(): v for k, v in (line.split(": ", 1) for line in lines)}


Act = Callable[["Exchange"], bool]


class Exchange:
    """One request on one connection; an :data:`Act` decides what happens to it.

    An act returns whether the connection stays open.
    """

    def __init__(self, server: Loopback, connection: socket.socket) -> None:
        self.server = server
        self.connection = connection
        self.head = b""
        self.request: Request | None = None

    def read_head(self) -> bool:
        while b"\r\n\r\n" not in self.head:
            piece = self.connection.recv(65536)
            if not piece:
                return False
            self.head += piece
        return True

    def read_body(self) -> Request:
        head, _, body = self.head.partition(b"\r\n\r\n")
        self.head = b""
        request = Request(head.decode("latin-1"), body, whole=False)
        self.server.requests.append(request)
        length = int(request.headers.get("content-length", 0))
        while len(request.body) < length:
            piece = self.connection.recv(65536)
            if not piece:
                return request
            request.body += piece
        request.whole = True
        self.request = request
        return request

    def answer(self, status: str, body: bytes, *headers: str) -> None:
        lines = [f"HTTP/1.1 {status}", f"Content-Length: {len(body)}", *headers]
        head = "\r\n".join(lines).encode() + b"\r\n\r\n"
        self.connection.sendall(head + body)

    def reset(self) -> None:
        linger = struct.pack("ii", 1, 0)
        self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
        self.connection.close()


def success(request: Request) -> bytes:
    """Return Postal's response to a valid request."""
    content = request.json
    recipients = content.get("rcpt_to") or [
        address for name in ("to", "cc", "bcc") for address in content.get(name, [])
    ]
    messages = {
        a.rpartition("<")[2].rstrip(">"): {"id": n, "token": f"{n:016}"}
        for n, a in enumerate(recipients, 1)
    }
    data = {"message_id": "made@rp.postal.test", "messages": messages}
    envelope = {"status": "success", "time": 0.01, "flags": {}, "data": data}
    return json.dumps(envelope).encode()


def accept(exchange: Exchange) -> bool:
    request = exchange.read_body()
    if request.whole:
        exchange.answer("200 OK", success(request), "Content-Type: application/json")
    return request.whole


def answering(status: str, body: bytes = b"", *headers: str) -> Act:
    def act(exchange: Exchange) -> bool:
        exchange.read_body()
        exchange.answer(status, body, *headers)
        return True

    return act


def reset_before_the_body(exchange: Exchange) -> bool:
    exchange.reset()
    return False


def reset_after_the_body(exchange: Exchange) -> bool:
    exchange.read_body()
    exchange.reset()
    return False


def close_after_the_body(exchange: Exchange) -> bool:
    exchange.read_body()
    return False


def hang(exchange: Exchange) -> bool:
    exchange.read_body()
    exchange.server.stopping.wait(30)
    return False


def truncate(exchange: Exchange) -> bool:
    body = success(exchange.read_body())
    head = f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode()
    exchange.connection.sendall(head + body[:-5])
    return False


def accept_and_close(exchange: Exchange) -> bool:
    """Respond as if the connection stayed open, and close it."""
    accept(exchange)
    return False


@dataclass
class Loopback:
    """A server that runs one act per request, and the last for all later requests."""

    acts: list[Act]
    tls: ssl.SSLContext | None = None
    #: How many connections are reset before the TLS handshake.
    reset_first: int = 0
    requests: list[Request] = field(default_factory=list)
    connections: int = 0
    stopping: threading.Event = field(default_factory=threading.Event)
    #: Set once the server has closed a connection.
    closed: threading.Event = field(default_factory=threading.Event)

    def __post_init__(self) -> None:
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        self._threads: list[threading.Thread] = []
        self._lock = threading.Lock()

    @property
    def url(self) -> str:
        scheme = "https" if self.tls else "http"
        return f"{scheme}://127.0.0.1:{self.port}"

    @property
    def bodies(self) -> list[Request]:
        """The requests that arrived completely."""
        return [request for request in self.requests if request.whole]

    def serve(self) -> None:
        while True:
            try:
                connection, _ = self._listener.accept()
            except OSError:
                return
            if self.stopping.is_set():
                connection.close()
                return
            self.connections += 1
            thread = threading.Thread(target=self._serve, args=(connection,))
            thread.start()
            self._threads.append(thread)

    def _serve(self, connection: socket.socket) -> None:
        connection.settimeout(10)
        if self.connections <= self.reset_first:
            Exchange(self, connection).reset()
            return
        try:
            if self.tls is not None:
                connection = self.tls.wrap_socket(connection, server_side=True)
            with connection:
                self._exchanges(connection)
            self.closed.set()
        except OSError:
            pass  # the client may close the connection at any time

    def _exchanges(self, connection: socket.socket) -> None:
        stays = True
        while stays and not self.stopping.is_set():
            exchange = Exchange(self, connection)
            if not exchange.read_head():
                return
            with self._lock:
                act = self.acts.pop(0) if len(self.acts) > 1 else self.acts[0]
            stays = act(exchange)

    def stop(self) -> None:
        self.stopping.set()
        with suppress(OSError):  # wakes up accept()
            socket.create_connection(("127.0.0.1", self.port), 1).close()
        self._listener.close()


@contextmanager
def loopback(*acts: Act, **options: Any) -> Iterator[Loopback]:
    """Run a server inside a ``with`` block."""
    server = Loopback(list(acts or (accept,)), **options)
    thread = threading.Thread(target=server.serve)
    thread.start()
    try:
        yield server
    finally:
        server.stop()
        thread.join(10)


def self_signed(folder: Path) -> tuple[ssl.SSLContext, str]:
    """Make a certificate for 127.0.0.1; return the server's context and a CA bundle."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "postal.test")])
    now = datetime.datetime.now(datetime.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - datetime.timedelta(days=1))
        .not_valid_after(now + datetime.timedelta(days=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.IPAddress(ipaddress.ip_address("127.0.0.1"))]
            ),
            critical=False,
        )
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    bundle = folder / "ca.pem"
    bundle.write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    key_file = folder / "key.pem"
    key_file.write_bytes(
        key.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.NoEncryption(),
        )
    )
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(bundle, key_file)
    return context, str(bundle)


def refusing() -> str:
    """Return the URL of a port that is reserved for us, and on which nobody listens."""
    if not _TAKEN:
        taken = socket.socket()
        taken.bind(("127.0.0.1", 0))
        _TAKEN.append(taken)
    return f"http://127.0.0.1:{_TAKEN[0].getsockname()[1]}"


_TAKEN: list[socket.socket] = []
