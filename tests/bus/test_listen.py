"""Records as a loop over them, and the next one as something to wait for."""

from typing import Any

import anyio
import pytest

from elastic_events import BusClosed, ConfigError, Event, EventBus, EventSource, Record, record
from elastic_events.testing import ListSink
from elastic_metrics import put_metric


def event(name: str, **metadata: Any) -> Event:
    """Return an event."""
    return Event(name, EventSource.WORKER, metadata=metadata)


async def test_loop_over_what_comes() -> None:
    """The records of the block that the filter wants, in their order, from the first after it was entered."""
    async with EventBus(interval=0.001) as bus:
        record(event("worker.early"))
        async with bus.listen("worker.*", where=lambda one: one.fields[2].get("rank") != 1) as records:
            for rank in range(3):
                record(event("worker.failed", rank=rank))
                record(event("job.failed", rank=rank))
                put_metric("worker.loss", 1)
            seen = []
            with anyio.fail_after(20):
                async for one in records:
                    seen.append((one.name, one.event.metadata["rank"]))
                    if len(seen) == 2:
                        break
        assert seen == [("worker.failed", 0), ("worker.failed", 2)]
        assert bus.stats().lanes == {}


async def test_loop_does_not_wait_for_the_drains_timer_to_begin() -> None:
    """What listens has its place at once; a flush brings the records."""
    async with EventBus(interval=3600) as bus, bus.listen() as records:
        put_metric("m", 1)
        assert await bus.flush(20)
        with anyio.fail_after(20):
            assert (await anext(records)).name == "m"


async def test_loop_ends_when_the_bus_closes() -> None:
    """What was recorded before is still given."""
    seen: list[str] = []
    async with anyio.create_task_group() as tasks:
        listening = anyio.Event()

        async def listen(bus: EventBus) -> None:
            async with bus.listen() as records:
                listening.set()
                async for one in records:
                    seen.append(one.name)

        async with EventBus() as bus:
            tasks.start_soon(listen, bus)
            await listening.wait()
            put_metric("a", 1)
            put_metric("b", 2)
    assert seen == ["a", "b"]


async def test_listener_that_takes_nothing_is_bounded_and_holds_up_nobody() -> None:
    """The newest stay, what fell out is counted, and neither a flush nor the close waits for the listener."""
    sink = ListSink()
    with anyio.fail_after(20):
        async with EventBus(sink, interval=0.001, timeout=3600) as bus, bus.listen(limit=3) as records:
            for number in range(10):
                put_metric("m", number)
            assert await bus.flush(3600)
            stats = bus.stats().lanes["listen"]
            assert (stats.delivered, stats.dropped) == (3, {"listener": 7})
            assert stats.balanced
            assert records.dropped == 7
            await bus.aclose()
            assert [one.fields[0] async for one in records] == [7, 8, 9]
    assert len(sink.payload) == 10


async def test_next() -> None:
    """The next record that is wanted; a timeout where none comes; and nothing is left of the waiting."""
    async with EventBus(interval=0.001) as bus:
        found: list[Record] = []

        async def wait() -> None:
            found.append(await bus.next("worker.failed", where=lambda one: one.event.metadata["rank"] == 3, timeout=20))

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(wait)
            while not bus.stats().lanes:
                await anyio.sleep(0)
            for rank in (1, 3, 5):
                record(event("worker.failed", rank=rank))
        assert found[0].event.metadata == {"rank": 3}
        with pytest.raises(TimeoutError):
            await bus.next("worker.failed", timeout=0.01)
        assert bus.stats().lanes == {}


async def test_next_of_a_bus_that_closes() -> None:
    """Who waits for a record is told that the bus closed."""
    async with anyio.create_task_group() as tasks:

        async def wait(bus: EventBus) -> None:
            with pytest.raises(BusClosed, match="closed before"):
                await bus.next("never")

        async with EventBus() as bus:
            tasks.start_soon(wait, bus)
            while not bus.stats().lanes:
                await anyio.sleep(0)


def test_listening_where_the_bus_does_not_live() -> None:
    """On a bus that is not open, or in a thread, listening is refused with what to do."""
    with pytest.raises(BusClosed, match="async with EventBus"):
        anyio.run(EventBus().next, "never")
    with EventBus() as bus, pytest.raises(BusClosed, match="async with EventBus"):
        anyio.run(bus.next, "never")


async def test_next_of_a_bus_that_is_closing_ends() -> None:
    """Who waits for one record after the other is told that the bus closes, though a slow handler still holds it open."""
    gate = anyio.Event()

    async def slow(_record: Record) -> None:
        await gate.wait()

    async def loop(bus: EventBus) -> None:
        await bus.next("worker.*")
        with pytest.raises(BusClosed):
            await bus.next("worker.*")
        gate.set()

    with anyio.fail_after(60):
        async with anyio.create_task_group() as tasks, EventBus(slow, timeout=60) as bus:
            tasks.start_soon(loop, bus)
            while "listen" not in bus.stats().lanes:
                await anyio.sleep(0)
            record(event("worker.failed"))


@pytest.mark.parametrize("limit", [0, -1])
async def test_listener_that_could_hold_nothing(limit: int) -> None:
    """A limit under one record is refused."""
    async with EventBus() as bus:
        with pytest.raises(ConfigError, match="limit"):
            async with bus.listen(limit=limit):
                pass
