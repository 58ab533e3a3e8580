"""The bus in an event loop: delivery, isolation, bounds, flush and close, on asyncio, uvloop and trio."""

import copy
import dataclasses
import math
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, NamedTuple

import anyio
import msgspec
import pytest

from elastic_events import (
    BusClosed,
    ConfigError,
    Event,
    EventBus,
    EventSource,
    LaneStats,
    PermanentError,
    Record,
    Retry,
    current_bus,
    record,
)
from elastic_events.bus.pump import MANY
from elastic_events.bus.sink_thread import SinkThread
from elastic_events.testing import FailingSink, FakeClock, GatedSink, ListSink
from elastic_metrics import MetricData, put_metric


def event(name: str = "e", **metadata: Any) -> Event:
    """Return an event."""
    return Event(name, EventSource.WORKER, metadata=metadata)


async def nothing(_: Record) -> None:
    """Take a record and do nothing."""


async def test_each_handler_gets_every_record() -> None:
    """A record reaches every handler once, as the event or the metric that was recorded."""
    first, second = ListSink(), []

    async def handler(one: Record) -> None:
        second.append(one)

    async with EventBus(first, handler) as bus:
        record(event("started", rank=3))
        put_metric("loss", 0.5)
        await bus.settled()
        assert [r.name for r in second] == ["started", "loss"]
        assert second[0].event == Event("started", EventSource.WORKER, second[0].time_ns // 1_000_000, {"rank": 3})
        assert second[1].metric == MetricData(second[1].time_ns / 1e9, "torchelastic", "loss", 0.5)
        assert second[0].context.pid > 0
        assert (second[0].destination, second[0].group, dict(second[0].metadata)) == ("null", None, {"rank": 3})
        assert (second[1].destination, second[1].group, dict(second[1].metadata)) == (None, "torchelastic", {})
        assert len({r.id for r in second}) == 2
    assert first.payload == second


async def test_events_and_metrics_arrive_in_the_order_they_were_recorded() -> None:
    """The two rings are read as one story (promise 6)."""
    sink = ListSink()
    async with EventBus(sink):
        for number in range(300):
            record(event(str(number))) if number % 3 else put_metric(str(number), number)
    assert [r.name for r in sink.payload] == [str(number) for number in range(300)]


async def test_timestamp_that_was_given_is_kept_and_the_callers_event_untouched() -> None:
    """A timestamp of 0 is filled in on delivery, never in the caller's object."""
    sink = ListSink()
    mine, dated = event("now"), Event("then", EventSource.AGENT, 1234, {})
    async with EventBus(sink):
        record(mine)
        record(dated)
    assert mine.timestamp == 0
    assert sink.records[0].event.timestamp == sink.records[0].time_ns // 1_000_000
    assert sink.records[1].event == dated


async def test_records_of_before_the_block_are_delivered() -> None:
    """A bus takes records from its making on."""
    sink = ListSink()
    bus = EventBus(sink)
    bus.record(event("early"))
    async with bus:
        pass
    assert [r.name for r in sink.payload] == ["early"]


async def test_lane_subscribed_later_gets_what_is_recorded_later() -> None:
    """A subscription begins with the next record, and its ledger too."""
    late = ListSink()
    async with EventBus(nothing) as bus:
        record(event("before"))
        lane = bus.subscribe(late)
        record(event("after"))
        await bus.settled()
        assert [r.name for r in late.records] == ["after"]
        assert lane.stats().accepted == 1


async def test_lane_that_is_unsubscribed_ends_with_what_it_had_accepted() -> None:
    """`unsubscribe()` ends a subscription at the next record, after delivery of the ones before."""
    sink = ListSink()
    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(sink)
        record(event("mine"))
        lane.unsubscribe()
        record(event("not mine"))
        with anyio.fail_after(5):
            while not lane.finished:
                await lane.progress.wait()
        assert [r.name for r in sink.payload] == ["mine"]
        assert sink.closed == 1
        assert lane.stats().balanced


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({"events": True, "metrics": False}, ["worker.failed", "job.done", "agent"]),
        ({"events": "worker.*", "metrics": False}, ["worker.failed"]),
        ({"events": ["job.*", "agent"], "metrics": ["lo*"]}, ["job.done", "agent", "loss"]),
        ({"events": False}, ["loss", "time"]),
        ({"source": EventSource.AGENT}, ["agent"]),
        ({"source": "AGENT", "metrics": False}, ["agent"]),
        ({"where": lambda r: r.kind == "metric" and r.fields[0] > 1}, ["time"]),
    ],
)
async def test_filters(options: dict[str, Any], names: list[str]) -> None:
    """Name patterns, source, kind and predicate choose; what is not chosen is counted as filtered."""
    sink = ListSink()
    async with EventBus() as bus:
        lane = bus.subscribe(sink, **options)
        for name in ("worker.failed", "job.done"):
            record(event(name))
        record(Event("agent", EventSource.AGENT))
        put_metric("loss", 1)
        put_metric("time", 2)
    assert [r.name for r in sink.payload] == names
    assert lane.stats().filtered == 5 - len(names)
    assert lane.stats().balanced


