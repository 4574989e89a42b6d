"""Commands about the ledger: relay, mails, retry, cancel."""

from __future__ import annotations

import logging
import signal
from typing import Any

import click
from flask import current_app

from ..interface import PostalInterface
from .group import explained, find_postal, logged, name_option, postal_cli

__all__ = ["cancel_command", "mails_command", "relay_command", "retry_command"]


@postal_cli.command("relay")
@name_option
@click.option(
    "--threads",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Number of messages that are sent at a time.",
)
def relay_command(name: str | None, threads: int) -> None:
    """Deliver the messages of the ledger, until SIGTERM or Ctrl-C.

    Several relays may run at a time, on several machines.
    """
    from ..ledger.relay import Relay

    app = current_app._get_current_object()  # type: ignore[attr-defined]
    relay = Relay(app, _ledger(find_postal(name)), threads=threads)

    def stop(number: int, frame: Any) -> None:
        relay.stop()

    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, stop)
    with logged("flask_postal.ledger"):
        logging.getLogger("flask_postal.ledger").info("delivering messages")
        relay.run()
    click.echo("stopped")


@postal_cli.command("mails")
@name_option
@click.option("--state", help="Such as queued, doubtful or failed.")
@click.option("--recipient", help="An address, as it is sent.")
@click.option("--limit", default=50, show_default=True, type=click.IntRange(1))
def mails_command(
    name: str | None, state: str | None, recipient: str | None, limit: int
) -> None:
    """List messages of the ledger, the newest first."""
    ledger = _ledger(find_postal(name))
    with explained():
        records = ledger.find(state=state, recipient=recipient, limit=limit)
    for record in records:
        to = ", ".join(recipient.envelope for recipient in record.recipients)
        due = f", due {record.due_at:%Y-%m-%d %H:%M:%S} UTC" if record.due_at else ""
        click.echo(f"{record.id}  {record.state}{due}, to {to}")
        if record.error:
            click.echo(f"    {record.error}")


@postal_cli.command("retry")
@name_option
@click.argument("mail_id", type=int)
@click.option("--yes", is_flag=True, help="Don't ask.")
def retry_command(
    name: str | None,
    mail_id: int,
    yes: bool,  # noqa: FBT001 - click passes it by its name
) -> None:
    """Queue a failed or doubtful message again."""
    ledger = _ledger(find_postal(name))
    with explained():
        record = ledger.get(mail_id)
        if record.state == "doubtful" and not yes:
            click.confirm(
                "Postal may have accepted this message. If it has, the recipients that"
                " are not known to have it get it twice. Queue it again?",
                abort=True,
            )
        ledger.retry(record)
    click.echo(f"message {mail_id} is queued")


@postal_cli.command("cancel")
@name_option
@click.argument("mail_id", type=int)
@click.option("--yes", is_flag=True, help="Don't ask.")
def cancel_command(
    name: str | None,
    mail_id: int,
    yes: bool,  # noqa: FBT001
) -> None:
    """Cancel a message that has not been sent."""
    ledger = _ledger(find_postal(name))
    with explained():
        record = ledger.get(mail_id)
        if not yes:
            click.confirm(f"Never send message {mail_id}?", abort=True)
        ledger.cancel(record)
    click.echo(f"message {mail_id} is cancelled")


def _ledger(postal: PostalInterface) -> Any:
    if postal.ledger is None:
        raise click.ClickException(
            "this app has no ledger; write Postal(ledger=Ledger(db))"
        )
    return postal.ledger
