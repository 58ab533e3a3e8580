"""What a flush says: of all that was recorded before it, and of nothing that came later."""

import threading
from collections.abc import Sequence
from typing import Any

import anyio
import pytest

from elastic_events import EventBus, Record, Retry, Undelivered, WouldDeadlock
from elastic_events.bus.errors import TransientError
from elastic_events.testing import FailingSink, GatedSink, ListSink
from elastic_metrics import put_metric


async def test_flush_beside_a_steady_emitter_is_true() -> None:
    """What is recorded after the call is not waited for: each of twenty flushes beside an emitter says that all is delivered."""
    async with EventBus(ListSink()) as bus:
        over = threading.Event()

        def emit() -> None:
            while not over.wait(0.0005):
                bus.put_metric("m", 1)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(anyio.to_thread.run_sync, emit)
            for _ in range(20):
                assert await bus.flush(20)
            over.set()


async def test_what_came_after_the_flush_is_not_said_to_be_undelivered() -> None:
    """Records that come while a flush reads the rings, and that a stuck handler has, are no fault of the flush."""
    stuck = anyio.Event()

    def where(one: Record) -> bool:
        if one.name == "m" and one.fields[0] == 0:  # the flush has begun, and has not read all
            for _ in range(400):
                bus.put_metric("later", 1)
        return True

    async def write(records: list[Record]) -> None:
        if records[0].name == "later":
            await stuck.wait()
        elif records[-1].fields[0] == 1499:
            bus._drain._wake.set()
            while not lane.backlog:  # until the later ones are there, too
                await anyio.sleep(0)

    async with EventBus(interval=3600) as bus:
        lane = bus.subscribe(write, where=where, batch_size=100, timeout=None)
        for number in range(1500):
            put_metric("m", number)
        with anyio.fail_after(20):
            result = await bus.flush(20)
        assert result.undelivered == {}
        assert lane.stats().delivered == 1500
        assert (await bus.flush(0.01)).undelivered == {"write": 400}
        stuck.set()


async def test_events_and_metrics_keep_their_order_beside_flushes() -> None:
    """A flush that ends a look early mixes the two rings no differently."""
    sink = ListSink()
    async with EventBus(sink, interval=0.001) as bus:

        async def emit() -> None:
            for number in range(1500):
                put_metric("m", number) if number % 3 else bus.record(_event(str(number)))
                if number % 50 == 0:
                    await anyio.sleep(0)

        async def flush() -> None:
            for _ in range(30):
                await bus.flush()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(emit)
            tasks.start_soon(flush)
    assert [r.monotonic_ns for r in sink.payload] == sorted(r.monotonic_ns for r in sink.payload)
    assert len(sink.payload) == 1500


async def test_flush_does_not_linger() -> None:
    """A lane that waits for more records delivers what it has when somebody waits for it."""
    sink = ListSink()
    async with EventBus(interval=0.001) as bus:
        bus.subscribe(sink, batch_size=100, linger=3600)
        for _ in range(3):
            put_metric("m", 1)
            with anyio.fail_after(20):
                assert await bus.flush(60)
        assert len(sink.payload) == 3


async def test_flush_ends_a_backoff() -> None:
    """A lane that waits for another attempt makes it when somebody waits for it."""

    def fails(_records: Sequence[Record], attempt: int) -> BaseException | None:
        return TransientError("429", retry_after=3600) if attempt == 1 else None

    sink = FailingSink(fails)
    async with EventBus(interval=0.001) as bus:
        bus.subscribe(sink, retry=Retry(budget=float("inf")))
        put_metric("m", 1)
        with anyio.fail_after(20):
            while not sink.attempts:
                await anyio.sleep(0.001)
            assert await bus.flush(60)


async def test_flush_that_comes_during_an_attempt_ends_the_backoff_behind_it() -> None:
    """What somebody waits for is tried again at once, also where the lane was not waiting yet."""
    begun, goes_on = anyio.Event(), anyio.Event()

    class Slow(ListSink):
        async def write(self, records: Sequence[Record]) -> None:
            """Fail the first time, when it is let go on."""
            if not begun.is_set():
                begun.set()
                await goes_on.wait()
                raise TransientError("429", retry_after=3600)
            await super().write(records)

    async with EventBus(interval=0.001) as bus:
        lane = bus.subscribe(Slow(), retry=Retry(budget=float("inf")))
        put_metric("m", 1)
        with anyio.fail_after(20):
            async with anyio.create_task_group() as group:
                await begun.wait()
                group.start_soon(bus.flush, 60)
                await anyio.wait_all_tasks_blocked()
                goes_on.set()
        assert lane.stats().delivered == 1