async def test_predicate_that_raises_costs_its_lane_that_record() -> None:
    """A `where` that raises is counted with its lane, and the drain goes on (promise 8)."""
    sink = ListSink()
    async with EventBus() as bus:
        lane = bus.subscribe(sink, where=lambda r: 1 / r.fields[0])
        for value in (1, 0, 2):
            put_metric("m", value)
    assert [r.fields[0] for r in sink.payload] == [1, 2]
    assert lane.stats().dropped == {"filter_error": 1}
    assert "ZeroDivisionError" in lane.stats().last_error


def interrupted(record: Record) -> bool:
    """Ctrl-C strikes in the user's function, at the third record."""
    if record.fields[0] == 2:
        raise KeyboardInterrupt
    return True


def test_ctrl_c_in_a_users_function_costs_that_record() -> None:
    """Each other record has its outcome in each lane, before the interrupt goes on."""
    bus = EventBus(recorder=False, capacity=64)
    lanes = [
        bus.subscribe(ListSink(), where=interrupted),
        bus.subscribe(ListSink(), coalesce=lambda one: interrupted(one) and one.fields[0]),
        bus.subscribe(ListSink()),
    ]
    for value in range(5):
        bus.put_metric("m", value)
    with pytest.raises(KeyboardInterrupt):
        bus._pump.look(lambda: bus._drain.lanes, 0.0)
    assert [dict(lane.stats().dropped) for lane in lanes] == [{"filter_error": 1}, {"key_error": 1}, {}]
    assert [lane.stats().pending for lane in lanes] == [4, 4, 5]
    assert all(lane.stats().balanced for lane in lanes)


@pytest.mark.parametrize("option", ["interval", "timeout"])
def test_no_number_of_seconds_is_refused(option: str) -> None:
    """What is no number is told where it is given."""
    with pytest.raises(ConfigError, match="nan is no number"):
        EventBus(**{option: float("nan")})
    with EventBus(recorder=False) as bus:
        lane = bus.subscribe(ListSink())
        bus.put_metric("m", 1)
        bus.close(float("nan"))
        assert bus.stats().state == "closed"
    assert lane.stats().pending == 0
    assert lane.stats().balanced


async def test_handler_that_raises_costs_its_own_lane_only() -> None:
    """A raising handler is counted, called again for the next record, and the other lane gets all (F32, promise 8)."""
    seen: list[Any] = []
    sink = ListSink()

    async def odd(one: Record) -> None:
        if one.fields[0] % 2:
            raise RuntimeError("odd")
        seen.append(one.fields[0])

    async with EventBus(odd, sink) as bus:
        for value in range(10):
            put_metric("m", value)
    assert seen == [0, 2, 4, 6, 8]
    stats = bus.stats()
    assert (stats.lanes["odd"].delivered, stats.lanes["odd"].failed) == (5, 5)
    assert len(sink.payload) == 10


@pytest.mark.parametrize("error", [SystemExit(3), GeneratorExit, BaseExceptionGroup("g", [SystemExit()])], ids=repr)
async def test_handler_may_raise_anything(error: Any) -> None:
    """Not even SystemExit of a handler ends the drain (F27)."""
    if error is GeneratorExit:
        error = RuntimeError("generator exit is the interpreter's own")

    async def handler(_: Record) -> None:
        raise error

    async with EventBus(handler) as bus:
        put_metric("m", 1)
        put_metric("m", 2)
    assert bus.stats().lanes["handler"].failed == 2


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_cancelled_error_of_a_handler_is_its_failure() -> None:
    """A handler that raises CancelledError by itself does not end the drain (F27)."""
    import asyncio

    async def handler(one: Record) -> None:
        if one.fields[0] == 1:
            raise asyncio.CancelledError

    async with EventBus(handler) as bus:
        for value in (1, 2, 3):
            put_metric("m", value)
    assert bus.stats().lanes["handler"][1:3] == (2, 1)
    assert bus.stats().state == "closed"


async def test_hanging_handler_keeps_nobody_waiting() -> None:
    """With one of three lanes stuck, the others get everything in order, and emitting goes on (F34, F35)."""
    stuck, first, second = GatedSink(), ListSink(), ListSink()
    bus = EventBus(stuck, first, second, timeout=0.05)
    async with bus:
        for value in range(1000):
            put_metric("m", value)
        await stuck.entered.wait()
        with anyio.fail_after(5):
            while len(first.records) + len(second.records) < 2000:
                await anyio.lowlevel.checkpoint()
    assert [r.fields[0] for r in first.payload] == [r.fields[0] for r in second.payload] == list(range(1000))
    assert bus.stats().lanes["GatedSink"].dropped == {"shutdown_deadline": 1000}
    assert bus.stats().lanes["GatedSink"].balanced


