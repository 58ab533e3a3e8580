"""What a launcher's bus promises of its workers: a flush that covers them, their environment, failures that are not silent."""

import os
import shutil
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from elastic_events import BusClosed, ConfigError, EventBus
from elastic_events.bus.context import Context
from elastic_events.reading.source import read_stories
from elastic_events.recorder.collector import Collector
from elastic_events.testing import GatedSink, ListSink

WORKER = """
import os, sys
from elastic_events import Event, record
from elastic_metrics import put_metric
for n in range(int(sys.argv[1])): put_metric("m", n)
record(Event("ready", "WORKER"))
if sys.argv[2] == "stay":
    print("ready", flush=True)
    sys.stdin.read()
if sys.argv[2] == "die": os.kill(os.getpid(), 9)
"""


def spawn(bus: EventBus, *args: object, **place: Any) -> "subprocess.Popen[str]":
    """Start a worker of `bus`."""
    return subprocess.Popen(
        [sys.executable, "-c", WORKER, *map(str, args)],
        env=bus.worker_env(**place),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )


@pytest.mark.parametrize("end", ["return", "die"])
async def test_flush_after_a_workers_exit_has_all_that_it_recorded(tmp_path: Path, end: str) -> None:
    """Every record, its death where it died, and nothing else is waited for: the drain's timers are an hour."""
    sink = ListSink()
    async with EventBus(sink, interval=3600) as bus:
        await bus.collect(tmp_path / "recorders", interval=3600)
        worker = await anyio.to_thread.run_sync(lambda: spawn(bus, 1000, end, rank=3))
        await anyio.to_thread.run_sync(worker.communicate)
        assert await bus.flush(60)
        assert [one.fields[0] for one in sink.payload if one.name == "m"] == list(range(1000))
        assert [one.name for one in sink.payload if one.kind == "event"] == ["ready", "worker.died"][
            : 1 + (end == "die")
        ]


async def test_flush_covers_a_worker_that_lives(tmp_path: Path) -> None:
    """What it had recorded by then."""
    sink = ListSink()
    async with EventBus(sink, interval=3600) as bus:
        await bus.collect(tmp_path / "recorders", interval=3600)
        worker = await anyio.to_thread.run_sync(lambda: spawn(bus, 500, "stay"))
        assert worker.stdout is not None
        await anyio.to_thread.run_sync(worker.stdout.readline)
        assert await bus.flush(60)
        assert len(sink.payload) == 501
        await anyio.to_thread.run_sync(worker.communicate, "")


async def test_flush_says_what_of_the_workers_is_left(tmp_path: Path) -> None:
    """With a sink that is stuck and a backlog without room, what is still in the files is undelivered, too."""
    sink = GatedSink()
    async with EventBus(interval=0.001) as bus:
        bus.subscribe(sink, backlog=400, batch_size=10)
        await bus.collect(tmp_path / "recorders", interval=0.001)
        workers = [await anyio.to_thread.run_sync(lambda: spawn(bus, 90, "return")) for _ in range(4)]
        for worker in workers:
            await anyio.to_thread.run_sync(worker.communicate)
        result = await bus.flush(0.5)
        assert 300 < result.undelivered["GatedSink"] <= 364 + 4
        sink.gate.set()
        assert await bus.flush(60)
        assert len(sink.payload) == 364


async def test_environment_of_a_worker(tmp_path: Path) -> None:
    """The run, the place in it and the directory; whatever else this process has."""
    async with EventBus(context=Context(run_id="job-7")) as bus:
        assert "RANK" not in {name for name in bus.worker_env() if name not in os.environ}
        source = await bus.collect(tmp_path / "recorders")
        env = bus.worker_env(rank=1, local_rank=0, world_size=2, attempt=3, role="trainer")
    given = {name: value for name, value in env.items() if os.environ.get(name) != value}
    assert given == {
        "ELASTIC_EVENTS_DIR": str(tmp_path / "recorders"),
        "ELASTIC_EVENTS_RUN_ID": "job-7",
        "RANK": "1",
        "LOCAL_RANK": "0",
        "WORLD_SIZE": "2",
        "TORCHELASTIC_RESTART_COUNT": "3",
        "ROLE_NAME": "trainer",
    }
    assert str(source.directory) == env["ELASTIC_EVENTS_DIR"]


