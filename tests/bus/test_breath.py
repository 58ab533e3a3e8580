"""Turns: what the background does between two sleeps."""

import itertools
import math
import time
from collections.abc import Iterator
from contextlib import contextmanager

import anyio
import pytest

from elastic_events import EventBus
from elastic_events.bus import breath
from elastic_events.bus.breath import TURN, alone, haste, turns
from elastic_events.bus.handler import BATCH
from elastic_events.sinks.blocking import ENCODED, EncodingSink
from elastic_events.sinks.jsonl import JsonlSink
from elastic_events.sinks.sqlite import SqliteSink
from elastic_events.testing import ListSink
from tests.recorder.test_collect import until
from tests.sinks.factory import metrics


@pytest.fixture(autouse=True)
def unhurried() -> Iterator[None]:
    """Leave the context as it was."""
    before = haste.set(1)
    yield
    haste.reset(before)


async def test_turns_of_all_tasks_come_one_by_one_with_a_sleep_between(monkeypatch: pytest.MonkeyPatch) -> None:
    """Two tasks never work in one wake-up of the loop: training would wait for both."""
    monkeypatch.setattr(breath, "BREATH", 0.01)
    begun: list[tuple[str, float]] = []

    async def task(name: str) -> None:
        def work() -> bool:
            begun.append((name, anyio.current_time()))
            return len([other for other, _ in begun if other == name]) < 3

        await turns(work)

    asked = anyio.current_time()
    async with anyio.create_task_group() as group:
        group.start_soon(task, "a")
        group.start_soon(task, "b")
    times = [asked, *(time for _, time in begun)]
    assert "".join(sorted(name for name, _ in begun)) == "aaabbb"
    assert [name for name, _ in begun] != sorted(name for name, _ in begun)  # in turn
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.008