async def test_timeout_ends_a_call_that_does_not_answer() -> None:
    """A call over its timeout counts as failed, and the lane goes on (F34)."""
    calls = []

    async def handler(one: Record) -> None:
        calls.append(one.fields[0])
        if one.fields[0] == 0:
            await anyio.sleep_forever()

    async with EventBus() as bus:
        bus.subscribe(handler, timeout=0.01)
        put_metric("m", 0)
        put_metric("m", 1)
        await bus.settled()
    assert calls == [0, 1]
    assert bus.stats().lanes["handler"].failed == 1
    assert "no answer within 0.01 s" in bus.stats().lanes["handler"].last_error


async def test_flood_of_metrics_pushes_no_event_out() -> None:
    """Neither the ring nor the backlog loses an event to metrics (two rings, two queues)."""
    sink = GatedSink()
    async with EventBus(capacity=64) as bus:
        lane = bus.subscribe(sink, backlog=100, batch_size=10)
        record(event("why the job died"))
        for value in range(5000):
            put_metric("m", value)
            if value % 50 == 0:
                bus._drain._look()
        sink.gate.set()
        await bus.settled()
        stats = lane.stats()
    assert sink.records[0].name == "why the job died"
    assert stats.dropped["backlog"] > 0
    assert stats.balanced


@pytest.mark.parametrize(("overflow", "kept"), [("drop_oldest", [7, 8, 9]), ("drop_newest", [0, 1, 2])])
async def test_full_backlog_loses_what_the_lane_chose(overflow: Any, kept: list[int]) -> None:
    """A full backlog drops its oldest or its newest, counted (F52)."""
    sink = ListSink()
    bus = EventBus()
    lane = bus.subscribe(sink, backlog=3, overflow=overflow)
    for value in range(10):
        put = bus.put_metric
        put("m", value)
    async with bus:
        pass
    assert [r.fields[0] for r in sink.payload] == kept
    assert lane.stats().dropped == {"backlog": 7}


async def test_backlog_is_bounded_in_bytes() -> None:
    """Few large records fill a backlog as many small ones do."""
    sink = ListSink()
    bus = EventBus()
    lane = bus.subscribe(sink, backlog_bytes=15_000)
    for _ in range(10):
        bus.record(event("e", text="x" * 3000))
    async with bus:
        pass
    assert len(sink.payload) == 3
    assert lane.stats().dropped == {"backlog": 7}


async def test_batches_are_bounded_by_count_and_bytes() -> None:
    """A batch holds `batch_size` records and `batch_bytes` bytes at most (F42)."""
    sink = ListSink()
    bus = EventBus()
    bus.subscribe(sink, batch_size=4, batch_bytes=7000)
    for _ in range(6):
        bus.put_metric("m", 1)
    for _ in range(3):
        bus.record(event("e", text="x" * 3000))
    async with bus:
        pass
    assert sink.batches[:-1] == [4, 4, 1]


async def test_batch_of_both_kinds_is_bounded_by_bytes() -> None:
    """What the events of a batch take is not there for its metrics, nor for the next event (F42)."""
    sink = ListSink()
    bus = EventBus()
    lane = bus.subscribe(sink, batch_bytes=7000)
    for _ in range(3):
        bus.record(event("e", text="x" * 3000))
        bus.put_metric("m", 1)
    async with bus:
        await bus.flush()
        assert lane.stats().backlog_bytes == 0
    assert sink.batches[:-1] == [4, 2]


async def test_batch_handler_gets_lists() -> None:
    """A function with a batch size gets a list of records."""
    batches: list[list[Record]] = []

    async def handler(records: list[Record]) -> None:
        batches.append(records)

    async with EventBus() as bus:
        bus.subscribe(handler, batch_size=100)
        for value in range(150):
            put_metric("m", value)
    assert max(len(batch) for batch in batches) <= 100
    assert len(batches) <= 4
    assert [r.fields[0] for batch in batches for r in batch] == list(range(150))


async def test_poison_record_goes_alone() -> None:
    """One record of 512 that the sink can never take costs itself, and is kept in the dead letters (F40)."""
    buried: list[Record] = []

    async def bury(records: Sequence[Record]) -> None:
        buried.extend(records)

    def poisoned(records: Sequence[Record], _attempt: int) -> BaseException | None:
        return PermanentError("poison") if any(r.kind == "metric" and r.fields[0] == 300 for r in records) else None

    sink = FailingSink(poisoned)
    bus = EventBus()
    lane = bus.subscribe(sink, dead_letters=bury)
    for value in range(512):
        bus.put_metric("m", value)
    async with bus:
        pass
    assert [r.fields[0] for r in sink.payload] == [value for value in range(512) if value != 300]
    assert [r.fields[0] for r in buried] == [300]
    assert lane.stats().last_error == "PermanentError: poison"
    assert (lane.stats().delivered, lane.stats().failed, lane.stats().dead_lettered) == (511, 1, 1)


