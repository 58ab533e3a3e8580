"""What both file sinks promise: every record back, private files, no half batch, several writers."""

import os
import stat
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import anyio
import pytest

from elastic_events.bus.bus import EventBus
from elastic_events.bus.errors import ConfigError, InputError
from elastic_events.bus.record import Record
from elastic_events.sinks.jsonl import JsonlSink, read_jsonl
from elastic_events.sinks.sqlite import SqliteSink, read_sqlite
from elastic_events.sinks.urls import absolute
from tests.sinks.factory import event, ledger, metric, metrics, rdzv
from tests.streams import STREAMS, load, same

SINKS = [pytest.param((JsonlSink, read_jsonl), id="jsonl"), pytest.param((SqliteSink, read_sqlite), id="sqlite")]
both = pytest.mark.parametrize("kind", SINKS)

AWKWARD = [
    *(
        metric(seq, value)
        for seq, value in enumerate([0, -0.0, 1, 1.0, True, False, None, "text", 2**63 - 1, -(2**63)])
    ),
    *(
        metric(20 + seq, value)
        for seq, value in enumerate([2**64 - 1, 1e300, 5e-324, float("nan"), float("inf"), -float("inf")])
    ),
    *(
        metric(40, [1, {"a": 2}]),
        metric(41, "NaN sense"),
        metric(42, 1, "naïve \u2028 \0 name"),
        metric(43, 1, channel=None),
    ),
    *(
        event(50),
        event(51, {"a": 1, "b": [1.5, {"c": None}]}),
        event(52, [1, 2]),
        event(53, {"z": "\0\n\x1b"}, recovered=True),
    ),
    *(event(54, fields=("AGENT", 1.5, None)), event(55, fields=(None, "soon", {})), event(56, fields=([1], True, {}))),
    *(rdzv(60), rdzv(61, fields=(None, ["m"], 1, "pid", {}, 0.5, "rank", True, None)), ledger(70), ledger(70, "jsonl")),
]


async def look(read: Any, path: Path, after: Any = None) -> tuple[list[Record], Any]:
    """Read in a thread: reading blocks."""

    def call() -> tuple[list[Record], Any]:
        reading = read(path, after=after)
        return list(reading), reading.position

    return await anyio.to_thread.run_sync(call)


async def stored(read: Any, path: Path) -> list[Record]:
    """Return all records of a file."""
    return (await look(read, path))[0]


async def write(sink: Any, *batches: list[Record]) -> None:
    """Open, write and close."""
    await sink.open()
    try:
        for batch in batches:
            await sink.write(batch)
    finally:
        await sink.aclose()


@both
@pytest.mark.parametrize("stream", STREAMS)
async def test_captured_torchrun_streams_are_read_back_equal(kind: Any, stream: str, tmp_path: Path) -> None:
    """Every record of a real torchrun run, written in batches, is read back equal and in order."""
    sink, read = kind
    records = load(stream)
    batches = [records[start : start + 50] for start in range(0, len(records), 50)]
    await write(sink(tmp_path / "run"), *batches)
    assert same(await stored(read, tmp_path / "run"), records)


