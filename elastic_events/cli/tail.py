"""`elastic-events tail`: the records of files, recorders and streams, one line each."""

import sys
import time
from collections import deque
from collections.abc import Iterable, Iterator
from functools import partial
from heapq import merge
from itertools import islice
from operator import attrgetter
from typing import BinaryIO

import click

from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.cli.output import tell
from elastic_events.reading.follow import Follower, follower
from elastic_events.reading.once import Each
from elastic_events.sinks.console import format_record, wants_color
from elastic_events.sinks.jsonl_read import CUT
from elastic_events.sinks.stored import NothingYet

__all__ = ("command",)

#: Seconds between two looks at what is followed.
INTERVAL = 0.2


@click.command("tail")
@click.argument("sources", nargs=-1, required=True, metavar="SOURCE...")
@click.option("-f", "--follow", is_flag=True, help="Go on printing what is written, until Ctrl-C.")
@click.option("-n", "--lines", type=click.IntRange(min=0), metavar="N", help="Only the last N records; all by default.")
@click.option("--color/--no-color", default=None, help="Colour; by default on a terminal.")
def command(sources: tuple[str, ...], follow: bool, lines: int | None, color: bool | None) -> None:
    """Print the records of each SOURCE: a SQLite or JSON Lines file, a directory of flight recorders, a NATS stream.

    One escaped line a record: local time, rank or pid, name, fields. Works while they are being written. Several sources
    are one list by time. What comes twice stands once. -f waits for what is not there yet, and says where a file
    was cut, replaced or put aside.
    """
    show = partial(_show, sys.stdout.buffer, wants_color(1) if color is None else color)
    inputs, each = [_Input(source, follow) for source in sources], Each()
    try:
        shown = show(_last(_look(inputs, each), lines))
        damage = [reason for one in inputs for reason in one.damage()]
        if damage and not (shown or follow or lines == 0):
            raise InputError(f"no record can be read from {', '.join(sources)} ({damage[0]})")
        while follow:
            for one in inputs:
                one.tell()
            time.sleep(INTERVAL)
            show(_look(inputs, each))
    except KeyboardInterrupt:
        pass  # how following ends
    finally:
        for one in inputs:
            one.tell()
            one.close()


class _Input:
    """One source, and what is to be said of it."""

    def __init__(self, source: str, follow: bool) -> None:
        self._source = source
        self._follow = follow
        self._follower: Follower | None = None
        self._waits = False
        self._found: dict[tuple[int, str], None] = {}  # what is damaged, in this look and in the one before
        self._known: dict[tuple[int, str], None] = {}

    def look(self) -> Iterator[Record]:
        """Give what is new. Where there is nothing yet, who follows waits, and that is said once."""
        try:
            if self._follower is None:
                self._follower = follower(self._source, self._damaged)
            yield from self._follower.look()
            self._waits = False
        except NothingYet as error:
            if not self._follow:
                raise
            if not self._waits:
                tell(f"waiting: {error}")
            self._waits = True

    def damage(self) -> list[str]:
        """Return why lines of the last look could not be read."""
        return [reason for _, reason in self._found]

    def tell(self) -> None:
        """Say on stderr what was damaged and was not so at the look before."""
        found = [place for place in self._found if place not in self._known]
        self._known, self._found = self._found, {}
        if found:
            line, reason = found[0]
            more = f", and {len(found) - 1} more" if len(found) > 1 else ""
            tell(f"skipped line {line}: {reason}{more}" if line else f"{reason}{more}")

    def close(self) -> None:
        """Let go of it."""
        if self._follower is not None:
            self._follower.close()

    def _damaged(self, line: int, reason: str) -> None:
        if not (self._follow and reason.endswith(CUT)):  # the writer is about to finish it
            self._found[line, reason] = None


def _look(inputs: list[_Input], each: Each) -> Iterable[Record]:
    looks = [one.look() for one in inputs]
    # Of one source in its own order. It, too, may hold a record twice: a batch that was written again, two lanes of one URL.
    return filter(each.new, looks[0] if len(looks) == 1 else merge(*looks, key=attrgetter("time_ns")))


def _last(records: Iterable[Record], lines: int | None) -> Iterable[Record]:
    return records if lines is None else deque(records, maxlen=lines)


def _show(output: BinaryIO, color: bool, records: Iterable[Record]) -> bool:
    """Print records; return whether there was one."""
    records, any_of_them = iter(records), False
    # In pieces, so that the first lines of a large file are there at once.
    while piece := [f"{format_record(record, color=color)}\n" for record in islice(records, 200)]:
        output.write("".join(piece).encode(errors="backslashreplace"))
        output.flush()
        any_of_them = True
    return any_of_them