async def test_dead_letters_that_fail_are_told() -> None:
    """Dead letters that cannot be kept change no count, and show as the last error."""

    async def bury(records: Sequence[Record]) -> None:
        raise OSError("disk full")

    bus = EventBus()
    lane = bus.subscribe(FailingSink(lambda *_: PermanentError("poison")), dead_letters=bury)
    bus.put_metric("m", 1)
    async with bus:
        await bus.settled()
        assert (lane.stats().failed, lane.stats().dead_lettered) == (1, 0)
        assert lane.stats().last_error == "dead letters: OSError: disk full"


async def test_bus_reports_itself() -> None:
    """`report_every` records the ledgers of all lanes as an event, again and again."""
    sink = ListSink()
    async with EventBus(sink, report_every=0.01, interval=0.001):
        with anyio.fail_after(5):
            while len(sink.records) < 2:
                await anyio.lowlevel.checkpoint()
    report = sink.records[1].event
    assert report.name == "bus.stats"
    assert report.metadata["ListSink"]["accepted"] >= 1


async def sent_three(sink: FailingSink) -> LaneStats:
    """Send the points 0, 1 and 2 through a bus of their own; return what its lane says."""
    bus = EventBus()
    lane = bus.subscribe(sink)
    for value in range(3):
        bus.put_metric("m", value)
    async with bus:
        pass
    return lane.stats()


@pytest.mark.parametrize(
    ("name", "attempts"),
    [(copy.copy, 2), (lambda record: msgspec.structs.replace(record, seq=99), 6), (lambda _: object(), 6)],
    ids=["a copy", "another", "no record"],
)
async def test_a_refusal_that_names_no_record_of_the_batch_delivers_none(
    name: Callable[[Record], Any], attempts: int
) -> None:
    """A copy names its record, as a sink has it that sends to another process; of other things each record is tried alone."""

    def refuse(records: Sequence[Record], _: int) -> PermanentError | None:
        bad = [name(record) for record in records if record.kind == "metric" and record.fields[0] == 1]
        return PermanentError("no", bad) if bad else None

    sink = FailingSink(refuse)
    stats = await sent_three(sink)
    assert (stats.delivered, stats.failed) == (2, 1)
    assert sink.attempts == attempts


async def test_rejected_records_are_not_sent_again() -> None:
    """A sink that names the refused records gets no second attempt (F41)."""
    sink = FailingSink(
        lambda records, _: (
            PermanentError("no", [r for r in records if r.kind == "metric" and r.fields[0] == 1])
            if len(records) > 1
            else None
        )
    )
    stats = await sent_three(sink)
    assert sink.attempts == 2  # the batch, and the bus's ledger
    assert (stats.delivered, stats.failed) == (2, 1)


async def test_transient_failure_is_retried_in_order() -> None:
    """A batch that failed is sent again before the next, with its ids unchanged (F38, F39)."""
    ids: list[list[str]] = []

    def fails(records: Sequence[Record], attempt: int) -> BaseException | None:
        ids.append([r.id for r in records])
        return ConnectionError("down") if attempt < 4 else None

    sink = FailingSink(fails)
    bus = EventBus()
    lane = bus.subscribe(sink, batch_size=2, retry=Retry(base=0.001))
    for value in range(4):
        bus.put_metric("m", value)
    async with bus:
        pass
    assert ids[0] == ids[1] == ids[2] == ids[3]
    assert [r.fields[0] for r in sink.payload] == [0, 1, 2, 3]
    assert lane.stats().retries == 3


def test_no_server_puts_off_the_next_attempt_for_years() -> None:
    """What a server asks for is waited, but no longer than five minutes: also where a lane tries for ever."""
    for retry in (Retry(budget=math.inf), Retry(budget=1e9)):
        assert retry.wait(1, 0.0, asked=60.0) == 60.0
        assert retry.wait(1, 0.0, asked=999_999_999.0) == retry.wait(1, 0.0, asked=math.inf) == 300.0


async def test_retry_budget_ends() -> None:
    """When the budget is spent the batch counts as failed, and the next is tried (promise 7)."""
    sink = FailingSink(lambda records, _: ConnectionError("down") if records[0].kind == "metric" else None)
    bus = EventBus()
    lane = bus.subscribe(sink, batch_size=1, retry=Retry(base=0.0001, attempts=3))
    bus.put_metric("m", 1)
    bus.put_metric("m", 2)
    bus.record(event("fine"))
    async with bus:
        pass
    assert [r.name for r in sink.payload] == ["fine"]
    assert (lane.stats().failed, lane.stats().retries) == (2, 4)
    assert lane.stats().circuit == "closed"


