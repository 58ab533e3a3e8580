"""SQLite: idempotent, indexed for the questions people ask, shared by processes, refused politely when it is not ours."""

import errno
import fcntl
import os
import sqlite3
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import pytest

from elastic_events.bus.context import Context
from elastic_events.bus.errors import ConfigError, InputError, TransientError
from elastic_events.sinks import sqlite, sqlite_schema
from elastic_events.sinks.sqlite import SqliteSink, is_sqlite, read_sqlite
from elastic_events.sinks.sqlite_schema import APPLICATION, TABLES, VERSION, check_owner, connect, create, prepare
from tests.programs import environment, python
from tests.sinks.factory import CONTEXT, event, ledger, metric, metrics, rdzv
from tests.streams import STREAMS, load, same


@pytest.fixture
def path(tmp_path: Path) -> Path:
    """Where the database is."""
    return tmp_path / "run.db"


@pytest.fixture
def sink(path: Path) -> Iterator[Callable[..., SqliteSink]]:
    """Sinks that are used from their own thread's side, without a loop."""
    made: list[SqliteSink] = []

    def make(**options: Any) -> SqliteSink:
        one = SqliteSink(path, **options)
        made.append(one)
        one.open_now()
        return one

    yield make
    for one in made:
        one.close_now()


def ask(path: Path, question: str, *values: Any) -> list[tuple[Any, ...]]:
    """Ask in SQL, as a user would."""
    connection = sqlite3.connect(path)
    try:
        return connection.execute(question, values).fetchall()
    finally:
        connection.close()


def test_a_record_is_there_once_however_often_it_is_written(sink: Any, path: Path) -> None:
    """F39: retry, replay and recovery write the same ids again; every kind is stored once."""
    records = [*metrics(3), event(0), event(1), rdzv(2), ledger(5), ledger(5, "jsonl")]
    one, two = sink(), sink()
    for _ in range(3):
        one.write_now(records)
        two.write_now(list(reversed(records)))
    assert sorted(record.id + record.channel for record in read_sqlite(path)) == sorted(
        record.id + record.channel for record in records
    )


def test_a_batch_is_few_statements(sink: Any, path: Path) -> None:
    """A statement waits for the GIL of a busy process."""
    one = sink()
    statements: list[str] = []
    one._connection.set_trace_callback(statements.append)
    one.write_now(metrics(511))
    assert len([text for text in statements if "INTO metrics" in text]) == 2
    assert [record.fields[0] for record in read_sqlite(path)] == [seq / 2 for seq in range(511)]


@pytest.mark.parametrize("most", [81, 82, 83, 999])
def test_a_database_that_takes_few_values_a_statement(most: int, sink: Any, path: Path) -> None:
    """SQLite may be built with a limit of 999, and a statement has two values more than those of its rows."""
    one = sink()
    one._connection.setlimit(sqlite3.SQLITE_LIMIT_VARIABLE_NUMBER, most)
    one.write_now(metrics(300))
    assert [record.fields[0] for record in read_sqlite(path)] == [seq / 2 for seq in range(300)]


@pytest.mark.skipif(sys.platform != "linux", reason="reads resident memory from /proc")
def test_batches_of_all_lengths_take_no_memory(tmp_path: Path) -> None:
    """Each length is a statement of its own, and compiled ones are large: 25 MiB more where all of them are kept."""
    script = """
import sys
from elastic_events.sinks.sqlite import SqliteSink
from elastic_events.sinks.sqlite_schema import ROWS
from tests.sinks.factory import metrics

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096 / 2**20

sink = SqliteSink(sys.argv[1])
sink.open_now()
sink.write_now(metrics(ROWS))
before, written = resident(), ROWS
for count in range(1, ROWS):
    sink.write_now(metrics(count, written))
    written += count
print(resident() - before)
"""
    done = subprocess.run(
        [sys.executable, "-c", script, str(tmp_path / "run.db")],
        env=environment(),
        capture_output=True,
        text=True,
        timeout=120,
        check=True,
    )
    assert float(done.stdout) < 12


