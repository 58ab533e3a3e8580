"""SQLite: the embedded default. One file, many writing processes, questions in SQL, and the reader."""

import contextlib
import os
import sqlite3
import stat
from collections.abc import Generator, Iterator, Sequence
from functools import partial
from heapq import merge
from itertools import chain
from operator import attrgetter
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import SplitResult, quote

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError, InputError, TransientError
from elastic_events.bus.record import Kind, Record
from elastic_events.sinks.blocking import EncodingSink
from elastic_events.sinks.columns import alike
from elastic_events.sinks.files import check_path, from_root
from elastic_events.sinks.options import Options, file_path
from elastic_events.sinks.sqlite_retention import Retention
from elastic_events.sinks.sqlite_schema import (
    SELECT,
    TABLES,
    alone,
    beside,
    check_owner,
    connect,
    contexts_in,
    create,
    find_context,
    from_row,
    identity,
    insert,
    is_passing,
    prepare,
    remove,
    to_values,
)
from elastic_events.sinks.stored import Damaged, NothingYet, Place, Reading, from_json, to_json

__all__ = ("SqlitePosition", "SqliteSink", "connect_to_read", "from_url", "is_sqlite", "read_sqlite")


#: Contexts whose place in the file is remembered.
CONTEXTS = 4096


class SqliteSink(EncodingSink["_Rows"]):
    """Inserts records into a SQLite database, each kind into a table of its own. Idempotent by record id.

    Delivered means: committed, in WAL mode with synchronous=NORMAL. It survives the death of every process that writes;
    a power failure may undo the last commits, but never leaves half a batch. A batch is one transaction.

    Several processes may write one file; each waits up to `timeout` seconds for the others. After a fork the child
    opens a connection of its own (F74). Do not put the file on a network file system: WAL needs shared memory. The
    file is made with mode 0600.

    Args:
        path: of the database; its directory must exist.
        timeout: seconds to wait for another writer.
        max_age, max_size: seconds and bytes that are kept, see `Retention`; None for all.
    """

    name = "sqlite"
    is_read_back = True  # its readers look for the ledger, whatever the lane wants
    thread_name = "elastic-events sqlite"

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        timeout: float = 10.0,
        max_age: float | None = None,
        max_size: int | None = None,
    ) -> None:
        super().__init__()
        self.retention: Retention = Retention(max_age, max_size)
        self.path: Path = from_root(path)
        self.timeout = timeout
        self._connection: sqlite3.Connection | None = None
        self._file: tuple[int, int] | None = None  # device and inode of the file that is open
        self._beside: dict[Path, tuple[int, int]] = {}  # those of its WAL, and of the WAL's index
        self._contexts: dict[Context, tuple[int, int]] = {}  # context -> its origin and context in the file

    def __repr__(self) -> str:
        return f"<SqliteSink {self.path}>"

    # --- in the sink's thread ---

    def check(self) -> None:
        """Say what is wrong with the path, without opening it: its directory is missing, it is a link, no file.

        Raises:
            ConfigError: that.
        """
        check_path(self.path)

    def open_now(self) -> None:
        """Open or create the database; `ConfigError` says what is wrong with it, `TransientError` that its disk is full, say."""
        create(self.path)
        try:
            self._connection = connect(self.path, self.timeout)
            prepare(self._connection, self.path)
            self._file = identity(self.path)
            self._beside = beside(self.path)
        except sqlite3.Error as error:
            self.close_now()
            wrong = TransientError if is_passing(error) else ConfigError
            raise wrong(f"cannot write to {self.path}: {error}") from None
        except ConfigError:
            self.close_now()
            raise

    def encode(self, records: Sequence[Record]) -> "_Rows":
        """Return the rows of `records`."""
        groups = [(group[0].kind, group[0].context, to_values(group)) for group in alike(records)]
        return _Rows(records, groups)

    def write_encoded(self, parts: Sequence["_Rows"]) -> None:
        """Insert the rows that are not there yet, in one transaction."""
        if self._connection is None or identity(self.path) != self._file:
            self._open_again()
        try:
            self._write(parts)
        except UnicodeEncodeError:  # a lone surrogate: the stored form has none
            self._write([self.encode([from_json(to_json(record)) for record in part.records]) for part in parts])
        if self._connection is not None:
            self.retention.apply(self._connection)

    def close_now(self) -> None:
        """Close the connection; the last one moves the WAL into the file."""
        connection, self._connection = self._connection, None
        self._contexts.clear()
        if connection is not None:
            connection.close()

    def abandon(self) -> None:
        """Keep the parent's connection from being closed here, which would drop its locks and its WAL (F74)."""
        if self._connection is not None:
            _inherited.append(self._connection)
        self._connection = None
        self._contexts = {}

    # --- inside ---

    def _open_again(self) -> None:
        """Somebody removed or replaced the file: what is written to the old one, nobody would ever read."""
        if self._connection is not None:
            self._let_go(self._connection)
        self.close_now()
        try:
            self.open_now()
        except ConfigError as error:
            self.close_now()
            raise OSError(str(error)) from None  # the file system may come back: worth another try

    def _let_go(self, connection: sqlite3.Connection) -> None:
        # The WAL stays under the name: who moved the file would miss what is in it, and the new one would be given that.
        with contextlib.suppress(sqlite3.Error):
            busy, held, moved = connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone()
            if busy and not held == moved >= 0:
                raise TransientError(f"{self.path} was moved or removed, and another program still reads what it was")
        # Nor may the new file share it with who has the moved one open: each would get pages of the other.
        with alone(self.path.parent):
            remove(self._beside)

    def _write(self, parts: Sequence["_Rows"]) -> None:
        connection = self._connection
        assert connection is not None
        rows: dict[tuple[Kind, tuple[int, int]], list[Any]] = {}
        if len(self._contexts) > CONTEXTS:
            self._contexts = {}
        known = dict(self._contexts)
        try:
            connection.execute("BEGIN IMMEDIATE")
            for kind, context, values in chain.from_iterable(part.groups for part in parts):
                rows.setdefault((kind, self._context_of(connection, context)), []).extend(values)
            for (kind, place), values in rows.items():
                insert(connection, kind, place, values)
            connection.execute("COMMIT")
        except BaseException:
            self._contexts = known
            # SQLite has rolled back by itself after some failures; where it cannot, closing the connection does.
            with contextlib.suppress(sqlite3.Error):
                if connection.in_transaction:
                    connection.execute("ROLLBACK")
            if connection.in_transaction:
                self.close_now()
            raise

    def _context_of(self, connection: sqlite3.Connection, context: Context) -> tuple[int, int]:
        found = self._contexts.get(context)
        if found is None:
            found = self._contexts[context] = find_context(connection, context)
        return found