async def test_worker_has_its_launchers_run_and_its_own_place(tmp_path: Path) -> None:
    """So that a reader knows whose ledger ends the story."""
    sink = ListSink()
    async with EventBus(sink, context=Context(run_id="job-7")) as bus:
        await bus.collect(tmp_path / "recorders")
        worker = await anyio.to_thread.run_sync(lambda: spawn(bus, 1, "return", rank=1, world_size=2, attempt=3))
        await anyio.to_thread.run_sync(worker.communicate)
        assert await bus.flush(60)
    context, own = sink.payload[0].context, sink.records[-1].context
    assert (context.run_id, context.rank, context.world_size, context.restart) == ("job-7", 1, 2, 3)
    assert own.run_id == "job-7"
    assert own.pid == os.getpid()  # though the launcher named its run only
    assert own.host == context.host
    assert own.process not in ("", context.process)


async def test_directory_of_another_launcher_is_refused_at_once(tmp_path: Path) -> None:
    """`collect` raises; the first launcher goes on, and a third has the directory when that has closed."""
    async with EventBus() as first:
        await first.collect(tmp_path / "recorders")
        async with EventBus() as second:
            with pytest.raises(ConfigError, match="another launcher"):
                await second.collect(tmp_path / "recorders")
    async with EventBus() as third:
        await third.collect(tmp_path / "recorders")


async def test_collecting_that_is_cancelled_lets_the_directory_go(tmp_path: Path) -> None:
    """However far it had come."""
    async with EventBus() as bus:
        for _ in range(10):
            with anyio.CancelScope() as scope:
                scope.cancel()
                await bus.collect(tmp_path / "recorders")
        with anyio.fail_after(20):
            while True:
                try:
                    await bus.collect(tmp_path / "recorders")
                    break
                except ConfigError:  # the thread that took it is still at it
                    await anyio.sleep(0.01)


