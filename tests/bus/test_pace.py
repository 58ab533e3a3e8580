"""How much the drain does at once, and how long it rests: few records and a sleep, unless a ring fills up."""

import itertools
import threading
import time
from collections.abc import Sequence
from statistics import median

import anyio
import pytest

from elastic_events import Event, EventBus, EventSource, Record
from elastic_events.bus.handler import BATCH
from elastic_events.bus.pump import BREATH, FEW, pace
from elastic_events.bus.slices import in_slices
from elastic_events.sinks.blocking import ENCODED, EncodingSink
from elastic_events.sinks.jsonl import JsonlSink
from elastic_events.sinks.sqlite import SqliteSink
from elastic_events.testing import ListSink
from tests.recorder.test_collect import until
from tests.sinks.factory import metrics


def test_pace_of_a_ring_with_room() -> None:
    """Few records a look, and the whole interval between two."""
    assert pace(0.0, 0.05, 0.05) == (FEW, 0.05)
    most, rest = pace(0.05, 0.05, 0.05)
    assert most < 2 * FEW
    assert rest > 0.04


def test_pace_of_a_ring_that_fills_up() -> None:
    """The fuller it is, the more is read at once, and the sooner the next look comes."""
    looks = [pace(fill / 10, 0.05, 0.05) for fill in range(11)]
    assert [most for most, _ in looks] == sorted(most for most, _ in looks)
    assert [rest for _, rest in looks] == sorted((rest for _, rest in looks), reverse=True)
    assert looks[10][0] > 20 * FEW
    assert looks[10][1] < 0.005


def test_rest_grows_by_degrees() -> None:
    """After a flood the next looks come soon, although they find the ring empty: more may come."""
    _, rest = pace(1.0, 0.05, 0.05)
    rests = []
    for _ in range(8):
        _, rest = pace(0.0, rest, 0.05)
        rests.append(rest)
    assert rests[0] < 0.01
    assert rests == sorted(rests)
    assert rests[-1] == 0.05


async def test_look_that_was_cut_short_is_followed_by_another_after_a_breath() -> None:
    """What does not fit a look waits for the next, not for the interval; the lanes get all of it."""
    bus = EventBus(sink := ListSink(), interval=60)
    look, asked = bus._drain._look, []

    def noted(most: int = 0) -> int:
        asked.append((time.monotonic(), most))
        return look(most)

    bus._drain._look = noted  # type: ignore[method-assign]
    for number in range(5 * FEW):
        bus.put_metric("m", number)
    async with bus:
        await until(lambda: len(sink.records) == 5 * FEW)
        assert all(most < 5 * FEW for _, most in asked)
        assert len(asked) >= 3
        gaps = [later - earlier for (earlier, _), (later, _) in itertools.pairwise(asked)]
        assert median(gaps) >= BREATH / 2  # of a single one, uvloop counts from when its loop woke up


def test_sixty_thousand_a_second_from_the_first_record_on(tmp_path: object) -> None:
    """Nothing is lost of a second of 60,000 metrics, whoever else wants the processor."""
    with EventBus(f"jsonl:///{tmp_path}/run.jsonl", timeout=60) as bus:
        began = time.monotonic()
        for number in range(60_000):
            bus.put_metric("m", number)
            if number % 600 == 0:
                time.sleep(max(began + number / 60_000 - time.monotonic(), 0))
    (lane,) = bus.stats().lanes.values()
    assert lane.dropped == {}
    assert lane.delivered == 60_000


async def test_rings_hold_what_a_flood_writes_while_the_drain_does_not_look() -> None:
    """Of a quarter of a second of 60,000 records nothing is lost, though nobody looks meanwhile, with the defaults."""
    async with EventBus(sink := ListSink(), interval=60) as bus:
        for number in range(15_000):
            bus.put_metric("m", number)
        for number in range(15_000):
            bus.record(Event("e", EventSource.WORKER, metadata={"n": number}))
        await bus.settled()
        assert len(sink.payload) == 30_000
        assert bus.stats().lanes["ListSink"].dropped == {}


@pytest.mark.parametrize(("hurried", "pauses"), [(False, 5), (True, 0)])
async def test_sink_encodes_in_parts_with_a_sleep_between(
    tmp_path: object, hurried: bool, pauses: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A long batch is encoded in its sink's thread, in parts with sleeps around them and the write; not in a hurry."""
    sink = JsonlSink(f"{tmp_path}/run.jsonl")
    encode, seen, slept = sink.encode, [], []

    def noted(records: Sequence[Record]) -> bytes:
        seen.append((len(records), threading.current_thread().name))
        return encode(records)

    monkeypatch.setattr(sink, "encode", noted)
    monkeypatch.setattr("elastic_events.sinks.blocking.time.sleep", slept.append)
    sink.hurry(hurried)
    await sink.open()
    await sink.write(metrics(2 * ENCODED + 80))
    await sink.aclose()
    assert [count for count, _ in seen] == [ENCODED, ENCODED, 80]
    assert {name for _, name in seen} == {sink.thread_name}
    assert slept == [BREATH] * pauses
    assert sink.path.read_bytes().count(b"\n") == 2 * ENCODED + 80


async def test_lane_that_is_behind_or_closes_tells_its_sink_to_hurry() -> None:
    """A sink works with pauses while there is room, and without where records would be lost or somebody waits."""

    class Told(ListSink):
        def __init__(self) -> None:
            super().__init__()
            self.hurried: list[bool] = []

        def hurry(self, on: bool) -> None:
            self.hurried.append(on)

    sink = Told()
    async with EventBus(interval=0.001) as bus:
        bus.subscribe(sink, backlog=10)
        bus.put_metric("m", 1)
        await until(lambda: len(sink.records) == 1)
        assert sink.hurried == [False]
        lane = bus.lanes[0]
        lane.feed(metrics(8))
        await until(lambda: len(sink.records) == 9)
        assert sink.hurried == [False, True]
    assert sink.hurried[-1]


@pytest.mark.parametrize("sink", [JsonlSink, SqliteSink])
def test_sink_whose_thread_writes_gets_many_records_a_call(sink: type[EncodingSink[object]], tmp_path: object) -> None:
    """Each of its system calls waits for the GIL; more records a call are fewer waits. The subscription's word counts."""
    bus = EventBus()
    assert bus.subscribe(sink(f"{tmp_path}/a")).subscription.batch_size == EncodingSink.batch_size > BATCH
    assert bus.subscribe(sink(f"{tmp_path}/b"), batch_size=10).subscription.batch_size == 10
    assert bus.subscribe(ListSink()).subscription.batch_size == BATCH


async def test_work_of_the_loop_comes_in_slices() -> None:
    """What is encoded in the event loop leaves it to others every hundred records, and comes out whole."""
    parts: list[int] = []

    def work(records: Sequence[Record]) -> int:
        parts.append(len(records))
        return len(records)

    assert await in_slices(work, metrics(2 * FEW + 5)) == parts == [FEW, FEW, 5]


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
    assert max(calls) < 200  # calls of a tenth of a millisecond, where half a millisecond is allowed
