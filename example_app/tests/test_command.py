"""Tests of ``python -m example_app``: its ports and trusted host names."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

from example_app.__main__ import trusted_hosts

from .conftest import MakeApp


@contextmanager
def command(
    folder: Path, *options: str, **environment: str
) -> Iterator[subprocess.Popen[str]]:
    """Run the command inside a ``with`` block."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith("POSTAL_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "example_app", "--data", str(folder / "data"), *options],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env={**kept, **environment},
    )
    try:
        yield process
    finally:
        process.terminate()
        process.communicate(timeout=20)


@pytest.mark.parametrize("option", ["--port", "--sandbox-port"])
def test_a_busy_port_is_an_error_that_names_the_option(
    tmp_path: Path, option: str
) -> None:
    with socket.create_server(("127.0.0.1", 0)) as busy:
        port = str(busy.getsockname()[1])
        others = {"--port": "0", "--sandbox-port": "0", option: port}
        options = [word for pair in others.items() for word in pair]
        with command(tmp_path, *options) as process:
            output, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert f"listen on port {port} (Address already in use" in errors
    assert errors.endswith(f"choose another with {option}\n")
    assert "Traceback" not in errors
    assert output == ""


def test_a_port_out_of_range_is_refused(tmp_path: Path) -> None:
    with command(tmp_path, "--port", "65536") as process:
        _, errors = process.communicate(timeout=20)
    assert process.returncode == 2
    assert "argument --port: 65536 is not between 0 and 65535" in errors


def test_only_requests_to_trusted_hosts_are_served(tmp_path: Path) -> None:
    with command(
        tmp_path, "--port", "0", "--sandbox-port", "0", MAIL_DOMAIN="desk.example"
    ) as process:
        assert process.stdout is not None
        lines = [process.stdout.readline() for _ in range(3)]
        url = lines[-1].split()[-1]
        statuses = {
            name: requests.get(url, headers={"Host": name}, timeout=5).status_code
            for name in ("127.0.0.1:1", "localhost", "desk.example", "evil.example")
        }
    assert statuses == {
        "127.0.0.1:1": 200,
        "localhost": 200,
        "desk.example": 200,
        "evil.example": 400,
    }


@pytest.mark.parametrize(
    ("environment", "names"),
    [
        (None, ["help.example"]),
        ("", ["help.example"]),
        ("desk.example, .team.example,", ["desk.example", ".team.example"]),
    ],
    ids=["default", "empty", "given"],
)
def test_trusted_hosts_can_be_set_in_the_environment(
    make_app: MakeApp,
    monkeypatch: pytest.MonkeyPatch,
    environment: str | None,
    names: list[str],
) -> None:
    if environment is None:
        monkeypatch.delenv("TRUSTED_HOSTS", raising=False)
    else:
        monkeypatch.setenv("TRUSTED_HOSTS", environment)
    app = make_app(MAIL_DOMAIN="help.example")
    assert trusted_hosts(app) == ["127.0.0.1", "localhost", *names]


def test_the_help_text_mentions_trusted_hosts(tmp_path: Path) -> None:
    with command(tmp_path, "--help") as process:
        output, _ = process.communicate(timeout=20)
    assert "environment variable TRUSTED_HOSTS" in output
