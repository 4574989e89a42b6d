"""A proxy in front of the sandbox that fails as networks and proxies fail."""

from __future__ import annotations

import http.client
import random
import socket
import struct
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress

__all__ = ["FAULTS", "FaultyProxy", "faulty_proxy"]

FAULTS = (
    "reset before the body",
    "reset within the body",
    "reset after the body",
    "answer lost",
    "502",
    "slow",
    "acted on later",
)
#: Seconds for which a request is slow, or acted on later. Less than POSTAL_SETTLE.
DELAY = 1.0


class FaultyProxy:
    """Passes requests on to a server; one call of five fails.

    :param port: The port of the server, on loopback.
    :param chance: How often a call fails.
    """

    def __init__(self, port: int, rng: random.Random, chance: float = 0.2) -> None:
        self.chance = chance
        self.counts: Counter[str] = Counter()
        self._port = port
        self._rng = rng
        self._lock = threading.Lock()
        self._listener = socket.create_server(("127.0.0.1", 0), backlog=128)
        self._stopping = False

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self._listener.getsockname()[1]}"

    def serve(self) -> None:
        while not self._stopping:
            with suppress(OSError):
                connection, _ = self._listener.accept()
                threading.Thread(
                    target=self._handle, args=(connection,), daemon=True
                ).start()

    def stop(self) -> None:
        self._stopping = True
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()

    def _choose(self) -> str:
        with self._lock:
            fails = self._rng.random() < self.chance
            fault = self._rng.choice(FAULTS) if fails else "none"
            self.counts[fault] += 1
            return fault

    def _handle(self, connection: socket.socket) -> None:
        # A client that was killed leaves connections that end anywhere.
        with suppress(OSError, http.client.HTTPException), connection:
            connection.settimeout(30)
            data = b""
            while b"\r\n\r\n" not in data:
                if not (piece := connection.recv(65536)):
                    return
                data += piece
            fault = self._choose()
            head, _, body = data.partition(b"\r\n\r\n")
            if fault == "reset before the body":
                _reset(connection)
            elif fault == "reset within the body":
                connection.recv(10)
                _reset(connection)
            else:
                body += _rest(connection, _length(head) - len(body))
                self._answer(connection, fault, head, body)

    def _answer(
        self, connection: socket.socket, fault: str, head: bytes, body: bytes
    ) -> None:
        if fault == "reset after the body":
            _reset(connection)
            return
        if fault == "502":
            _send(connection, 502, "text/html", b"<html>Bad Gateway</html>")
            return
        if fault == "acted on later":
            _reset(connection)
        if fault in ("slow", "acted on later"):
            time.sleep(DELAY)
        status, content_type, answer = self._forward(head, body)
        if fault == "answer lost":
            _reset(connection)
        elif fault != "acted on later":
            _send(connection, status, content_type, answer)

    def _forward(self, head: bytes, body: bytes) -> tuple[int, str, bytes]:
        lines = head.decode().split("\r\n")
        method, path, _ = lines[0].split(" ")
        headers = dict(line.split(": ", 1) for line in lines[1:])
        headers["Host"] = f"127.0.0.1:{self._port}"
        server = http.client.HTTPConnection("127.0.0.1", self._port, timeout=30)
        server.request(method, path, body, headers)
        answer = server.getresponse()
        content = answer.read()
        server.close()
        return answer.status, answer.headers["Content-Type"], content


def _length(head: bytes) -> int:
    for line in head.lower().split(b"\r\n"):
        if line.startswith(b"content-length:"):
            return int(line.partition(b":")[2])
    return 0


def _rest(connection: socket.socket, length: int) -> bytes:
    data = b""
    while len(data) < length:
        if not (piece := connection.recv(65536)):
            raise OSError("the client has left in the middle of the body")
        data += piece
    return data


def _reset(connection: socket.socket) -> None:
    linger = struct.pack("ii", 1, 0)
    connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, linger)
    connection.close()


def _send(
    connection: socket.socket, status: int, content_type: str, body: bytes
) -> None:
    head = (
        f"HTTP/1.1 {status} X\r\nContent-Type: {content_type}\r\n"
        f"Content-Length: {len(body)}\r\nConnection: close\r\n\r\n"
    )
    connection.sendall(head.encode() + body)


@contextmanager
def faulty_proxy(port: int, rng: random.Random) -> Iterator[FaultyProxy]:
    """Run a proxy for the length of a block."""
    proxy = FaultyProxy(port, rng)
    thread = threading.Thread(target=proxy.serve, daemon=True)
    thread.start()
    try:
        yield proxy
    finally:
        proxy.stop()
        thread.join(5)
