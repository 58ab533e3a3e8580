"""What a subscription can ask of its lane: several calls at a time, the latest only, records of before, an end of its own."""

import random
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import anyio
import pytest

from elastic_events import (
    BusClosed,
    ConfigError,
    Event,
    EventBus,
    EventSource,
    HandlerFailed,
    PermanentError,
    Record,
    Retry,
    WouldDeadlock,
    record,
)
from elastic_events.bus.pump import GRACE
from elastic_events.bus.wakeup import Wakeup
from elastic_events.testing import FailingSink, GatedSink, ListSink, capture
from elastic_metrics import put_metric


def event(name: str = "e", **metadata: Any) -> Event:
    """Return an event."""
    return Event(name, EventSource.WORKER, metadata=metadata)


# --- concurrency ---


async def test_calls_at_the_same_time() -> None:
    """Up to `concurrency` calls run at once, no more."""
    running, most = 0, 0
    four = anyio.Event()

    async def handler(_record: Record) -> None:
        nonlocal running, most
        running += 1
        most = max(most, running)
        if running == 4:
            four.set()
        await four.wait()
        await anyio.sleep(0)
        running -= 1

    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(handler, concurrency=4)
        for number in range(40):
            put_metric("m", number)
        assert await bus.flush(30)
        assert lane.stats().delivered == 40
    assert most == 4


async def test_records_of_one_key_keep_their_order() -> None:
    """Whatever each call takes, and though some are tried again."""
    seen: dict[int, list[int]] = defaultdict(list)
    tries: dict[int, int] = defaultdict(int)
    chance = random.Random(7)

    async def handler(one: Record) -> None:
        number = one.fields[0]
        tries[number] += 1
        for _ in range(chance.randrange(4)):
            await anyio.sleep(0)
        if number % 7 == 0 and tries[number] < 3:
            raise OSError("down")
        seen[number % 5].append(number)

    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(
            handler, concurrency=4, key=lambda one: one.fields[0] % 5, retry=Retry(base=0.0, attempts=5)
        )
        for number in range(200):
            put_metric("m", number)
        assert await bus.flush(30)
    assert all(numbers == sorted(numbers) for numbers in seen.values())
    assert sum(map(len, seen.values())) == 200
    assert lane.stats().delivered == 200
    assert lane.stats().balanced


async def test_failure_of_one_of_several_calls_costs_that_record() -> None:
    """Those beside it and behind it are delivered, each once."""
    seen: list[int] = []

    async def handler(one: Record) -> None:
        if one.fields[0] % 10 == 3:
            raise PermanentError("three")
        seen.append(one.fields[0])

    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(handler, concurrency=3, key=lambda _one: "all")
        for number in range(50):
            put_metric("m", number)
        assert await bus.flush(30)
        stats = lane.stats()
    assert seen == [number for number in range(50) if number % 10 != 3]
    assert (stats.delivered, stats.failed_by) == (45, {"PermanentError": 5})
    assert stats.balanced


async def test_each_record_has_its_own_attempts() -> None:
    """A record that waits behind another of its key spends nothing of its retries meanwhile."""
    tries: dict[int, int] = defaultdict(int)

    async def handler(one: Record) -> None:
        tries[one.seq] += 1
        if tries[one.seq] < 3:
            raise ConnectionError("down")

    async with EventBus() as bus:
        retry = Retry(base=0.0, attempts=3)
        lane = bus.subscribe(handler, concurrency=2, key=lambda _one: "all", retry=retry)
        for value in range(4):
            put_metric("m", value)
        assert await bus.flush(20)
        assert (lane.stats().delivered, lane.stats().failed) == (4, 0)


async def test_close_amid_calls_counts_each_record_once() -> None:
    """What was delivered of a batch by the deadline is delivered, the rest dropped."""

    async def handler(one: Record) -> None:
        if one.fields[0] >= 2:
            await anyio.sleep_forever()

    async with EventBus(interval=0.001, timeout=0.05) as bus:
        lane = bus.subscribe(handler, concurrency=2)
        for number in range(6):
            put_metric("m", number)
        with anyio.fail_after(20):
            while lane.stats().delivered < 2:
                await anyio.sleep(0.001)
    assert lane.stats().delivered == 2
    assert lane.stats().dropped == {"shutdown_deadline": 4}
    assert lane.stats().balanced


