"""Commands for the sandbox: sandbox, trigger, replay, fault."""

from __future__ import annotations

import base64
import signal
import threading
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
from flask import current_app

from ..interface import PostalInterface
from .group import (
    explained,
    find_postal,
    logged,
    name_option,
    no_sandbox,
    postal_cli,
)

if TYPE_CHECKING:
    from ..sandbox import Sandbox

__all__ = ["fault_command", "replay_command", "sandbox_command", "trigger_command"]


class _CommandWithTables(click.Command):
    """Command whose help lists the rows of a table, such as all events.

    The tables are imported when the help is shown, because every app imports this
    module.
    """

    def get_help(self, ctx: click.Context) -> str:
        """Return the help text with the rows filled in."""
        if self.help is not None:
            self.help = self.help.format_map(_Tables())
        return super().get_help(ctx)


class _Tables(dict[str, str]):
    """Mapping from the name of a table to its rows, read on first use."""

    def __missing__(self, name: str) -> str:
        from ..sandbox.faults import API_FAULTS, Fault
        from ..sandbox.scenarios import SCENARIOS
        from ..vocabulary import MESSAGE_EVENTS, SERVER_EVENTS

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
@click.option("--port", default=5025, show_default=True, help="0 picks a free port.")
@click.option(
    "--app-url",
    default="http://127.0.0.1:5000",
    show_default=True,
    help="URL at which this app runs; webhooks are posted to it.",
)
@click.option("--memory", is_flag=True, help="Store nothing in the instance folder.")
@click.option("--speed", default=1.0, help="Factor by which time passes faster.")
@click.option(
    "--domain", "domains", multiple=True, help="Domain that may send; repeatable."
)
@click.option("--no-tracking", is_flag=True, help="Leave links and HTML unchanged.")
@click.option("--fault", help="Start with a fault switched on; see `fault --help`.")
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
    """Run a simulated Postal for development, until Ctrl-C.

    It delivers no mail. The part of a recipient's address before the @ decides what
    happens to a message: {scenarios}. Every other message is reported as delivered.
    """
    if not app_url.startswith("http://"):
        raise click.UsageError("--app-url must begin with http://")
    from ..sandbox import Clock, Sandbox
    from ..sandbox.webhook_client import hook_urls

    postal = find_postal(name)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    folder = None if memory else app.instance_path
    with explained():
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
        # A shell may have started this command in the background, with SIGINT ignored.
        signal.signal(number, signal.default_int_handler)
    with explained(), logged("flask_postal.sandbox"), sandbox:
        _introduce(sandbox, name, folder)
        try:
            threading.Event().wait()
        except KeyboardInterrupt:
            click.echo("stopped")


def _introduce(sandbox: Sandbox, name: str | None, folder: str | None) -> None:
    """Print the settings for an app, and the URLs of the webhooks and the page."""
    settings = sandbox.settings(name).items()
    values = {key: value for key, value in settings if value is not None}
    click.echo("The sandbox is running. Add this to the configuration of the app:\n")
    for key, value in values.items():
        click.echo(f"    {key} = {value!r}")
    click.echo("\nor, if the app calls app.config.from_prefixed_env(), run:\n")
    for key, value in values.items():
        click.echo(f"    export FLASK_{key}={value}")
    if sandbox.tracking_url is None:
        click.echo("\nThis app has no webhooks; register postal.blueprint.")
    else:
        click.echo(f"\nEvents are posted to {sandbox.tracking_url},")
        click.echo(f"inbound mail to {sandbox.inbound_url}.")
    kept = "in memory" if folder is None else f"in {folder}"
    click.echo(f"Messages are stored {kept}; view them at {sandbox.url}/")
    click.echo("Press Ctrl-C to stop.")


@postal_cli.command("trigger", cls=_CommandWithTables)
@name_option
@click.argument("event")
@click.option("--to", help="Recipient; for inbound mail, To if not given.")
@click.option(
    "--set",
    "changes",
    multiple=True,
    metavar="PATH=VALUE",
    help="Change to the body: payload.output='550 5.7.1 Blocked'. Repeatable.",
)
@click.option(
    "--eml",
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
    help="Email to post with the event `inbound`; a sample if not given.",
)
@click.option("--from", "sender", help="Its envelope sender; From if not given.")
@click.option(
    "--format",
    "format_",
    default="raw-json",
    show_default=True,
    help="Its format: raw-json, raw-form, hash-json or hash-form.",
)
def trigger_command(
    name: str | None,
    event: str,
    to: str | None,
    changes: tuple[str, ...],
    eml: Path | None,
    sender: str | None,
    format_: str,
) -> None:
    """Have the sandbox post an event or inbound mail to this app.

    EVENT is one of {events}, {server_events}, another name of Postal's, or inbound.
    """
    from ..sandbox.webhook_bodies import parse_change

    postal = find_postal(name)
    if event == "inbound":
        from ..sandbox.compose import compose_mail
        from ..sandbox.mail_reader import read_mail

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
    with explained():
        pairs = dict(parse_change(change) for change in changes)
    _show(_ask_sandbox(postal, "trigger", {"event": event, "to": to, "set": pairs}))


