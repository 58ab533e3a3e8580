"""What a story needs of a SQLite file, and no more: most of ten million records are metrics, which say "still alive"."""

import sqlite3
from collections.abc import Callable, Generator, Iterable, Iterator, Mapping
from contextlib import closing, suppress
from heapq import merge
from itertools import chain, islice
from operator import attrgetter, itemgetter
from pathlib import Path
from typing import Any, cast

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Kind, Record
from elastic_events.reading.ahead import MANY, Rows, ahead
from elastic_events.reading.builder import Builder, Marks
from elastic_events.reading.said import DEATHS
from elastic_events.reading.speaker import TORCH, Speaker
from elastic_events.reading.story import Process
from elastic_events.sinks.sqlite import connect_to_read
from elastic_events.sinks.sqlite_schema import SELECT, contexts_in, from_row
from elastic_events.sinks.stored import are_whole

__all__ = ("scan", "spoken", "words")

_KINDS: tuple[Kind, ...] = ("event", "rdzv", "metric")

# Most events are marks of steps: for these a small number stands for the name, and no text is made of it.
_NAME = "CASE name WHEN 'step.ended' THEN 0 WHEN 'step.started' THEN 1 ELSE name END"
_EVENTS = Rows(("time_ns", "context", "seq", "monotonic_ns", "metadata", _NAME), "events", "entry", "metadata", 4)
_BY_TIME = f"SELECT {', '.join(_EVENTS.columns)} FROM events ORDER BY time_ns, entry"  # noqa: S608

# Whose word an event was is asked of torch's own alone: the index of names finds these few.
_SOURCES = f"SELECT context, seq, source FROM events WHERE name >= '{TORCH}' AND name < '{TORCH}~'"  # noqa: S608

# torch's own words, of the processes that told no story in ours.
_MESSAGES = """
SELECT time_ns, context, seq, monotonic_ns, message, NULL FROM rdzv_events
WHERE context NOT IN (SELECT context FROM events WHERE name = 'job.started') ORDER BY time_ns, entry
"""

# The index of (origin, seq) finds an end at once, however many points there are.
_LAST_METRICS = Rows(
    ("time_ns", "contexts.context", "monotonic_ns"),
    """contexts JOIN metrics ON metrics.entry =
    (SELECT entry FROM metrics WHERE metrics.origin = contexts.origin ORDER BY seq DESC LIMIT 1)""",
    "contexts.context",
    numbers=3,
)
_FIRST_METRIC = """
SELECT time_ns, monotonic_ns FROM metrics
WHERE origin = (SELECT origin FROM contexts WHERE context = ?) ORDER BY seq LIMIT 1
"""
_ORIGIN = "SELECT DISTINCT origin FROM contexts WHERE run_id = ? AND process = ?"

_LAST_EVENT = "SELECT max(entry) FROM events"
_LEDGERS = "SELECT time_ns, context, seq, ledger FROM ledgers ORDER BY entry"

_decode = msgspec.json.Decoder().decode


def scan(path: Path, builder: Builder, damaged: Callable[[str, str], object], *, again: bool = True) -> None:
    """Give `builder` the events, rendezvous messages and ledgers of `path`, and when each process's metrics were.

    A row that cannot be read is told to `damaged`. With `again` false no other source has its records, too: in one
    database each stands once.

    Raises:
        InputError: it is not one of ours, or newer than this version knows.
    """
    try:
        with closing(connect_to_read(path)) as connection:
            connection.execute("BEGIN")  # all of one moment, of a file that is being written
            tell = lambda at, reason: damaged(f"{path.name}, record of {at}", reason)  # noqa: E731
            _scan(connection, _contexts(connection, tell), builder, tell, again)
    except sqlite3.Error as error:
        raise InputError(f"cannot read {path}: {error}") from None


