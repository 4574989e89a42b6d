"""``flask postal``: commands for the app at hand.

What a command needs is imported when it runs: this module is imported with every app.
"""

from __future__ import annotations

import base64
import logging
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import current_app
from flask.cli import AppGroup

from .errors import PostalError, TransportError

if TYPE_CHECKING:
    from .extension import Postal
    from .sandbox import Sandbox

__all__ = ["postal_cli"]

postal_cli: AppGroup = AppGroup("postal", help="Send and receive mail with Postal.")

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}

name_option: Callable[[Callable[..., Any]], Callable[..., Any]] = click.option(
    "--name", default=None, help="Which Postal, where the app has several."
)


@postal_cli.command("check")
@name_option
@click.option("--url", help="Where Postal reaches this app: https://app.example.com.")
def check_command(name: str | None, url: str | None) -> None:
    """Look at settings, API, keys, webhooks and receivers.

    Nothing is sent. The exit code is 1 if anything is wrong.
    """
    from .checks import check

    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError("--url begins with http:// or https://")
    postal = _postal(name)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    errors = 0
    # What is tried on the webhooks would stand among the findings as an error.
    with _quiet("flask_postal.webhooks"):
        for finding in check(postal, app, url):
            click.secho(f"{finding.level:>7}  ", fg=_COLOURS[finding.level], nl=False)
            click.echo(finding.text)
            if finding.cure and finding.level != "ok":
                click.echo(f"         -> {finding.cure}")
            errors += finding.level == "error"
    if errors:
        click.echo(f"{errors} error(s)")
        raise click.exceptions.Exit(1)


@postal_cli.command("keys")
@name_option
def keys_command(name: str | None) -> None:
    """List the keys that webhooks are checked with.

    The exit code is 1 if there is none.
    """
    postal = _postal(name)
    inbox = postal.webhooks
    with _quiet("flask_postal.webhooks"):
        keys = inbox.find_keys(None)
    origin = f"{postal.settings.prefix}WEBHOOK_KEY"
    if inbox.discovers_keys:
        origin = f"{postal.settings.api_url}/.well-known/jwks.json"
    for key in keys:
        click.echo(f"{key.kid}  {key.bits} bits  {origin}")
    if not keys and inbox.discovers_keys:
        raise click.ClickException(f"no keys could be fetched from {origin}")
    if not keys:
        raise click.ClickException(
            f"there is no key; set {postal.settings.prefix}WEBHOOK_KEY to what"
            " `postal default-dkim-record` prints"
        )


class _CommandWithTables(click.Command):
    """Command whose help names the rows of a table.

    A table is imported when the help is shown, because this module is imported with
    every app.
    """

    def get_help(self, ctx: click.Context) -> str:
        """Return the help, with the tables filled in."""
        if self.help is not None:
            self.help = self.help.format_map(_Tables())
        return super().get_help(ctx)


class _Tables(dict[str, str]):
    """The rows of a table, by the table's name in a help text."""

    def __missing__(self, name: str) -> str:
        from .sandbox.faults import API_FAULTS, Fault
        from .sandbox.scenarios import SCENARIOS
        from .vocabulary import MESSAGE_EVENTS, SERVER_EVENTS

        words: dict[str, list[str]] = {
            "scenarios": list(SCENARIOS),
            "events": [event.word for event in MESSAGE_EVENTS],
            "server_events": [event.word for event in SERVER_EVENTS],
            "api_faults": [str(fault) for fault in Fault if fault in API_FAULTS],
            "webhook_faults": [
                str(fault) for fault in Fault if fault not in API_FAULTS
            ],
        }
        return ", ".join(words[name])