async def test_one_of_several_calls_that_flushes_is_told() -> None:
    """It would wait for itself."""
    told: list[bool] = []

    async with EventBus(interval=0.001) as bus:

        async def handler(_one: Record) -> None:
            with pytest.raises(WouldDeadlock):
                await bus.flush(60)
            told.append(True)

        bus.subscribe(handler, concurrency=2)
        put_metric("m", 1)
        assert await bus.flush(30)
    assert told == [True]


# --- the latest only ---


async def test_only_the_latest_of_a_key_waits() -> None:
    """The others are counted as coalesced, and no key waits for those that change more often."""
    seen: list[tuple[int, int]] = []

    async def handler(one: Record) -> None:
        seen.append((one.fields[0] % 3, one.fields[0]))

    bus = EventBus()
    lane = bus.subscribe(handler, coalesce=lambda one: one.fields[0] % 3)
    for number in range(100):
        bus.put_metric("m", number)
    async with bus:
        assert await bus.flush(20)
        stats = lane.stats()
    assert seen == [(0, 99), (1, 97), (2, 98)]
    assert stats.dropped == {"coalesced": 97}
    assert stats.balanced


async def test_latest_of_more_keys_than_fit() -> None:
    """A backlog of the latest is bounded too; a key that fails costs its record."""
    sink = ListSink()

    def key(one: Record) -> int:
        if one.fields[0] == 5:
            raise KeyError(5)
        return int(one.fields[0])

    bus = EventBus()
    lane = bus.subscribe(sink, coalesce=key, backlog=4)
    for number in range(10):
        bus.put_metric("m", number)
    async with bus:
        assert await bus.flush(20)
    assert [one.fields[0] for one in sink.payload] == [6, 7, 8, 9]
    assert lane.stats().dropped == {"backlog": 5, "key_error": 1}
    assert lane.stats().balanced


async def test_latest_under_failures_and_a_close_adds_up() -> None:
    """What was in flight when the bus closed is counted once."""
    bus = EventBus(timeout=0.05, interval=0.001)
    stuck = GatedSink()
    lane = bus.subscribe(stuck, coalesce=lambda one: one.fields[0] % 4, batch_size=2)
    async with bus:
        for number in range(50):
            put_metric("m", number)
            if number == 10:
                await stuck.entered.wait()
    assert lane.stats().balanced
    assert lane.stats().pending == 0


# --- records of before ---


async def test_lane_that_comes_late_begins_with_records_of_before() -> None:
    """`replay` gives the last so many events and metrics that the rings still have, then what comes, each once."""
    async with EventBus(first := ListSink(), interval=0.001) as bus:
        for number in range(20):
            put_metric("m", number)
            record(event(str(number)))
        assert await bus.flush(20)
        late = ListSink()
        lane = bus.subscribe(late, replay=5)
        put_metric("m", 20)
        assert await bus.flush(20)
        assert [one.fields[0] for one in late.payload if one.kind == "metric"] == [15, 16, 17, 18, 19, 20]
        assert [one.name for one in late.payload if one.kind == "event"] == ["15", "16", "17", "18", "19"]
        assert [one.monotonic_ns for one in late.payload] == sorted(one.monotonic_ns for one in late.payload)
        assert lane.stats().accepted == lane.stats().delivered == 11
        assert await bus.flush(20)
        times = {one.id: one.time_ns for one in first.payload}
        assert all(abs(times[one.id] - one.time_ns) < 10**9 for one in late.payload)  # the clocks are read at each look


async def test_replay_of_more_than_there_is() -> None:
    """A ring that turned over gives what it has, and what it has not is not asked for; the ledger adds up."""
    async with EventBus(ListSink(), interval=0.001, capacity=16) as bus:
        for number in range(100):
            put_metric("m", number)
        late = ListSink()
        lane = bus.subscribe(late, replay=1000)
        for number in range(100, 108):
            put_metric("m", number)
        assert await bus.flush(20)
        stats = lane.stats()
        assert [one.fields[0] for one in late.payload] == list(range(92, 108))
        assert stats.accepted == 24
        assert stats.dropped == {"overwritten": 8}
        assert stats.balanced
    with pytest.raises(ConfigError, match="replay"):
        EventBus().subscribe(ListSink(), replay=-1)


