"""The tables of a SQLite file, their rows, and who may write them."""

import fcntl
import os
import sqlite3
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from itertools import chain, repeat
from pathlib import Path
from typing import Any
from urllib.parse import quote

import msgspec

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError, InputError
from elastic_events.bus.record import Kind, Record, record_of
from elastic_events.sinks.columns import are_numbers, are_strict_events, columns
from elastic_events.sinks.files import check_path, failure, open_private
from elastic_events.sinks.stored import FIELDS, Damaged, are_whole, from_json, strict_json, to_json

__all__ = (
    "SELECT",
    "TABLES",
    "alone",
    "beside",
    "check_owner",
    "connect",
    "contexts_in",
    "create",
    "find_context",
    "from_row",
    "identity",
    "insert",
    "insertion",
    "is_passing",
    "prepare",
    "remove",
    "to_row",
    "to_values",
)

#: What `PRAGMA user_version` says; a file with a higher one is refused.
VERSION = 1

#: What `PRAGMA application_id` says: "elev".
APPLICATION = 0x656C6576

#: Rows of a statement, at most: giving it its values holds the GIL.
ROWS = 256

#: Seconds of waiting for others who begin or leave a file in the same directory.
PATIENCE = 1.0

_PASSING = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_IOERR, sqlite3.SQLITE_NOMEM, sqlite3.SQLITE_BUSY, sqlite3.SQLITE_LOCKED)

#: Kind -> its table.
TABLES: dict[Kind, str] = {"event": "events", "rdzv": "rdzv_events", "metric": "metrics", "ledger": "ledgers"}

_CONTEXT = Context.__struct_fields__

# The process of a record is two small numbers instead of its id's text: `origin` is run and process, which with the
# sequence number make the id, and `context` adds rank and the rest. A record costs about 100 bytes instead of 250.
_SCHEMA = """
CREATE TABLE IF NOT EXISTS contexts (
    context INTEGER PRIMARY KEY, origin INTEGER NOT NULL, run_id TEXT NOT NULL, process TEXT NOT NULL,
    host TEXT, pid INTEGER, rank INTEGER, local_rank INTEGER, world_size INTEGER, node_rank INTEGER, role TEXT,
    restart INTEGER
);
CREATE INDEX IF NOT EXISTS contexts_process ON contexts (run_id, process);
CREATE INDEX IF NOT EXISTS contexts_rank ON contexts (rank);
"""

# No type on payload columns: SQLite then keeps what it is given, an integer an integer. `exact` holds the whole stored
# record where the columns cannot give it back: NaN, booleans, integers beyond 64 bits, a list for a metric's value.
_TABLE = """
CREATE TABLE IF NOT EXISTS {table} (
    entry INTEGER PRIMARY KEY, origin INTEGER NOT NULL, seq INTEGER NOT NULL, context INTEGER NOT NULL,
    time_ns INTEGER NOT NULL, monotonic_ns INTEGER NOT NULL, name TEXT NOT NULL, channel TEXT,
    {columns}, recovered INTEGER NOT NULL, exact TEXT, UNIQUE (origin, seq{more})
);
CREATE INDEX IF NOT EXISTS {table}_time ON {table} (time_ns);
CREATE INDEX IF NOT EXISTS {table}_name ON {table} (name, time_ns);
"""


def create(path: Path) -> None:
    """Make the file before SQLite does, for its mode. Never opens one that exists.

    Closing a descriptor of a database drops the locks of every connection that this process has to it.
    """
    check_path(path)
    if path.exists():
        return
    try:
        with alone(path.parent):
            left = beside(path)  # before it is known that the file is not there
            if path.exists():
                return
            # Of a file that was moved or removed, and that others may have open: the new one would share the index of their WAL.
            remove(left)
            os.close(open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL))
    except FileExistsError:
        check_path(path)  # another process was faster
    except OSError as error:
        raise failure(path, error) from None


