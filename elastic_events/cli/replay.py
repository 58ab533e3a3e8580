"""`elastic-events replay`: send dead letters, or any stored records, to a sink again, under the ids they have."""

import anyio
import click

from elastic_events.bus.errors import ElasticEventsError
from elastic_events.bus.text import counted
from elastic_events.cli.output import tell
from elastic_events.cli.reading import Skipped
from elastic_events.cli.recover import send
from elastic_events.reading.once import Each
from elastic_events.reading.source import read_records

__all__ = ("command",)


@click.command("replay")
@click.argument("source")
@click.option("--to", "url", required=True, help="URL of the sink, such as sqlite:///run.db.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the sink.")
def command(source: str, url: str, timeout: float) -> None:
    """Send the records of SOURCE to a sink, each once. A sink that de-duplicates by id takes none that it has.

    What cannot be read is told, and the exit code is then not 0, however many of the others were delivered.
    """
    skipped, each = Skipped(), Each()
    records = [record for record in read_records(source, skipped) if record.kind != "ledger" and each.new(record)]
    if skipped.count and not records:
        raise skipped.nothing((source,))
    skipped.tell()
    stats = anyio.run(send, records, url, timeout)
    tell(f"{stats.delivered} of {counted(len(records) + skipped.count, 'record')} delivered to {url}", err=False)
    if stats.delivered < len(records):
        raise ElasticEventsError(f"not all were taken: {stats.last_error or 'the timeout passed'}")
    if skipped.count:
        raise ElasticEventsError(f"not all could be read: {counted(skipped.count, 'record')} of {source} damaged")