async def test_replay_waits_for_no_emitter_that_never_came_to_its_end() -> None:
    """A slot that was never filled is lost to who comes late, as to the others."""
    async with EventBus(ListSink(), interval=0.001) as bus:
        put_metric("m", 0)
        bus._rings[1].pipe[0]()  # taken, and not stored
        put_metric("m", 2)
        with anyio.fail_after(20 + GRACE):
            while bus.stats().lanes["ListSink"].dropped != {"interrupted": 1}:
                await anyio.sleep(0.01)
        late = ListSink()
        lane = bus.subscribe(late, replay=3)
        assert await bus.flush(20)
        assert [one.fields[0] for one in late.payload] == [0, 2]
        assert lane.stats().dropped == {"interrupted": 1}
        assert lane.stats().balanced


async def test_lane_on_a_drained_bus_has_nothing_pending() -> None:
    """Who subscribes to a bus that has read all owes nothing, and is asked for nothing."""
    async with EventBus(ListSink(), interval=0.001) as bus:
        for number in range(10):
            put_metric("m", number)
        assert await bus.flush(20)
        for replay in (0, 3, 1000):
            lane = bus.subscribe(ListSink(), replay=replay)
            assert lane.stats().accepted == min(replay, 10)
            assert await bus.flush(20)
            assert lane.stats().pending == 0
            assert lane.stats().delivered == min(replay, 10)


# --- an end of its own ---


async def test_block_of_a_lane() -> None:
    """`async with` around a subscription: what was recorded in the block is delivered, its handler closed, others go on."""
    sink = ListSink()
    async with EventBus(ListSink(), interval=3600) as bus:
        async with bus.subscribe(sink) as lane:
            put_metric("mine", 1)
        put_metric("not mine", 2)
        assert [one.name for one in sink.payload] == ["mine"]
        assert sink.closed == 1
        assert lane.finished
        assert await bus.flush(20)
        assert lane.stats().accepted == 1
    assert lane.stats().balanced


async def test_lane_that_closes_itself_in_its_handler_is_told() -> None:
    """It may unsubscribe there, and not wait for it."""
    told: list[bool] = []
    async with EventBus(interval=0.001) as bus:

        async def once(_one: Record) -> None:
            with pytest.raises(WouldDeadlock):
                await lane.aclose()
            lane.unsubscribe()
            told.append(True)

        lane = bus.subscribe(once)
        put_metric("m", 1)
        assert await bus.flush(20)
        put_metric("m", 2)
        await lane.aclose()
    assert told == [True]


async def test_closed_bus_takes_no_subscription() -> None:
    """What would wait for ever is refused."""
    async with EventBus() as bus:
        pass
    with pytest.raises(BusClosed, match="reaches no handler"):
        bus.subscribe(ListSink())


# --- a failure that ends the block ---


async def test_handler_whose_failure_ends_the_block() -> None:
    """The block is cancelled where it waits, and raises which handler failed and why; other handlers have everything."""
    sink = ListSink()

    async def page(_one: Record) -> None:
        raise ConnectionError("no route")

    with anyio.fail_after(20), pytest.raises(HandlerFailed, match="'page' failed: ConnectionError: no route") as raised:  # noqa: PT012
        async with EventBus(sink, interval=0.001) as bus:
            bus.subscribe(page, events="worker.*", on_failure="raise")
            record(event("worker.failed"))
            await anyio.sleep_forever()
    assert raised.value.lane == "page"
    assert isinstance(raised.value.__cause__, ConnectionError)
    assert len(sink.payload) == 1
    assert bus.stats().state == "closed"


async def test_failure_that_comes_with_the_close_is_raised_too() -> None:
    """A block that is left before its handler fails raises all the same."""

    async def page(_one: Record) -> None:
        raise ConnectionError("no route")

    with pytest.raises(HandlerFailed):  # noqa: PT012
        async with EventBus(interval=3600) as bus:
            bus.subscribe(page, on_failure="raise")
            record(event())