@postal_cli.command("sandbox", cls=_CommandWithTables)
@name_option
@click.option("--port", default=5025, show_default=True, help="0 takes a free one.")
@click.option(
    "--app-url",
    default="http://127.0.0.1:5000",
    show_default=True,
    help="Where this app runs; webhooks are posted there.",
)
@click.option(
    "--memory", is_flag=True, help="Keep mails in memory, not in the instance folder."
)
@click.option("--speed", default=1.0, help="How much faster time passes.")
@click.option("--domain", "domains", multiple=True, help="Who may send; repeatable.")
@click.option("--no-tracking", is_flag=True, help="Leave links and HTML as they are.")
@click.option("--fault", help="Begin with something going wrong; see `fault --help`.")
def sandbox_command(
    name: str | None,
    port: int,
    app_url: str,
    memory: bool,  # noqa: FBT001 - click passes it by its name
    speed: float,
    domains: tuple[str, ...],
    no_tracking: bool,  # noqa: FBT001
    fault: str | None,
) -> None:
    """Run a Postal for development, until Ctrl-C.

    It sends no mail. What happens to a message depends on its recipient's name, at any
    domain: {scenarios}. Every other message is delivered.
    """
    if not app_url.startswith("http://"):
        raise click.UsageError("--app-url begins with http://")
    from .sandbox import Clock, Sandbox
    from .sandbox.webhook_client import hook_urls

    postal = _postal(name)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    folder = None if memory else app.instance_path
    with _explained():
        sandbox = Sandbox(
            port=port,
            folder=folder,
            clock=Clock(speed),
            domains=domains,
            tracking=not no_tracking,
        )
        if fault:
            sandbox.fault(fault)
        if any(f".{n}".endswith(f".{postal.key}.tracking") for n in app.view_functions):
            hooks = hook_urls(app, postal.key, app_url)
            sandbox.tracking_url, sandbox.inbound_url = hooks
    for number in (signal.SIGINT, signal.SIGTERM):
        # Also where the shell that started it has it ignored.
        signal.signal(number, signal.default_int_handler)
    with _explained(), _logged("flask_postal.sandbox"), sandbox:
        _introduce(sandbox, name, folder)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped")


def _introduce(sandbox: Sandbox, name: str | None, folder: str | None) -> None:
    """Print the settings with which an app uses a sandbox, and where to look."""
    settings = sandbox.settings(name).items()
    values = {key: value for key, value in settings if value is not None}
    click.echo("A Postal for development. Put into the app's configuration:\n")
    for key, value in values.items():
        click.echo(f"    {key} = {value!r}")
    click.echo("\nor, where it has app.config.from_prefixed_env():\n")
    for key, value in values.items():
        click.echo(f"    export FLASK_{key}={value}")
    if sandbox.tracking_url is None:
        click.echo("\nThis app has no webhooks; register postal.blueprint.")
    else:
        click.echo(f"\nEvents go to {sandbox.tracking_url},")
        click.echo(f"incoming mail to {sandbox.inbound_url}.")
    kept = "in memory" if folder is None else f"in {folder}"
    click.echo(f"Mails are kept {kept}; see them at {sandbox.url}/")
    click.echo("Ctrl-C stops it.")


@contextmanager
def _logged(name: str) -> Iterator[None]:
    """Show what a logger says, with the time of day."""
    handler = logging.StreamHandler()
    handler.setFormatter(logging.Formatter("%(asctime)s  %(message)s", "%H:%M:%S"))
    log = logging.getLogger(name)
    log.addHandler(handler)
    log.setLevel(logging.INFO)
    try:
        yield
    finally:
        log.removeHandler(handler)


@postal_cli.command("send-test")
@name_option
@click.argument("address")
@click.option("--from", "sender", help="The sender; else POSTAL_DEFAULT_SENDER.")
def send_test_command(name: str | None, address: str, sender: str | None) -> None:
    """Send a test mail, through a real Postal or a sandbox."""
    from .sending.message import Message

    postal = _postal(name)
    message = Message(
        "Test of Flask-Postal",
        address,
        body="This mail was sent by `flask postal send-test`.\n",
        html="<p>This mail was sent by <code>flask postal send-test</code>.</p>\n",
        sender=sender,
    )
    # That this command is not debug says nothing about the app.
    with _explained(), _quiet("flask_postal.sending"):
        try:
            result = postal.send(message)
        except TransportError as error:
            if postal.settings.uses_sandbox and not error.maybe_sent:
                raise _no_sandbox(postal) from None
            raise
    if result.suppressed:
        click.echo(
            f"suppressed: {postal.settings.prefix}SUPPRESS_SEND or MAIL_SUPPRESS_SEND"
            " is on, or the app is testing"
        )
    for recipient in result.recipients.values():
        click.echo(
            f"{postal.settings.api_url} took the mail to {recipient.address}:"
            f" id {recipient.id}, token {recipient.token}"
        )


