"""Commands about the events of the ledger: events, reconcile."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import click
from flask.cli import with_appcontext

from ..outcome import redact
from .group import find_postal, limit_option, name_option, postal_cli
from .ledger import find_ledger, ledger_explained

__all__ = ["events_group", "reconcile_command"]

#: Characters of a body that are shown.
SHOWN = 4000


@postal_cli.group("events", invoke_without_command=True)
@with_appcontext
@name_option
@click.option("--dead", is_flag=True, help="Only events that are given up.")
@limit_option
@click.pass_context
def events_group(
    context: click.Context,
    name: str | None,
    dead: bool,  # noqa: FBT001 - click passes it by its name
    limit: int,
) -> None:
    """List events that receivers have not handled, the newest first."""
    context.obj = name
    if context.invoked_subcommand is not None:
        return
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        for record in ledger.find_events(state="dead" if dead else None, limit=limit):
            for line in _described(record):
                click.echo(line)


def _described(record: Any) -> Iterator[str]:
    """Describe an event in lines: what it is, its state, and why it failed."""
    due = f", due {record.due_at:%Y-%m-%d %H:%M:%S} UTC" if record.due_at else ""
    about = f", {record.address}" if record.address else ""
    attempts = f", {record.attempts} attempts" if record.attempts else ""
    yield f"{record.id}  {record.state}{due}, {record.event_type}{about}{attempts}"
    if record.error:
        yield f"    {record.error}"


@events_group.command("show")
@click.argument("event_id", type=click.IntRange(1, 2**63 - 1))
@click.pass_obj
def show_command(name: str | None, event_id: int) -> None:
    """Show an event, its receivers and the tracebacks of its last failures."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        record = ledger.get_event(event_id)
        for line in _described(record):
            click.echo(line)
        stored = f"{record.created_at:%Y-%m-%d %H:%M:%S} UTC"
        answered = "not answered yet" if record.verdict is None else record.verdict
        click.echo(f"    from {record.server} by {record.source}, stored {stored}")
        click.echo(f"    Postal was answered: {answered}")
        for receiver in ledger.receivers_of(record):
            click.echo(f"    handled by {receiver}")
        for failure in record.failures or ():
            click.echo(f"\n{failure['at']}  {failure['receiver']}")
            click.echo(failure["traceback"].rstrip())
        body = record.content()
        click.echo(f"\n{_shown(body)}")


@postal_cli.command("reconcile")
@name_option
@click.option(
    "--since",
    required=True,
    help="An ISO date or time, such as 2026-11-28T03:00; in UTC unless it says.",
)
def reconcile_command(name: str | None, since: str) -> None:
    """Ask Postal for events that never came, after an outage.

    The relay does it by itself, for each message in its time. This asks at once about
    all messages that were enqueued since a time, with 120 calls in a minute at most.
    """
    try:
        at = datetime.fromisoformat(since)
    except ValueError:
        raise click.BadParameter(
            f"{since!r} is no ISO date", param_hint="--since"
        ) from None
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        done = ledger.reconcile(at if at.tzinfo else at.replace(tzinfo=UTC))
    click.echo(
        f"asked about {done.recipients} recipients: {done.missed} events were missing"
    )


def _shown(body: bytes | None) -> str:
    if body is None:
        return "its body has been deleted"
    text = redact(body[:SHOWN].decode("utf-8", "replace"))
    more = f"\n... {len(body):,} bytes in all" if len(body) > SHOWN else ""
    return f"{text}{more}"


@events_group.command("retry")
@click.argument("event_id", type=click.IntRange(1, 2**63 - 1))
@click.pass_obj
def retry_event_command(name: str | None, event_id: int) -> None:
    """Call the receivers of an event again that have not handled it."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        ledger.retry(ledger.get_event(event_id))
        ledger.db.session.commit()
    click.echo(f"event {event_id} is queued")