async def test_error_of_the_block_comes_before_that_of_a_handler() -> None:
    """A block that fails by itself raises its own error, with a note."""

    async def page(_one: Record) -> None:
        raise ConnectionError("no route")

    with pytest.raises(ZeroDivisionError) as raised:  # noqa: PT012 - the block is what is tested
        async with EventBus(interval=3600) as bus:
            bus.subscribe(page, on_failure="raise")
            record(event())
            raise ZeroDivisionError
    assert "no route" in raised.value.__notes__[0]


async def test_cancellation_from_outside_stays_one() -> None:
    """A failure and a cancellation at once: who cancelled sees its cancellation."""
    with anyio.fail_after(20), anyio.CancelScope() as scope:

        async def page(_one: Record) -> None:
            scope.cancel()
            raise ConnectionError("no route")

        async with EventBus(interval=0.001) as bus:
            bus.subscribe(page, on_failure="raise")
            record(event())
            await anyio.sleep_forever()
    assert scope.cancelled_caught


def test_handler_that_fails_on_a_bus_in_a_thread() -> None:
    """A plain `with` cannot be interrupted; it raises at its end."""

    async def page(_one: Record) -> None:
        raise ConnectionError("no route")

    with pytest.raises(HandlerFailed, match="no route"), EventBus() as bus:  # noqa: PT012 - the block is what is tested
        bus.subscribe(page, on_failure="raise")
        record(event())


async def test_failure_is_counted_and_no_more_unless_it_is_asked_for() -> None:
    """By default a handler that fails costs its own records."""
    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(FailingSink(lambda *_: PermanentError("no")))
        record(event())
        assert await bus.flush(20)
        assert lane.stats().failed == 1
    with pytest.raises(ConfigError, match="on_failure"):
        EventBus().subscribe(ListSink(), on_failure="stop")  # type: ignore[arg-type]


async def test_sink_that_only_the_user_can_put_right_ends_the_block() -> None:
    """One that is subscribed in the block, and cannot be opened for such a reason."""

    class Wrong(ListSink):
        async def open(self) -> None:
            raise ConfigError("make the directory first")

    with anyio.fail_after(20), pytest.raises(HandlerFailed, match="make the directory first"):  # noqa: PT012
        async with EventBus(interval=0.001) as bus:
            bus.subscribe(Wrong(), on_failure="raise")
            await anyio.sleep_forever()


# --- filters ---


@pytest.mark.parametrize(
    ("options", "names"),
    [
        ({}, ["worker.failed", "loss"]),
        ({"events": "worker.*"}, ["worker.failed"]),
        ({"events": ["worker.*"], "metrics": True}, ["worker.failed", "loss"]),
        ({"events": "job.*", "metrics": "lo*"}, ["loss"]),
        ({"events": False}, ["loss"]),
    ],
    ids=str,
)
async def test_who_names_events_gets_no_metrics_unless_asked_for(options: dict[str, Any], names: list[str]) -> None:
    """Patterns on events say what is wanted; the other stream comes where it is named."""
    sink = ListSink()
    async with EventBus() as bus:
        bus.subscribe(sink, **options)
        record(event("worker.failed"))
        put_metric("loss", 1)
    assert [one.name for one in sink.payload] == names


@pytest.mark.parametrize(
    ("options", "last"),
    [
        ({}, "bus.ledger"),
        ({"metrics": False}, "bus.ledger"),
        ({"events": "worker.*"}, "worker.failed"),
        ({"where": lambda one: one.event.metadata["rank"] == 3}, "worker.failed"),
    ],
    ids=["all", "events", "pattern", "where"],
)
async def test_sink_with_a_filter_gets_no_ledger_that_it_did_not_ask_for(options: dict[str, Any], last: str) -> None:
    """What a filter keeps out includes the lane's own last record; that says what it is where it is wanted."""
    sink = ListSink()
    async with EventBus() as bus:
        bus.subscribe(sink, **options)
        record(event("worker.failed", rank=3))
    assert sink.records[-1].name == last
    assert sink.records[-1].kind == ("ledger" if last == "bus.ledger" else "event")


async def test_file_with_a_filter_still_ends_with_its_ledger(tmp_path: Any) -> None:
    """Its readers tell a complete file from a cut one by it."""
    async with EventBus() as bus:
        bus.subscribe(f"jsonl:///{tmp_path}/run.jsonl", events="worker.*")
        record(event("worker.failed"))
    lines = await anyio.Path(tmp_path / "run.jsonl").read_text()
    assert "bus.ledger" in lines.splitlines()[-1]