@postal_cli.command("trigger", cls=_CommandWithTables)
@name_option
@click.argument("event")
@click.option("--to", help="The recipient it is about; of a mail, else the one in To.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change the body: payload.output='550 5.7.1 Blocked'. Repeatable.",
)
@click.option(
    "--eml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="The mail that comes in, with the event `inbound`; made up if not given.",
)
@click.option("--from", "sender", help="Its envelope sender; else the one in From.")
@click.option(
    "--format",
    "format_",
    default="raw-json",
    show_default=True,
    help="raw-json, raw-form, hash-json or hash-form.",
)
def trigger_command(
    name: str | None,
    event: str,
    to: str | None,
    changes: tuple[str, ...],
    eml: Path | None,
    sender: str,
    format_: str,
) -> None:
    """Have the sandbox post an event, or a mail, to this app.

    EVENT is {events}, {server_events}, another of Postal's own names, or inbound.
    """
    from .sandbox.webhook_bodies import parse_change

    postal = _postal(name)
    if event == "inbound":
        from .sandbox.compose import compose_mail
        from .sandbox.mail_reader import read_mail

        raw = (
            eml.read_bytes()
            if eml is not None
            else compose_mail(
                "Hello", "This mail was made up.\n", to=to or "app@example.com"
            )
        )
        mail = read_mail(raw)
        author = mail.from_email.addr_spec if mail.from_email else None
        content = {
            "raw": base64.b64encode(raw).decode(),
            "to": to or (mail.to[0].addr_spec if mail.to else "app@example.com"),
            "sender": sender or author,
            "format": format_,
        }
        _show(_ask_sandbox(postal, "receive", content))
        return
    with _explained():
        pairs = dict(parse_change(change) for change in changes)
    _show(_ask_sandbox(postal, "trigger", {"event": event, "to": to, "set": pairs}))


@postal_cli.command("replay")
@name_option
@click.argument("file", type=click.Path(exists=True, dir_okay=False, path_type=Path))
def replay_command(name: str | None, file: Path) -> None:
    """Have the sandbox post a stored request, signed anew.

    FILE holds the body of a webhook or of a mail that came in, as Postal sent it.
    """
    body = base64.b64encode(file.read_bytes()).decode()
    _show(_ask_sandbox(_postal(name), "replay", {"body": body}))


@postal_cli.command("fault", cls=_CommandWithTables)
@name_option
@click.argument("fault", required=False)
@click.option(
    "--times", type=click.IntRange(1), help="For so many calls; else for all."
)
@click.option("--clear", is_flag=True, help="Switch all off first.")
def fault_command(
    name: str | None,
    fault: str | None,
    times: int | None,
    clear: bool,  # noqa: FBT001
) -> None:
    """Let something go wrong in the sandbox, and list what does.

    FAULT applies to calls of the API ({api_faults}) or to webhooks ({webhook_faults}).
    """
    content = {"fault": fault, "times": times, "clear": clear}
    active = _ask_sandbox(_postal(name), "fault", content)
    for one, left in active.items():
        often = "until it is cleared" if left is None else f"{left} x"
        click.echo(f"{one}: {often}")
    if not active:
        click.echo("nothing goes wrong")


def _show(made: Mapping[str, Any]) -> None:
    """Tell how the app answered; the exit code is 1 if Postal is not content."""
    about = f" about the mail to {made['recipient']}" if made["recipient"] else ""
    click.echo(f"{made['event']}{about}, to {made['url'] or 'nowhere'}")
    if made["answer"]:
        click.echo(f"  answer: {made['answer'].strip()}")
    if made["status"] == -2:
        click.echo("  Does the app run there? `flask postal sandbox --app-url` tells.")
    click.echo(f"  {made['verdict']}")
    if made["state"] != "taken":
        raise click.exceptions.Exit(1)


def _no_sandbox(postal: Postal) -> click.ClickException:
    return click.ClickException(
        f"no sandbox answers at {postal.settings.api_url}; run `flask postal sandbox`"
    )


def _ask_sandbox(
    postal: Postal, path: str, content: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Call the sandbox that the app sends to."""
    import requests

    from .sandbox_client import call_sandbox

    settings = postal.settings
    if not (settings.uses_sandbox and settings.api_is_loopback):
        raise click.ClickException(
            f"{settings.prefix}API_URL and _API_KEY are not a sandbox's; run"
            " `flask postal sandbox` and use the settings that it prints"
        )
    try:
        response = call_sandbox(settings, path, content)
        answer = response.json() if response.content else {}
    except requests.RequestException:
        raise _no_sandbox(postal) from None
    if not response.ok:
        said = answer.get("error") or f"HTTP {response.status_code}"
        raise click.ClickException(f"the sandbox refused: {said}")
    return answer


@contextmanager
def _quiet(name: str) -> Iterator[None]:
    """Silence a logger."""
    log = logging.getLogger(name)
    before = log.level
    log.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        log.setLevel(before)


@contextmanager
def _explained() -> Iterator[None]:
    """Show an error of ours as one line."""
    try:
        yield
    except (PostalError, ValueError) as error:
        raise click.ClickException(str(error)) from None


def _postal(name: str | None) -> Postal:
    key = f"postal_{name}" if name else "postal"
    postal = current_app.extensions.get(key)
    if postal is None:
        there = [k for k in current_app.extensions if k.startswith("postal")]
        raise click.ClickException(
            f"this app has no {key!r}"
            + (
                f"; it has {', '.join(there)}"
                if there
                else "; call postal.init_app(app)"
            )
        )
    return postal  # type: ignore[no-any-return]
