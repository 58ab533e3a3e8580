"""The block of a bus: cancelled at every checkpoint, left in another task than it was entered in, ended by a failure."""

import asyncio
import contextvars
import types
import unittest
from collections.abc import AsyncIterator, Awaitable, Callable, Coroutine, Generator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from typing import Any

import anyio
import pytest

from elastic_events import EventBus, Record
from elastic_events.testing import ListSink
from elastic_metrics import put_metric

ASYNCIO = pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)


class Slow(ListSink):
    """A sink each of whose calls takes a few turns of the loop."""

    async def open(self) -> None:
        """Open, in a while."""
        await super().open()
        for _ in range(3):
            await anyio.sleep(0)

    async def write(self, records: Sequence[Record]) -> None:
        """Write, in a while."""
        for _ in range(3):
            await anyio.sleep(0)
        await super().write(records)

    async def aclose(self) -> None:
        """Close, in a while."""
        for _ in range(3):
            await anyio.sleep(0)
        await super().aclose()


@types.coroutine
def stepped(coroutine: Coroutine[Any, Any, Any], at: int, act: Callable[[], object]) -> Generator[Any, Any, int]:
    """Run `coroutine`, call `act()` as it waits for the `at`-th time, and return how many times it waited."""
    waited = 0
    send: Callable[[], Any] = lambda: coroutine.send(None)  # noqa: E731
    while True:
        try:
            waits_for = send()
        except StopIteration:
            return waited
        waited += 1
        if waited == at:
            act()
        try:
            value = yield waits_for
        except BaseException as error:  # noqa: BLE001 - handed on
            send = lambda error=error: coroutine.throw(error)  # noqa: E731
        else:
            send = lambda value=value: coroutine.send(value)  # noqa: E731


async def life(buses: list[EventBus], sinks: list[Slow], folder: Path) -> None:
    """Live through all that a bus can be waited for in."""
    sinks.append(sink := Slow())
    bus = EventBus(sink, interval=0.001)
    buses.append(bus)
    async with bus:
        put_metric("m", 1)
        await bus.flush()
        await bus.collect(folder)
        async with bus.subscribe(Slow(), events="none"):
            await bus.flush()
        async with bus.listen() as records:
            put_metric("m", 2)
            await anext(records)
        with suppress(TimeoutError):
            await bus.next(timeout=0.001)
        await bus.aclose()


def check(bus: EventBus, sink: Slow) -> None:
    """Nothing runs on, and everything is counted."""
    stats = bus.stats()
    assert stats.state == "closed"
    assert sink.opened == sink.closed
    assert stats.lanes["Slow"].delivered == len(sink.payload)
    for lane in stats.lanes.values():
        assert lane.balanced
        assert lane.pending == 0


async def test_block_that_is_cancelled_at_any_checkpoint_ends(tmp_path: Path) -> None:
    """Opening and closing included: it ends, the ledger adds up, nothing runs on; what was recorded in the block arrives."""
    for at in range(1, 1000):
        buses: list[EventBus] = []
        sinks: list[Slow] = []
        with anyio.fail_after(20), anyio.CancelScope() as scope:
            waited = await stepped(life(buses, sinks, tmp_path / str(at)), at, scope.cancel)
        if buses:
            check(buses[0], sinks[0])
        if not scope.cancelled_caught and waited < at:
            break
    assert at > 8
    assert len(sinks[0].payload) == 2


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
async def test_task_that_is_cancelled_at_any_checkpoint_ends(tmp_path: Path) -> None:
    """The same for asyncio's own `Task.cancel`, which knows no shield (F28)."""
    before = asyncio.all_tasks()
    for at in range(1, 1000):
        buses: list[EventBus] = []
        sinks: list[Slow] = []
        counted: list[int] = []

        async def work(at: int = at, buses: Any = buses, sinks: Any = sinks, counted: Any = counted) -> None:
            task = asyncio.current_task()
            assert task is not None
            counted.append(await stepped(life(buses, sinks, tmp_path / str(at)), at, task.cancel))

        task = asyncio.ensure_future(work())
        done, _ = await asyncio.wait([task], timeout=20)
        assert done
        if buses:
            check(buses[0], sinks[0])
        if not task.cancelled() and counted[0] < at:
            break
    assert at > 8
    assert asyncio.all_tasks() == before


@pytest.mark.parametrize(
    "anyio_backend", [("asyncio", {}), ("asyncio", {"use_uvloop": True})], ids=["asyncio", "uvloop"]
)
@pytest.mark.parametrize("limit", ["timeout", "wait_for"])
async def test_asyncios_own_timeouts_end_an_opening_that_hangs(limit: str) -> None:
    """`asyncio.timeout` and `wait_for` around a bus whose sink hangs while it opens raise TimeoutError soon."""

    class Hangs(ListSink):
        async def open(self) -> None:
            await anyio.sleep_forever()

    async def main() -> None:
        async with EventBus(Hangs()):
            await anyio.sleep_forever()

    async def limited() -> None:
        if limit == "wait_for":
            await asyncio.wait_for(main(), 0.05)
        else:
            async with asyncio.timeout(0.05):
                await main()

    with anyio.fail_after(20), pytest.raises(TimeoutError):
        await limited()


