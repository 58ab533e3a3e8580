"""The collector: live files, dead processes, watermarks, two launchers."""

import errno
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

import anyio
import pytest

from elastic_events import ConfigError, Event, EventBus, EventSource, InputError, Record
from elastic_events.bus.context import Context, read_context
from elastic_events.bus.emit import Emitter
from elastic_events.bus.redact import Redactor
from elastic_events.recorder.collecting import Collecting
from elastic_events.recorder.collector import Collector
from elastic_events.recorder.format import METRICS
from elastic_events.recorder.reader import RecorderReader
from elastic_events.recorder.writer import open_rings
from elastic_events.testing import GatedSink, ListSink
from tests.recorder.test_recorder import change_version, record_some

WORKER = """
import os, sys, time
from elastic_events import Event, record
from elastic_metrics import put_metric
for n in range(int(sys.argv[1])): put_metric("m", n)
record(Event("ready", "WORKER"))
print("ready", flush=True)
if sys.argv[2] == "stay": time.sleep(60)
"""


def start(folder: Path, count: int, then: str = "stay", rank: int = 0) -> "subprocess.Popen[str]":
    """Start a worker that records `count` points, and wait until it has."""
    environ = {**os.environ, "ELASTIC_EVENTS_DIR": str(folder), "RANK": str(rank), "TORCHELASTIC_RUN_ID": "job"}
    worker = subprocess.Popen(
        [sys.executable, "-c", WORKER, str(count), then], env=environ, stdout=subprocess.PIPE, text=True
    )
    assert worker.stdout is not None
    assert worker.stdout.readline() == "ready\n"
    return worker


def end(worker: "subprocess.Popen[str]", number: int = signal.SIGKILL) -> None:
    """Kill a worker and wait for it."""
    worker.send_signal(number)
    worker.wait()
    assert worker.stdout is not None
    worker.stdout.close()


def collector_of(folder: Path, bus: EventBus) -> Collector:
    """A collector of `folder` into `bus`."""
    return Collector(folder, lambda _reader: (bus.lanes, bus.record), bus.record)


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A directory for recorders."""
    return tmp_path / "recorders"


async def until(condition: Any) -> None:
    """Let the loop run until `condition()` holds."""
    with anyio.fail_after(20):
        while not condition():
            await anyio.sleep(0.005)


async def test_live_worker_is_tailed_and_killed_worker_adopted(folder: Path) -> None:
    """Records come while the worker lives, the rest after it was killed, then `worker.died`, and the file goes (F76)."""
    sink = ListSink()
    async with EventBus(sink, interval=0.005) as bus:
        await bus.collect(folder, interval=0.005, exit_code=lambda pid: -9)
        worker = await anyio.to_thread.run_sync(start, folder, 200, "stay", 3)
        await until(lambda: len(sink.payload) == 201)
        assert not any(r.recovered for r in sink.payload)
        await anyio.to_thread.run_sync(end, worker)
        await until(lambda: not list(folder.glob("*.ring")))
        await bus.settled()
    died = [r.event for r in sink.payload if r.name == "worker.died"]
    assert [(d.metadata["rank"], d.metadata["signal"], d.metadata["pid"]) for d in died] == [(3, "SIGKILL", worker.pid)]
    assert 0 < died[0].metadata["last_record_age_s"] < 30
    assert [r.fields[0] for r in sink.payload if r.name == "m"] == list(range(200))
    assert {(r.context.rank, r.context.run_id) for r in sink.payload if r.name == "m"} == {(3, "job")}


async def test_death_of_one_that_nobody_has_waited_for_is_told_without_a_look_from_the_loop(folder: Path) -> None:
    """A killed worker is a zombie until its launcher waits: /proc still tells of it, and is read in the thread."""
    worker = await anyio.to_thread.run_sync(start, folder, 10)
    sink = ListSink()
    async with EventBus(sink, interval=0.005) as bus:
        await bus.collect(folder, interval=0.005)
        worker.kill()
        await until(lambda: not list(folder.glob("*.ring")))
    assert "worker.died" in [r.name for r in sink.payload]
    await anyio.to_thread.run_sync(end, worker)


async def test_worker_that_ended_in_order_did_not_die(folder: Path) -> None:
    """A worker that returned is collected and removed without `worker.died`; nothing of it had to be recovered."""
    worker = await anyio.to_thread.run_sync(start, folder, 10, "end")
    await anyio.to_thread.run_sync(worker.wait)
    assert worker.stdout is not None
    worker.stdout.close()
    sink = ListSink()
    async with EventBus(sink) as bus:
        await bus.collect(folder, interval=0.005)
        await until(lambda: not list(folder.glob("*.ring")))
    assert Counter(r.name for r in sink.payload) == {"m": 10, "ready": 1}
    assert not any(r.recovered for r in sink.payload)


async def test_file_stays_until_every_lane_has_its_records(folder: Path) -> None:
    """With one of two sinks stuck, a dead worker's file is kept; the next launcher repeats only what was not delivered."""
    worker = await anyio.to_thread.run_sync(start, folder, 50)
    await anyio.to_thread.run_sync(end, worker)
    stuck, well = GatedSink(), ListSink()
    async with EventBus(stuck, well, timeout=0.05) as bus:
        await bus.collect(folder, interval=0.005)
        await until(lambda: len(well.payload) >= 51)
    assert len(list(folder.glob("*.ring"))) == 1
    again = ListSink()
    async with EventBus(again) as bus:
        await bus.collect(folder, interval=0.005)
        await until(lambda: not list(folder.glob("*.ring")))
    theirs = [r.id for r in again.payload if r.name in ("m", "ready")]
    assert theirs == [r.id for r in well.payload if r.name in ("m", "ready")]


