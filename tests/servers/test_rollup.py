"""The roll-up: sums that are right, made once, and a ledger that says what it absorbed."""

import math
import random
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from functools import partial
from typing import Any

import anyio
import pytest
import trio
import trio.testing

from elastic_events import EventBus
from elastic_events.api import Event, EventSource
from elastic_events.bus.errors import ConfigError, PermanentError, TransientError
from elastic_events.bus.record import Record
from elastic_events.sinks.rollup import Rollup
from elastic_events.testing import FailingSink, GatedSink, ListSink
from tests.servers.factory import EPOCH, context, event, metric

SECOND = 1_000_000_000


@asynccontextmanager
async def opened(sink: Any, **options: Any) -> AsyncIterator[Rollup]:
    """Open a roll-up for a block."""
    stage = Rollup(sink, **options)
    await stage.open()
    try:
        yield stage
    finally:
        await stage.aclose()


def numbers(records: Sequence[Record]) -> dict[str, Any]:
    """Return name -> value."""
    return {record.name: record.fields[0] for record in records}


def at(seconds: float) -> int:
    """Return a time in the interval that starts at a multiple of ten seconds."""
    return EPOCH // (10 * SECOND) * 10 * SECOND + int(seconds * SECOND)


async def test_the_sums_are_right() -> None:
    """Count, sum, min, max, last and quantiles of an interval are those of its points."""
    sink = ListSink()
    async with opened(sink) as stage:
        await stage.write([metric(n, value=v, time_ns=at(n / 100)) for n, v in enumerate([3, 1, 2, 10, 4])])
        assert sink.records == []
    assert numbers(sink.records) == {
        "loss.count": 5,
        "loss.sum": 20,
        "loss.min": 1,
        "loss.max": 10,
        "loss.last": 4,
        "loss.p50": 3,
        "loss.p90": 10,
        "loss.p99": 10,
    }
    assert {(r.channel, r.time_ns, r.context.rank) for r in sink.records} == {("train", at(0.04), 0)}
    assert (stage.absorbed, stage.emitted, stage.lost) == (5, 8, 0)


async def test_quantiles_of_many_points_are_close() -> None:
    """Beyond the exact part, quantiles are within one percent of a rank."""
    random.seed(1)
    values = [random.lognormvariate(0, 1) for _ in range(20_000)]
    sink = ListSink()
    async with opened(sink) as stage:
        await stage.write([metric(n, value=v, time_ns=at(1)) for n, v in enumerate(values)])
    values.sort()
    found = numbers(sink.records)
    for quantile in (50, 90, 99):
        value = found[f"loss.p{quantile}"]
        rank = sum(other <= value for other in values) / len(values)
        assert abs(rank - quantile / 100) < 0.01