@pytest.mark.parametrize("steps", [0, 1, 3])
async def test_task_whose_work_is_done_goes_on_in_a_turn_of_its_own(
    steps: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What it does next is not added to the last piece of work; who has no work has the next turn to itself."""
    monkeypatch.setattr(breath, "BREATH", 0.01)
    times = [anyio.current_time()]

    def work() -> bool:
        times.append(anyio.current_time())
        return len(times) <= steps

    await turns(work if steps else None)
    times.append(anyio.current_time())
    assert len(times) == steps + 2
    assert min(later - earlier for earlier, later in itertools.pairwise(times)) > 0.008


async def test_work_that_raises_ends_its_turns_and_nobody_elses() -> None:
    """What a turn raises is raised to who asked for it."""

    def poison() -> bool:
        raise ValueError("poison")

    with pytest.raises(ValueError, match="poison"):
        await turns(poison)
    await turns()


async def test_turn_that_nobody_waits_for_is_not_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """Work whose task was cancelled is not done."""
    monkeypatch.setattr(breath, "BREATH", 0.05)  # so that a slow machine cancels in time
    done: list[int] = []
    with anyio.move_on_after(0):
        await turns(lambda: done.append(1) or False)
    await turns()
    assert not done


async def test_task_in_haste_takes_no_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who would lose records does not sleep; the loop goes on all the same."""
    monkeypatch.setattr(breath, "BREATH", 30)
    left, others = [1, 2, 3], []

    async def other() -> None:
        others.append(1)

    haste.set(math.inf)
    with anyio.fail_after(5):
        await turns(lambda: bool(left.pop() and left))
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            for _ in range(3):
                await turns(bool)  # work that ends at once
            assert others
    assert not left


@pytest.mark.parametrize(
    ("speed", "parts"), [(1, [ENCODED, ENCODED, 80]), (2, [2 * ENCODED, 80]), (math.inf, [2 * ENCODED + 80])]
)
async def test_sink_encodes_in_turns_and_in_longer_ones_when_behind(
    tmp_path: object, speed: float, parts: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A batch is encoded a turn at a time, so that no step waits for all of it."""
    sink = JsonlSink(f"{tmp_path}/run.jsonl")
    encode, seen = sink.encode, []
    monkeypatch.setattr(sink, "encode", lambda records: seen.append(len(records)) or encode(records))
    haste.set(speed)
    await sink.open()
    await sink.write(metrics(2 * ENCODED + 80))
    await sink.aclose()
    assert seen == parts
    assert sink.path.read_bytes().count(b"\n") == 2 * ENCODED + 80


def test_lane_that_falls_behind_is_hastier_by_degrees() -> None:
    """Longer turns for more to deliver; none at all where records would soon be lost, or the bus is closing."""
    bus = EventBus()
    lane = bus.subscribe(ListSink(), batch_size=TURN, backlog=100 * TURN)
    found = []
    for count in (1, 4 * TURN - 2, 2, 40 * TURN, 10 * TURN):
        lane.backlog.push(metrics(count))
        found.append(lane._haste())
    assert found == [1, 1, 2, 12, math.inf]
    lane.backlog.clear()
    assert lane._haste() == 1
    lane.close()
    assert lane._haste() == math.inf


@pytest.mark.parametrize("anyio_backend", ["asyncio"])  # a bus of trio's has no thread of its own
@pytest.mark.parametrize(
    ("patience", "speed", "waits"), [(60, 1, True), (0.1, 1, False), (60, 2, False)], ids=["alone", "long", "behind"]
)
async def test_turns_are_put_off_while_a_thread_works(
    patience: float, speed: float, waits: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Until it is done or patience ends, whichever is first; not for a lane that has fallen behind."""
    monkeypatch.setattr(breath, "PATIENCE", patience)
    taken = anyio.Event()

    async def other() -> None:
        haste.set(1)
        await turns()
        taken.set()

    await turns()
    with anyio.fail_after(30):
        async with anyio.create_task_group() as group:
            group.start_soon(other)
            await anyio.sleep(0)  # it waits for its turn already
            haste.set(speed)
            began = anyio.current_time()
            with alone():
                if waits:
                    await anyio.sleep(30 * breath.BREATH)
                    assert not taken.is_set()
                else:
                    await taken.wait()
                    assert speed > 1 or anyio.current_time() - began > 0.08
            await taken.wait()


async def test_sink_whose_thread_writes_is_left_alone(tmp_path: object, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drain takes no turn while a file is being written."""
    events: list[str] = []

    @contextmanager
    def noted() -> Iterator[None]:
        events.append("begin")
        yield
        events.append("end")

    sink = JsonlSink(f"{tmp_path}/run.jsonl")
    write = sink.write_encoded
    monkeypatch.setattr("elastic_events.sinks.blocking.alone", noted)
    monkeypatch.setattr(sink, "write_encoded", lambda parts: events.append("write") or write(parts))
    await sink.open()
    await sink.write(metrics(3))
    await sink.aclose()
    assert events == ["begin", "write", "end"]


async def test_ring_that_is_filling_up_is_read_without_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """Three quarters full: emitters would overwrite what waits for a turn."""
    monkeypatch.setattr(breath, "BREATH", 60)
    bus = EventBus(capacity=256)
    for number in range(200):
        bus.put_metric("m", number)
    async with bus:
        await until(lambda: not bus.pump.behind())
        monkeypatch.setattr(breath, "BREATH", 0.5)
        bus.put_metric("m", 1)
        await anyio.sleep(0.1)
        assert bus.pump.behind() == 1  # which waits for its turn


async def test_ring_that_is_filling_up_is_read_in_longer_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    """A quarter full: twice as much is read in a turn, long before there is no time for turns."""
    bus, asked = EventBus(capacity=1024), []
    look = bus.drain._look
    monkeypatch.setattr(bus.drain, "_look", lambda most=0: asked.append(most) or look(most))
    for number in range(1024 // 4 + TURN // 2):
        bus.put_metric("m", number)
    async with bus:
        await until(lambda: not bus.pump.behind())
    assert asked[:2] == [2 * TURN, TURN]


async def test_burst_ends_when_there_is_no_time_for_turns_any_more(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ring fills up while it is read: the next burst is one without turns."""
    drain, asked, full = EventBus().drain, [], [0, 2, 3]
    monkeypatch.setattr(drain, "_full", lambda: full.pop(0))
    monkeypatch.setattr(drain, "_look", lambda most: asked.append(most) or most)
    monkeypatch.setattr(drain.pump, "behind", lambda: 1)
    assert await drain._burst() == (4 * TURN, True)
    assert asked == [TURN, 3 * TURN]


@pytest.mark.parametrize("sink", [JsonlSink, SqliteSink])
def test_sink_whose_thread_writes_gets_many_records_a_call(sink: type[EncodingSink[object]], tmp_path: object) -> None:
    """Each of its calls waits for the GIL some times; more records a call are fewer waits. The subscription's word counts."""
    bus = EventBus()
    assert bus.subscribe(sink(f"{tmp_path}/a")).batch_size == EncodingSink.batch_size > BATCH
    assert bus.subscribe(sink(f"{tmp_path}/b"), batch_size=10).batch_size == 10
    assert bus.subscribe(ListSink()).batch_size == BATCH


async def test_lane_in_haste_leaves_the_loop_to_others() -> None:
    """A handler that never waits is called for a few milliseconds at a time, also when there is much to deliver."""
    bus, seen = EventBus(), [0]

    async def busy(_record: object) -> None:
        seen[0] += 1
        until = time.perf_counter() + 0.0001
        while time.perf_counter() < until:
            pass

    bus.subscribe(busy)
    for number in range(2000):
        bus.put_metric("m", number)
    calls = []

    async def others() -> None:
        while True:
            began = seen[0]
            await anyio.sleep(0)
            calls.append(seen[0] - began)

    async with anyio.create_task_group() as group:
        group.start_soon(others)
        async with bus:
            pass
        group.cancel_scope.cancel()
    assert seen[0] == 2000
    assert max(calls) < 200  # calls of a tenth of a millisecond, where 2 ms are allowed