class _Rows(NamedTuple):
    """Records, and of each run of one kind and context the values of its rows, one row behind the other.

    Not a tuple a row: thousands of them would be the garbage collector's, which stops every thread for each 700.
    """

    records: Sequence[Record]
    groups: list[tuple[Kind, Context, list[Any]]]


def from_url(url: SplitResult) -> SqliteSink:
    """Return the sink of `sqlite:///run.db?busy_timeout=10s&max_age=30d&max_size=10GB`; see `sinks.urls`."""
    options = Options(url)
    sink = SqliteSink(
        file_path(url),
        timeout=options.seconds("busy_timeout") or 10.0,
        max_age=options.seconds("max_age"),
        max_size=options.size("max_size"),
    )
    options.finish()
    return sink


class SqlitePosition(NamedTuple):
    """How far a reader has come: the last entry read of each table."""

    event: int = 0
    rdzv: int = 0
    metric: int = 0
    ledger: int = 0
    times: tuple[int | None, ...] = ()  #: of these entries, by which a file that was replaced is known


def read_sqlite(
    path: str | os.PathLike[str], *, after: SqlitePosition | None = None, damaged: Damaged | None = None
) -> Reading[SqlitePosition]:
    """Read the records of a database in the order of their time, those that are there when the reading begins.

    Works while other processes write; changes nothing. The `position` is that of the end of this look, once it is
    exhausted. A file that is not the one that was read up to `after` is told as entry 0, and read from its start. A row
    that holds no record, after somebody edited it, is told to `damaged` by its entry.

    Raises:
        InputError: there is no such file (`NothingYet`), or it is not one of ours, or newer than this version knows.
    """
    path = Path(path)
    connection = connect_to_read(path)
    begin = after or SqlitePosition()
    read = partial(_read, path, connection, _ignore if damaged is None else damaged)

    def start(place: Place[SqlitePosition]) -> Generator[Record, None, None]:
        records = read(place)
        next(records)  # into its `try`, so that a reading that nobody begins closes its connection too
        return records

    return Reading(begin, start)


_STARTED: Any = None

#: Connections of a parent process, in its forked child: never used, never closed.
_inherited: list[sqlite3.Connection] = []


def _ignore(entry: int, reason: str) -> None:
    """Nobody wants to know."""


def is_sqlite(path: str | os.PathLike[str]) -> bool:
    """Whether `path` is a SQLite database. Asks SQLite: opening the file could drop the locks of a writer in this process."""
    path = Path(path)
    while (before := _content(path)) is not None:
        found = _is_database(path)
        # A JSON Lines file may be put aside meanwhile: what could not be opened, or was just made and empty, says nothing.
        if not found or _content(path) == before:
            return found
    return False


def _content(path: Path) -> tuple[int, int] | None:
    """Return which file `path` is, None where it is none that holds something to read."""
    try:
        status = path.stat()
    except OSError:
        return None
    readable = stat.S_ISREG(status.st_mode) and status.st_size and os.access(path, os.R_OK)
    return (status.st_dev, status.st_ino) if readable else None