@postal_cli.command("replay")
@name_option
@click.argument(
    "files",
    metavar="FILE...",
    nargs=-1,
    required=True,
    type=click.Path(exists=True, dir_okay=False, path_type=Path),
)
@click.option(
    "--local",
    is_flag=True,
    help="Call this app's receivers in this process, without a sandbox.",
)
def replay_command(
    name: str | None,
    files: tuple[Path, ...],
    local: bool,  # noqa: FBT001 - click passes it by its name
) -> None:
    """Handle stored requests again.

    A FILE contains the body of a webhook request as Postal sent it, or it is a log with
    one event in a line, as JSON or as app.logger.info("%s", event.esp_event) writes it.
    The sandbox signs each again and posts it to the app. With --local they are handled
    without a signature: use it with what you have stored yourself.
    """
    from ..webhooks.replay import find_bodies, read_stored_request

    postal, failed = find_postal(name), False
    for file in files:
        try:
            bodies = find_bodies(file.read_bytes())
        except ValueError as error:
            click.echo(f"{file}: {error}", err=True)
            failed = True
            continue
        if len(bodies) > 1:
            click.echo(f"{file}: {len(bodies)} events")
        for body in bodies:
            if not local:
                content = {"body": base64.b64encode(body).decode()}
                failed |= not _tell(_ask_sandbox(postal, "replay", content))
                continue
            with explained():
                stored = read_stored_request(body)
                outcome = postal.webhooks.handle(stored.request)
            click.echo(f"{stored.event}: {outcome.name.lower().replace('_', ' ')}")
            failed |= outcome.name != "HANDLED"
    if failed:
        raise click.exceptions.Exit(1)


@postal_cli.command("fault", cls=_CommandWithTables)
@name_option
@click.argument("fault", required=False)
@click.option(
    "--times",
    type=click.IntRange(1),
    help="Number of calls it applies to; all if not given.",
)
@click.option("--clear", is_flag=True, help="Switch all faults off first.")
def fault_command(
    name: str | None,
    fault: str | None,
    times: int | None,
    clear: bool,  # noqa: FBT001
) -> None:
    """Switch a fault of the sandbox on, and list those that are on.

    FAULT applies to API calls ({api_faults}) or to webhooks ({webhook_faults}).
    """
    content = {"fault": fault, "times": times, "clear": clear}
    active = _ask_sandbox(find_postal(name), "fault", content)
    for one, left in active.items():
        often = "until cleared" if left is None else f"{left} x"
        click.echo(f"{one}: {often}")
    if not active:
        click.echo("no faults are active")


def _show(made: Mapping[str, Any]) -> None:
    """Print the app's response. The exit code is 1 unless it counts as success."""
    if not _tell(made):
        raise click.exceptions.Exit(1)


def _tell(made: Mapping[str, Any]) -> bool:
    """Print the app's response; return whether it counts as success."""
    about = f" about the message to {made['recipient']}" if made["recipient"] else ""
    click.echo(f"{made['event']}{about}, posted to {made['url'] or 'no URL'}")
    if made["answer"]:
        click.echo(f"  response: {made['answer'].strip()}")
    if made["status"] == -2:
        click.echo(
            "  Is the app running? Set its URL by `flask postal sandbox --app-url`."
        )
    click.echo(f"  {made['verdict']}")
    return bool(made["state"] == "taken")


def _ask_sandbox(
    postal: PostalInterface, path: str, content: Mapping[str, Any]
) -> Mapping[str, Any]:
    """Call a control route of the sandbox that the app sends to."""
    import requests

    from ..sandbox_client import call_sandbox

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
        raise no_sandbox(postal) from None
    if not response.ok:
        said = answer.get("error") or f"HTTP {response.status_code}"
        raise click.ClickException(f"the sandbox refused: {said}")
    return answer
