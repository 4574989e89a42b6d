"""Commands about the ledger: relay, mails, retry, cancel, purge, forget."""

from __future__ import annotations

import logging
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import click
from flask import current_app

from ..interface import PostalInterface
from .group import explained, find_postal, limit_option, logged, name_option, postal_cli

__all__ = [
    "cancel_command",
    "find_ledger",
    "forget_command",
    "ledger_explained",
    "mails_command",
    "purge_command",
    "relay_command",
    "retry_command",
]


#: The states of a message; the package that has them needs an extra.
STATES = [
    *("queued", "claimed", "sending", "accepted", "doubtful", "failed", "cancelled")
]


@postal_cli.command("relay")
@name_option
@click.option(
    "--threads",
    default=4,
    show_default=True,
    type=click.IntRange(1, 64),
    help="Number of messages that are sent at a time.",
)
@click.option(
    "--rate",
    type=click.FloatRange(min=0, min_open=True),
    help="Number of messages in a minute, at most, for a server with a send limit.",
)
def relay_command(name: str | None, threads: int, rate: float | None) -> None:
    """Deliver the messages of the ledger, until SIGTERM or Ctrl-C.

    It also looks up in Postal what became of messages whose response was lost. Several
    relays may run at a time, on several machines; --rate holds for each of them.
    """
    from ..ledger.relay import Relay

    app = current_app._get_current_object()  # type: ignore[attr-defined]
    ledger = find_ledger(find_postal(name)).of(app)
    relay = Relay(ledger, threads=threads, rate=rate)

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
@click.option("--state", type=click.Choice(STATES), help="Only messages in it.")
@click.option("--recipient", help="An address, as it is sent.")
@limit_option
def mails_command(
    name: str | None, state: str | None, recipient: str | None, limit: int
) -> None:
    """List messages of the ledger, the newest first."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        records = ledger.find(state=state, recipient=recipient, limit=limit)
    for record in records:
        for line in _described(record):
            click.echo(line)


def _described(record: Any) -> Iterator[str]:
    """Describe a message in lines: its state, what is known, what it waits for."""
    to = ", ".join(recipient.envelope for recipient in record.recipients)
    due = f", due {record.due_at:%Y-%m-%d %H:%M:%S} UTC" if record.due_at else ""
    yield f"{record.id}  {record.state}{due}, to {to}"
    if record.error:
        yield f"    {record.error}"
    if record.state == "doubtful":
        yield f"    Message-ID: {record.message_id}"
        taken = [r for r in record.recipients if r.postal_id is not None]
        for recipient in taken:
            yield f"    Postal has it for {recipient.envelope}: {recipient.postal_id}"
        missing = len(record.recipients) - len(taken)
        yield f"    not known for {missing} of {len(record.recipients)} recipients"
        why = record.waiting or "Postal's ids have not been looked up yet"
        yield f"    waiting: {why}"


@postal_cli.command("retry")
@name_option
@click.argument("mail_id", type=click.IntRange(1, 2**63 - 1))
@click.option("--yes", is_flag=True, help="Don't ask.")
def retry_command(
    name: str | None,
    mail_id: int,
    yes: bool,  # noqa: FBT001 - click passes it by its name
) -> None:
    """Queue a failed or doubtful message again."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        record = ledger.get(mail_id)
        if record.state == "doubtful" and not yes:
            click.confirm(
                "Postal may have accepted this message. If it has, the recipients that"
                " are not known to have it get it twice. Queue it again?",
                abort=True,
            )
        ledger.retry(record)
        ledger.db.session.commit()
    click.echo(f"message {mail_id} is queued")


@postal_cli.command("cancel")
@name_option
@click.argument("mail_id", type=click.IntRange(1, 2**63 - 1))
@click.option("--yes", is_flag=True, help="Don't ask.")
def cancel_command(
    name: str | None,
    mail_id: int,
    yes: bool,  # noqa: FBT001
) -> None:
    """Cancel a queued message, or give a doubtful one up."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        record = ledger.get(mail_id)
        question = f"Never send message {mail_id}?"
        if record.state == "doubtful":
            question = (
                "Postal may have accepted this message, which can't be undone. If it"
                " has not, the recipients that are not known to have it never get it."
                " Give it up?"
            )
        if not yes:
            click.confirm(question, abort=True)
        ledger.cancel(record)
        ledger.db.session.commit()
    click.echo(f"message {mail_id} is cancelled")


@postal_cli.command("purge")
@name_option
def purge_command(name: str | None) -> None:
    """Delete messages and events that are older than the settings keep.

    The content of accepted messages and the bodies of events after POSTAL_KEEP_CONTENT
    days (7), and finished messages and events after POSTAL_KEEP_ROWS days (90). Run it
    every night.
    """
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        purged = ledger.purge()
    click.echo(
        f"deleted {purged.mails} messages, and the content of {purged.contents} others;"
        f" {purged.events} events, and the body of {purged.bodies} others"
    )


@postal_cli.command("forget")
@name_option
@click.argument("address")
@click.option("--yes", is_flag=True, help="Don't ask.")
def forget_command(
    name: str | None,
    address: str,
    yes: bool,  # noqa: FBT001
) -> None:
    """Erase what the ledger keeps about an address."""
    ledger = find_ledger(find_postal(name))
    if not yes:
        click.confirm(
            f"Erase all messages to {address} and events about it?", abort=True
        )
    with ledger_explained():
        done = ledger.forget(address)
    click.echo(
        f"erased {done.recipients} recipients, the content of {done.mails} messages,"
        f" and {done.events} events"
    )
    if done.waiting:
        click.echo(
            f"the content of {done.waiting} messages to other recipients too stays"
            " until they are sent, and purged"
        )


@contextmanager
def ledger_explained() -> Iterator[None]:
    """Show errors as one line, those of the database too."""
    from sqlalchemy.exc import DBAPIError

    try:
        with explained():
            yield
    except DBAPIError as error:
        raise click.ClickException(
            f"the database fails: {error.orig}. Have its tables been created, by `flask"
            " db upgrade` or db.create_all()?"
        ) from None


def find_ledger(postal: PostalInterface) -> Any:
    """Return the ledger of a Postal."""
    if postal.ledger is None:
        raise click.ClickException(
            "this app has no ledger; write Postal(ledger=Ledger(db))"
        )
    return postal.ledger
