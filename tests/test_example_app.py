from __future__ import annotations

import os
import re
import subprocess
import sys
import time

import requests

from example_app import create_app
from flask_postal.sandbox import Sandbox


def test_the_command_starts_both_and_shows_the_event() -> None:
    environment = {k: v for k, v in os.environ.items() if not k.startswith("POSTAL_")}
    process = subprocess.Popen(
        [sys.executable, "-m", "example_app", "--port", "0"],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment,
    )
    try:
        assert process.stdout is not None
        assert "the sandbox" in process.stdout.readline()
        url = process.stdout.readline().split()[-1]
        with requests.Session() as session:
            session.post(
                f"{url}/send",
                data={"recipient": "ana@example.com", "subject": "Hi", "body": "x"},
                timeout=5,
            )
            page = ""
            deadline = time.monotonic() + 10
            while "delivered" not in page and time.monotonic() < deadline:
                page = session.get(url, timeout=5).text
    finally:
        process.terminate()
        process.communicate(timeout=10)
    assert re.search(r"<strong>delivered</strong> ana@example.com · Hi", page)


def test_it_talks_to_the_postal_of_its_settings(sandbox: Sandbox) -> None:
    app = create_app(sandbox.settings())
    client = app.test_client()
    answer = client.post(
        "/send",
        data={"recipient": "a@example.com", "subject": "Hi", "body": "x"},
        follow_redirects=True,
    )
    assert f"Through {sandbox.url}" in answer.text
    assert "Postal has queued mail 1 to a@example.com." in answer.text


def test_an_error_is_shown_on_the_page(sandbox: Sandbox) -> None:
    client = create_app(sandbox.settings()).test_client()
    answer = client.post(
        "/send", data={"recipient": "nobody", "subject": "Hi"}, follow_redirects=True
    )
    assert "&#39;nobody&#39; is no address" in answer.text


def test_one_setting_alone_is_an_error() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "example_app"],
        env={
            **os.environ,
            "POSTAL_API_URL": "http://127.0.0.1:9",
            "POSTAL_API_KEY": "",
        },
        capture_output=True,
        text=True,
        timeout=20,
    )
    assert done.returncode == 2
    assert "set POSTAL_API_URL and POSTAL_API_KEY" in done.stderr
