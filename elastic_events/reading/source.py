"""Where records are read from: SQLite, JSON Lines, a directory of flight recorders, a NATS stream."""

from collections.abc import Callable, Collection, Iterable, Iterator
from pathlib import Path

from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.reading.builder import Builder
from elastic_events.reading.database import scan, spoken, words
from elastic_events.reading.story import Process, Story
from elastic_events.sinks.sqlite import is_sqlite, read_sqlite

__all__ = ("Damage", "last_words", "read_records", "read_stories")

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

        yield from read_nats_sync(text)
        return
    path = Path(source)
    if path.is_dir():
        from elastic_events.recorder.reader import read_directory

        yield from read_directory(path, lambda file, reason: damaged(file.name, reason))
        return
    if not path.exists():
        raise InputError(
            f"{path}: no such file or directory; give a SQLite or JSON Lines file, a recorder directory or nats://"
        )
    from elastic_events.sinks.jsonl import read_jsonl

    def tell(where: int, reason: str) -> None:
        damaged(f"{path.name}:{where}", reason.removeprefix(f"{path.name}: "))

    read = read_sqlite if is_sqlite(path) else read_jsonl
    yield from read(path, damaged=tell)


def read_stories(sources: Iterable[str | Path], damaged: Damage = _ignore) -> list[Story]:
    """Return the stories of all that `sources` hold, read as one: give one source a node, in any order.

    Raises:
        InputError: a source is missing or foreign, or not one record can be read.
    """
    builder = Builder()
    for source in sources:
        path = Path(source)
        if path.is_file() and is_sqlite(path):
            scan(path, builder, damaged)
            continue
        for record in read_records(source, damaged):
            builder.add(record)
    return builder.stories()


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
                found[process] = (found[process] + records)[-count:]
            continue
        for record in read_records(source):
            speaker = wanted.get(record.context.process)
            if speaker is not None and spoken(record):
                found[speaker] = [*found[speaker], record][-count:]
    return found