def test_a_ledger_of_the_same_moment_is_the_last_one_written(sink: Any, path: Path) -> None:
    """A lane may report twice while nothing is emitted: what it said last counts."""
    one = sink()
    for delivered in (1, 2):
        one.write_now([ledger(5, fields=({"delivered": delivered},))])
    assert [record.fields for record in read_sqlite(path)] == [({"delivered": 2},)]


async def test_a_forked_child_does_not_close_its_parents_connection(path: Path) -> None:
    """F74: closing it would end a conversation that the parent has with the file."""
    one = SqliteSink(path)
    await one.open()
    parents = one._connection
    assert parents is not None
    one._pid = -1  # as if this were another process
    await one.open()
    assert one._connection is not parents
    assert sqlite._inherited == [parents]
    await one.write(metrics(3))
    one._pid = -1
    await one.aclose()
    assert parents.execute("SELECT count(*) FROM metrics").fetchone() == (3,)
    for connection in sqlite._inherited:
        connection.close()
    sqlite._inherited.clear()


def test_a_reading_that_nobody_begins_lets_go(sink: Any, path: Path) -> None:
    """A reading closes its connection when it is exhausted, closed, left midway or never begun."""
    one = sink()
    one.write_now(metrics(3))
    one.close_now()
    for leave in (lambda _: None, next, list, lambda reading: reading.close()):
        leave(read_sqlite(path))
        assert [link for link in Path("/proc/self/fd").iterdir() if os.path.realpath(link) == str(path)] == []


def test_a_file_that_is_moved_aside_has_all_that_was_committed(sink: Any, path: Path) -> None:
    """Who moves the file while it is written has every record of before, and the next file none of them."""
    one = sink()
    one.write_now(metrics(5))
    path.rename(path.with_name("kept.db"))
    one.write_now(metrics(5, 5))
    one.close_now()
    assert same(list(read_sqlite(path.with_name("kept.db"))), metrics(5))
    assert same(list(read_sqlite(path)), metrics(5, 5))


def test_a_file_that_two_write_is_moved_aside_whole(sink: Any, path: Path) -> None:
    """The next file shares no WAL with the moved one, which the other has open until it writes again, or for good."""
    one, two, three, kept = sink(), sink(), sink(), path.with_name("kept.db")
    one.write_now(metrics(5))
    two.write_now(metrics(5, 5))
    path.rename(kept)
    one.write_now(metrics(5, 10))
    two.write_now(metrics(5, 15))
    one.write_now(metrics(5, 20))
    for each in (two, three, one):
        each.close_now()
    assert same(list(read_sqlite(kept)), metrics(10))
    assert len(list(read_sqlite(path))) == 15
    assert sorted(file.name for file in path.parent.iterdir()) == ["kept.db", "run.db"]


@pytest.mark.parametrize("careful", [True, False])
def test_a_program_that_begins_the_next_file_shares_nothing_with_the_moved_one(
    sink: Any, path: Path, careful: bool
) -> None:
    """A writer that is idle has the moved file open, its WAL under the old name: there the new program lost its records."""
    idle, kept = sink(), path.with_name("kept.db")
    idle.write_now(metrics(5))
    if careful:  # who moves it has SQLite write it whole before
        with closing(sqlite3.connect(path)) as connection:
            connection.execute("PRAGMA wal_checkpoint(TRUNCATE)")
    path.rename(kept)
    script = f"""
from pathlib import Path
from elastic_events.sinks.sqlite import SqliteSink
from tests.sinks.factory import metrics
new = SqliteSink(Path({str(path)!r}), timeout=1)
new.open_now()
new.write_now(metrics(5, 5))
new.close_now()
"""
    done = python("-c", script, cwd=path.parent)
    assert done.returncode == 0, done.stderr
    idle.write_now(metrics(5, 10))
    idle.close_now()
    assert same(list(read_sqlite(kept)), metrics(5))
    assert same(list(read_sqlite(path)), metrics(10, 5))