class Unreadable:
    """An event whose metadata cannot be had."""

    name, source, timestamp = "unreadable", "WORKER", 0

    @property
    def metadata(self) -> dict[str, Any]:
        """Fail."""
        raise ValueError("no")


async def test_bound_fields() -> None:
    """Events of one part of a program carry its fields; an event's own stay."""
    sink = ListSink()
    async with EventBus(sink) as bus:
        job = bus.bind(job_id=7, rank=0)
        mine = event("started", rank=3)
        job.record(mine)
        job.bind(attempt=1).record(event("failed"))
        job.record(object())
        job.record(Unreadable())
    assert mine.metadata == {"rank": 3}
    assert [one.event.metadata for one in sink.payload[:2]] == [
        {"job_id": 7, "rank": 3},
        {"job_id": 7, "rank": 0, "attempt": 1},
    ]
    assert sink.payload[2].name == "unrecordable"
    assert len(sink.payload) == 4


@dataclass
class Named(Event):
    """An event with a field of its own."""

    step: int = 0


class Raising:
    """An event whose metadata raise."""

    name, source, timestamp = "raising", "WORKER", 0

    def __init__(self, error: BaseException) -> None:
        self.error = error

    @property
    def metadata(self) -> Any:
        """Raise."""
        raise self.error


@pytest.mark.parametrize(
    "error", [SystemExit(1), KeyboardInterrupt(), GeneratorExit(), RecursionError(), MemoryError()]
)
async def test_whatever_a_bound_event_raises_stays_there(error: BaseException) -> None:
    """Recording with bound fields lets nothing out that recording without them keeps in."""
    sink = ListSink()
    async with EventBus(sink) as bus:
        bus.bind(job_id=7).record(Raising(error))
    assert [one.name for one in sink.payload] == ["unrecordable"]


async def test_bound_fields_beside_those_of_a_subclass() -> None:
    """An event of a class with fields of its own keeps them where others are bound."""
    sink = ListSink()
    async with EventBus(sink) as bus:
        bus.bind(job_id=7).record(Named("named", EventSource.WORKER, step=3))
    assert sink.payload[0].event.metadata == {"job_id": 7, "step": 3}


def test_lane_of_a_bus_in_a_thread_ends_for_another_event_loop() -> None:
    """`async with` around a subscription to a bus that has a thread waits for all of it, and disturbs nobody."""

    async def main(bus: EventBus) -> None:
        sink = ListSink()
        with anyio.fail_after(60):
            async with bus.subscribe(sink):
                record(event())
        assert [one.name for one in sink.payload] == ["e"]
        assert sink.closed == 1

    with EventBus() as bus:
        for backend in ("asyncio", "trio"):
            anyio.run(main, bus, backend=backend)
        assert bus.stats().state == "open"


async def test_failure_while_the_bus_opens() -> None:
    """It is raised also where the block comes to its end without waiting for anything."""
    failed = Wakeup()

    class OpensLate(ListSink):
        async def open(self) -> None:
            """Open when the other has failed."""
            await failed.wait()

    class Refuses(ListSink):
        async def write(self, _records: Sequence[Record]) -> None:
            """Fail."""
            failed.set()
            raise PermanentError("no such page")

    with capture() as before:
        record(event())
    bus = EventBus()
    bus.subscribe(OpensLate())
    bus.subscribe(Refuses(), on_failure="raise")
    bus._drain.lanes[1].feed(list(before))  # as a spool of an earlier process would
    with anyio.fail_after(60), pytest.raises(HandlerFailed, match="no such page"):
        async with bus:
            pass


async def test_lanes_that_ended_do_not_pile_up() -> None:
    """Of a lane for each request the last ones stay in `stats`, and nothing of the others."""
    async with EventBus(interval=0.001) as bus:
        for number in range(150):
            async with bus.subscribe(ListSink(), name="request"):
                put_metric("m", number)
        stats = bus.stats()
        assert len(stats.lanes) <= 66
        assert all(lane.balanced for lane in stats.lanes.values())
        assert bus._lasting() == []
        assert len(bus._drain.notices.all) == len(bus._drain.lanes) == len(stats.lanes)
