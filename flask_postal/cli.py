"""``flask postal``: commands for the app at hand."""

from __future__ import annotations

from typing import TYPE_CHECKING

import click
from flask import current_app
from flask.cli import AppGroup

if TYPE_CHECKING:
    from .extension import Postal

__all__ = ["postal_cli"]

postal_cli = AppGroup("postal", help="Send and receive mail with Postal.")

_COLOURS = {"ok": "green", "warning": "yellow", "error": "red"}

name_option = click.option(
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

    postal = _postal(name)
    app = current_app._get_current_object()  # type: ignore[attr-defined]
    errors = 0
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
    keys = inbox.find_keys(None)
    origin = f"{postal.settings.prefix}WEBHOOK_KEY"
    if inbox.discovers_keys:
        origin = f"{postal.settings.api_url}/.well-known/jwks.json"
    for key in keys:
        click.echo(f"{key.kid}  {key.bits} bits  {origin}")
    if not keys:
        raise click.ClickException(
            f"there is no key; set {postal.settings.prefix}WEBHOOK_KEY to what"
            " `postal default-dkim-record` prints"
        )


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