async def test_collecting_that_fails_later_ends_the_block(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where that is asked for: a launcher without its workers' records does not run on."""

    def broken(_self: Collector) -> None:
        raise OSError("disk gone")

    async def main() -> None:
        async with EventBus() as bus:
            await bus.collect(tmp_path / "recorders", interval=0.001, on_failure="raise")
            monkeypatch.setattr(Collector, "_scan", broken)
            await anyio.sleep_forever()

    with anyio.fail_after(20), pytest.raises(OSError, match="disk gone"):
        await main()


async def test_flushes_at_once_wait_for_their_own_records(tmp_path: Path) -> None:
    """A flush that comes later, and that has more to wait for, does not change what an earlier one says."""
    worker = await anyio.to_thread.run_sync(lambda: EventBus(recorder=tmp_path / "recorders"))
    async with EventBus(ListSink()) as bus:
        source = await bus.collect(tmp_path / "recorders", interval=3600)
        worker.put_metric("m", 0)
        mark = source.mark()
        worker.put_metric("m", 1)
        await source.flush(mark)
        worker.put_metric("m", 2)
        later = source.mark()
        assert (source.behind(mark), source.behind(later)) == (0, 1)
    await worker.aclose()


async def test_flush_knows_what_a_collecting_that_failed_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What a worker records after the collecting has ended is not said to be delivered."""

    def broken(_self: Collector) -> None:
        raise OSError("disk gone")

    worker = await anyio.to_thread.run_sync(lambda: EventBus(recorder=tmp_path / "recorders"))
    worker.put_metric("m", 0)
    async with EventBus(ListSink(), timeout=0.1) as bus:
        source = await bus.collect(tmp_path / "recorders", interval=0.001)
        assert await bus.flush(60)
        monkeypatch.setattr(Collector, "_scan", broken)
        with anyio.fail_after(60):
            while not source._over:
                await anyio.sleep(0.001)
        worker.put_metric("m", 1)
        assert (await bus.flush(60)).undelivered == {"ListSink": 1}
    await worker.aclose()


async def test_exit_code_that_knows_not_every_process(tmp_path: Path) -> None:
    """A function that raises for a pid, that of a worker's child say, says nothing about it; the collecting goes on."""
    sink = ListSink()

    def exit_code(pid: int) -> int:
        raise KeyError(pid)

    async with EventBus(sink) as bus:
        await bus.collect(tmp_path / "recorders", exit_code=exit_code)
        for _ in range(2):
            worker = await anyio.to_thread.run_sync(lambda: spawn(bus, 1, "die", rank=0))
            await anyio.to_thread.run_sync(worker.communicate)
            assert await bus.flush(60)
    died = [one.event.metadata for one in sink.payload if one.name == "worker.died"]
    assert len(died) == 2
    assert not any({"exit_code", "signal"} & set(about) for about in died)


async def test_collecting_where_no_bus_is_open(tmp_path: Path) -> None:
    """It is refused with what to do."""
    with pytest.raises(BusClosed, match="async with EventBus"):
        await EventBus().collect(tmp_path / "recorders")


async def test_launcher_that_does_not_know_its_workers_run_still_ends_it(tmp_path: Path) -> None:
    """Its ledger is that of the only run in its file: a reader does not take it for one that was killed."""
    async with EventBus(f"sqlite:///{tmp_path}/run.db") as bus:
        await bus.collect(tmp_path / "recorders")
        env = {**bus.worker_env(rank=0), "ELASTIC_EVENTS_RUN_ID": "theirs"}
        arguments = [sys.executable, "-c", WORKER, "1", "return"]
        await anyio.to_thread.run_sync(lambda: subprocess.run(arguments, env=env, check=True, capture_output=True))
        assert await bus.flush(60)
    (story,) = await anyio.to_thread.run_sync(lambda: read_stories([tmp_path / "run.db"]))
    assert [ledger["lane"] for ledger in story.ledgers] == ["sqlite"]
    assert story.unclosed == []


async def test_directory_that_is_removed_and_made_again(tmp_path: Path) -> None:
    """The next worker makes it again, and what it records there is collected like that of any other."""
    sink, directory = ListSink(), tmp_path / "recorders"
    async with EventBus(sink, interval=0.005) as bus:
        await bus.collect(directory, interval=0.005)
        await anyio.to_thread.run_sync(shutil.rmtree, directory)
        worker = await anyio.to_thread.run_sync(lambda: spawn(bus, 5, "return"))
        await anyio.to_thread.run_sync(worker.communicate)
        assert await bus.flush(60)
        assert [one.fields[0] for one in sink.payload if one.name == "m"] == list(range(5))


def _take_over(directory: Path, other: Collector) -> None:
    while not other.is_open:
        shutil.rmtree(directory, ignore_errors=True)
        with suppress(ConfigError):  # the bus was quicker, and made it again
            other.open()


async def test_directory_that_somebody_else_has_taken_is_told(tmp_path: Path) -> None:
    """Removed, made again and collected by another launcher: that is told once, in an event."""
    sink, directory = ListSink(), tmp_path / "recorders"
    async with EventBus(sink, interval=0.005) as bus:
        await bus.collect(directory, interval=0.005)
        other = Collector(directory, lambda _reader: None, lambda _event: None)
        await anyio.to_thread.run_sync(_take_over, directory, other)
        with anyio.fail_after(60):
            while not (told := [one for one in sink.payload if one.name == "recorder.foreign"]):
                await anyio.sleep(0.005)
        assert await bus.flush(60)
        assert len(told) == 1
        assert "somebody else" in told[0].metadata["reason"]
        await anyio.to_thread.run_sync(other.close)
