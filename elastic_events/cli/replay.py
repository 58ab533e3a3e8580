"""`elastic-events replay`: send dead letters, or any stored records, to a sink again, under the ids they have."""

from pathlib import Path

import anyio
import click
from elastic_events.reading.source import read_records

from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ElasticEventsError
from elastic_events.bus.record import Record
from elastic_events.bus.stats import LaneStats

__all__ = ("command",)


@click.command("replay")
@click.argument("source", type=click.Path(path_type=Path))
@click.option("--to", "url", required=True, help="URL of the sink, such as sqlite:///run.db.")
@click.option("--deadline", default=60.0, show_default=True, help="Seconds to wait for the sink.")
def command(source: Path, url: str, deadline: float) -> None:
    """Send the records of SOURCE to a sink. A sink that de-duplicates by id takes none of them twice."""
    records = [record for record in read_records(source) if record.kind != "ledger"]
    stats = anyio.run(_send, records, url, deadline)
    click.echo(f"{stats.delivered} of {len(records)} records delivered to {url}")
    if stats.delivered < len(records):
        raise ElasticEventsError(
            f"{len(records) - stats.delivered} records were not taken: {stats.last_error or 'deadline'}"
        )


async def _send(records: list[Record], url: str, deadline: float) -> LaneStats:
    async with EventBus(url, deadline=deadline) as bus:
        lane = bus.lanes[0]
        for start in range(0, len(records), 512):
            mark = bus.feed(records[start : start + 512])
            with anyio.move_on_after(deadline):
                while not bus.is_settled(mark):
                    await lane.progress.wait()
    return lane.stats()