async def test_close_that_comes_while_the_drain_is_busy_is_heard() -> None:
    """It waits for no timer: neither right after a flush nor amid a look."""
    with anyio.fail_after(20):
        for _ in range(10):
            async with EventBus(ListSink(), interval=3600) as bus:
                put_metric("m", 1)
                await bus.flush()
                bus._drain._wake.set()
                put_metric("m", 1)
                await anyio.sleep(0)


async def test_flush_of_a_bus_that_is_not_open_says_what_waits() -> None:
    """A new bus delivers nothing yet, and says so."""
    bus = EventBus(ListSink())
    assert await bus.flush()
    bus.put_metric("m", 1)
    result = await bus.flush()
    assert result.undelivered == {"ListSink": 1}
    with pytest.raises(Undelivered, match="1 of ListSink") as raised:
        result.raise_if_undelivered()
    assert raised.value.undelivered == {"ListSink": 1}
    assert isinstance(raised.value, TimeoutError)
    async with bus:
        (await bus.flush(20)).raise_if_undelivered()


async def test_handler_that_flushes_its_own_bus_is_told_at_once() -> None:
    """A flush or a close in a handler could only wait for itself: it raises, and the handler's record is not lost."""
    told: list[str] = []

    async with EventBus() as bus:

        async def handler(_record: Record) -> None:
            for wait in (bus.flush, bus.aclose):
                try:
                    await wait(60)
                except WouldDeadlock as error:
                    told.append(str(error))

        lane = bus.subscribe(handler)
        put_metric("m", 1)
        with anyio.fail_after(20):
            assert await bus.flush(60)
    assert told == ["called in the handler of the lane 'handler', it would wait for itself"] * 2
    assert lane.stats().delivered == 1


def test_handler_that_flushes_a_bus_in_a_thread_is_told_at_once() -> None:
    """Neither kind of flush can wait in a handler of a bus with a thread of its own."""
    told: list[str] = []

    async def handler(_record: Record) -> None:
        for wait in (bus.flush_sync, bus.close):
            try:
                wait(60)
            except WouldDeadlock as error:
                told.append(str(error))
        try:
            await bus.flush(60)
        except WouldDeadlock as error:
            told.append(str(error))

    with EventBus(handler) as bus:
        put_metric("m", 1)
        assert bus.flush_sync(30)
    assert len(told) == 3


async def test_thread_flushes_the_bus_of_an_event_loop() -> None:
    """Any thread may flush and close a bus that lives in a loop, but for the loop's own, which that would block."""
    sink = ListSink()
    async with EventBus(sink, interval=3600) as bus:
        with pytest.raises(WouldDeadlock, match=r"await bus\.flush"):
            bus.flush_sync(60)
        with pytest.raises(WouldDeadlock, match=r"await bus\.aclose"):
            bus.close(60)
        put_metric("m", 1)
        result = await anyio.to_thread.run_sync(bus.flush_sync, 30.0)
        assert result
        assert len(sink.payload) == 1
        put_metric("m", 2)
        assert await anyio.to_thread.run_sync(bus.close, 30.0)
    assert len(sink.payload) == 2
    assert sink.closed == 1


async def test_flush_in_another_loop_than_the_bus() -> None:
    """A coroutine of another event loop may wait for it, too."""
    async with EventBus(ListSink(), interval=3600) as bus:
        put_metric("m", 1)

        def other() -> bool:
            return bool(anyio.run(bus.flush, 30.0))

        assert await anyio.to_thread.run_sync(other)


def _event(name: str) -> Any:
    from elastic_events import Event, EventSource

    return Event(name, EventSource.WORKER)


async def test_flush_beside_a_close_that_gives_up() -> None:
    """A flush ends with the bus, and says what the close gave up."""
    sink = GatedSink()
    left: list[dict[str, int]] = []
    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks:

            async def flush(bus: EventBus) -> None:
                left.append((await bus.flush(float("inf"))).undelivered)

            async with EventBus(sink, timeout=0.01) as bus:
                bus.put_metric("m", 1)
                tasks.start_soon(flush, bus)
                await sink.entered.wait()
    assert left == [{"GatedSink": 1}]
