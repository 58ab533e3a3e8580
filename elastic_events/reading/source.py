"""Where records are read from: SQLite, JSON Lines, a directory of flight recorders, a NATS stream."""

from collections.abc import Callable, Iterator
from pathlib import Path

from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record

__all__ = ("read_records",)


def read_records(
    source: str | Path, damaged: Callable[[str, str], object] = lambda _where, _reason: None
) -> Iterator[Record]:
    """Yield the records of `source`; what cannot be read is passed over, and `damaged(where, reason)` is told.

    Raises:
        InputError: there is nothing to read at all: a missing, empty-named or foreign input.
    """
    text = str(source)
    if text.startswith("nats://"):
        from elastic_events.sinks.nats_read import read_nats_sync

        yield from read_nats_sync(text)
        return
    path = Path(source)
    if path.is_dir():
        from elastic_events.recorder import read_directory

        yield from read_directory(path, lambda file, reason: damaged(file.name, reason))
        return
    if not path.exists():
        raise InputError(
            f"{path}: no such file or directory; give a SQLite or JSON Lines file, a recorder directory or nats://"
        )
    from elastic_events.sinks.jsonl import read_jsonl
    from elastic_events.sinks.sqlite import is_sqlite, read_sqlite

    read = read_sqlite if is_sqlite(path) else read_jsonl
    yield from read(path, damaged=lambda where, reason: damaged(f"{path.name}:{where}", reason))