def test_programs_that_begin_one_file_take_turns(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One looks what is left of a former file; until it has removed that, no other makes the file, and a WAL of its own."""
    seen: list[bool] = []
    other = threading.Thread(target=create, args=(path,))

    def look(path: Path) -> dict[Path, tuple[int, int]]:
        if not seen:
            seen.append(path.exists())
            other.start()
            other.join(0.1)
            seen.append(path.exists())
        return {}

    monkeypatch.setattr(sqlite_schema, "beside", look)
    create(path)
    other.join()
    assert path.exists()
    assert seen == [False, False]


@pytest.mark.parametrize("held", [True, False])
def test_a_directory_that_cannot_be_locked_has_its_file_all_the_same(
    path: Path, monkeypatch: pytest.MonkeyPatch, held: bool
) -> None:
    """Somebody keeps it locked, as against systemd-tmpfiles; or its file system knows no locks."""
    monkeypatch.setattr(sqlite_schema, "PATIENCE", 0.05)
    if not held:
        monkeypatch.setattr(sqlite_schema.fcntl, "flock", Mock(side_effect=OSError(errno.ENOLCK, "No locks available")))
    descriptor = os.open(path.parent, os.O_RDONLY)
    try:
        if held:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        create(path)
    finally:
        os.close(descriptor)
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_file_that_is_moved_while_it_is_read_waits_for_the_reader(sink: Any, path: Path) -> None:
    """What an open reader keeps in the WAL is not lost with it: the next write comes when the reader has ended."""
    one, kept = sink(timeout=0.1), path.with_name("kept.db")
    one.write_now(metrics(5))
    with closing(sqlite3.connect(path)) as reader:
        reader.execute("BEGIN")
        reader.execute("SELECT * FROM metrics").fetchone()
        one.write_now(metrics(5, 5))
        path.rename(kept)
        with pytest.raises(TransientError, match=r"run\.db was moved or removed, and another program still reads"):
            one.write_now(metrics(5, 10))
    one.write_now(metrics(5, 10))
    one.close_now()
    assert same(list(read_sqlite(kept)), metrics(10))
    assert len(list(read_sqlite(path))) == 5


def test_a_file_that_is_put_back_gets_no_page_of_the_one_that_was_written(sink: Any, path: Path) -> None:
    """Of a database in the place of the open one nothing is overwritten by the WAL of that."""
    other = SqliteSink(path.with_name("backup.db"))
    other.open_now()
    other.write_now(metrics(5))
    other.close_now()
    one = sink()
    one.write_now(metrics(2000, 100))
    path.with_name("backup.db").rename(path)
    one.write_now(metrics(5, 5))
    one.close_now()
    assert same(list(read_sqlite(path)), metrics(10))


def test_a_path_that_is_no_utf8_is_written_and_read(tmp_path: Path) -> None:
    """A path whose bytes are no UTF-8 names a database like any other."""
    odd = tmp_path / os.fsdecode(b"\xe9\xff %?.db")
    one = SqliteSink(odd)
    one.open_now()
    one.write_now(metrics(5))
    one.close_now()
    assert same(list(read_sqlite(odd)), metrics(5))
    assert is_sqlite(odd)


def test_one_process_with_two_contexts_keeps_both(sink: Any, path: Path) -> None:
    """A process whose rank changed keeps the rank that each record was made with, and its ids stay one set."""
    other = Context(CONTEXT.run_id, CONTEXT.process, "host", 7, rank=5)
    one = sink()
    one.write_now([metric(1), metric(2, context=other)])
    sink().write_now([metric(2, context=other), metric(1, context=other), metric(3)])
    assert [(record.seq, record.context.rank) for record in read_sqlite(path)] == [(1, 3), (2, 5), (3, 3)]


@pytest.mark.parametrize(
    ("question", "index"),
    [
        ("SELECT * FROM events WHERE name = 'worker.failed' ORDER BY time_ns LIMIT 1", "events_name"),
        ("SELECT * FROM rdzv_events ORDER BY time_ns DESC LIMIT 1", "rdzv_events_time"),
        (
            """SELECT json_extract(metadata, '$.step') FROM events JOIN contexts USING (context)
               WHERE name = 'step.ended' AND rank = 3 ORDER BY time_ns DESC LIMIT 1""",
            "events_name",
        ),
        ("SELECT value FROM metrics WHERE name = 'loss' ORDER BY time_ns DESC LIMIT 1", "metrics_name"),
        ("SELECT max(time_ns) FROM metrics", "metrics_time"),
    ],
)
def test_the_usual_questions_are_answered_from_an_index(question: str, index: str, sink: Any, path: Path) -> None:
    """First failure, last step of a rank, last loss: no table is scanned and nothing is sorted."""
    sink().write_now([event(seq, {"step": seq}, "step.ended") for seq in range(50)] + metrics(50, 100))
    plan = " ".join(row[3] for row in ask(path, f"EXPLAIN QUERY PLAN {question}"))
    assert f"USING INDEX {index}" in plan or f"USING COVERING INDEX {index}" in plan
    assert "TEMP B-TREE" not in plan
    for line in plan.split("SCAN ")[1:]:
        assert "USING" in line, plan


def test_sql_sees_numbers_and_json(sink: Any, path: Path) -> None:
    """F56: columns hold what SQL can use: numbers as numbers, NaN as NULL, metadata as JSON."""
    sink().write_now(
        [
            metric(1, 2),
            metric(2, 0.5),
            metric(3, float("nan")),
            metric(4, True),
            metric(5, "text"),
            event(6, {"a": [1]}),
        ]
    )
    assert ask(path, "SELECT sum(value), count(value), count(*) FROM metrics") == [(3.5, 3, 5)]
    assert ask(path, "SELECT json_extract(metadata, '$.a[0]') FROM events") == [(1,)]


@pytest.mark.parametrize("pages", range(17, 40))
def test_a_full_disk_loses_nothing_and_leaves_no_half_batch(pages: int, sink: Any, path: Path) -> None:
    """F77: the database is full at the n-th page, for every n: a batch is there whole or not at all, and once after a retry."""
    one = sink()
    one._connection.execute(f"PRAGMA max_page_count = {pages}")
    written = failed = 0
    while not failed:
        try:
            one.write_now([*metrics(20, written, name="m" * 50), event(written)])
            written += 20
        except sqlite3.OperationalError:  # "database or disk is full"
            failed = 1
    assert sum(record.kind == "metric" for record in read_sqlite(path)) == written
    if one._connection is not None:
        one._connection.execute("PRAGMA max_page_count = 100000")
    one.write_now([*metrics(20, written, name="m" * 50), event(written)])
    records = list(read_sqlite(path))
    assert [record.seq for record in records if record.kind == "metric"] == list(range(written + 20))
    assert sum(record.kind == "event" for record in records) == written // 20 + 1


@pytest.mark.parametrize("room", [1, 4_000, 20_000, 60_000, 120_000])
def test_a_write_that_the_system_refuses_loses_nothing(room: int, path: Path) -> None:
    """F77: the system refuses to let a file grow, wherever that hits: the batch is retried and stored once."""
    script = f"""
import resource, signal, sqlite3
from pathlib import Path
from elastic_events.sinks.sqlite import SqliteSink, read_sqlite
from tests.sinks.factory import metrics
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
path = Path({str(path)!r})
one = SqliteSink(path)
one.open_now()
one.write_now(metrics(10))
largest = max(file.stat().st_size for file in path.parent.iterdir())
resource.setrlimit(resource.RLIMIT_FSIZE, (largest + {room}, resource.RLIM_INFINITY))
start, failed = 10, 0
while not failed:
    try:
        one.write_now(metrics(50, start))
        start += 50
    except sqlite3.OperationalError as error:
        failed += 1
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
one.write_now(metrics(50, start))
assert [record.seq for record in read_sqlite(path)] == list(range(start + 50)), start
one.close_now()
"""
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)


def test_a_killed_writer_leaves_whole_batches(path: Path) -> None:
    """A process killed in the midst of writing leaves every batch it was told is delivered, and no half one."""
    script = f"""
from elastic_events.sinks.sqlite import SqliteSink
from tests.sinks.factory import metrics
one = SqliteSink({str(path)!r})
one.open_now()
for start in range(0, 10**6, 10):
    one.write_now(metrics(10, start))
    print(start + 10, flush=True)
"""
    writer = subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True)
    assert writer.stdout is not None
    told = 0
    for line in writer.stdout:
        told = int(line)
        if told == 500:
            writer.kill()
    writer.wait(30)
    writer.stdout.close()
    seqs = [record.seq for record in read_sqlite(path)]
    assert seqs == list(range(len(seqs)))
    assert told <= len(seqs) <= told + 10
    assert len(seqs) % 10 == 0


def test_a_newer_file_is_refused_politely(sink: Any, path: Path) -> None:
    """F72: a file of a later format is neither changed nor misread; the sentence says to upgrade."""
    sink().write_now(metrics(1))
    ask(path, f"PRAGMA user_version = {VERSION + 1}")
    with pytest.raises(ConfigError, match=r"newer elastic-events.*upgrade"):
        SqliteSink(path).open_now()
    with pytest.raises(InputError, match=r"newer elastic-events.*upgrade"):
        read_sqlite(path)


def test_a_database_of_another_program_is_left_alone(path: Path) -> None:
    """F75: a foreign database gets no table of ours."""
    connection = sqlite3.connect(path)
    connection.execute("CREATE TABLE users (name)")
    connection.commit()
    connection.close()
    before = path.read_bytes()
    with pytest.raises(ConfigError, match="another program"):
        SqliteSink(path).open_now()
    with pytest.raises(InputError, match="another program"):
        read_sqlite(path)
    assert path.read_bytes() == before


@pytest.mark.parametrize("statement", range(5))
def test_file_that_another_process_makes_meanwhile(statement: int, path: Path) -> None:
    """Whichever look at an empty file comes first after another process has made its tables, the file is ours."""
    create(path)
    looks = 0

    def make(_: str) -> None:
        nonlocal looks
        if looks == statement:
            other = SqliteSink(path)
            other.open_now()
            other.close_now()
        looks += 1

    with closing(connect(path, 10)) as connection:
        connection.set_trace_callback(make)
        prepare(connection, path)
        assert looks > statement
        assert check_owner(connection, path, ConfigError) == VERSION


@pytest.mark.parametrize("content", [b"", b"not a database, but long enough to be one" * 100])
def test_what_is_no_database_is_refused_politely(content: bytes, path: Path) -> None:
    """F68: a file that is no database is refused, an empty one is taken over for writing and holds nothing to read."""
    path.write_bytes(content)
    assert not is_sqlite(path)
    with pytest.raises(InputError):
        read_sqlite(path)
    if content:
        with pytest.raises(ConfigError, match="not a database"):
            SqliteSink(path).open_now()
        assert path.read_bytes() == content


@pytest.mark.parametrize("after", [None, b"", b"{}\n"])
def test_lines_that_are_put_aside_while_they_are_looked_at_are_no_database(
    path: Path, monkeypatch: pytest.MonkeyPatch, after: bytes | None
) -> None:
    """A file of lines that rotates just now is not taken for a database, whatever SQLite can see of it at that moment."""
    path.write_bytes(b"{}\n")

    def putting_aside(path: Path, timeout: float) -> sqlite3.Connection:
        monkeypatch.undo()
        path.rename(path.with_name("run.db.1"))
        try:
            return connect(path, timeout)
        finally:
            if after is not None:
                path.write_bytes(after)

    monkeypatch.setattr(sqlite, "connect", putting_aside)
    assert not is_sqlite(path)


def test_a_file_that_was_just_begun_is_no_database(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nor is one that was put aside for a new one, which SQLite finds empty."""
    path.write_bytes(b"{}\n")

    def beginning(path: Path, timeout: float) -> sqlite3.Connection:
        path.rename(path.with_name("run.db.1"))
        path.touch()
        return connect(path, timeout)

    monkeypatch.setattr(sqlite, "connect", beginning)
    assert not is_sqlite(path)


def test_a_damaged_row_is_skipped_and_told(sink: Any, path: Path) -> None:
    """F68: a row that somebody spoiled costs itself only."""
    sink().write_now([event(1), event(2), metric(3), metric(4)])
    connection = sqlite3.connect(path)
    connection.execute("UPDATE events SET metadata = '{' WHERE seq = 1")
    connection.execute("UPDATE metrics SET context = 99 WHERE seq = 3")
    connection.commit()
    connection.close()
    damaged: list[int] = []
    assert [record.seq for record in read_sqlite(path, damaged=lambda entry, _: damaged.append(entry))] == [2, 4]
    assert damaged == [1, 1]


def test_a_reading_is_of_one_moment(sink: Any, path: Path) -> None:
    """What is written while a reader reads does not disturb it, and is in the next look."""
    one = sink()
    one.write_now(metrics(10))
    reading = read_sqlite(path)
    first = [next(reading)]
    one.write_now(metrics(10, 10))
    first += reading
    assert same(first, metrics(10))
    assert same(list(read_sqlite(path, after=reading.position)), metrics(10, 10))


def test_a_late_writer_is_not_missed_by_a_follower(sink: Any, path: Path) -> None:
    """Records with earlier times that are written later, by another process, are in the next look."""
    one, two = sink(), sink()
    one.write_now(metrics(5, 100))
    reading = read_sqlite(path)
    assert len(list(reading)) == 5
    late = metrics(5, 0, context=Context("run", "other"))
    two.write_now(late)
    assert same(list(read_sqlite(path, after=reading.position)), late)


def test_a_finished_file_is_one_file_that_can_be_read_anywhere(sink: Any, path: Path) -> None:
    """Closing folds the WAL in; reading leaves nothing behind, also where nothing may be written."""
    one = sink()
    one.write_now(metrics(5))
    one.close_now()
    assert [file.name for file in path.parent.iterdir()] == ["run.db"]
    assert len(list(read_sqlite(path))) == 5
    assert is_sqlite(path)
    assert [file.name for file in path.parent.iterdir()] == ["run.db"]
    script = f"from elastic_events.sinks.sqlite import read_sqlite; print(len(list(read_sqlite({str(path)!r}))))"
    path.parent.chmod(0o555)
    path.chmod(0o444)
    try:
        # The owner of everything may write everywhere; another user shows what the modes do.
        user = {"user": 65534, "group": 65534} if os.getuid() == 0 and _reachable(path) else {}
        result = subprocess.run(
            [sys.executable, "-c", script], capture_output=True, text=True, check=False, timeout=60, **user
        )
    finally:
        path.parent.chmod(0o755)
        path.chmod(0o600)
    assert result.stdout.strip() == "5", result.stderr


def _reachable(path: Path) -> bool:
    """Whether another user may come to the file and to Python."""
    return all(
        folder.stat().st_mode & 0o005 == 0o005 for place in (path, Path(sys.executable)) for folder in place.parents
    )


@pytest.mark.parametrize("stream", STREAMS)
def test_streams_of_all_runs_fit_in_one_file(stream: str, sink: Any, path: Path) -> None:
    """Tables of one file hold several runs; a run's records come back equal among those of the others."""
    one = sink()
    for name in STREAMS:
        one.write_now(load(name))
    assert same([record for record in read_sqlite(path) if record.context.run_id == stream], load(stream))


def test_the_file_says_whose_it_is(sink: Any, path: Path) -> None:
    """F72: application id and version are in the header, WAL is on, each kind has its table."""
    sink()
    assert ask(path, "PRAGMA application_id") == [(APPLICATION,)]
    assert ask(path, "PRAGMA user_version") == [(VERSION,)]
    assert ask(path, "PRAGMA journal_mode") == [("wal",)]
    assert {name for (name,) in ask(path, "SELECT name FROM sqlite_master WHERE type = 'table'")} == {
        *TABLES.values(),
        "contexts",
    }
