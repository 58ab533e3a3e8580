"""`elastic-events summary`: a run on one screen."""

from itertools import chain

import click
from rich.console import Console

from elastic_events.bus.errors import InputError
from elastic_events.reading.source import read_records
from elastic_events.reading.summary import summary

__all__ = ("command",)


@click.command("summary")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
def command(sources: tuple[str, ...]) -> None:
    """Show attempts, the first failure and its last words, the training and the ledgers of SOURCE.

    A source is a SQLite or JSON Lines file, a directory of flight recorders or a NATS stream; several are read as one run.
    """
    skipped: list[str] = []

    def damaged(where: str, reason: str) -> None:
        skipped.append(f"{where}: {reason}")

    records = list(chain.from_iterable(read_records(source, damaged) for source in sources))
    if not records:
        why = f" ({skipped[0]})" if skipped else ""
        raise InputError(f"no record can be read from {', '.join(sources)}{why}")
    Console().print(summary(records))
    for line in skipped[:5]:
        click.echo(f"skipped {line}", err=True)
    if len(skipped) > 5:
        click.echo(f"and {len(skipped) - 5} more", err=True)
