"""What comes to a source after it was read: each look gives what is new since the one before."""

from collections.abc import Iterable, Iterator
from contextlib import suppress
from operator import attrgetter
from pathlib import Path
from typing import Any, Protocol

from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.reading.source import is_folder
from elastic_events.recorder.reader import RecorderReader
from elastic_events.sinks.jsonl_read import read_jsonl
from elastic_events.sinks.rotated import is_there, list_parts
from elastic_events.sinks.sqlite import is_sqlite, read_sqlite
from elastic_events.sinks.stored import Damaged, NothingYet, Reading

__all__ = ("Follower", "follower")


class Follower(Protocol):
    """One source, look by look. For one thread at a time."""

    def look(self) -> Iterable[Record]:
        """Give what came since the last look; of a file in the order of its store, else by time.

        Raises:
            NothingYet: there is nothing to read, yet or any more; the next look may find it.
            InputError: what is there cannot be read.
        """

    def close(self) -> None:
        """Let go of what is open."""


def follower(source: str, damaged: Damaged) -> Follower:
    """Return what follows `source`, which has to be there by now; `damaged` is told what could not be read.

    Raises:
        NothingYet: there is no such file or directory, yet.
        InputError: a stream cannot be reached.
    """
    if source.startswith(("nats://", "tls://")):
        from elastic_events.sinks.nats_follow import NatsFollower

        return NatsFollower(source)
    path = Path(source)
    if is_folder(path):
        return _Directory(path, damaged)
    # What is not there, or holds nothing, may become a file of either kind, or a directory.
    if not is_there(path):
        raise NothingYet(f"{path} does not exist")
    if not _size(path) and not list_parts(path):
        raise NothingYet(f"{path} is empty")
    return _File(path, damaged, sqlite=is_sqlite(path))


def _size(path: Path) -> int:
    with suppress(FileNotFoundError):  # it is being put aside
        return path.stat().st_size
    return 0


class _File:
    """A SQLite file, or a JSON Lines file with its parts."""

    def __init__(self, path: Path, damaged: Damaged, *, sqlite: bool) -> None:
        self._path = path
        self._damaged = damaged
        self._read: Any = read_sqlite if sqlite else read_jsonl
        self._position: Any = None

    def look(self) -> Iterator[Record]:
        reading: Reading[Any] = self._read(self._path, after=self._position, damaged=self._damaged)
        yield from reading
        self._position = reading.position

    def close(self) -> None:
        """Nothing stays open between two looks."""


class _Directory:
    """Flight recorders: those of living processes, of dead ones, and those that are yet to come."""

    def __init__(self, path: Path, damaged: Damaged) -> None:
        self._path = path
        self._damaged = damaged
        self._readers: dict[Path, RecorderReader | None] = {}  # None: cannot be read, and that is told
        self._lost: dict[Path, int] = {}

    def look(self) -> list[Record]:
        paths = sorted(self._path.glob("*.ring"))
        if not paths and not self._readers:
            raise NothingYet(f"{self._path} holds no flight recorder")
        for path in paths:
            if path not in self._readers:
                self._readers[path] = self._open(path)
        records: list[Record] = []
        for path, reader in list(self._readers.items()):
            if reader is not None:
                records += reader.rest()  # of one that a collector has removed, too: it is still mapped
                self._tell_losses(path, reader)
            if path not in paths:
                del self._readers[path]
        records.sort(key=attrgetter("time_ns"))
        return records

    def close(self) -> None:
        """Forget the maps."""
        self._readers.clear()

    def _open(self, path: Path) -> RecorderReader | None:
        try:
            return RecorderReader(path)
        except InputError as error:
            self._damaged(0, str(error))
            return None

    def _tell_losses(self, path: Path, reader: RecorderReader) -> None:
        lost = sum(reader.lost.values())
        new = lost - self._lost.get(path, 0)
        self._lost[path] = lost
        if new:
            self._damaged(0, f"{path.name}: {new:,} lost ({', '.join(reader.lost)}), {lost:,} in all")