@contextmanager
def alone(directory: Path) -> Iterator[None]:
    """Keep all others who call this for `directory` out meanwhile, or the WAL that one finds left might be another's by now.

    Goes without where the directory cannot be locked, or somebody else's lock on it lasts: systemd-tmpfiles takes such.
    """
    with ExitStack() as stack:
        with suppress(OSError):
            descriptor = os.open(directory, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            stack.callback(os.close, descriptor)
            if _is_locked(descriptor):
                # By name, since a child that is forked meanwhile has a copy of the descriptor.
                stack.callback(fcntl.flock, descriptor, fcntl.LOCK_UN)
        yield


def _is_locked(descriptor: int) -> bool:
    deadline = time.monotonic() + PATIENCE
    while time.monotonic() < deadline:
        with suppress(BlockingIOError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return True
        time.sleep(0.001)
    return False


def beside(path: Path) -> dict[Path, tuple[int, int]]:
    """Return what SQLite keeps beside a file, the WAL and its index, as far as they are there; see `identity`."""
    places = (path.with_name(f"{path.name}{end}") for end in ("-wal", "-shm"))
    return {place: known for place in places if (known := identity(place))}


def remove(found: Mapping[Path, tuple[int, int]]) -> None:
    """Remove what `beside` found, unless it is gone, or another one has its name."""
    for place, known in found.items():
        if known == identity(place):
            place.unlink(missing_ok=True)


def identity(path: Path) -> tuple[int, int] | None:
    """Return the device and the inode of a file; None: it is not there."""
    try:
        status = path.lstat()
    except OSError:
        return None
    return status.st_dev, status.st_ino


def connect(path: Path, timeout: float) -> sqlite3.Connection:
    # With two slashes in front, which a path may begin with itself: behind them a host would stand, and there is none.
    address = f"file://{quote(os.fsencode(path.absolute()))}?mode=rw"
    # The thread that opens is the only one that writes; but an interpreter at its end may close from another.
    # Statements of all lengths up to `ROWS` are written, each some 100 KiB when it is compiled: keep a few, not all.
    return sqlite3.connect(
        address, uri=True, timeout=timeout, isolation_level=None, check_same_thread=False, cached_statements=8
    )


def is_passing(error: sqlite3.Error) -> bool:
    """Whether an error says nothing about the file: its disk is full or fails, memory is short, others use it."""
    return getattr(error, "sqlite_errorcode", 0) & 0xFF in _PASSING


def prepare(connection: sqlite3.Connection, path: Path) -> None:
    """Make the tables, unless they are there. Looks before it touches: the file may be somebody else's."""
    check_owner(connection, path, ConfigError)
    _patiently(lambda: connection.execute("PRAGMA journal_mode = WAL"), connection)
    connection.execute("PRAGMA synchronous = NORMAL")
    connection.execute("PRAGMA journal_size_limit = 67108864")
    connection.execute("BEGIN IMMEDIATE")
    if check_owner(connection, path, ConfigError) == 0:
        for statement in _statements():
            connection.execute(statement)
        connection.execute(f"PRAGMA application_id = {APPLICATION}")
        connection.execute(f"PRAGMA user_version = {VERSION}")
    connection.execute("COMMIT")


def _patiently(call: Callable[[], object], connection: sqlite3.Connection) -> None:
    """Call until it no longer says "locked": turning WAL on does not wait for other processes by itself."""
    (milliseconds,) = connection.execute("PRAGMA busy_timeout").fetchone()
    deadline = time.monotonic() + milliseconds / 1000
    done = False
    while not done:
        try:
            call()
            done = True
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() >= deadline:
                raise
            time.sleep(0.01)


def check_owner(connection: sqlite3.Connection, path: Path, wrong: type[ConfigError | InputError]) -> int:
    """Return the version of the schema, 0 for an empty file; raise `wrong` where the file is not ours to touch."""
    # Another process may make the tables meanwhile, all at once: whose they are is read after what there is to see.
    (tables,) = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()
    (version,) = connection.execute("PRAGMA user_version").fetchone()
    (application,) = connection.execute("PRAGMA application_id").fetchone()
    if application == APPLICATION and version > VERSION:
        raise wrong(
            f"{path} was written by a newer elastic-events (format {version}; this one knows {VERSION}): upgrade"
        )
    if application != APPLICATION and (tables or version):
        raise wrong(f"{path} is a database of another program: name a file of its own")
    return int(version)


def _statements() -> Iterator[str]:
    yield from filter(str.strip, _SCHEMA.split(";"))
    for kind, table in TABLES.items():
        # Every lane of a bus writes a ledger when it closes, at one and the same sequence number.
        more = ", channel" if kind == "ledger" else ""
        script = _TABLE.format(table=table, columns=", ".join(FIELDS[kind]), more=more)
        yield from filter(str.strip, script.split(";"))


def find_context(connection: sqlite3.Connection, context: Context) -> tuple[int, int]:
    """Return origin and context of `context`, inserted if it is new. Inside the transaction, so that no two are alike."""
    values = msgspec.structs.astuple(context)
    found = connection.execute(_FIND_CONTEXT, (context.run_id, context.process)).fetchall()
    for origin, number, *rest in found:
        if tuple(rest) == values:
            return origin, number
    (number,) = connection.execute("SELECT coalesce(max(context), 0) + 1 FROM contexts").fetchone()
    origin = found[0][0] if found else number
    connection.execute(_ADD_CONTEXT, (origin, number, *values))
    return origin, number


def to_values(records: Sequence[Record]) -> list[Any]:
    """Return the values of the rows of `records`, of one kind, one row behind the other; by columns where they allow it."""
    kind = records[0].kind
    seqs, times, clocks, names, channels, values, recovered, flat = columns(records)
    payload: Sequence[Sequence[Any]] | None = None
    if kind == "metric":
        payload = values if are_numbers(values[0], 2**63) else None  # which a column gives back as they were
    elif kind == "event":
        payload = _event_columns(*values, flat=flat)
    if payload is None or not (_TEXT.issuperset(map(type, names)) and _TEXT.issuperset(map(type, channels))):
        return list(chain.from_iterable(map(to_row, records)))
    return list(chain.from_iterable(zip(seqs, times, clocks, names, channels, *payload, recovered, repeat(None))))


def _event_columns(
    sources: Sequence[Any], timestamps: Sequence[Any], metadata: Sequence[Any], *, flat: bool
) -> Sequence[Sequence[Any]] | None:
    """Return the columns of events that strict JSON has as they are, if columns give them back as they were, else None."""
    if not (flat or are_strict_events(sources, timestamps, metadata)):
        return None
    if not (_INTEGERS.issuperset(map(type, timestamps)) and max(timestamps) < 2**63):
        return None
    if not _TEXT.issuperset(map(type, sources)):
        return None
    try:
        lines = _encoder.encode_lines(metadata).decode()
    except ValueError:  # a lone surrogate
        return None
    return sources, timestamps, lines.split("\n")[:-1]  # JSON escapes those in a text


def to_row(record: Record) -> tuple[Any, ...]:
    """Return the row of a record in its kind's table, but for origin and context."""
    if type(record.name) is not str or type(record.channel) not in (str, type(None)):
        record = from_json(to_json(record))
    fits = True
    payload: tuple[Any, ...]
    if record.kind == "metric":
        value = record.fields[0]
        fits = _fits(value) and type(value) is not str and value is not None
        payload = (value,) if fits else (_number(value),)
    elif record.kind == "ledger":
        payload = (strict_json(record.fields[0]).decode(),)
    elif record.kind == "event":
        source, timestamp, metadata = record.fields
        fits = _fits(source) and _fits(timestamp)
        payload = (source, timestamp) if fits else (_column(source), _column(timestamp))
        payload = (*payload, strict_json(metadata).decode())
    else:
        payload = record.fields
        if not all(map(_fits, payload)):
            fits = False
            payload = tuple(map(_column, payload))
    exact = None if fits else to_json(record).decode()
    head = (record.seq, record.time_ns, record.monotonic_ns, record.name, record.channel)
    return (*head, *payload, record.recovered, exact)


_TEXT, _INTEGERS = frozenset({str}), frozenset({int})
_encoder = msgspec.json.Encoder()


def _fits(value: Any) -> bool:
    """Whether a column gives back `value` as it was."""
    kind = type(value)
    if kind is int:
        return bool(-(2**63) <= value < 2**63)
    if kind is float:
        return bool(value - value == 0)
    return kind is str or value is None


def _column(value: Any) -> Any:
    return value if _fits(value) else strict_json(value).decode()


def _number(value: Any) -> float | None:
    """Return what SQL may sum up of a metric's value that does not fit: NaN is NULL, like a text or a list."""
    if isinstance(value, (bool, int, float)) and value == value:  # noqa: PLR0124 - NaN is what differs from itself
        return float(value)
    return None


def from_row(kind: Kind, row: Sequence[Any], context: Context) -> Record:
    seq, time_ns, monotonic_ns, name, channel, *fields, recovered, exact = row
    if exact is not None:
        return from_json(exact)
    if not are_whole(seq, time_ns, monotonic_ns):
        raise InputError(f"no numbers of a record: {(seq, time_ns, monotonic_ns)}")
    size = 64
    if kind in ("event", "ledger"):
        size += len(fields[-1])
        fields[-1] = msgspec.json.decode(fields[-1])
    return record_of(kind, seq, time_ns, monotonic_ns, name, channel, tuple(fields), context, size, bool(recovered))


_HEAD = ("seq", "time_ns", "monotonic_ns", "name", "channel")

#: Kind -> the columns of its table that a row is made of.
COLUMNS = {kind: (*_HEAD, *FIELDS[kind], "recovered", "exact") for kind in TABLES}

_FIND_CONTEXT = f"SELECT origin, context, {', '.join(_CONTEXT)} FROM contexts WHERE run_id = ? AND process = ?"  # noqa: S608
_ADD_CONTEXT = f"INSERT INTO contexts (origin, context, {', '.join(_CONTEXT)}) VALUES (?, ?{', ?' * len(_CONTEXT)})"  # noqa: S608
_ALL_CONTEXTS = f"SELECT context, {', '.join(_CONTEXT)} FROM contexts"  # noqa: S608

#: Of the values of a `Context`.
_TYPES = tuple(field.type for field in msgspec.structs.fields(Context))


def contexts_in(connection: sqlite3.Connection, damaged: Damaged) -> Iterator[tuple[int, list[Any]]]:
    """Give the number of each context, and the values of its fields; one that holds something else is told, and left out."""
    for number, *values in connection.execute(_ALL_CONTEXTS):
        if all(map(isinstance, values, _TYPES)):
            yield number, values
        else:
            damaged(number, f"contexts: no process: {values}")


def insert(connection: sqlite3.Connection, kind: Kind, place: tuple[int, int], values: Sequence[Any]) -> None:
    """Insert the `values` of rows, one row behind the other, of the origin and context `place`; many with each statement.

    A statement lets go of the GIL and asks for it again, for which it waits 5 ms in a process that is busy with Python: one
    for each row would write 100 rows a second there.
    """
    width = len(COLUMNS[kind])
    most = min(ROWS, (connection.getlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER) - len(place)) // width)
    for begin in range(0, len(values), most * width):
        part = values[begin : begin + most * width]
        connection.execute(insertion(kind, len(part) // width), [*place, *part])


def insertion(kind: Kind, count: int = 1) -> str:
    """Return the statement that inserts `count` rows; it leaves those that are there as they are."""
    # A record is what it was at the first writing; a ledger of the same moment may know more at the second.
    verb = "REPLACE" if kind == "ledger" else "IGNORE"
    rows = ", ".join([f"({', '.join('?' * len(COLUMNS[kind]))})"] * count)
    into = f"{TABLES[kind]} (origin, context, {', '.join(COLUMNS[kind])})"
    return f"INSERT OR {verb} INTO {into} SELECT ?, ?, * FROM (VALUES {rows})"  # noqa: S608


def _select(kind: Kind) -> str:
    return f"SELECT entry, context, {', '.join(COLUMNS[kind])} FROM {TABLES[kind]}"  # noqa: S608


SELECT = {kind: _select(kind) for kind in TABLES}
