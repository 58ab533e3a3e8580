"""What can be read, and what is said of the rest: several inputs, files that are cut, damaged, empty or foreign."""

import sqlite3
from collections.abc import Callable
from contextlib import closing
from pathlib import Path

import msgspec
import pytest
from anyio import to_thread

from elastic_events import Event, EventBus, EventSource
from elastic_events.bus.context import Context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.errors import InputError
from elastic_events.bus.record import Record
from elastic_events.bus.redact import Redactor
from elastic_events.reading.answers import as_json
from elastic_events.reading.buckets import goodput
from elastic_events.reading.builder import Builder, build
from elastic_events.reading.follow import follower
from elastic_events.reading.lines import scan_lines
from elastic_events.reading.overview import summary
from elastic_events.reading.rows import timeline
from elastic_events.reading.source import last_words, read_records, read_stories
from elastic_events.reading.story import Story
from elastic_events.reading.stragglers import slow
from elastic_events.recorder.writer import open_rings
from elastic_events.sinks.jsonl import JsonlSink
from elastic_events.sinks.sqlite import SqliteSink
from tests.reading.runs import Run, two_attempts
from tests.records import changed
from tests.streams import STREAMS, load


def answer(stories: list[Story]) -> bytes:
    """All that a story says, comparably: but for the names of the sources that it came from."""
    return msgspec.json.encode([msgspec.structs.replace(summary(story), unclosed=[]) for story in stories])


def database(path: Path, records: list[Record]) -> Path:
    """Write records as the sink does."""
    sink = SqliteSink(path)
    sink.open_now()
    sink.write_now(records)
    sink.close_now()
    return path


def jsonl(path: Path, records: list[Record]) -> Path:
    """Write records as the sink does."""
    sink = JsonlSink(path)
    sink.open_now()
    sink.write_now(records)
    sink.close_now()
    return path


@pytest.mark.parametrize("name", STREAMS)
def test_a_database_tells_what_its_records_tell(tmp_path: Path, name: str) -> None:
    """The short way through a database comes to the same story as its records, one by one."""
    path = database(tmp_path / "run.db", load(name))
    assert answer(read_stories([path])) == answer(build(load(name)))


def test_metrics_keep_a_process_alive(tmp_path: Path) -> None:
    """A process that recorded only metrics has its first and its last time, from a database as from its records."""
    run = two_attempts()
    only = run.worker(9, 1, pid=999)
    for at in (13, 15, 18):
        run.metric(at, only, "loss", 1.0)
    run.metric(25, run.worker(0, 1), "loss", 1.0)
    stories = read_stories([database(tmp_path / "run.db", run.records)])
    expected = build(run.records)
    for story in (*stories, *expected):
        times = {p.context.pid: (p.first_ns - story.began_ns, p.last_ns - story.began_ns) for p in story.processes}
        assert times[999] == (13e9, 18e9)
        assert times[110] == (14e9, 25e9)


@pytest.mark.parametrize("write", [database, jsonl])
def test_last_words(tmp_path: Path, write: Callable[[Path, list[Record]], Path]) -> None:
    """The last records of a process, of any kind, in their order."""
    run = two_attempts()
    run.metric(8.4, run.worker(1), "loss", 0.5)
    run.tell(9.1, run.worker(1), "worker.died", pid=101)  # the collector's word, not its own
    path = write(tmp_path / "run", run.records)
    (story,) = read_stories([path])
    process = story.attempts[0].workers[1].process
    assert process is not None
    assert [r.name for r in last_words([path], [process], 3)[process]] == ["step.ended", "step.started", "loss"]


def test_a_file_a_node(tmp_path: Path) -> None:
    """The files of two nodes, of different kinds and in either order, are one run."""
    run = Run()
    for number, host in enumerate("ab"):
        agent = run.agent(host)
        ranks = range(2 * number, 2 * number + 2)
        run.start(1, agent, 0, ranks, round=0, world_size=4)
        run.tell(9, agent, "attempt.ended", attempt=0, outcome="succeeded")
        run.tell(10, agent, "job.succeeded")
    first = [record for record in run.records if record.context.host == "a"]
    second = [record for record in run.records if record.context.host == "b"]
    paths = [database(tmp_path / "a.db", first), jsonl(tmp_path / "b.jsonl", second)]
    for sources in (paths, paths[::-1]):
        (story,) = read_stories(sources)
        assert [worker.rank for worker in story.attempts[0].workers] == [0, 1, 2, 3]
        assert len(story.nodes) == 2