@pytest.mark.parametrize("count", [7, 100, 256, 257, 900])
async def test_quantiles_are_of_values_that_came(count: int) -> None:
    """A quantile is the value at its rank, by exact arithmetic, also where values lie far apart and are many."""
    sink = ListSink()
    values = [1.5**number for number in range(count)]
    async with opened(sink, quantiles=(0.07, 0.5, 0.9, 0.99)) as stage:
        await stage.write([metric(n, value=v, time_ns=at(1)) for n, v in enumerate(values)])
    for percent in (7, 50, 90, 99):
        assert numbers(sink.records)[f"loss.p{percent}"] == pytest.approx(values[-(-percent * count // 100) - 1])


async def test_however_many_quantiles_each_sum_has_an_id_of_its_own() -> None:
    """Series whose last points are neighbours, with every percentile: no sum has the id of another, which a sink would drop."""
    sink = ListSink()
    async with opened(sink, quantiles=[number / 100 for number in range(101)]) as stage:
        await stage.write([metric(seq, name, seq) for seq, name in enumerate("abcabc")])
    assert len({record.id for record in sink.records}) == len(sink.records) == stage.emitted == 3 * 106


async def test_series_and_intervals_are_apart() -> None:
    """Names, groups, ranks and intervals are summed up each for themselves, in order."""
    sink = ListSink()
    speakers = [context(rank, process=f"p{rank}") for rank in range(2)]
    points = [
        metric(n, name, 1, group, speakers[rank], time_ns=at(10 * interval + n / 1e6))
        for n, (interval, name, group, rank) in enumerate(
            (i, name, group, rank)
            for i in range(3)
            for name in "ab"
            for group in "gh"
            for rank in (0, 1)
            for _ in range(5)
        )
    ]
    async with opened(sink) as stage:
        await stage.write(points)
        assert {r.time_ns // (10 * SECOND) for r in sink.records} == {at(0) // (10 * SECOND), at(10) // (10 * SECOND)}
    counts = [record for record in sink.records if record.name.endswith(".count")]
    assert len(counts) == 3 * 8
    assert {record.fields[0] for record in counts} == {5}
    assert len({record.id for record in sink.records}) == len(sink.records)


async def test_a_replay_makes_the_same_records() -> None:
    """The same points make records of the same ids and values, however they come in batches."""
    points = [metric(n, "ab"[n % 2], n, time_ns=at(n / 10)) for n in range(500)]
    results = []
    for size in (7, 500):
        sink = ListSink()
        async with opened(sink) as stage:
            for start in range(0, len(points), size):
                await stage.write(points[start : start + size])
        assert len({record.id for record in sink.records}) == len(sink.records) == stage.emitted
        results.append({record.id: (record.name, record.fields, record.time_ns) for record in sink.records})
    assert results[0] == results[1]
    assert not results[0].keys() & {point.id for point in points}


async def test_events_pass_unchanged() -> None:
    """Events, and metrics whose values are no numbers, pass at once and untouched."""
    passing = [event(1), metric(1, value="high"), metric(2, value=10**400)]
    sink = ListSink()
    async with opened(sink) as stage:
        await stage.write([passing[0], metric(3), *passing[1:]])
        assert sink.records == passing


async def test_values_that_are_not_finite_show() -> None:
    """NaN and infinity spoil no sum, and are counted."""
    sink = ListSink()
    async with opened(sink, quantiles=()) as stage:
        await stage.write([metric(n, value=v, time_ns=at(0)) for n, v in enumerate((1.0, math.inf, math.nan))])
        await stage.write([metric(9, "odd", math.nan, time_ns=at(0))])
    found = numbers(sink.records)
    assert math.isnan(found.pop("loss.last"))
    assert math.isnan(found.pop("odd.last"))
    assert found == {
        "loss.count": 3,
        "loss.sum": 1.0,
        "loss.min": 1.0,
        "loss.max": 1.0,
        "loss.nonfinite": 2,
        "odd.count": 1,
        "odd.nonfinite": 1,
    }


# --- failures ---


async def test_a_batch_that_comes_again_is_summed_up_once() -> None:
    """The points of a batch whose delivery failed are not counted twice when the lane retries it (F38)."""
    sink = FailingSink(lambda records, attempt: TransientError("away") if attempt <= 2 else None)
    batch = [metric(n, value=1, time_ns=at(n)) for n in range(15)] + [event(1)]
    async with opened(sink) as stage:
        for _ in range(2):
            with pytest.raises(TransientError):
                await stage.write(batch)
        await stage.write(batch)
        assert stage._done == {}
    assert sum(r.fields[0] for r in sink.records if r.name == "loss.count") == 15
    assert [r for r in sink.records if r.kind == "event"] == batch[-1:]


async def test_a_split_batch_is_summed_up_once() -> None:
    """When the lane splits a batch to find a poison event, the points beside it count once (F40)."""
    poison = event(2)
    sink = FailingSink(lambda records, attempt: PermanentError("bad") if poison in records else None)
    async with EventBus() as bus:
        lane = bus.subscribe(sink, rollup=10, batch_size=64)
        batch = [metric(n, value=1, time_ns=at(0)) for n in range(20)]
        bus._drain.start(partial(_feed, bus, [*batch[:10], event(1), poison, event(3), *batch[10:]]))
        while lane.stats().delivered + lane.stats().failed < 23:
            await anyio.sleep(0)
        assert (lane.stats().delivered, lane.stats().failed) == (22, 1)
    assert [r.seq for r in sink.records if r.kind == "event"] == [1, 3]
    assert numbers(sink.records)["loss.count"] == 20


async def _feed(bus: EventBus, records: Sequence[Record]) -> None:
    bus._feed(records)


async def test_what_is_refused_for_good_is_counted_alone() -> None:
    """A made record that the sink refuses is lost and counted; its neighbours and the lane's records are not (F40)."""
    sink = FailingSink(
        lambda records, attempt: ValueError("bad") if any(r.name == "loss.p99" for r in records) else None
    )
    stage = Rollup(sink)
    await stage.open()
    await stage.write([metric(1, time_ns=at(0)), metric(2, "b", time_ns=at(0))])
    await stage.write([metric(3, time_ns=at(10)), metric(4, "b", time_ns=at(10))])
    with pytest.raises(TransientError, match="2 of 32 sums of the roll-up are lost: ValueError: bad"):
        await stage.aclose()
    assert stage.lost == 2
    assert len(sink.records) == stage.emitted - stage.lost == 30


async def test_rejected_events_are_the_lanes_own() -> None:
    """A refusal names the record that the lane gave, not a copy."""
    poison = event(2)
    sink = FailingSink(lambda records, attempt: PermanentError("bad", [r for r in records if r.seq == 2]))
    async with opened(sink) as stage:
        with pytest.raises(PermanentError) as caught:
            await stage.write([event(1), poison])
    assert caught.value.rejected[0] is poison


async def test_memory_is_bounded() -> None:
    """More series than the cap pass the oldest on early; none is lost (F62)."""
    sink = ListSink()
    async with opened(sink, max_series=10, quantiles=()) as stage:
        await stage.write([metric(n, f"m{n}", 1, time_ns=at(0)) for n in range(1000)])
        assert len(stage._windows) == 10
    assert sum(r.fields[0] for r in sink.records if r.name.endswith(".count")) == 1000


# --- time and life ---


def test_a_job_that_stalls_shows_its_last_seconds() -> None:
    """Points to which nothing more comes are passed on after an interval, by virtual time."""
    sink = ListSink()

    async def main() -> None:
        async with opened(sink):
            stage = Rollup(sink)
            await stage.open()
            await stage.write([metric(1, time_ns=at(0))])
            await trio.sleep(5)
            assert sink.records == []
            await trio.sleep(20)
            assert numbers(sink.records)["loss.count"] == 1
            await stage.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))


def test_a_sink_that_hangs_does_not_hold_the_stage() -> None:
    """The timer's own delivery has a deadline: the lane gets its turn."""
    sink = GatedSink()

    async def main() -> None:
        stage = Rollup(sink)
        await stage.open()
        await stage.write([metric(1, time_ns=at(0))])
        await sink.entered.wait()
        with trio.fail_after(60):
            async with stage._turn:
                pass
            sink.gate.set()
            await stage.write([event(1)])
            await stage.aclose()

    trio.run(main, clock=trio.testing.MockClock(autojump_threshold=0))
    assert {"loss.count", "step.started"} <= set(numbers(sink.records))


async def test_the_ledger_says_what_was_absorbed() -> None:
    """Through a bus: the ledger is the last record, and its counts add up to what is in the sink."""
    sink = ListSink()
    async with EventBus() as bus:
        bus.subscribe(sink, rollup="10s")
        for n in range(1000):
            bus.put_metric("loss", n, "g")
        bus.record(Event("e", EventSource.WORKER))
        await bus.settled()
    *stored, last = sink.records
    counts = last.fields[0]
    assert last.kind == "ledger"
    assert counts["absorbed"] == 1000
    assert len(stored) == counts["delivered"] - counts["absorbed"] + counts["emitted"] - counts["lost"]
    assert sum(record.fields[0] for record in stored if record.name == "loss.count") == 1000
    assert sink.closed == 1


async def test_a_function_gets_each_record() -> None:
    """In front of a function of one record, every made record is a call, and the ledger none."""
    got: list[Record] = []

    async def handler(record: Record) -> None:
        got.append(record)

    async with EventBus() as bus:
        bus.subscribe(handler, rollup=10)
        bus.put_metric("loss", 1, "g")
        bus.record(Event("e", EventSource.WORKER))
        bus.record(Event("f", EventSource.WORKER))
        await bus.settled()
    assert [r.name for r in got if r.kind == "event"] == ["e", "f"]
    assert numbers(got)["loss.count"] == 1
    assert not any(record.kind == "ledger" for record in got)


async def test_a_sink_that_is_away_at_the_end_is_closed_and_counted() -> None:
    """Closing closes the sink behind, whatever it says, and counts what it did not take."""
    sink = FailingSink(lambda records, attempt: TransientError("away"))
    stage = Rollup(sink)
    await stage.open()
    await stage.write([metric(1)])
    with pytest.raises(TransientError, match=r"8 of 8 sums .* are lost: .*away"):
        await stage.aclose()
    assert (stage.lost, sink.closed) == (8, 1)


async def test_sums_that_are_lost_at_the_end_are_told(capfd: pytest.CaptureFixture[str]) -> None:
    """Points that were summed up count as delivered: what became of their sums is said where nobody takes them."""
    away: list[bool] = []
    sink = FailingSink(lambda records, attempt: TransientError("away") if away else None)
    async with EventBus(recorder=False) as bus:
        lane = bus.subscribe(sink, name="sums", rollup="1h", events=False)
        for number in range(3):
            bus.put_metric("loss", number)
        await bus.flush()
        away.append(True)
    assert lane.stats().delivered == 3
    (said,) = capfd.readouterr().err.splitlines()
    why = "8 of 8 sums of the roll-up are lost: TransientError: away"
    assert said == f"elastic_events: sink 'sums' failed as it was closed: TransientError: {why}"


async def test_the_last_sums_have_the_time_that_the_bus_has() -> None:
    """A sink that takes longer than closing may take, as one that sends each over a network, gets them by the deadline."""
    got: list[str] = []

    async def slow(record: Record) -> None:
        await anyio.sleep(0.1)
        got.append(record.name)

    async with EventBus(recorder=False, timeout=20) as bus:
        bus.subscribe(slow, rollup="1h", events=False)
        for name in ("loss", "norm"):
            bus.put_metric(name, 1)
    assert len(got) == 16


async def test_a_sink_behind_has_its_time_to_close_though_a_sum_was_lost() -> None:
    """What it writes out only then, as a tracker that collects what it is given, is written."""

    class Collects(ListSink):
        closed = False

        async def write(self, records: Sequence[Record]) -> None:
            if not self.payload:
                await super().write(records[1:])
                raise PermanentError("refused", [records[0]])

        async def aclose(self) -> None:
            await anyio.sleep(0.6)
            self.closed = True

    sink = Collects()
    async with EventBus(recorder=False) as bus:
        bus.subscribe(sink, rollup="1h", events=False)
        bus.put_metric("loss", 1)
    assert len(sink.payload) == 7
    assert sink.closed


@pytest.mark.parametrize("how", ["raises", "hangs"])
async def test_sums_that_are_lost_are_told_of_a_sink_that_fails_to_close(
    how: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """What is lost is told beside what the sink behind raises as it is closed, and though that does not end."""

    class Gone(GatedSink):
        async def aclose(self) -> None:
            if how == "raises":
                raise OSError("no room")
            await anyio.sleep_forever()

    async with EventBus(recorder=False, timeout=0.2) as bus:
        bus.subscribe(Gone(), name="sums", rollup="1h", events=False)
        bus.put_metric("loss", 1)
    (said,) = capfd.readouterr().err.splitlines()
    assert "8 of 8 sums of the roll-up are lost: TimeoutError" in said
    assert said.endswith("; closing it: OSError: no room" if how == "raises" else "; closing it took too long")


async def test_two_intervals_in_one_store_have_ids_of_their_own() -> None:
    """Two roll-ups of other intervals end at one point: a store that knows a record by its id keeps the sums of both."""
    sink = ListSink()
    for every in (1, 60):
        async with opened(sink, every=every) as stage:
            await stage.write([metric(1), metric(2)])
    assert len({record.id for record in sink.records}) == len(sink.records) == 16


async def test_a_child_starts_empty() -> None:
    """Opened again, as after a fork, it has none of the parent's points (F2)."""
    sink = ListSink()
    stage = Rollup(sink)
    await stage.open()
    await stage.write([metric(1)])
    await stage.open()
    await stage.aclose()
    assert (sink.records, stage.absorbed) == ([], 0)


@pytest.mark.parametrize("every", [0, -1, math.nan, math.inf, "soon", "10 parsecs"])
def test_a_wrong_interval_is_a_clear_error(every: Any) -> None:
    """An interval that is none is a ConfigError."""
    with pytest.raises(ConfigError, match="interval"):
        Rollup(ListSink(), every)


def test_an_interval_may_be_text() -> None:
    """Intervals are seconds or text with a unit."""
    assert (Rollup(ListSink(), "1m").every, Rollup(ListSink(), 0.5).every) == (60.0, 0.5)


def test_a_wrong_quantile_is_a_clear_error() -> None:
    """A quantile beyond 1 is a ConfigError."""
    with pytest.raises(ConfigError, match="quantile"):
        Rollup(ListSink(), quantiles=[99])
