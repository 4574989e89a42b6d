"""Runs servers in separate processes."""

from __future__ import annotations

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Iterator

import pytest


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port: int = listener.getsockname()[1]
        return port


def wait_for(port: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + 20
    while time.monotonic() < deadline and process.poll() is None:
        with contextlib.suppress(OSError):
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        time.sleep(0.05)


@contextlib.contextmanager
def running(
    command: list[str], port: int, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run a server on a loopback port inside a ``with`` block."""
    process = subprocess.Popen(
        command,
        env={**os.environ, **environment},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    try:
        wait_for(port, process)
        yield process
    finally:
        process.terminate()
        output, _ = process.communicate(timeout=20)
    assert "Traceback" not in output, output


@contextlib.contextmanager
def gunicorn(app: str, *arguments: str, **environment: str) -> Iterator[str]:
    """Serve an app with gunicorn inside a ``with`` block."""
    port = free_port()
    command = [sys.executable, "-m", "gunicorn", "-b", f"127.0.0.1:{port}"]
    with running([*command, *arguments, app], port, **environment):
        yield f"http://127.0.0.1:{port}"


def needed(program: str) -> str:
    """Return the path of a program; if it is missing, skip the test, or fail in CI."""
    path = shutil.which(program)
    if path is None:
        if os.environ.get("FLASK_POSTAL_CI"):
            pytest.fail(f"{program} is not installed")
        pytest.skip(f"{program} is not installed")
    return path