def _contexts(connection: sqlite3.Connection, damaged: Callable[[int, str], object]) -> dict[int, Context]:
    """Return all contexts by number. What many have in common, such as a run's id, a host's name, a rank, is one object."""
    one = dict[Any, Any]().setdefault
    return {
        number: Context(one(run_id, run_id), process, one(host, host), pid, *map(one, rest, rest))
        for number, (run_id, process, host, pid, *rest) in contexts_in(connection, damaged)
    }


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
    ledgers = []
    for time_ns, number, seq, ledger in _whole(connection.execute(_LEDGERS), 3, damaged):
        try:
            ledgers.append((contexts[number], seq, _decode(ledger), time_ns))
        except (LookupError, TypeError, msgspec.MsgspecError) as error:
            damaged(time_ns, f"{type(error).__name__}: {error}")
    # Each is its context until something of it comes: of hundreds of thousands one dict is enough.
    processes = cast("dict[int, Context | Speaker]", contexts)
    (total,) = connection.execute(_LAST_EVENT).fetchone()
    sources = {(number, seq): source for number, seq, source in connection.execute(_SOURCES)}
    marks = Marks()
    with closing(_in_order(connection, damaged)) as parts:
        for number, rows in enumerate(parts, 1):
            _take(rows, processes, marks, sources, builder, damaged, again)
            builder.progress(min(1.0, number * MANY / (total or 1)))
    with closing(ahead(_LAST_METRICS.parts(connection))) as parts:
        points = chain.from_iterable(_checked(some, _LAST_METRICS, damaged) for some in parts)
        lonely = [point for point in points if not _seen(processes, *point)]
    for time_ns, number, monotonic_ns in lonely:
        context = processes[number]
        assert isinstance(context, Context)
        first = list(_whole(connection.execute(_FIRST_METRIC, (number,)), 2, damaged))
        speaker = builder.heard(context, first[0][0] if first else time_ns)
        for point in (*first, (time_ns, monotonic_ns)):
            speaker.seen(*point)
    for context, seq, ledger, time_ns in ledgers:
        builder.ledger(context, seq, ledger, time_ns)


def _seen(processes: Mapping[int, Context | Speaker], time_ns: int, number: int, monotonic_ns: int) -> bool:
    """Take the last metric of a process; False: it recorded nothing else."""
    process = processes.get(number)
    if isinstance(process, Speaker):  # else its context is damaged, which was told
        process.seen(time_ns, monotonic_ns)
    return not isinstance(process, Context)


def _take(
    rows: Iterable[tuple[Any, ...]],
    processes: dict[int, Context | Speaker],
    marks: Marks,
    sources: Mapping[tuple[int, int], Any],
    builder: Builder,
    damaged: Callable[[int, str], object],
    again: bool,
) -> None:
    """Take rows. This is where the time goes: a mark of a step costs a look, a comparison and one call."""
    for row in rows:
        time_ns, number, seq, monotonic_ns, content, name = row
        try:
            speaker = processes[number]
            if isinstance(speaker, Context):
                speaker = processes[number] = builder.heard(speaker, time_ns)
            if name != 0 and name != 1:  # noqa: PLR1714 - a set costs more
                _told(builder, speaker, row, sources, again)
                continue
            mark = marks[content]  # before it counts as read: it may be damaged here, and whole in another source
            if not again and seq >= speaker.seq:
                speaker.seq = seq
            elif not builder.first(speaker, "", seq, again=again):
                continue
            speaker.step(name, time_ns, mark, monotonic_ns)
        except (LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
            damaged(time_ns, f"{type(error).__name__}: {error}")


def _told(
    builder: Builder, speaker: Speaker, row: tuple[Any, ...], sources: Mapping[tuple[int, int], Any], again: bool
) -> None:
    """Take an event that is no mark of a step, or a message, which has no name."""
    time_ns, number, seq, monotonic_ns, content, name = row
    facts = None if name is None else _decode(content)
    if not builder.first(speaker, name, seq, again=again):
        return
    if name is None:
        speaker.message(time_ns, content, monotonic_ns)
    else:
        text = content if type(content) is str else None
        speaker.event(time_ns, name, sources.get((number, seq)), facts, monotonic_ns, text)


def _in_order(
    connection: sqlite3.Connection, damaged: Callable[[int, str], object]
) -> Generator[Iterable[tuple[Any, ...]], None, None]:
    """Give events and messages, many at a time, as they were stored, or in the order of their time; a message has no name."""
    messages = _whole(connection.execute(_MESSAGES), _EVENTS.numbers, damaged)
    first = next(messages, None)
    if first is None:
        with closing(ahead(_EVENTS.parts(connection))) as parts:
            for part in parts:
                yield _checked(part, _EVENTS, damaged)
        return
    events = _whole(connection.execute(_BY_TIME), _EVENTS.numbers, damaged)
    rows = merge(events, [first], messages, key=itemgetter(0))
    while some := list(islice(rows, MANY)):
        yield some


def _checked(
    rows: Iterable[tuple[Any, ...]], asked: Rows, damaged: Callable[[int, str], object]
) -> Iterable[tuple[Any, ...]]:
    return _whole(rows, asked.numbers, damaged) if isinstance(rows, list) else rows


def _whole(
    rows: Iterable[tuple[Any, ...]], numbers: int, damaged: Callable[[int, str], object]
) -> Iterator[tuple[Any, ...]]:
    """Give rows without those of whose first values, so many `numbers`, one is none, after damage: these are told."""
    for row in rows:
        if are_whole(*row[:numbers]):
            yield row
        else:
            damaged(row[0], f"no numbers of a record: {row[:numbers]}")