async def test_restarted_launcher_goes_on_where_the_last_stopped(folder: Path) -> None:
    """What was delivered before is not delivered again by the next launcher (F70)."""
    worker = await anyio.to_thread.run_sync(start, folder, 100)
    first, second = ListSink(), ListSink()
    for sink in (first, second):
        async with EventBus(sink, interval=0.005) as bus:
            await bus.collect(folder, interval=0.005)
            if sink is first:
                await until(lambda: len(first.payload) == 101)
            else:
                await anyio.to_thread.run_sync(end, worker)
                await until(lambda: not list(folder.glob("*.ring")))
    assert [r.name for r in second.payload] == ["worker.died"]


async def test_second_launcher_is_told(folder: Path) -> None:
    """Two launchers on one directory: the second says so, and the first goes on."""
    sink = ListSink()
    async with EventBus(sink) as bus:
        await bus.collect(folder)
        await anyio.to_thread.run_sync(record_some, folder)
        await until(lambda: sink.payload)  # the first one collects
        with pytest.raises(ConfigError, match="another launcher"):
            await anyio.to_thread.run_sync(collector_of(folder, bus).open)


async def test_directory_that_is_slow_to_open_is_collected_all_the_same(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A busy machine at the start costs time, not the collection of the whole job."""
    scan, looks = Collector.scan, []

    def slow(self: Collector) -> None:
        time.sleep(0.2)
        scan(self)
        looks.append(1)

    monkeypatch.setattr(sys.modules[Collecting.__module__], "OPENING", 0.05)
    monkeypatch.setattr(Collector, "scan", slow)
    sink = ListSink()
    async with EventBus(sink) as bus:
        bus._drain.follow(Collecting.of(bus, folder))
        await until(lambda: len(looks) >= 2)  # the first took too long, and it went on
        record_some(folder, 3)
        await until(lambda: len(sink.payload) == 6)
    assert bus.stats().state == "closed"


async def test_what_no_lane_has_room_for_stays_in_the_files(folder: Path) -> None:
    """Thirty workers at once, and a backlog for three: nothing is dropped, the files hold it."""
    for number in range(30):
        record_some(folder, 3, context=Context("run", f"h-{number}", "h", number))
    sink = GatedSink()
    async with EventBus() as bus:
        lane = bus.subscribe(sink, backlog=20, batch_size=4)
        await bus.collect(folder, interval=0.005)
        await until(lambda: len(lane.backlog) >= 10)
        assert lane.stats().pending < 30
        sink.gate.set()
        await until(lambda: len(sink.payload) == 210)
        assert lane.stats().dropped == {}


def test_what_a_full_disk_refuses_stays_in_the_files(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A lane whose spool is on a full disk takes what its memory holds; the rest waits in the rings, and is not lost."""

    def full(*_: Any) -> int:
        raise OSError(errno.ENOSPC, "no space left")

    for number in range(30):
        record_some(folder, 3, context=Context("run", f"h-{number}", "h", number))
    bus = EventBus()
    lane = bus.subscribe(ListSink(), backlog=20, spool=tmp_path / "spool")
    collector = collector_of(folder, bus)
    collector.open()
    collector.scan()
    with monkeypatch.context() as patch:
        patch.setattr(os, "pwrite", full)
        for _ in range(30):
            collector.sweep()
        assert 10 <= len(lane.backlog) <= 20
    collector.sweep()
    assert (len(lane.backlog), lane.stats().dropped) == (210, {})
    collector.close()
    lane.backlog.close()


async def test_damaged_files_are_put_aside_and_capped(folder: Path) -> None:
    """Files that are no recorder are renamed, told, and only the newest are kept (F68, F69)."""
    record_some(folder)
    for number in range(20):
        (folder / f"bad{number}.ring").write_bytes(b"garbage" * number)
    sink = ListSink()
    async with EventBus(sink) as bus:
        await bus.collect(folder, interval=0.005)
        await until(lambda: any(r.name == "recorder.damaged" for r in sink.payload))
    assert len(list(folder.glob("*.bad"))) == 16
    assert sum(r.name == "recorder.damaged" for r in sink.payload) == 20
    assert sum(r.name == "m" for r in sink.payload) == 3


@pytest.mark.parametrize("error", [errno.EMFILE, errno.EIO])
async def test_good_file_is_not_put_aside_for_want_of_descriptors(
    folder: Path, monkeypatch: pytest.MonkeyPatch, error: int
) -> None:
    """Where no file can be opened for a while, the files stay as they are and are read later (F69)."""
    await anyio.to_thread.run_sync(record_some, folder)
    refused: list[int] = []

    def refuse(*args: Any, **kwargs: Any) -> int:
        if not refused:
            refused.append(1)
            raise OSError(error, os.strerror(error))
        return opened(*args, **kwargs)

    opened = os.open
    sink = ListSink()
    async with EventBus(sink) as bus:
        collector = collector_of(folder, bus)
        await anyio.to_thread.run_sync(collector.open)
        monkeypatch.setattr("elastic_events.recorder.reader.os.open", refuse)
        for _ in range(2):
            await anyio.to_thread.run_sync(collector.scan)
        collector.sweep()
        bus._drain.at_end.append(collector.close)
    assert refused
    assert collector.damaged == 0
    assert sum(r.name == "m" for r in sink.payload) == 3


async def test_overwritten_records_of_a_worker_are_told(folder: Path) -> None:
    """What a worker's own ring overwrote before the collector looked is counted in an event."""
    worker = await anyio.to_thread.run_sync(start, folder, METRICS.capacity + 3000)
    await anyio.to_thread.run_sync(end, worker)
    sink = ListSink()
    async with EventBus(sink) as bus:
        await bus.collect(folder, interval=0.005)
        await until(lambda: not list(folder.glob("*.ring")))
    lost = [r.event.metadata for r in sink.payload if r.name == "recorder.lost"]
    assert [(one["reason"], one["count"], one["total"]) for one in lost] == [("overwritten", 3000, 3000)]
    assert sum(r.name == "m" for r in sink.payload) == METRICS.capacity


TORTURED = """
import mmap, os, sys
from elastic_metrics import put_metric
fd = os.open(sys.argv[1], os.O_RDWR)
shared = memoryview(mmap.mmap(fd, 8)).cast("Q")
n = 0
while True:
    put_metric("m", n)
    n += 1
    shared[0] = n  # acknowledged: put_metric has returned for all below n
"""


async def test_launcher_killed_before_it_removed_a_file_repeats_no_death(folder: Path, tmp_path: Path) -> None:
    """`worker.died` and the records that a second launcher repeats have the ids that they had, so that a sink drops them."""
    worker = await anyio.to_thread.run_sync(start, folder, 10)
    await anyio.to_thread.run_sync(end, worker)
    file = next(folder.glob("*.ring"))
    left = file.read_bytes()
    first, second = ListSink(), ListSink()
    for sink in (first, second):
        file.write_bytes(left)  # as the kill left it: delivered, not removed
        async with EventBus(sink, interval=0.005) as bus:
            await bus.collect(folder, interval=0.005)
            await until(lambda: not list(folder.glob("*.ring")))
    deaths = [{r.id for r in sink.payload if r.name == "worker.died"} for sink in (first, second)]
    assert deaths[0] == deaths[1]
    assert len(deaths[0]) == 1
    assert {r.id for r in first.payload} == {r.id for r in second.payload}
    assert len({r.id for r in first.payload}) == 12


async def test_a_record_that_comes_after_its_death_was_told_has_an_id_of_its_own(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A process that was taken for dead and records again repeats no id: a sink that knows records by theirs keeps all."""
    events, metrics = open_rings(folder, Context("r", "p"), 64)
    emitter = Emitter(events.pipe, metrics.pipe, Redactor())
    monkeypatch.setattr(RecorderReader, "alive", property(lambda _reader: False))
    stuck, told = GatedSink(), ListSink()
    for number in range(2):
        emitter.record(Event("e", EventSource.WORKER, metadata={"n": number}))
        async with EventBus(timeout=0.05) as bus:
            bus.subscribe(stuck)  # which keeps the file
            bus.subscribe(told)
            await bus.collect(folder, interval=0.005)
            await until(lambda wanted=number + 1: sum(r.name == "worker.died" for r in told.payload) == wanted)
    lives = {r.id for r in told.payload if r.name == "e"}
    deaths = {r.id for r in told.payload if r.name == "worker.died"}
    assert (len(lives), len(deaths)) == (2, 2)
    assert not lives & deaths


def test_the_last_look_ends_though_a_worker_goes_on(folder: Path) -> None:
    """A launcher that closes reads what a ring can hold, and not for as long as its workers record faster than it reads."""
    events, metrics = open_rings(folder, read_context(), 8192)
    emitter, calls = Emitter(events.pipe, metrics.pipe, Redactor()), []

    def answer(record: Record) -> bool:
        calls.append(record)
        if len(calls) < 60_000:
            emitter.put_metric("m", 1)
        return False

    bus = EventBus()
    bus.subscribe(ListSink(), where=answer)
    collector = collector_of(folder, bus)
    collector.open()
    for _ in range(5000):
        emitter.put_metric("m", 0)
    collector.last_look()
    collector.close()
    assert 5000 < len(calls) < 20_000


def test_scan_that_is_late_does_nothing_after_the_last_look(folder: Path) -> None:
    """A launcher's thread that is still at it when its bus has closed leaves the next launcher's files alone."""
    collector = collector_of(folder, EventBus())
    collector.open()
    collector.last_look()
    (folder / "half.ring").write_bytes(b"half")
    collector.scan()
    collector.close()
    assert (folder / "half.ring").exists()


def test_scan_that_nobody_waits_for_and_a_sweep_are_at_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush that gave up leaves its scan to the thread: the loop goes on with its sweeps, and both come to their end."""
    bus = EventBus()
    collector = collector_of(folder, bus)
    collector.open()
    for number in range(3):
        open_rings(folder, Context(run_id="r", process=f"p{number}"), 2)
    alive = RecorderReader.alive.fget
    assert alive is not None

    def judged(reader: RecorderReader) -> bool:
        collector.sweep()  # the loop has its turn
        return alive(reader)

    monkeypatch.setattr(RecorderReader, "alive", property(judged))
    collector.scan()
    assert len(collector.files) == 3
    collector.close()


def test_a_file_that_is_over_in_the_midst_of_a_look_is_read_to_its_end(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """That its process has died, a scan in the thread may find beside a sweep: what that look left is read by the next."""
    worker = start(folder, 12_000)
    bus = EventBus(ListSink())
    collector = collector_of(folder, bus)
    collector.open()
    collector.scan()
    look = RecorderReader.look

    def meanwhile(reader: RecorderReader, most: int = 4096, *, dead: bool = False) -> list[Record]:
        monkeypatch.undo()
        found = look(reader, most, dead=dead)
        end(worker)
        collector.judge()
        return found

    monkeypatch.setattr(RecorderReader, "look", meanwhile)
    collector.sweep()
    collector.sweep()
    collector.close()
    assert bus.lanes[0].stats().accepted == 12_000 + len(("ready", "worker.died"))


async def test_file_is_kept_until_its_death_is_delivered(folder: Path) -> None:
    """A worker's file stays until `worker.died` has reached every lane, not its records alone (F76)."""
    worker = await anyio.to_thread.run_sync(start, folder, 1)
    await anyio.to_thread.run_sync(end, worker)
    stuck, told = GatedSink(), ListSink()
    async with EventBus(timeout=0.05) as bus:
        bus.subscribe(stuck, where=lambda record: record.name == "worker.died")
        bus.subscribe(told)
        await bus.collect(folder, interval=0.005)
        await until(lambda: any(r.name == "worker.died" for r in told.payload))
    assert len(list(folder.glob("*.ring"))) == 1


async def test_a_file_that_cannot_be_removed_is_read_once(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On a disk that has become read-only, a dead worker's file is delivered, and told to be dead, once."""
    worker = await anyio.to_thread.run_sync(start, folder, 3)
    await anyio.to_thread.run_sync(end, worker)
    sink = ListSink()
    tried: list[Path] = []

    def refuse(path: Path, missing_ok: bool = False) -> None:
        tried.append(path)
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    async with EventBus(sink) as bus:
        monkeypatch.setattr(Path, "unlink", refuse)
        await bus.collect(folder, interval=0.001)
        await until(lambda: len(tried) > 3)
    assert sum(r.name == "m" for r in sink.payload) == 3
    assert sum(r.name == "worker.died" for r in sink.payload) == 1


async def test_a_directory_that_cannot_be_listed_for_a_while_is_collected(
    folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A launcher without a free descriptor goes on collecting when it has one again."""
    sink = ListSink()
    refused: list[Path] = []

    def refuse(directory: Path) -> list[Path]:
        refused.append(directory)
        raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))

    async with EventBus(sink) as bus:
        await bus.collect(folder, interval=0.005)
        with monkeypatch.context() as patch:
            patch.setattr("elastic_events.recorder.collector.rings", refuse)
            await until(lambda: refused)
        await anyio.to_thread.run_sync(record_some, folder)
        await until(lambda: len(sink.payload) == 6)
    assert bus.stats().errors == 0


@pytest.mark.parametrize("ring", [0, 1])
def test_a_look_that_fails_has_read_nothing_of_a_file(folder: Path, ring: int) -> None:
    """What a look read of a worker's file when memory failed is read again, and what it found lost is counted once."""
    record_some(folder, count=12)  # into 8 slots
    bus = EventBus(recorder=False)
    lane = bus.subscribe(ListSink())
    collector = collector_of(folder, bus)
    collector.open()
    collector.scan()
    (reader,) = collector.files
    foreign: Any = reader.rings[ring]
    frames, errors = foreign.frames, [MemoryError()]

    def failing(*args: Any) -> Any:
        if errors:
            raise errors.pop()
        return frames(*args)

    foreign.frames = failing
    with pytest.raises(MemoryError):
        collector.sweep()
    collector.sweep()
    assert reader.lost == {"overwritten": 8}
    assert Counter(one.name for one in lane.backlog.take(100, 1_000_000)) == {"e": 8, "m": 8}
    collector.close()
    bus.close()


async def test_unfinished_files_of_the_dead_are_removed(folder: Path) -> None:
    """What a process left that was killed while it made its file is removed; a live process's is left alone (F66)."""
    mine = record_some(folder).name
    pid, start_time, nonce = mine.removesuffix(".ring").split("-")[-3:]
    alive = folder / f".{mine}.abcd.part"
    dead = folder / f".my-run-{pid}-{int(start_time, 16) + 1:x}-{nonce}.ring.abcd.part"
    for part in (alive, dead):
        part.touch()
    async with EventBus(ListSink()) as bus:
        await bus.collect(folder, interval=0.005)
        await until(lambda: not dead.exists())
    assert alive.exists()


async def test_live_file_of_another_version_is_left_alone(folder: Path) -> None:
    """A live process that another version of this package records for keeps its file, and that is told once (F68)."""
    mine = record_some(folder)
    data = change_version(mine)
    mine.write_bytes(data)
    dead = folder / "run-1-1-abcdef.ring"
    dead.write_bytes(data)
    sink = ListSink()
    async with EventBus(sink) as bus:
        collector = collector_of(folder, bus)
        await anyio.to_thread.run_sync(collector.open)
        for _ in range(3):
            await anyio.to_thread.run_sync(collector.scan)
        bus._drain.at_end.append(collector.close)
    told = [(r.name, r.event.metadata["file"]) for r in sink.payload]
    assert sorted(told) == [("recorder.damaged", dead.name), ("recorder.foreign", mine.name)]
    assert "version 99" in sink.payload[0].event.metadata["reason"]
    assert mine.read_bytes() == data
    assert not dead.exists()


class Tortured(NamedTuple):
    """What was left of killed workers, in records."""

    acknowledged: int = 0  #: `put_metric` had returned before the kill
    recovered: int = 0
    overwritten: int = 0  #: and counted by the reader
    torn: int = 0  #: under way at the kill, and counted by the reader
    missing: int = 0  #: acknowledged, neither recovered nor counted as overwritten
    corrupt: int = 0  #: recovered, and not what was recorded


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_sigkill_torture(tmp_path: Path) -> None:
    """Killed at random instants, a worker at full speed loses no acknowledged record but by overwriting, counted (M8)."""
    kills = int(os.environ.get("ELASTIC_EVENTS_KILLS", "25"))
    found = torture(tmp_path, kills)
    assert (found.missing, found.corrupt) == (0, 0)
    assert found.torn <= kills
    assert 0 < found.acknowledged <= found.recovered + found.overwritten


def torture(tmp_path: Path, kills: int) -> Tortured:
    """Kill `kills` workers and read what each left."""
    total = Tortured()
    for number in range(kills):
        one = _kill_one(tmp_path / "acknowledged", tmp_path / f"r{number}")
        total = Tortured(*map(sum, zip(total, one, strict=True)))
    return total


def _kill_one(counter: Path, folder: Path) -> Tortured:
    counter.write_bytes(bytes(8))
    environ = {**os.environ, "ELASTIC_EVENTS_DIR": str(folder)}
    worker = subprocess.Popen([sys.executable, "-c", TORTURED, str(counter)], env=environ)
    try:
        while not int.from_bytes(counter.read_bytes(), "little"):
            assert worker.poll() is None
        time.sleep(random.random() * 0.02)  # the instant is what is random here
    finally:
        worker.kill()
        worker.wait()
    acknowledged = int.from_bytes(counter.read_bytes(), "little")
    reader = RecorderReader(next(folder.glob("*.ring")))
    recovered = {r.seq: r.fields[0] for r in reader.all_dead()}
    shutil.rmtree(folder)
    overwritten = reader.lost.get("overwritten", 0)
    missing = set(range(overwritten, acknowledged)) - recovered.keys()
    corrupt = sum(seq != value for seq, value in recovered.items())
    torn = sum(reader.lost.values()) - overwritten
    return Tortured(acknowledged, len(recovered), overwritten, torn, len(missing), corrupt)


def test_missing_file_and_directory_are_told(tmp_path: Path) -> None:
    """A path that is not there is refused with its name."""
    with pytest.raises(InputError, match="No such file"):
        RecorderReader(tmp_path / "none.ring")
