"""What a story needs of a SQLite file, and no more: most of ten million records are metrics, which say "still alive"."""

import sqlite3
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, suppress
from heapq import merge
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Kind, Record
from elastic_events.reading.builder import Builder, Heard
from elastic_events.reading.speaker import DEATHS
from elastic_events.reading.story import Process
from elastic_events.sinks.sqlite import connect_to_read
from elastic_events.sinks.sqlite_schema import ALL_CONTEXTS, SELECT, from_row

__all__ = ("scan", "spoken", "words")

_KINDS: tuple[Kind, ...] = ("event", "rdzv", "metric")

_EVENTS = "SELECT time_ns, context, seq, monotonic_ns, name, source, metadata FROM events"

# torch's own words, of the processes that told no story in ours.
_MESSAGES = """
SELECT time_ns, context, seq, monotonic_ns, NULL, NULL, message FROM rdzv_events
WHERE context NOT IN (SELECT context FROM events WHERE name = 'job.started') ORDER BY time_ns, entry
"""

# The index of (origin, seq) finds an end at once, however many points there are.
_LAST_METRIC = """
SELECT contexts.context, time_ns, monotonic_ns FROM contexts JOIN metrics ON metrics.entry =
    (SELECT entry FROM metrics WHERE metrics.origin = contexts.origin ORDER BY seq DESC LIMIT 1)
"""
_FIRST_METRIC = """
SELECT time_ns, monotonic_ns FROM metrics
WHERE origin = (SELECT origin FROM contexts WHERE context = ?) ORDER BY seq LIMIT 1
"""
_ORIGIN = "SELECT DISTINCT origin FROM contexts WHERE run_id = ? AND process = ?"
_LEDGERS = "SELECT context, seq, ledger FROM ledgers ORDER BY entry"


def scan(path: Path, builder: Builder, damaged: Callable[[str, str], object], *, again: bool = True) -> None:
    """Give `builder` the events, rendezvous messages and ledgers of `path`, and when each process's metrics were.

    A row that cannot be read is told to `damaged`. With `again` false no other source has its records, too: in one
    database each stands once.

    Raises:
        InputError: it is not one of ours, or newer than this version knows.
    """
    try:
        with closing(connect_to_read(path)) as connection:
            connection.execute("PRAGMA cache_size = -65536")  # 64 MiB: the ends of the metrics lie far apart
            contexts = {number: Context(*rest) for number, *rest in connection.execute(ALL_CONTEXTS)}
            tell = lambda at, reason: damaged(f"{path.name}, record of {at}", reason)  # noqa: E731
            _scan(connection, contexts, builder, tell, again)
    except sqlite3.Error as error:
        raise InputError(f"cannot read {path}: {error}") from None


def words(path: Path, processes: Iterable[Process], count: int) -> dict[Process, list[Record]]:
    """Return the last `count` records of each of `processes` that `path` holds, the oldest first."""
    found: dict[Process, list[Record]] = {}
    with closing(connect_to_read(path)) as connection:
        for process in processes:
            context = process.context
            origins = connection.execute(_ORIGIN, (context.run_id, context.process)).fetchall()
            records = [record for (origin,) in origins[:1] for record in _last(connection, origin, context, count)]
            found[process] = sorted(records, key=attrgetter("monotonic_ns"))[-count:]
    return found


def spoken(record: Record) -> bool:
    """Whether the process said it itself: not its sinks, and not the collector that found it dead."""
    return record.kind != "ledger" and record.name not in DEATHS


def _last(connection: sqlite3.Connection, origin: int, context: Context, count: int) -> Iterator[Record]:
    for kind in _KINDS:
        query = f"{SELECT[kind]} WHERE origin = ? ORDER BY seq DESC LIMIT ?"
        rows = connection.execute(query, (origin, count + 1)).fetchall()
        for _, _, *row in reversed(rows):
            with suppress(InputError, TypeError, ValueError, msgspec.MsgspecError):
                record = from_row(kind, row, context)
                if spoken(record):
                    yield record


def _scan(
    connection: sqlite3.Connection,
    contexts: dict[int, Context],
    builder: Builder,
    damaged: Callable[[int, str], object],
    again: bool,
) -> None:
    known: dict[int, Heard] = {}
    decode = msgspec.json.Decoder().decode
    for time_ns, number, seq, monotonic_ns, name, source, content in _in_order(connection):
        try:
            heard = known.get(number)
            if heard is None:
                heard = known[number] = builder.heard(contexts[number], time_ns)
            if not builder.first(heard, name, seq, again=again):
                continue
            speaker = heard.speaker
            if name is None:
                speaker.message(time_ns, content, monotonic_ns)
            else:
                speaker.event(time_ns, name, source, decode(content), monotonic_ns)
        except (LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
            damaged(time_ns, f"{type(error).__name__}: {error}")
    for number, time_ns, monotonic_ns in connection.execute(_LAST_METRIC):
        heard = known.get(number)
        if heard is None:  # it recorded nothing but metrics
            first, first_monotonic = connection.execute(_FIRST_METRIC, (number,)).fetchone()
            heard = builder.heard(contexts[number], first)
            heard.speaker.seen(first, first_monotonic)
        heard.speaker.seen(time_ns, monotonic_ns)
    for number, seq, ledger in connection.execute(_LEDGERS):
        builder.ledger(contexts[number], seq, decode(ledger))


def _in_order(connection: sqlite3.Connection) -> Iterator[tuple[Any, ...]]:
    """Return events and messages in the order in which they were stored, or of their time; a message has no name."""
    messages = connection.execute(_MESSAGES)
    first = messages.fetchone()
    if first is None:
        return connection.execute(f"{_EVENTS} ORDER BY entry")
    return merge(connection.execute(f"{_EVENTS} ORDER BY time_ns, entry"), [first], messages, key=itemgetter(0))