def _is_database(path: Path) -> bool:
    """Return what SQLite says; what it cannot say, the reader shall."""
    try:
        connection = connect(path, 1.0)
    except sqlite3.Error:
        return True
    try:
        connection.execute("PRAGMA schema_version")
    except sqlite3.Error as error:
        return bool(error.sqlite_errorcode != sqlite3.SQLITE_NOTADB)
    finally:
        connection.close()
    return True


def connect_to_read(path: Path) -> sqlite3.Connection:
    """Return a connection that changes nothing; `InputError` where the file is not one of ours."""
    if not path.exists():
        raise NothingYet(f"{path} does not exist")
    if not path.is_file():
        raise InputError(f"{path} is no file")
    # As a writer that writes nothing: a read-only connection leaves its -wal and -shm behind. Where there is no right
    # to make these, a file without a WAL can be read as one that nobody writes.
    modes = ["mode=rw", "mode=ro"]
    if not path.with_name(f"{path.name}-wal").exists():
        modes.append("mode=ro&immutable=1")
    address = quote(os.fsencode(path.absolute()))
    failure: sqlite3.Error | None = None
    for mode in modes:
        connection = None
        try:
            connection = sqlite3.connect(
                f"file://{address}?{mode}", uri=True, timeout=10, isolation_level=None, check_same_thread=False
            )
            connection.execute("PRAGMA query_only = 1")
            if check_owner(connection, path, InputError) == 0:
                raise NothingYet(f"{path} holds no records: it is an empty database")
            return connection  # noqa: TRY300
        except sqlite3.Error as error:
            failure = error
            if connection is not None:
                connection.close()
        except InputError:
            if connection is not None:
                connection.close()
            raise
    raise InputError(f"cannot read {path}: {failure}")


def _read(
    path: Path, connection: sqlite3.Connection, damaged: Damaged, place: Place[SqlitePosition]
) -> Generator[Record, None, None]:
    try:
        yield _STARTED
        begin = place.position
        if begin.times and _is_another(connection, begin):
            damaged(0, f"{path.name} was replaced or emptied: read from its start")
            begin = SqlitePosition()
        event, rdzv, metric, ledger = (_last(connection, table) for table in TABLES.values())
        end = SqlitePosition(event, rdzv, metric, ledger)
        end = end._replace(times=_times(connection, end))
        contexts = {number: Context(*values) for number, values in contexts_in(connection, damaged)}
        streams = [
            _read_table(connection, kind, contexts, getattr(begin, kind), getattr(end, kind), damaged)
            for kind in TABLES
        ]
        yield from merge(*streams, key=attrgetter("time_ns"))
        place.position = end
    except sqlite3.Error as error:
        raise InputError(f"cannot read {path}: {error}") from None
    finally:
        connection.close()


def _last(connection: sqlite3.Connection, table: str) -> int:
    (entry,) = connection.execute(f"SELECT coalesce(max(entry), 0) FROM {table}").fetchone()  # noqa: S608
    return int(entry)


def _times(connection: sqlite3.Connection, position: SqlitePosition) -> tuple[int | None, ...]:
    """Return when the entries of `position` were recorded. Not those of ledgers, which take the place of older ones."""
    found: list[int | None] = []
    for kind in ("event", "rdzv", "metric"):
        query = f"SELECT time_ns FROM {TABLES[kind]} WHERE entry = ?"  # noqa: S608
        found.append(next((time_ns for (time_ns,) in connection.execute(query, (getattr(position, kind),))), None))
    return tuple(found)


def _is_another(connection: sqlite3.Connection, position: SqlitePosition) -> bool:
    """Whether the file is not the one of `position`. An entry that is gone while later ones are there was too old to keep."""
    kinds: tuple[Kind, ...] = ("event", "rdzv", "metric")
    found = zip(kinds, position.times, _times(connection, position), strict=True)
    return any(
        was != now and (now is not None or _last(connection, TABLES[kind]) <= getattr(position, kind))
        for kind, was, now in found
    )


def _read_table(
    connection: sqlite3.Connection, kind: Kind, contexts: dict[int, Context], begin: int, end: int, damaged: Damaged
) -> Iterator[Record]:
    # From the start the index gives the order, and the first record at once; a look at what is new sorts that alone.
    order = "+time_ns" if begin else "time_ns"
    query = f"{SELECT[kind]} WHERE entry > ? AND entry <= ? ORDER BY {order}, entry"
    for entry, context, *row in connection.execute(query, (begin, end)):
        try:
            yield from_row(kind, row, contexts[context])
        except (InputError, LookupError, TypeError, ValueError, msgspec.MsgspecError) as error:
            damaged(entry, f"{TABLES[kind]}: {type(error).__name__}: {error}")