@both
async def test_a_program_that_changes_its_directory_goes_on_with_its_file(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As Hydra does behind `start()`: a relative path is that of the directory where the sink was named."""
    sink, read = kind
    (tmp_path / "run").mkdir()
    monkeypatch.chdir(tmp_path)
    one = sink("here")
    await one.open()
    await one.write(metrics(5))
    monkeypatch.chdir(tmp_path / "run")
    await one.write(metrics(5, 5))
    await one.aclose()
    assert same(await stored(read, tmp_path / "here"), metrics(10))
    assert not list((tmp_path / "run").iterdir())


@both
def test_a_relative_path_in_a_directory_that_was_removed_is_a_sentence(
    kind: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is nowhere."""
    sink, _ = kind
    (tmp_path / "gone").mkdir()
    monkeypatch.chdir(tmp_path / "gone")
    (tmp_path / "gone").rmdir()
    with pytest.raises(ConfigError, match="here begins in the working directory, which is not there"):
        sink("here")
    for url in ("wandb:project", "mlflow:runs", "jsonl:run.jsonl"):
        with pytest.raises(ConfigError, match="begins in the working directory, which is not there"):
            absolute(url)


@both
async def test_records_of_every_kind_and_value_are_read_back_equal(kind: Any, tmp_path: Path) -> None:
    """F56, F58: integers, floats, NaN, booleans, lists, None, control characters, and both ledgers of a bus come back."""
    sink, read = kind
    await write(sink(tmp_path / "run"), AWKWARD)
    assert same(await stored(read, tmp_path / "run"), AWKWARD)


@both
async def test_values_that_no_file_can_hold_are_stored_as_text(kind: Any, tmp_path: Path) -> None:
    """F57, F58, F60: bytes, surrogates and colliding keys cost nobody a record."""
    sink, read = kind
    records = [
        event(1, {1: "a", "1": b"\xff"}),
        event(2, {"\ud800": "\udfff"}, "na\ud800me"),
        metric(3, b"x"),
        metric(4, 2**99),
    ]
    await write(sink(tmp_path / "run"), records)
    found = await stored(read, tmp_path / "run")
    assert [record.seq for record in found] == [1, 2, 3, 4]
    assert found[0].fields[2] == {"1'": "a", "1": "\\xff"}
    assert found[1].name == "na\\ud800me"


@both
async def test_the_bus_ends_a_file_with_its_ledger(kind: Any, tmp_path: Path) -> None:
    """A reader can tell a complete file from a cut one: the last record is the lane's own ledger, and it adds up."""
    sink, read = kind
    async with EventBus(sink(tmp_path / "run")) as bus:
        for step in range(100):
            bus.put_metric("loss", 1 / (step + 1))
    records = await stored(read, tmp_path / "run")
    assert len(records) == 101
    assert records[-1].kind == "ledger"
    assert records[-1].fields[0]["accepted"] == records[-1].fields[0]["delivered"] == 100


@both
async def test_files_are_private(kind: Any, tmp_path: Path) -> None:
    """F75: whatever the umask, every file is for its owner alone."""
    sink, _ = kind
    before = os.umask(0)
    try:
        one = sink(tmp_path / "run")
        await one.open()
        await one.write(metrics(10))
        for path in tmp_path.iterdir():
            assert stat.S_IMODE(path.stat().st_mode) == 0o600, path
        await one.aclose()
    finally:
        os.umask(before)


@both
@pytest.mark.parametrize("dangling", [True, False])
async def test_a_symbolic_link_is_never_followed(kind: Any, dangling: bool, tmp_path: Path) -> None:
    """F75: a planted link is refused with a sentence, and what it points to stays as it was."""
    sink, _ = kind
    target = tmp_path / "precious"
    if not dangling:
        target.write_text("precious")
    (tmp_path / "run").symlink_to(target)
    with pytest.raises(ConfigError, match="symbolic link"):
        await write(sink(tmp_path / "run"))
    assert not target.exists() if dangling else target.read_text() == "precious"


@both
async def test_a_wrong_path_is_said_before_the_loop_starts(kind: Any, tmp_path: Path) -> None:
    """F23: opening says in a sentence which directory to make, or what is in the way."""
    sink, read = kind
    with pytest.raises(ConfigError, match=r"mkdir -p -m 700 .*missing"):
        async with EventBus(sink(tmp_path / "missing" / "run")):
            raise AssertionError("opened")
    with pytest.raises(ConfigError, match="no regular file"):
        await write(sink(tmp_path))
    os.mkfifo(tmp_path / "fifo")
    with pytest.raises(ConfigError, match="no regular file"):
        await write(sink(tmp_path / "fifo"))
    with pytest.raises(InputError, match="does not exist"):
        await stored(read, tmp_path / "nothing")


@both
async def test_a_second_session_appends(kind: Any, tmp_path: Path) -> None:
    """A file that is there is continued, not overwritten."""
    sink, read = kind
    await write(sink(tmp_path / "run"), metrics(5))
    await write(sink(tmp_path / "run"), metrics(5, 5))
    assert same(await stored(read, tmp_path / "run"), metrics(10))


@both
async def test_one_sink_opens_again_after_it_was_closed(kind: Any, tmp_path: Path) -> None:
    """A sink object may be used by one bus after another."""
    sink, read = kind
    one = sink(tmp_path / "run")
    await write(one, metrics(5))
    await write(one, metrics(5, 5))
    assert same(await stored(read, tmp_path / "run"), metrics(10))


@both
async def test_a_reader_follows_a_file_that_is_being_written(kind: Any, tmp_path: Path) -> None:
    """Each look gives what is new since the last, while the writer has the file open."""
    sink, read = kind
    one = sink(tmp_path / "run")
    await one.open()
    position = None
    try:
        for start in range(0, 30, 10):
            await one.write(metrics(10, start))
            records, position = await look(read, tmp_path / "run", position)
            assert same(records, metrics(10, start))
            assert await look(read, tmp_path / "run", position) == ([], position)
    finally:
        await one.aclose()


@both
async def test_a_removed_file_is_made_again(kind: Any, tmp_path: Path) -> None:
    """What is written after somebody removed the file is in the file that its name names."""
    sink, read = kind
    one = sink(tmp_path / "run")
    await one.open()
    await one.write(metrics(5))
    for path in tmp_path.iterdir():
        path.unlink()
    await one.write(metrics(5, 5))
    assert same(await stored(read, tmp_path / "run"), metrics(5, 5))
    await one.aclose()


@both
@pytest.mark.parametrize("put", [os.mkfifo, os.mkdir, lambda path: path.symlink_to("elsewhere")])
async def test_something_else_in_the_place_of_a_file_is_a_delay(
    kind: Any, put: Callable[[Path], object], tmp_path: Path
) -> None:
    """What takes the place of the file while it is written may be removed again: no record is refused for it."""
    sink, read = kind
    one = sink(tmp_path / "run")
    async with EventBus() as bus:
        lane = bus.subscribe(one)
        bus.put_metric("before", 1)
        await bus.flush(10)
        for path in tmp_path.iterdir():
            path.unlink()
        put(tmp_path / "run")
        bus.put_metric("meanwhile", 2)
        while not lane.stats().last_error:
            await anyio.sleep(0.01)
        if (tmp_path / "run").is_dir():
            (tmp_path / "run").rmdir()
        else:
            (tmp_path / "run").unlink()
        assert await bus.flush(20)
        assert (lane.stats().delivered, lane.stats().failed) == (2, 0)
    assert [record.name for record in await stored(read, tmp_path / "run") if record.kind != "ledger"] == ["meanwhile"]


@both
def test_a_path_may_begin_with_two_slashes(kind: Any, tmp_path: Path) -> None:
    """As of a URL with a slash too many: it names the same file."""
    sink, read = kind
    one = sink(f"/{tmp_path}/run")
    one.open_now()
    one.write_now(metrics(3))
    one.close_now()
    assert same(list(read(f"/{tmp_path}/run")), metrics(3))
    assert same(list(read(tmp_path / "run")), metrics(3))


@both
def test_the_documentation_says_what_delivered_means(kind: Any) -> None:
    """F45: each sink's contract says how far a delivered record has come."""
    assert "Delivered means:" in kind[0].__doc__


WRITER = """
import sys, anyio
from elastic_events.bus.context import Context
from elastic_events.sinks.{module} import {name}
from tests.sinks.factory import metrics
async def main():
    sink = {name}({path!r}{more})
    await sink.open()
    print("ready", flush=True)
    sys.stdin.readline()
    for start in range(0, 2000, 20):
        await sink.write(metrics(20, start, context=Context("run", sys.argv[1], "host")))
    await sink.aclose()
anyio.run(main)
"""


def run_writers(path: Path, module: str, name: str, more: str = "", count: int = 2) -> None:
    """Let processes write 2,000 records each into one file at the same time."""
    script = WRITER.format(path=str(path), module=module, name=name, more=more)
    writers = [
        subprocess.Popen([sys.executable, "-c", script, f"p{number}"], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        for number in range(count)
    ]
    for writer in writers:
        assert writer.stdout is not None
        assert writer.stdout.readline() == b"ready\n"
    for writer in writers:
        writer.communicate(b"go\n", timeout=60)
    assert [writer.returncode for writer in writers] == [0] * count


@pytest.mark.parametrize(
    ("module", "name", "more", "read"),
    [
        ("sqlite", "SqliteSink", "", read_sqlite),
        ("jsonl", "JsonlSink", "", read_jsonl),
        ("jsonl", "JsonlSink", ", rotate=20_000, pack=True", read_jsonl),
    ],
)
def test_two_processes_write_one_file(
    module: str, name: str, more: str, read: Callable[..., Iterator[Record]], tmp_path: Path
) -> None:
    """Two processes append to one file, rotating or not: every record of both is there once, and nothing is damaged."""
    run_writers(tmp_path / "run", module, name, more)
    damaged: list[tuple[int, str]] = []
    records = list(read(tmp_path / "run", damaged=lambda *what: damaged.append(what)))
    assert damaged == []
    for process in ("p0", "p1"):
        assert [record.seq for record in records if record.context.process == process] == list(range(2000))


FORK = """
import os, sys, warnings, anyio
warnings.simplefilter("ignore")
from elastic_events.bus.context import Context
from elastic_events.sinks.{module} import {name}
from tests.sinks.factory import metrics
sink = {name}({path!r})
async def first():
    await sink.open()
    await sink.write(metrics(10, context=Context("run", "parent")))
async def child():
    await sink.open()
    await sink.write(metrics(10, context=Context("run", "child")))
    await sink.aclose()
async def last():
    await sink.write(metrics(10, 10, context=Context("run", "parent")))
    await sink.aclose()
async def no_open():
    await sink.aclose()
anyio.run(first)
if (pid := os.fork()) == 0:
    anyio.run(child)
    os._exit(0)
assert os.waitpid(pid, 0)[1] == 0
if (pid := os.fork()) == 0:
    anyio.run(no_open)
    sys.exit(0)
assert os.waitpid(pid, 0)[1] == 0
anyio.run(last)
"""


@pytest.mark.parametrize(
    ("module", "name", "read"), [("sqlite", "SqliteSink", read_sqlite), ("jsonl", "JsonlSink", read_jsonl)]
)
def test_a_forked_child_opens_anew(
    module: str, name: str, read: Callable[..., Iterator[Record]], tmp_path: Path
) -> None:
    """F74: after a fork, child and parent write one file through a descriptor each, and neither harms the other."""
    script = FORK.format(path=str(tmp_path / "run"), module=module, name=name)
    subprocess.run([sys.executable, "-c", script], check=True, timeout=60)
    records = list(read(tmp_path / "run"))
    assert sorted(record.seq for record in records if record.context.process == "child") == list(range(10))
    assert sorted(record.seq for record in records if record.context.process == "parent") == list(range(20))


@pytest.fixture
def gated(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any], tuple[threading.Event, threading.Event]]:
    """Let the next write of a sink wait in its thread until the second event is set; the first says that it began."""

    def gate(sink: Any) -> tuple[threading.Event, threading.Event]:
        entered, opened, write = threading.Event(), threading.Event(), sink.write_encoded

        def wait_first(parts: Any) -> None:
            entered.set()
            assert opened.wait(10)
            write(parts)

        monkeypatch.setattr(sink, "write_encoded", wait_first)
        return entered, opened

    return gate


async def give_up(sink: Any, batch: list[Record], entered: threading.Event) -> None:
    """Write, and stop waiting once the write has begun."""
    async with anyio.create_task_group() as group:
        group.start_soon(sink.write, batch)
        while not entered.is_set():
            await anyio.lowlevel.checkpoint()
        group.cancel_scope.cancel()


@both
async def test_a_batch_that_was_given_up_is_written_once(kind: Any, gated: Any, tmp_path: Path) -> None:
    """F39: when a lane timed out and tries the same batch again, it is not written twice if the first call wrote it."""
    sink, read = kind
    one = sink(tmp_path / "run")
    await one.open()
    entered, opened = gated(one)
    batch = metrics(5)
    await give_up(one, batch, entered)
    with anyio.move_on_after(0):
        await one.write(batch)
    opened.set()
    await one.write(batch)
    await one.write(metrics(5, 5))
    await one.aclose()
    assert same(await stored(read, tmp_path / "run"), metrics(10))


@both
async def test_a_batch_that_was_given_up_before_it_began_is_not_written(kind: Any, gated: Any, tmp_path: Path) -> None:
    """A call that waits behind one that hangs is dropped with its waiter: the ledger counts it as failed."""
    sink, read = kind
    one = sink(tmp_path / "run")
    await one.open()
    entered, opened = gated(one)
    await give_up(one, metrics(5), entered)
    with anyio.move_on_after(0):
        await one.write(metrics(5, 100))
    opened.set()
    await one.aclose()
    assert same(await stored(read, tmp_path / "run"), metrics(5))
