"""`elastic-events tail`: the records of a file, one line each."""

import sys
import time
from collections import deque
from collections.abc import Callable, Iterable
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import click

from elastic_events.bus.record import Record
from elastic_events.cli.output import tell
from elastic_events.sinks.console import format_record, wants_color
from elastic_events.sinks.jsonl import CUT, read_jsonl
from elastic_events.sinks.sqlite import is_sqlite, read_sqlite
from elastic_events.sinks.stored import Reading

__all__ = ("command",)

#: Seconds between two looks at a file that is followed.
INTERVAL = 0.2


@click.command("tail")
@click.argument("file")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is written, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N records; all by default.")
@click.option("--color/--no-color", default=None, help="Colour; by default on a terminal.")
def command(file: str, follow: bool, lines: int | None, color: bool | None) -> None:
    """Print the records of FILE, a SQLite database or a JSON Lines file with its rotated parts.

    One escaped line a record: local time, rank or pid, name, fields. Works while the file is being written.
    """
    output = sys.stdout.buffer
    show = partial(_show, output, wants_color(1) if color is None else color)
    damage = _Damage(follow)
    if not _is_file(file):
        from elastic_events.reading.source import read_records  # directories and brokers are rarer

        if follow:
            raise click.UsageError("-f follows SQLite and JSON Lines files only")
        show(_last(read_records(file), lines))
        return
    read = _reader(file, damage)
    try:
        reading = read(None)
        show(_last(reading, lines))
        while follow:
            damage.say()
            time.sleep(INTERVAL)
            reading = read(reading.position)
            show(reading)
    except KeyboardInterrupt:
        pass  # how following ends
    damage.say()


def _is_file(file: str) -> bool:
    path = Path(file)
    return "://" not in file and not path.is_dir()


def _reader(file: str, damage: "_Damage") -> Callable[[Any], Reading[Any]]:
    if is_sqlite(file):
        return lambda after: read_sqlite(file, after=after, damaged=damage)
    return lambda after: read_jsonl(file, after=after, damaged=damage)


def _last(records: Iterable[Record], lines: int | None) -> Iterable[Record]:
    return records if lines is None else deque(records, maxlen=lines)


def _show(output: BinaryIO, color: bool, records: Iterable[Record]) -> None:
    records = iter(records)
    # In pieces, so that the first lines of a large file are there at once.
    while piece := [f"{format_record(record, color=color)}\n" for record in islice(records, 200)]:
        output.write("".join(piece).encode(errors="backslashreplace"))
        output.flush()


class _Damage:
    """Counts damaged lines and says so once each time there are more."""

    def __init__(self, follow: bool) -> None:
        self.follow = follow
        self.places: dict[tuple[int, str], None] = {}
        self.said = 0

    def __call__(self, line: int, reason: str) -> None:
        if not (self.follow and reason.endswith(CUT)):  # the writer is about to finish it
            self.places[line, reason] = None

    def say(self) -> None:
        """Print what was found since the last time, on stderr."""
        found = list(self.places)[self.said :]
        self.said = len(self.places)
        if found:
            line, reason = found[0]
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            tell(f"skipped line {line}: {reason}{more}")
