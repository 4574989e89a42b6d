"""README's command: the help desk with the sandbox beside it."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import time
from pathlib import Path

import requests

from .processes import free_port
from .servers import refusing


def test_the_command_starts_the_help_desk_and_the_sandbox(tmp_path: Path) -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POSTAL_")}
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "example_app", "--data", str(tmp_path / "data")),
            *("--port", str(free_port()), "--sandbox-port", str(free_port())),
        ],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        sandbox = process.stdout.readline().split()[1]
        desk = process.stdout.readline().split()[-1]
        url = process.stdout.readline().split()[-1]
        with requests.Session() as session:
            page = session.get(url, timeout=5).text
            assert f'href="{sandbox}"' in page
            token = re.search(r'name="csrf_token"[^>]*value="([^"]+)"', page)
            assert token
            form = {
                "csrf_token": token[1],
                "name": "Ana",
                "email": "ana@example.com",
                "subject": "Hi",
                "text": "x",
            }
            assert "is on its way" in session.post(url, data=form, timeout=5).text
            deadline = time.monotonic() + 10
            page = ""
            while ">delivered<" not in page and time.monotonic() < deadline:
                page = session.get(f"{desk}ticket/1", timeout=5).text
            assert ">delivered<" in page
            assert f'href="{sandbox}/mail/1"' in page
            assert f'href="{url}/"' in session.get(sandbox, timeout=5).text
    finally:
        process.terminate()
        _, errors = process.communicate(timeout=10)
    assert "Traceback" not in errors, errors


def test_a_url_without_an_api_key_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "example_app"],
        env={
            **os.environ,
            "POSTAL_API_URL": refusing(),
            "POSTAL_API_KEY": "",
        },
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "set POSTAL_API_URL and POSTAL_API_KEY" in done.stderr
