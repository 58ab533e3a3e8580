"""`elastic-events replay`: send dead letters, or any stored records, to a sink again, under the ids they have."""

import anyio
import click

from elastic_events.bus.errors import ElasticEventsError
from elastic_events.cli.output import tell
from elastic_events.cli.recover import send
from elastic_events.reading.source import read_records

__all__ = ("command",)


@click.command("replay")
@click.argument("source")
@click.option("--to", "url", required=True, help="URL of the sink, such as sqlite:///run.db.")
@click.option("--deadline", default=60.0, show_default=True, help="Seconds to wait for the sink.")
def command(source: str, url: str, deadline: float) -> None:
    """Send the records of SOURCE to a sink. A sink that de-duplicates by id takes none of them twice."""
    records = [record for record in read_records(source) if record.kind != "ledger"]
    stats = anyio.run(send, records, url, deadline)
    tell(f"{stats.delivered} of {len(records)} records delivered to {url}", err=False)
    if stats.delivered < len(records):
        raise ElasticEventsError(f"not all were taken: {stats.last_error or 'the deadline passed'}")
