"""`elastic-events recover`: what killed processes left in their flight recorders, by hand."""

import time
from collections import deque
from collections.abc import Sequence
from operator import attrgetter
from pathlib import Path

import anyio
import click

from elastic_events import EventBus
from elastic_events.bus.errors import ElasticEventsError, InputError
from elastic_events.bus.ledger import LaneStats
from elastic_events.bus.record import Record
from elastic_events.bus.text import counted
from elastic_events.cli.output import tell
from elastic_events.reading.source import is_folder
from elastic_events.recorder.directory import SPOOL
from elastic_events.recorder.reader import RecorderReader
from elastic_events.sinks.console import format_record

__all__ = ("command", "no_directory", "send")


def no_directory(directory: Path) -> InputError:
    """Return what to say of a directory of recorders that is not there."""
    return InputError(f"{directory}: no such directory; name the one that was in ELASTIC_EVENTS_DIR")


@click.command("recover")
@click.argument("directory", type=click.Path(path_type=Path))
@click.option(
    "--to", "url", help="Deliver to this sink, such as sqlite:///run.db. The files stay: ids keep it idempotent."
)
@click.option("--last", type=click.IntRange(1), metavar="N", help="Print the last N records of each process.")
@click.option("--timeout", default=60.0, show_default=True, help="Seconds to wait for the sink.")
def command(directory: Path, url: str | None, last: int | None, timeout: float) -> None:
    """Read the flight recorders in DIRECTORY: a line for each process, its last records, or all of it into a sink."""
    if not is_folder(directory):
        raise no_directory(directory)
    everything: list[Record] = []
    paths = sorted([*directory.glob("*.ring"), *directory.glob("*.bad")])
    if not paths:
        tell(f"{directory} holds no flight recorder: nothing was left")
    for path in paths:
        try:
            reader = RecorderReader(path)
            # A live file is read in turns, in each first the events: only their times tell which came last.
            records = sorted(reader.rest(), key=attrgetter("monotonic_ns"))
        except InputError as error:
            tell(f"skipped: {error}")
            continue
        tell(_line(reader, records), err=False)
        for record in deque(records, last or 0):
            click.echo(f"  {format_record(record)}")
        everything += records
    spooled = sum(path.stat().st_size for path in (directory / SPOOL).glob("*/*.spool"))
    waits = f"{spooled} bytes of records wait in the spool for a sink that was away: elastic-events collect --once {directory}"
    if spooled:
        tell(waits, err=False)
    if url is not None:
        stats = anyio.run(send, everything, url, timeout)
        tell(f"{stats.delivered} of {counted(len(everything), 'record')} delivered to {url}", err=False)
        if stats.delivered < len(everything):
            raise ElasticEventsError(f"not all were taken: {stats.last_error or 'the timeout passed'}")
        if spooled:
            raise ElasticEventsError(f"these were the rings' alone; {waits}")


async def send(records: Sequence[Record], url: str, timeout: float) -> LaneStats:
    """Deliver `records` to the sink of `url` until that takes none for `timeout` seconds; return the ledger."""
    async with EventBus(url, timeout=timeout, recorder=False) as bus:
        for start in range(0, len(records), 512):
            bus._feed(records[start : start + 512])
            if not await bus.flush(timeout):
                break  # what is left has not been tried: all of it would take as long again for each part
    return next(iter(bus.stats().lanes.values()))


def _line(reader: RecorderReader, records: list[Record]) -> str:
    context = reader.header.context
    state = "still running" if reader.alive else "ended in order" if reader.closed else "died"
    age = f", last record {(time.time_ns() - records[-1].time_ns) / 1e9:.1f} s ago" if records else ""
    lost = f", {sum(reader.lost.values())} lost ({', '.join(reader.lost)})" if reader.lost else ""
    rank = f"rank {context.rank}, " if context.rank is not None else ""
    return f"{rank}pid {context.pid} of run {context.run_id}: {state}, {counted(len(records), 'record')}{age}{lost}"
