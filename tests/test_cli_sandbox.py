"""The sandbox's commands of ``flask postal``."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from flask import Flask

from flask_postal import Message, Postal
from flask_postal.sandbox import ManualClock, Sandbox, SigningKey, compose_mail
from flask_postal.sandbox.webhook_client import call_url

from .captures import CAPTURES
from .processes import free_port
from .servers import refusing
from .test_cli import good, run


@pytest.fixture
def sandbox(signing_key: SigningKey) -> Iterator[Sandbox]:
    with Sandbox(key=signing_key, clock=ManualClock()) as running:
        yield running


@pytest.fixture
def app(sandbox: Sandbox) -> Flask:
    """An app that uses the sandbox."""
    app = good(sandbox, POSTAL_WEBHOOK_SECRET=sandbox.webhook_secret)
    sandbox.deliver_to(app)
    return app


def test_a_test_mail_is_sent(app: Flask, sandbox: Sandbox) -> None:
    code, output = run(app, "send-test", "ana@example.com", "--from", "me@example.com")
    (mail,) = sandbox.messages
    assert (code, mail.recipient, mail.sender) == (
        0,
        "ana@example.com",
        "me@example.com",
    )
    assert (
        f"accepted the message to ana@example.com: id {mail.id}, token {mail.token}"
        in output
    )
    assert run(app, "send-test", "nonsense")[0] == 1
    app.config["POSTAL_SUPPRESS_SEND"] = True
    assert "suppressed" in run(app, "send-test", "ana@example.com")[1]


def test_events_are_triggered(app: Flask, tracking: list[Any]) -> None:
    code, output = run(
        app,
        *("trigger", "failed", "--to", "bo@example.com"),
        *("--set", "payload.output=550 5.7.1 No", "--set", "payload.message.id=7"),
    )
    assert code == 0
    assert (
        "MessageDeliveryFailed about the message to bo@example.com, posted to http"
        in output
    )
    assert "200: Postal is done with this event" in output
    (event,) = tracking
    assert (event.recipient, event.id) == ("bo@example.com", 7)
    assert event.mta_response == "550 5.7.1 No"


def test_inbound_mail_is_triggered_from_a_file(
    app: Flask, sandbox: Sandbox, inbound: list[Any], tmp_path: Path
) -> None:
    file = tmp_path / "mail.eml"
    file.write_bytes(compose_mail("Hilfe ✓", "ä", to="Support <support@example.com>"))
    for format_ in ("raw-json", "hash-form"):
        code, output = run(
            app, "trigger", "inbound", "--eml", str(file), "--format", format_
        )
        assert (code, "200: the mail is delivered" in output) == (0, True)
    assert [event.message.subject for event in inbound] == ["Hilfe ✓"] * 2
    assert inbound[0].message.envelope_recipient == "support@example.com"
    sandbox.inbound_url = "http://127.0.0.1:5000/nowhere/"
    code, output = run(app, "trigger", "inbound", "--eml", str(file))
    assert (code, "404: Postal would bounce this mail to its author" in output) == (
        1,
        True,
    )


def test_inbound_mail_is_made_up_if_no_file_is_given(
    app: Flask, sandbox: Sandbox, inbound: list[Any]
) -> None:
    code, output = run(app, "trigger", "inbound", "--to", "desk@example.com")
    assert (code, "200: the mail is delivered" in output) == (0, True)
    (event,) = inbound
    assert event.message.envelope_recipient == "desk@example.com"
    assert event.message.text == "This mail was made up.\n"


def test_the_bounce_goes_to_the_author_of_the_mail(
    app: Flask, sandbox: Sandbox, tmp_path: Path
) -> None:
    file = tmp_path / "mail.eml"
    file.write_bytes(compose_mail(to="a@b.c", sender="Cy <cy@example.org>"))
    sandbox.inbound_url = "http://127.0.0.1:5000/nowhere/"
    run(app, "trigger", "inbound", "--eml", str(file))
    assert [mail.recipient for mail in sandbox.messages] == ["cy@example.org"]


def test_an_app_that_is_not_running_is_reported(app: Flask, sandbox: Sandbox) -> None:
    sandbox.call_with(call_url)
    sandbox.tracking_url = f"{refusing()}/postal/tracking/"
    output = run(app, "trigger", "delivered")[1]
    assert "Is the app running?" in output
    assert "no response: Postal retries in 2 minutes" in output


def test_send_test_and_keys_report_a_sandbox_that_is_not_running(
    app: Flask, sandbox: Sandbox
) -> None:
    url = sandbox.url
    sandbox.stop()
    app.config["POSTAL_CONNECT_RETRIES"] = 0
    code, output = run(app, "send-test", "ana@example.com")
    assert (code, f"there is no sandbox at {url}" in output) == (1, True)
    code, output = run(app, "keys")
    assert (code, "no keys could be fetched from" in output) == (1, True)


def test_stored_requests_are_replayed(app: Flask, tracking: list[Any]) -> None:
    file = CAPTURES / "webhooks" / "MessageBounced.body"
    assert run(app, "replay", str(file))[0] == 0
    assert tracking[0].event_type == "bounced"


@pytest.mark.parametrize("options", [[], ["--local"]])
def test_events_in_a_log_are_replayed(
    app: Flask, tracking: list[Any], tmp_path: Path, options: list[str]
) -> None:
    folder = CAPTURES / "webhooks"
    first, second = (
        json.loads((folder / f"{name}.body").read_bytes())
        for name in ("MessageBounced", "MessageSent")
    )
    third = json.loads((folder / "MessageDelayed.body").read_bytes())
    third["payload"]["message"]["subject"] = "a\u2028b"
    log, junk = tmp_path / "app.log", tmp_path / "junk.log"
    junk.write_text('{"event": "request finished", "level": "info"}\n')
    log.write_text(
        "2026-11-28 06:00:00 INFO started {'no': 'event'}\n"
        '{"event": "request finished", "level": "info"}\n'
        f"2026-11-28 06:00:01 INFO [{{request 7}}] {json.dumps(first)} [app.py:3]\n"
        f"2026-11-28 06:00:02 INFO {second!r} [app.py:3]\n"
        f'{{"message": {json.dumps(third, ensure_ascii=False)}, "level": "info"}}\n'
        "Traceback (most recent call last):\n"
    )
    body = str(folder / "MessageHeld-suppressed.body")
    code, output = run(app, "replay", *options, str(junk), str(log), body)
    assert code == 1
    assert "junk.log: there is neither an event nor a mail in it" in output
    assert f"{log}: 3 events" in output
    assert [event.event_type for event in tracking] == [
        "bounced",
        "delivered",
        "deferred",
        "queued",
    ]


def test_faults_are_set_and_cleared(app: Flask, sandbox: Sandbox) -> None:
    assert run(app, "fault", "502", "--times", "2")[1] == "502: 2 x\n"
    assert "hang: until cleared" in run(app, "fault", "hang")[1]
    assert run(app, "fault", "--clear")[1] == "no faults are active\n"
    assert sandbox.faults == {}


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        (["trigger", "nonsense"], "unknown event 'nonsense'; use one of delivered"),
        (["trigger", "opened", "--set", "x"], "'x' is not path=value"),
        (["trigger", "opened", "--set", "a.b=1"], "there is nothing at 'a.b'"),
        (["fault", "nonsense"], "unknown fault 'nonsense'; use one of 500, 502"),
        (["replay", __file__], "neither an event nor a mail"),
        (
            ["sandbox", "--app-url", "127.0.0.1:5000"],
            "--app-url must begin with http://",
        ),
        (["check", "--url", "127.0.0.1:5000"], "--url must begin with http"),
    ],
)
def test_invalid_arguments_are_explained(
    app: Flask, arguments: list[str], text: str
) -> None:
    code, output = run(app, *arguments)
    assert code != 0
    assert text in output


def test_sandbox_commands_refuse_a_real_postal() -> None:
    app = Flask("real")
    app.config.update(POSTAL_API_URL="https://postal.example.com", POSTAL_API_KEY="k")
    Postal(app)
    code, output = run(app, "trigger", "delivered")
    assert (code, "are not a sandbox's; run `flask postal sandbox`" in output) == (
        1,
        True,
    )


def test_trigger_reports_a_sandbox_that_is_not_running(
    app: Flask, sandbox: Sandbox
) -> None:
    url = sandbox.url
    sandbox.stop()
    code, output = run(app, "trigger", "delivered")
    assert (code, f"there is no sandbox at {url}" in output) == (1, True)


def test_another_sandboxs_key_is_refused(sandbox: Sandbox) -> None:
    app = good(sandbox, POSTAL_API_KEY="sandbox-other")
    code, output = run(app, "trigger", "delivered")
    assert (code, "the API key is not this sandbox's" in output) == (1, True)


APP = """
from flask import Flask
from flask_postal import Postal
app = Flask(__name__, instance_path={folder!r})
app.config.from_prefixed_env()
app.config["POSTAL_DEFAULT_SENDER"] = "app@example.com"
postal = Postal(app)
app.register_blueprint(postal.blueprint)
"""


def test_the_sandbox_runs_as_a_command(tmp_path: Path) -> None:
    """The settings that it prints stay the same after a restart."""
    (tmp_path / "app.py").write_text(APP.format(folder=str(tmp_path / "instance")))
    command = [sys.executable, "-m", "flask", "postal", "sandbox"]
    printed = []
    for _ in range(2):
        process = subprocess.Popen(
            [*command, "--port", str(free_port()), "--speed", "100"],
            cwd=tmp_path,
            env={**os.environ, "PYTHONUNBUFFERED": "1"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        assert process.stdout
        lines, text = iter(process.stdout.readline, ""), ""
        while "Ctrl-C" not in text:
            text += next(lines)
        settings = dict(re.findall(r"    (POSTAL_\w+) = '(.*)'", text))
        assert "Events are posted to http://127.0.0.1:5000/postal/tracking/" in text
        app = Flask("sender")
        app.config.update(settings)
        postal = Postal(app)
        with app.app_context():
            postal.send(Message("Hi", "a@b.c", body="x", sender="d@e.f"))
        while "retries in" not in text:
            text += next(lines)
        process.send_signal(signal.SIGINT)
        rest, _ = process.communicate(timeout=20)
        assert process.returncode == 0, rest
        assert "stopped" in rest
        assert "Traceback" not in text + rest
        del settings["POSTAL_API_URL"]
        printed.append(settings)
    assert printed[0] == printed[1]
    assert set(printed[0]) == {"POSTAL_API_KEY", "POSTAL_WEBHOOK_SECRET"}
    assert (tmp_path / "instance" / "postal-sandbox.sqlite").exists()
