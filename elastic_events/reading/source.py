"""Where records are read from: SQLite, JSON Lines, a directory of flight recorders, a NATS stream."""

import errno
import os
import stat
from collections.abc import Callable, Collection, Iterable, Iterator
from functools import partial
from operator import attrgetter
from pathlib import Path

from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.reading.builder import Builder
from elastic_events.reading.database import scan, spoken, words
from elastic_events.reading.lines import lines_of, scan_lines
from elastic_events.reading.story import Process, Story
from elastic_events.sinks.options import without_login
from elastic_events.sinks.rotated import is_there
from elastic_events.sinks.sqlite import is_sqlite, read_sqlite
from elastic_events.sinks.stored import NothingYet, are_whole

__all__ = ("Damage", "is_folder", "last_words", "read_records", "read_stories")

#: Told what could not be read: where, and why.
Damage = Callable[[str, str], object]


def _ignore(_where: str, _reason: str) -> None:
    """Nobody wants to know."""


def read_records(source: str | Path, damaged: Damage = _ignore) -> Iterator[Record]:
    """Yield the records of `source`; what cannot be read is passed over, and `damaged(where, reason)` is told.

    Raises:
        InputError: there is nothing to read at all: a missing, empty-named or foreign input.
    """
    text = str(source)
    if text.startswith(("nats://", "tls://")):
        from elastic_events.sinks.nats_read import read_nats_sync

        yield from read_nats_sync(text, damaged=damaged)
        return
    path = Path(source)
    if is_folder(path):
        from elastic_events.recorder.reader import read_directory

        yield from read_directory(path, lambda file, reason: damaged(file.name, reason))
        return
    _check(path)
    from elastic_events.sinks.jsonl_read import read_jsonl

    read = read_sqlite if is_sqlite(path) else read_jsonl
    yield from read(path, damaged=_by_line(path, damaged))


def is_folder(path: Path) -> bool:
    """Return whether `path` is a directory, one that can be listed.

    Raises:
        InputError: it may not be looked at.
    """
    try:
        there = stat.S_ISDIR(path.stat().st_mode)
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError as error:
        raise InputError(f"cannot read {path}: {error.strerror}") from None
    if there and not os.access(path, os.R_OK | os.X_OK):  # a glob would find nothing in it
        raise InputError(f"cannot read {path}: {os.strerror(errno.EACCES)}")
    return there


def _check(path: Path) -> None:
    if not is_there(path):
        hint = "give a SQLite or JSON Lines file, a recorder directory or nats://"
        if str(path).startswith(("sqlite:/", "jsonl:/")):
            hint = "a sink's file is read by its path alone, such as run.db"
        raise NothingYet(f"{path}: no such file or directory; {hint}")


def _by_line(path: Path, damaged: Damage) -> Callable[[int, str], object]:
    return lambda where, reason: damaged(f"{path.name}:{where}", reason.removeprefix(f"{path.name}: "))


def read_stories(
    sources: Iterable[str | Path],
    damaged: Damage = _ignore,
    progress: Callable[[str, float], object] | None = None,
) -> list[Story]:
    """Return the stories of all that `sources` hold, read as one: give one source a node, in any order.

    `progress(source, share)` is told now and then how much of a file was read.

    Raises:
        InputError: a source is missing or foreign, or not one record can be read.
    """
    sources = list(sources)
    builder = Builder()
    for source in sources:
        builder.begin(_named(source))
        if progress is not None:
            builder.progress = partial(progress, _named(source))
        path = Path(source)
        if path.is_file() and is_sqlite(path):
            scan(path, builder, damaged, again=len(sources) > 1)
            continue
        if path.is_file():
            scan_lines(path, builder, _by_line(path, damaged))
            continue
        for record in _in_time(read_records(source, damaged), damaged):
            builder.add(record)
    if builder.disordered:
        builder = _put_in_order(sources, builder.disordered)
    return builder.stories()


def _named(source: str | Path) -> str:
    """Return a source's name, without its login; empty for a recorder directory, which holds no ledger."""
    return "" if is_folder(Path(source)) else without_login(str(source))


def _put_in_order(sources: Iterable[str | Path], disordered: Collection[tuple[str, str]]) -> Builder:
    """Read all again, and take the events of the `disordered` processes in the order in which these recorded them."""
    builder = Builder(disordered)
    for source in sources:
        builder.begin(_named(source))
        for record in _in_time(read_records(source), _ignore):
            builder.add(record)
    return builder


def _in_time(records: Iterable[Record], damaged: Damage) -> Iterator[Record]:
    """Give the records without those at times that no story can be told of."""
    for record in records:
        if are_whole(record.time_ns, record.monotonic_ns):
            yield record
        else:
            damaged(f"record {record.seq}", f"no time: {record.time_ns}, {record.monotonic_ns}")


def last_words(
    sources: Iterable[str | Path], processes: Collection[Process], count: int = 4
) -> dict[Process, list[Record]]:
    """Return the last `count` records of each of `processes`, the oldest first. Reads the sources again."""
    wanted = {process.context.process: process for process in processes}
    found: dict[Process, list[Record]] = {process: [] for process in processes}
    for source in sources if wanted else ():
        path = Path(source)
        if path.is_file() and is_sqlite(path):
            for process, records in words(path, processes, count).items():
                for record in records:
                    _keep(found[process], record, count)
            continue
        for record in lines_of(path, wanted) if path.is_file() else read_records(source):
            speaker = wanted.get(record.context.process)
            if speaker is not None and spoken(record):
                _keep(found[speaker], record, count)
    return found


def _keep(last: list[Record], record: Record, count: int) -> None:
    """Put a record among the last ones of its process, by its monotonic clock; one that comes twice counts once."""
    if len(last) == count and record.monotonic_ns < last[0].monotonic_ns:
        return
    if record.context.process and any(one.seq == record.seq and one.ring == record.ring for one in last):
        return
    last.append(record)
    last.sort(key=attrgetter("monotonic_ns"))
    del last[:-count]