async def test_sibling_that_fails_ends_an_opening() -> None:
    """A task group whose other task fails while a bus opens ends with that failure."""

    class Hangs(ListSink):
        async def open(self) -> None:
            await anyio.sleep_forever()

    async def fails() -> None:
        await anyio.sleep(0.01)
        raise ZeroDivisionError

    async def main() -> None:
        async with anyio.create_task_group() as tasks:
            tasks.start_soon(fails)
            async with EventBus(Hangs()):
                await anyio.sleep_forever()

    with anyio.fail_after(20), pytest.raises(BaseExceptionGroup) as raised:
        await main()
    assert raised.group_contains(ZeroDivisionError)


async def in_a_task(function: Callable[[], Awaitable[object]]) -> None:
    """Run `function` in a task of its own, to its end."""
    async with anyio.create_task_group() as tasks:
        tasks.start_soon(function)


@ASYNCIO
async def test_bus_is_entered_used_and_left_in_different_tasks() -> None:
    """As fixtures and the hooks of web services do it."""
    sink = ListSink()
    stack = AsyncExitStack()
    bus = EventBus(sink)

    async def use() -> None:
        put_metric("m", 1)
        assert await bus.flush(20)

    with anyio.fail_after(20):
        await in_a_task(lambda: stack.enter_async_context(bus))
        await in_a_task(use)
        put_metric("m", 2)
        await in_a_task(stack.aclose)
    assert [record.fields[0] for record in sink.payload] == [1, 2]
    assert bus.stats().state == "closed"
    assert sink.closed == 1


@pytest.mark.parametrize("anyio_backend", [("asyncio", {})], ids=["asyncio"])
async def test_bus_is_entered_under_a_timeout_that_ends_before_it() -> None:
    """On asyncio a bus holds no scope of the task that opens it: one that was entered before it may be left first."""
    stack = AsyncExitStack()
    with anyio.fail_after(20):
        bus = await stack.enter_async_context(EventBus(sink := ListSink()))
    put_metric("m", 1)
    await stack.aclose()
    assert len(sink.payload) == 1
    assert bus.stats().state == "closed"


def test_unittest_case() -> None:
    """`IsolatedAsyncioTestCase` sets up, runs and tears down in tasks of their own."""
    seen: list[int] = []

    class Case(unittest.IsolatedAsyncioTestCase):
        async def asyncSetUp(self) -> None:
            self.bus = await self.enterAsyncContext(EventBus(sink := ListSink()))
            self.sink = sink

        async def test_it(self) -> None:
            put_metric("m", 1)
            assert await self.bus.flush(20)
            seen.append(len(self.sink.payload))

    result = unittest.TestResult()
    unittest.defaultTestLoader.loadTestsFromTestCase(Case).run(result)
    assert result.wasSuccessful(), result.errors + result.failures
    assert seen == [1]


@ASYNCIO
async def test_generator_fixture_around_a_bus() -> None:
    """An async generator that yields inside the block is closed by another task."""
    sink = ListSink()

    @asynccontextmanager
    async def fixture() -> AsyncIterator[EventBus]:
        async with EventBus(sink) as bus:
            yield bus

    made = fixture()
    buses: list[EventBus] = []

    async def enter() -> None:
        buses.append(await made.__aenter__())

    await in_a_task(enter)
    buses[0].put_metric("m", 1)
    await in_a_task(lambda: made.__aexit__(None, None, None))
    assert len(sink.payload) == 1


def test_bus_is_left_in_another_task_on_trio() -> None:
    """Where the task that entered it has ended, in a nursery of trio's own."""
    import trio

    sink = ListSink()
    bus = EventBus(sink)

    async def enter() -> None:
        await bus.__aenter__()
        put_metric("m", 1)

    async def leave() -> None:
        await bus.__aexit__(None, None, None)

    async def main() -> None:
        for step in (enter, leave):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(step)

    trio.run(main)
    assert len(sink.payload) == 1
    assert bus.stats().state == "closed"


@pytest.fixture
async def fixture_sink() -> AsyncIterator[ListSink]:
    """A sink of a bus that is open while the test runs."""
    async with EventBus(sink := ListSink()):
        yield sink
    assert sink.closed == 1


async def test_fixture_of_anyios_plugin(fixture_sink: ListSink) -> None:
    """A fixture holds a bus open around a test, on every backend."""
    put_metric("m", 1)
    with anyio.fail_after(20):
        while not fixture_sink.payload:
            await anyio.sleep(0.01)


async def test_lane_runs_with_the_context_of_who_opened_the_bus() -> None:
    """Not with that of whoever flushed first, or subscribed."""
    who = contextvars.ContextVar("who", default="nobody")
    seen: list[str] = []

    async def handler(_record: Record) -> None:
        seen.append(who.get())

    who.set("opener")
    async with EventBus(interval=3600) as bus:

        async def other() -> None:
            who.set("other")
            bus.subscribe(handler)
            put_metric("m", 1)
            assert await bus.flush(20)

        await in_a_task(other)
    assert seen == ["opener"]


def test_trio_run_ends_though_a_block_is_never_left() -> None:
    """What was recorded is delivered then, and the run comes to its end."""
    import trio

    sink = ListSink()

    async def main() -> EventBus:
        bus = EventBus(sink)
        await bus.__aenter__()
        put_metric("m", 1)
        return bus

    bus = trio.run(main)
    assert len(sink.payload) == 1
    assert sink.closed == 1
    bus.close()