async def test_circuit_opens_after_repeated_failure() -> None:
    """A handler that keeps failing shows as an open circuit, and closes it with the first success."""
    states: list[str] = []
    sink = FailingSink(
        lambda _records, attempt: states.append(lane.circuit) or (OSError("down") if attempt < 8 else None)
    )
    bus = EventBus()
    lane = bus.subscribe(sink, retry=Retry(base=0.0001, cap=0.001))
    bus.put_metric("m", 1)
    async with bus:
        await bus.settled()
        assert lane.circuit == "closed"
    assert states[:8] == ["closed"] * 5 + ["open"] * 3


async def test_last_record_of_a_sink_is_its_ledger() -> None:
    """A sink's last record is the lane's own ledger; a function never gets one (promise 5)."""
    sink, seen = ListSink(), []

    async def handler(one: Record) -> None:
        seen.append(one.kind)

    async with EventBus(sink, handler):
        put_metric("m", 1)
    assert [r.kind for r in sink.records] == ["metric", "ledger"]
    assert sink.records[-1].fields[0]["delivered"] == 1
    assert sink.records[-1].event.name == "bus.ledger"
    assert seen == ["metric"]


async def test_overwritten_records_are_counted_in_every_lane() -> None:
    """A burst over the ring's capacity is lost from its oldest end, exactly counted (promise 5)."""
    sink = ListSink()
    bus = EventBus(sink, capacity=16)
    for value in range(100):
        bus.put_metric("m", value)
    async with bus:
        pass
    assert [r.fields[0] for r in sink.payload] == list(range(84, 100))
    assert bus.stats().lanes["ListSink"].dropped == {"overwritten": 84}


async def test_flush_waits_for_what_is_in_flight() -> None:
    """A record in flight is pending; a flush that ends before it says so, and one that waits is true (F21, F33)."""
    sink = GatedSink()
    async with EventBus(sink) as bus:
        put_metric("m", 1)
        await sink.entered.wait()
        assert bus.stats().lanes["GatedSink"].pending == 1
        result = await bus.flush(0.01)
        assert result.undelivered == {"GatedSink": 1}
        assert not result
        sink.gate.set()
        assert await bus.flush(5)
        assert bus.stats().lanes["GatedSink"].pending == 0


async def test_flush_of_a_raising_handler_returns() -> None:
    """A handler that raises does not make flush wait (F33)."""

    async def handler(_: Record) -> None:
        raise OSError("disk")

    async with EventBus(handler) as bus:
        put_metric("m", 1)
        assert await bus.flush(5)


async def test_close_ends_by_its_deadline_and_says_what_is_undelivered() -> None:
    """A sink that hangs for ever does not hang the close (F18, promise 9)."""
    sink = GatedSink()
    with anyio.fail_after(5):
        async with EventBus(sink) as bus:
            put_metric("m", 1)
            put_metric("m", 2)
            await sink.entered.wait()
            result = await bus.aclose(0.02)
    assert result.undelivered == {"GatedSink": 2}
    assert await bus.aclose(0.02) == result
    assert bus.stats().lanes["GatedSink"].balanced


async def test_flush_and_emit_after_close() -> None:
    """After close a flush returns at once, and an emit is counted as closed (F17, F22)."""
    sink = ListSink()
    async with EventBus(sink) as bus:
        pass
    assert await bus.flush(60)
    bus.put_metric("m", 1)
    bus.record(event())
    assert bus.stats().closed == 2
    assert bus.stats().accepted == 2
    assert [r.kind for r in sink.records] == ["ledger"]
    assert bus.stats().lanes["ListSink"].accepted == 0


async def test_bus_opens_once() -> None:
    """A bus that was closed says that a new one is wanted."""
    async with EventBus() as bus:
        with pytest.raises(BusClosed, match="opens once"):
            await bus.__aenter__()
    with pytest.raises(BusClosed, match="make a new EventBus"):
        bus.open()


async def test_handler_of_no_known_shape_is_refused() -> None:
    """What cannot be a handler is refused where it is given, with the shapes that can."""
    with pytest.raises(ConfigError, match="give an async function"):
        EventBus(42)


async def test_sink_that_cannot_open_fails_the_block() -> None:
    """Opening fails before the block runs, with the sink's own sentence, and closes what was open (F23)."""

    class Closed(ListSink):
        async def open(self) -> None:
            raise ConfigError("make the directory first")

    fine = ListSink()
    bus = EventBus(fine, Closed())
    with pytest.raises(ConfigError, match="make the directory first"):
        await bus.__aenter__()
    assert fine.closed == 1
    assert current_bus() is None


