"""Commands for an app and its Postal server: check, keys, send-test."""

from __future__ import annotations

import click
from flask import current_app

from ..errors import TransportError
from .group import explained, find_postal, name_option, no_sandbox, postal_cli, quiet

__all__ = ["check_command", "keys_command", "send_test_command"]

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}


@postal_cli.command("check")
@name_option
@click.option("--url", help="URL at which Postal reaches this app.")
def check_command(name: str | None, url: str | None) -> None:
    """Check settings, API, ledger, keys, webhooks and receivers.

    No mail is sent. The exit code is 1 if anything is wrong.
    """
    from ..checks import check

    if url is not None and not url.startswith(("http://", "https://")):
        raise click.UsageError("--url must begin with http:// or https://")
    postal = find_postal(name)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    errors = 0
    # The unsigned test requests would be logged as errors among the findings.
    with quiet("flask_postal.webhooks"):
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
    """List the keys that webhook signatures are verified with.

    The exit code is 1 if there are none.
    """
    postal = find_postal(name)
    webhooks = postal.webhooks
    with quiet("flask_postal.webhooks"):
        keys = webhooks.find_keys(None)
    origin = f"{postal.settings.prefix}WEBHOOK_KEY"
    if webhooks.discovers_keys:
        origin = f"{postal.settings.api_url}/.well-known/jwks.json"
    for key in keys:
        click.echo(f"{key.kid}  {key.bits} bits  {origin}")
    if not keys and webhooks.discovers_keys:
        raise click.ClickException(f"no keys could be fetched from {origin}")
    if not keys:
        raise click.ClickException(
            f"there is no key; set {postal.settings.prefix}WEBHOOK_KEY to what"
            " `postal default-dkim-record` prints"
        )


@postal_cli.command("send-test")
@name_option
@click.argument("address")
@click.option("--from", "sender", help="Sender; POSTAL_DEFAULT_SENDER if not given.")
def send_test_command(name: str | None, address: str, sender: str | None) -> None:
    """Send a test message through a real Postal or the sandbox."""
    from ..sending.message import Message

    postal = find_postal(name)
    message = Message(
        "Test of Flask-Postal",
        address,
        body="This mail was sent by `flask postal send-test`.\n",
        html="<p>This mail was sent by <code>flask postal send-test</code>.</p>\n",
        sender=sender,
    )
    # Silences the warning that an app outside of debug mode sends to a sandbox: this
    # command runs without debug mode whatever mode the app runs in.
    with explained(), quiet("flask_postal.sending"):
        try:
            result = postal.send(message)
        except TransportError as error:
            if postal.settings.uses_sandbox and not error.maybe_sent:
                raise no_sandbox(postal) from None
            raise
    if result.suppressed:
        click.echo(
            f"suppressed: {postal.settings.prefix}SUPPRESS_SEND or MAIL_SUPPRESS_SEND"
            " is on, or the app is testing"
        )
    for recipient in result.recipients.values():
        click.echo(
            f"{postal.settings.api_url} accepted the message to {recipient.address}:"
            f" id {recipient.id}, token {recipient.token}"
        )