def test_a_file_that_is_just_put_aside_is_read_by_its_parts(tmp_path: Path) -> None:
    """At the moment when a rotated file has parts only, all of its readers find them."""
    records, path = two_attempts().records, tmp_path / "run.jsonl"
    jsonl(path, records).rename(tmp_path / "run.jsonl.1")
    assert len(list(read_records(path))) == len(records)
    assert len(list(follower(str(path), lambda _line, _reason: None).look())) == len(records)
    (story,) = read_stories([path])
    builder = Builder()
    scan_lines(path, builder, lambda _line, _reason: None)
    assert answer(builder.stories()) == answer([story])


def test_a_cut_file_tells_what_it_holds(tmp_path: Path) -> None:
    """JSON Lines cut in the middle of a line, as under a running job, are read to the cut, which is told."""
    whole = jsonl(tmp_path / "whole.jsonl", two_attempts().records).read_bytes()
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(whole[: len(whole) // 2])
    (story,) = read_stories([cut])
    assert story.outcome == "unknown"
    assert story.attempts[0].first_failure is not None
    told: list[str] = []
    cut.write_bytes(whole[:2000] + b"\0garbage\n" + whole[2000:])
    read_stories([cut], lambda where, reason: told.append(f"{where} {reason}"))
    assert told
    assert "cut.jsonl" in told[0]


def test_a_damaged_database(tmp_path: Path) -> None:
    """A database whose header or pages are damaged is refused in one sentence that names it, never with a traceback."""
    path = database(tmp_path / "run.db", two_attempts().records)
    whole = path.read_bytes()
    for damage in (b"\xff" * 16 + whole[16:], whole[:4096] + b"\xff" * (len(whole) - 4096), whole[:1000]):
        path.write_bytes(damage)
        try:
            read_stories([path])
        except InputError as error:
            assert "run.db" in str(error)  # noqa: PT017 - what can still be read may be, too


def test_a_row_that_somebody_edited(tmp_path: Path) -> None:
    """A row that holds no record is told, and the others are read."""
    path = database(tmp_path / "run.db", two_attempts().records)
    with sqlite3.connect(path) as connection:
        connection.execute("UPDATE events SET metadata = '{' WHERE name = 'job.started'")
    connection.close()
    told: list[str] = []
    (story,) = read_stories([path], lambda where, reason: told.append(f"{where} {reason}"))
    assert len(told) == 1
    assert "run.db" in told[0]
    assert len(story.attempts) == 2


async def test_a_file_that_is_still_written(tmp_path: Path) -> None:
    """A job that runs is read as far as it has come, from the database that its bus has open."""
    async with EventBus(f"sqlite:///{tmp_path}/run.db") as bus:
        bus.put_metric("loss", 1.0)
        await bus.flush(timeout=5)
        records = await to_thread.run_sync(lambda: list(read_records(tmp_path / "run.db")))
        (story,) = await to_thread.run_sync(read_stories, [tmp_path / "run.db"])
    assert [record.name for record in records] == ["loss"]
    assert (story.outcome, story.attempts) == ("unknown", [])


def test_a_directory_of_recorders_is_read_where_it_lies(tmp_path: Path) -> None:
    """What killed processes left behind is a source as any other, before anybody collected it."""
    folder = tmp_path / "rings"
    for rank in range(2):
        context = Context("run", f"h-{rank}", "h", 100 + rank, rank, rank)
        events, metrics = open_rings(folder, context)
        emitter = Emitter(events.pipe, metrics.pipe, Redactor())
        for number in range(3 + rank):
            for name in ("step.started", "step.ended"):
                emitter.record(Event(name, EventSource.WORKER, metadata={"step": number}))
            emitter.put_metric("loss", number)
    (folder / "foreign.ring").write_text("no ring")
    told: list[str] = []
    (story,) = read_stories([folder], lambda where, _reason: told.append(where))
    assert told == ["foreign.ring"]
    assert [(last.step, last.ranks) for last in summary(story).last_steps] == [(2, [0]), (3, [1])]
    (last,) = last_words([folder], [p for p in story.processes if p.context.rank == 1], 1).values()
    assert [(record.name, record.fields) for record in last] == [("loss", (3,))]


@pytest.mark.parametrize("write", [database, jsonl])
def test_the_order_of_storing_does_not_matter(tmp_path: Path, write: Callable[[Path, list[Record]], Path]) -> None:
    """Dead letters that were sent again later, into the same file or read from one beside it, tell the same story."""
    records = two_attempts().records
    told = answer(build(records))
    letters = [record for record in records if record.seq % 3 == 0]
    others = [record for record in records if record.seq % 3]
    assert answer(read_stories([write(tmp_path / "one", others + letters)])) == told
    assert answer(read_stories([write(tmp_path / "two", letters), write(tmp_path / "three", others)])) == told
    (story,) = read_stories([tmp_path / "one"])
    assert [process.last_step for process in story.processes if process.steps] == [2, 2, 5, 5]


@pytest.mark.parametrize("value", ["9e999", "'no number'", "x'00'", "1.5", str(2**63 - 1)])
@pytest.mark.parametrize("table", ["events", "metrics"])
@pytest.mark.parametrize("column", ["seq", "time_ns", "monotonic_ns"])
def test_a_number_that_is_none_is_passed_over_and_told(tmp_path: Path, table: str, column: str, value: str) -> None:
    """So that it reaches no sum, in which it would be an error, or go on for ever."""
    run = two_attempts()
    run.metric(50, run.worker(0), "loss", 1.0)
    path = database(tmp_path / "run.db", run.records)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(
            f"UPDATE {table} SET {column} = {value} WHERE entry = (SELECT max(entry) / 2 + 1 FROM {table})"
        )
    told: list[str] = []
    (story,) = read_stories([path], lambda where, reason: told.append(f"{where} {reason}"))
    if (table, column) != ("metrics", "seq"):  # for which no story asks
        assert len(told) == 1
        assert "run.db" in told[0]
    for ask in (summary, timeline, goodput, slow):
        assert as_json(ask(story))
    told.clear()
    assert len(list(read_records(path, lambda _where, reason: told.append(reason)))) == len(run.records) - 1
    assert len(told) == 1


@pytest.mark.parametrize("name", ["job.started", "step.started"])
def test_what_is_damaged_in_one_source_is_read_in_the_next(tmp_path: Path, name: str) -> None:
    records = two_attempts().records
    damaged, whole = database(tmp_path / "a.db", records), jsonl(tmp_path / "b.jsonl", records)
    with closing(sqlite3.connect(damaged)) as connection, connection:
        connection.execute("UPDATE events SET metadata = '{' WHERE name = ?", (name,))
    assert answer(read_stories([damaged, whole])) == answer(build(records))


@pytest.mark.parametrize("change", ["rank = 'x'", "host = x'00'", "run_id = x'00'", "pid = 1.5"])
def test_a_context_that_is_damaged_is_passed_over_and_told(tmp_path: Path, change: str) -> None:
    """What it recorded is of nobody; all else is read."""
    run = Run()
    for rank in range(2):
        run.steps(run.worker(rank), range(3), 0, 1)
    run.metric(1, run.worker(1), "loss", 1.0)
    path = database(tmp_path / "run.db", run.records)
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE contexts SET {change} WHERE pid = 101")
    told: list[str] = []
    (story,) = read_stories([path], lambda _where, reason: told.append(reason))
    assert [process.context.rank for process in story.processes] == [0]
    assert "contexts" in told[0]


@pytest.mark.parametrize("disordered", [False, True])
def test_a_line_whose_time_is_too_high_is_passed_over_and_told(tmp_path: Path, *, disordered: bool) -> None:
    path = jsonl(tmp_path / "run.jsonl", two_attempts().records)
    lines = path.read_bytes().splitlines(keepends=True)
    high = next(line for line in lines if b"step.started" in line).replace(b'"time_ns":1', b'"time_ns":91')
    path.write_bytes(b"".join([*(reversed(lines) if disordered else lines), high]))
    told: list[str] = []
    (story,) = read_stories([path], lambda _where, reason: told.append(reason))
    assert (len(told), len(story.attempts)) == (1, 2)


@pytest.mark.parametrize("change", ["context = 99", "ledger = 'no JSON'", "ledger = NULL"])
def test_a_ledger_that_is_damaged_is_passed_over_and_told(tmp_path: Path, change: str) -> None:
    """All else is read."""
    run = Run()
    run.steps(run.worker(0), range(3), 0, 1)
    ledger = changed(run.records[-1], kind="ledger", name="bus.ledger", fields=({"lane": "x"},))
    path = database(tmp_path / "run.db", [*run.records, ledger])
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE ledgers SET {change}")
    told: list[str] = []
    (story,) = read_stories([path], lambda _where, reason: told.append(reason))
    assert (len(told), story.ledgers, len(story.processes[0].steps)) == (1, [], 3)
