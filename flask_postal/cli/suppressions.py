"""Commands about the addresses that nothing is sent to."""

from __future__ import annotations

import csv
import sys
from collections.abc import Mapping, Sequence
from datetime import UTC, datetime
from typing import Any, TextIO

import click
from flask.cli import with_appcontext

from .group import find_postal, limit_option, name_option, postal_cli
from .ledger import find_ledger, ledger_explained

__all__ = ["suppressions_group"]

#: The reasons; the package that has them is not imported for the help.
REASONS = ["bounce", "failures", "complaint", "unsubscribe", "manual"]
#: The columns of a file that does not name them.
_ALONE = ["address"]
COLUMNS = ["address", "list", "reason", "since", "until", "detail"]
_reason_option = click.option("--reason", type=click.Choice(REASONS))


@postal_cli.group("suppressions", invoke_without_command=True)
@with_appcontext
@name_option
@_reason_option
@click.option("--address", help="Only this one.")
@limit_option
@click.pass_context
def suppressions_group(
    context: click.Context,
    name: str | None,
    reason: str | None,
    address: str | None,
    limit: int,
) -> None:
    """List suppressed addresses, the newest first, and those that Postal holds."""
    context.obj = name
    if context.invoked_subcommand is not None:
        return
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        for record in ledger.suppressions.find(address, reason=reason, limit=limit):
            click.echo(_described(record))
        if reason is None:
            for held in ledger.suppressions.held_by_postal(address, limit=limit):
                click.echo(
                    f"{held}  held by Postal: on its own suppression list, from which"
                    " it is removed in Postal's web interface"
                )


def _described(record: Any) -> str:
    mailing_list = f" for the list {record.list}" if record.list else ""
    until = ""
    if record.until is not None:
        word = "ended" if record.until < datetime.now(UTC) else "until"
        until = f", {word} {record.until:%Y-%m-%d}"
    detail = f"\n    {record.detail}" if record.detail else ""
    return (
        f"{record.address}  {record.reason}{mailing_list}, since"
        f" {record.since:%Y-%m-%d %H:%M} UTC{until}{detail}"
    )


@suppressions_group.command("add")
@click.argument("address")
@click.option("--list", "mailing_list", help="Only for mail of this list.")
@click.option(
    "--reason", type=click.Choice(REASONS), default="manual", show_default=True
)
@click.option("--detail", help="A note.")
@click.pass_obj
def add_command(
    name: str | None,
    address: str,
    mailing_list: str | None,
    reason: str,
    detail: str | None,
) -> None:
    """Send nothing to an address any more."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        added = ledger.suppressions.add(
            address, reason, list=mailing_list, detail=detail
        )
        ledger.db.session.commit()
    click.echo("added" if added else "it is suppressed for this reason already")


@suppressions_group.command("remove")
@click.argument("address")
@click.option("--list", "mailing_list", help="Only for this list.")
@_reason_option
@click.pass_obj
def remove_command(
    name: str | None, address: str, mailing_list: str | None, reason: str | None
) -> None:
    """Send to an address again."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        removed = ledger.suppressions.remove(address, list=mailing_list, reason=reason)
        ledger.db.session.commit()
    if not removed:
        raise click.ClickException(f"{address} is not suppressed")
    click.echo(f"removed {removed} reason(s)")


@suppressions_group.command("export")
@click.pass_obj
def export_command(name: str | None) -> None:
    """Write all suppressed addresses as CSV to the standard output."""
    ledger = find_ledger(find_postal(name))
    with ledger_explained():
        records = ledger.suppressions.find(limit=None)
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(COLUMNS)
    for record in reversed(records):
        until = "" if record.until is None else record.until.isoformat()
        writer.writerow(
            [
                *(record.address, record.list, record.reason),
                *(record.since.isoformat(), until, record.detail or ""),
            ]
        )


@suppressions_group.command("import")
@click.argument("file", type=click.File("r", encoding="utf-8-sig"))
@click.option(
    "--reason",
    type=click.Choice(REASONS),
    default="manual",
    show_default=True,
    help="For lines that have none.",
)
@click.pass_obj
def import_command(name: str | None, file: TextIO, reason: str) -> None:
    """Suppress the addresses of a CSV file: all of them, or none.

    Its first line names the columns, of which only "address" is needed: address, list,
    reason, since, until, detail. A file without such a line has an address in each.
    """
    ledger, added, seen = find_ledger(find_postal(name)), 0, 0
    with ledger_explained():
        reader, names = csv.reader(file), None
        try:
            for row in reader:
                if names is None and any(cell.strip() for cell in row):
                    names = _names(row)
                    if names is not _ALONE:
                        continue
                values = dict(zip(names or _ALONE, map(str.strip, row), strict=False))
                if any(values.values()):
                    seen += 1
                    added += _add(ledger, values, reason)
        except (ValueError, csv.Error) as error:
            ledger.db.session.rollback()
            raise click.ClickException(
                f"line {reader.line_num}: {error}; nothing was imported"
            ) from None
        ledger.db.session.commit()
    click.echo(f"added {added} of {seen}; the others were there already")


def _names(row: Sequence[str]) -> Sequence[str]:
    """Return the names of the columns, given the first row of a file."""
    lower = [cell.strip().lower() for cell in row]
    return lower if "address" in lower else _ALONE


def _add(ledger: Any, values: Mapping[str, str], reason: str) -> bool:
    added: bool = ledger.suppressions.add(
        values.get("address", ""),
        values.get("reason") or reason,
        list=values.get("list") or None,
        detail=values.get("detail") or None,
        since=_time(values.get("since")),
        until=_time(values.get("until")),
    )
    return added


def _time(text: str | None) -> datetime | None:
    """Read an ISO time, in UTC unless it says."""
    if not text:
        return None
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)