async def test_cancelled_block_still_drains() -> None:
    """A block that is cancelled delivers what was recorded (F29, M5)."""
    sink = ListSink()
    with anyio.CancelScope() as scope:
        async with EventBus(sink):
            put_metric("m", 1)
            scope.cancel()
            await anyio.sleep_forever()
    assert [r.kind for r in sink.records] == ["metric", "ledger"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_native_cancellation_still_drains() -> None:
    """asyncio's own `Task.cancel`, which pierces anyio's shields, does not cut the last flush (F28, M5)."""
    import asyncio

    sink, inside = ListSink(), asyncio.Event()

    async def job() -> None:
        async with EventBus(sink):
            put_metric("m", 1)
            inside.set()
            await asyncio.sleep(3600)

    task = asyncio.ensure_future(job())
    await inside.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert [r.kind for r in sink.records] == ["metric", "ledger"]


async def test_exception_of_the_block_comes_through() -> None:
    """The bus drains, and the block's own exception is what the caller sees."""
    sink = ListSink()
    with pytest.raises(ZeroDivisionError):  # noqa: PT012 - the block is what is tested
        async with EventBus(sink):
            put_metric("m", 1)
            raise ZeroDivisionError
    assert [r.kind for r in sink.records] == ["metric", "ledger"]


async def test_module_functions_go_to_the_bus_opened_last() -> None:
    """Inside a second bus, records go there; afterwards to the first again."""
    outer, inner = ListSink(), ListSink()
    async with EventBus(outer):
        put_metric("one", 1)
        async with EventBus(inner):
            put_metric("two", 2)
        put_metric("three", 3)
    assert [r.name for r in outer.payload] == ["one", "three"]
    assert [r.name for r in inner.payload] == ["two"]
    put_metric("nobody", 4)


async def test_wall_clock_step_shows_and_breaks_nothing() -> None:
    """After a step of the wall clock by an hour, records carry the new wall time, and monotonic time goes on (F61)."""
    clock, sink = FakeClock(), ListSink()
    async with EventBus(sink, clock=clock.monotonic_ns, wall_clock=clock.time_ns) as bus:
        put_metric("before", 1)
        await bus.settled()
        clock.advance(1)
        clock.step_wall(-3600)
        put_metric("after", 2)
        await bus.settled()
    before, after = sink.payload
    assert after.time_ns - before.time_ns == -3599 * 10**9
    assert after.monotonic_ns - before.monotonic_ns == 10**9


async def test_secrets_never_reach_a_handler() -> None:
    """Values of secret keys are redacted before the ring, at any depth (F63, promise 12)."""
    sink = ListSink()
    bus = EventBus(sink)
    hidden = {
        "api_key": "s3cret",
        "Authorization": "s3cret",
        "db": {"password": "s3cret"},
        "l": [{"auth-token": "s3cret"}],
    }
    for _ in range(2):
        bus.record(event("e", monkey="see", keyboard="see", **hidden))
        assert b"s3cret" not in b"".join(filter(None, bus._rings[0].frames(0, 2)))
    async with bus:
        pass
    assert sink.payload[0].event.metadata == sink.payload[1].event.metadata
    assert sink.payload[0].event.metadata["monkey"] == sink.payload[0].event.metadata["keyboard"] == "see"
    assert sink.payload[0].event.metadata["db"] == {"password": "[redacted]"}


@pytest.mark.parametrize("key", ["password", "API_KEY", "sessionToken", "set-cookie", "aws_secret", "key"])
async def test_secret_beside_plain_values_is_redacted(key: str) -> None:
    """A secret among scalars is redacted too, the first time and every time (F63)."""
    sink = ListSink()
    async with EventBus(sink):
        for _ in range(3):
            record(event("e", **{"rank": 1, key: "s3cret"}))
    assert [r.event.metadata[key] for r in sink.payload] == ["[redacted]"] * 3


async def test_key_that_was_plain_once_does_not_hide_a_secret_later() -> None:
    """A key known as harmless may hold a secret deeper in it the next time (F63)."""
    sink = ListSink()
    async with EventBus(sink):
        record(event("e", config="plain"))
        record(event("e", config={"token": "s3cret"}))
    assert sink.payload[1].event.metadata == {"config": {"token": "[redacted]"}}


def test_keys_made_of_data_do_not_pile_up() -> None:
    """What is known of keys is bounded, and those of today find room in it (F63)."""
    bus = EventBus(ListSink())
    for number in range(5000):
        bus.record(event("e", **{f"step_{number}": 1, f"token_{number}": "s3cret"}))
    assert len(bus._emitter.redactor.safe) <= 4096
    assert {"step_4998", "step_4999"} <= bus._emitter.redactor.safe
    assert b"s3cret" not in b"".join(filter(None, bus._rings[0].frames(5000 - 2048, 5000)))


class Keys(list[Any]):
    """A list of some library's own."""


class Pair(NamedTuple):
    """A tuple with names."""

    config: dict[str, str]


@dataclasses.dataclass(frozen=True)
class Login:
    """What a program's own settings look like."""

    user: str = "see"
    token: str = "s3cret"


@pytest.mark.parametrize(
    "value",
    [
        *[Login(), [Login()], {"a": (Login(),)}, {Login()}, Keys([{"token": "s3cret"}]), Pair({"password": "s3cret"})],
        *[{b"token": "s3cret"}, OrderedDict(api_key="s3cret"), {"x" * 20_000 + "_token": "s3cret"}],
        *[{"token": "s3cret", "long": "x" * 40_000}, [[[[{"secret": {"deep": "s3cret"}}]]]]],
    ],
    ids=lambda value: type(value).__name__,
)
async def test_secrets_are_found_in_whatever_has_keys(value: Any) -> None:
    """Dataclasses, subclasses, bytes for keys, records that are truncated: what has keys is redacted by them (F63)."""
    bus = EventBus(ListSink())
    for _ in range(2):
        bus.record(event("e", config=value))
    stored = b"".join(filter(None, bus._rings[0].frames(0, 2)))
    assert b"[redacted]" in stored
    assert b"s3cret" not in stored


async def test_subscribing_from_many_threads_while_records_flow() -> None:
    """Handlers come and go while records flow; no lane misses what it accepted (F44)."""
    sinks = [ListSink() for _ in range(8)]
    async with EventBus(nothing, interval=0.001) as bus:

        def churn(sink: ListSink) -> None:
            lane = bus.subscribe(sink)
            for value in range(50):
                put_metric("m", value)
            lane.unsubscribe()

        async with anyio.create_task_group() as tasks:
            for sink in sinks:
                tasks.start_soon(anyio.to_thread.run_sync, churn, sink)
    stats = bus.stats()
    assert len(stats.lanes) == 9
    assert stats.lanes["nothing"].delivered == 400
    for lane in stats.lanes.values():
        assert lane.balanced, lane
        assert lane.lost == lane.pending == 0


async def test_records_of_other_processes_are_fed_to_every_lane() -> None:
    """Fed records count as accepted, and a flush waits for them."""
    source_bus, sink = EventBus(), GatedSink()
    source_bus.put_metric("theirs", 1)
    from elastic_events.bus.pump import Cursor, to_records

    foreign = Cursor(source_bus._rings[1]).look(10, 0.0, partial(to_records, context=source_bus.context, offset=0))
    async with EventBus(sink) as bus:
        fed = anyio.Event()

        async def source() -> None:
            bus._feed(foreign)
            fed.set()
            await anyio.sleep_forever()

        bus._drain.start(source)
        await fed.wait()
        assert (await bus.flush(0.01)).undelivered == {"GatedSink": 1}
        sink.gate.set()
        await bus.settled()
    assert [r.id for r in sink.payload] == [r.id for r in foreign]
    assert bus.stats().lanes["GatedSink"].balanced


async def test_fault_of_the_drain_is_counted_and_survived(capfd: pytest.CaptureFixture[str]) -> None:
    """A fault inside the drain is told once on stderr, shows in the stats, and the drain goes on (F31)."""
    sink = ListSink()
    async with EventBus(sink, interval=0.001) as bus:
        look, faults = bus._drain.pump.look, iter([ValueError("bug"), ValueError("bug")])

        def faulty(*args: Any, **kwargs: Any) -> int:
            for error in faults:
                raise error
            return look(*args, **kwargs)

        bus._drain.pump.look = faulty  # type: ignore[method-assign]
        put_metric("m", 1)
        await bus.settled()
    assert bus.stats().errors == 2
    assert len(sink.payload) == 1
    assert capfd.readouterr().err.count("the drain failed") == 1


async def test_repr_is_the_dashboard() -> None:
    """`repr(bus)` says how it is."""
    async with EventBus(nothing) as bus:
        put_metric("m", 1)
        await bus.settled()
        assert repr(bus) == "<EventBus open, 1 lane, 1 accepted, 0 dropped>"
        assert repr(bus.lanes[0]) == "<Lane nothing, 1 delivered, 0 lost, 0 pending>"


async def test_emit_and_close_from_eight_threads() -> None:
    """Emitting while the bus closes loses nothing uncounted (F22)."""
    sink = ListSink()
    stop = threading.Event()
    async with EventBus(sink, capacity=2**16) as bus:

        def emit() -> None:
            while not stop.is_set():
                for _ in range(50):
                    bus.put_metric("m", 1)

        async with anyio.create_task_group() as tasks:
            for _ in range(8):
                tasks.start_soon(anyio.to_thread.run_sync, emit)
            await anyio.sleep(0.02)
            await bus.aclose()
            stop.set()
    stats = bus.stats()
    lane = stats.lanes["ListSink"]
    assert lane.balanced
    assert lane.accepted + stats.closed == stats.accepted
    assert lane.delivered == len(sink.payload)


class LastWords(ListSink):
    """A sink in whose close something is recorded."""

    async def aclose(self) -> None:
        """Record."""
        await super().aclose()
        put_metric("during", 1)


@pytest.mark.parametrize("asked", [False, True])
async def test_what_is_recorded_while_a_bus_closes_goes_to_the_one_beneath(asked: bool) -> None:
    """A sink that is away keeps it closing for seconds: it took all that the program recorded meanwhile, for nobody."""
    beneath = ListSink()
    async with EventBus(beneath):
        async with EventBus(LastWords()) as bus:
            if asked:
                await bus.aclose()
        put_metric("behind", 1)
    assert [record.name for record in beneath.payload] == ["during", "behind"]


@pytest.mark.parametrize("anyio_backend", ["asyncio"])
async def test_what_is_recorded_while_a_bus_of_a_thread_closes_goes_to_the_one_beneath() -> None:
    """As where it closes in an event loop; the one that closes alone counts what comes too late."""
    beneath, alone = ListSink(), EventBus(LastWords())

    def run() -> None:
        with EventBus(beneath), EventBus(LastWords()):
            put_metric("before", 1)
        with alone:
            pass

    await anyio.to_thread.run_sync(run)
    assert [record.name for record in beneath.payload] == ["during"]
    assert alone.stats().closed == 1


async def test_drain_that_dies_shows(capfd: pytest.CaptureFixture[str]) -> None:
    """A drain that ends by itself says so on stderr, and `stats()` calls the bus dead (F31)."""

    class Killed(BaseException):
        pass

    def die(*_: Any) -> int:
        raise Killed

    bus = EventBus(nothing, interval=0.001)
    with pytest.raises(BaseExceptionGroup):  # noqa: PT012 - the block is what is tested
        async with bus:
            bus._drain.pump.look = die  # type: ignore[method-assign]
            put_metric("m", 1)
            await anyio.sleep(5)
    assert "the drain ended by itself" in capfd.readouterr().err
    assert bus.stats().lanes["nothing"].balanced
    assert bus.stats().lanes["nothing"].dropped == {"drain_died": 1}


async def test_cancelling_at_every_checkpoint_loses_nothing() -> None:
    """Flushes that are cancelled wherever they wait leave every record delivered once (F25, F28)."""
    sink = ListSink()
    async with EventBus(sink, interval=3600) as bus:
        for patience in range(40):
            put_metric("m", patience)
            with anyio.CancelScope() as scope:

                async def cancel(scope: anyio.CancelScope = scope, patience: int = patience) -> None:
                    for _ in range(patience % 8):
                        await anyio.lowlevel.checkpoint()
                    scope.cancel()

                async with anyio.create_task_group() as tasks:
                    tasks.start_soon(cancel)
                    await bus.flush()
        await bus.settled()
        assert bus.stats().lanes["ListSink"].balanced
    assert [r.fields[0] for r in sink.payload] == list(range(40))


async def test_failures_do_not_feed_themselves() -> None:
    """With all logging routed into the bus, a failing sink adds no record: the bus never logs (F36)."""
    import logging

    class IntoTheBus(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            put_metric("logged", record.levelno)

    handler = IntoTheBus()
    logging.getLogger().addHandler(handler)
    try:
        async with EventBus() as bus:
            lane = bus.subscribe(FailingSink(lambda *_: OSError("down")), retry=Retry(base=0.0, attempts=3))
            put_metric("m", 1)
            await bus.settled()
            assert lane.stats().failed == 1
            assert bus.stats().accepted == 1
    finally:
        logging.getLogger().removeHandler(handler)


async def test_close_needs_no_room_in_a_queue() -> None:
    """With ring and backlog full and the sink stuck, a close is heard and ends by its deadline (F43)."""
    stuck = GatedSink()
    with anyio.fail_after(10):
        async with EventBus(capacity=16, timeout=0.02) as bus:
            lane = bus.subscribe(stuck, backlog=8, batch_size=4)
            put_metric("m", 0)
            await stuck.entered.wait()
            for number in range(100):
                put_metric("m", number)
    assert lane.stats().balanced
    assert lane.stats().pending == 0


def test_close_is_heard_in_a_flood(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is read goes on as long as more comes, but for no close."""
    bus = EventBus(ListSink(), interval=60, timeout=5)
    look, looked = bus._drain._look, threading.Event()

    def full(most: int = MANY) -> int:
        look(most)
        bus.put_metric("m", 1)
        looked.set()
        return most

    monkeypatch.setattr(bus._drain, "_look", full)
    bus.put_metric("m", 1)
    bus.open()
    assert looked.wait(5)
    began = time.monotonic()
    bus.close()
    assert time.monotonic() - began < 4  # not the deadline


def test_call_that_outlives_its_loop_ends_quietly(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody waits any more for what a sink's thread has to tell; it prints no traceback."""
    failures: list[object] = []
    monkeypatch.setattr(threading, "excepthook", failures.append)
    gate = threading.Event()

    async def give_up() -> SinkThread:
        worker = SinkThread("w")
        with anyio.move_on_after(0.05):
            await worker.run(gate.wait)
        return worker

    for backend in ("asyncio", "trio"):
        gate.clear()
        worker = anyio.run(give_up, backend=backend)
        gate.set()
        worker.close()
        worker._thread.join(5)
        assert not worker._thread.is_alive()
    assert not failures
