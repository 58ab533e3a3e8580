"""Handlers that do not end when they are cancelled: they cost their own lane, and nothing else."""

import asyncio
import threading
import time
from typing import Any

import anyio
import pytest

from elastic_events import EventBus, Retry
from elastic_events.bus.apart import Calls
from elastic_events.testing import ListSink
from tests.recorder.test_collect import until


@pytest.fixture(params=["asyncio", "uvloop"])
def anyio_backend(request: pytest.FixtureRequest) -> Any:
    """Run where a task can be left behind: trio's own `run` waits for all of its tasks."""
    return "asyncio", {"use_uvloop": request.param == "uvloop"}


class Deaf:
    """A handler that swallows its cancellation until it is released."""

    def __init__(self) -> None:
        self.released = False
        self.begun = self.cancelled = self.ended = self.most = 0

    async def __call__(self, _record: object) -> None:
        self.begun += 1
        self.most = max(self.most, self.begun - self.ended)
        while not self.released:
            try:
                await anyio.sleep(0.01)
            except BaseException:  # noqa: BLE001 - what is tested
                self.cancelled += 1
        self.ended += 1


async def test_close_ends_though_a_handler_swallows_its_cancellation() -> None:
    """The block ends by its deadline, the other lane has all, the ledger adds up, and nobody cancels on and on."""
    deaf, good = Deaf(), ListSink()
    began = time.monotonic()
    async with EventBus(timeout=0.2) as bus:
        lane = bus.subscribe(deaf)
        bus.subscribe(good)
        for number in range(10):
            bus.put_metric("m", number)
        await until(lambda: deaf.begun == 1)
    assert time.monotonic() - began < 15
    assert len(good.payload) == 10
    assert lane.stats().dropped == {"shutdown_deadline": 10}
    assert lane.stats().balanced
    assert deaf.cancelled <= 2
    await anyio.sleep(0.1)
    assert deaf.cancelled <= 2, "nobody is busy with it afterwards"
    deaf.released = True
    await until(lambda: deaf.ended == 1)


@pytest.mark.parametrize("name", ["open", "aclose"])
async def test_close_ends_though_a_sink_swallows_its_cancellation(name: str) -> None:
    """The same for the other calls of a sink."""
    deaf, sink = Deaf(), ListSink()
    setattr(sink, name, lambda: deaf(None))
    with anyio.move_on_after(0.2):
        async with EventBus(sink, timeout=0.1):
            pass
    assert deaf.begun == 1
    assert deaf.cancelled <= 2
    deaf.released = True
    await until(lambda: deaf.ended == 1)


async def test_a_call_that_ignores_its_timeout_is_alone_until_it_ends() -> None:
    """The handler is not called again while an earlier call goes on, and delivers again after that."""
    deaf = Deaf()
    async with EventBus() as bus:
        lane = bus.subscribe(deaf, timeout=0.05, retry=Retry(base=0.01, cap=0.01))
        bus.put_metric("m", 1)
        await until(lambda: lane.stats().retries >= 3)
        assert (deaf.begun, deaf.cancelled) == (1, 1)
        deaf.released = True
        await bus.settled()
        assert lane.stats().delivered == 1
    assert deaf.most == 1


def test_a_thread_ends_its_close_and_burns_nothing() -> None:
    """A bus in a thread closes by its deadline, and its thread is idle afterwards, and gone when the handler is."""
    deaf, good = Deaf(), ListSink()
    began = time.monotonic()
    with EventBus(timeout=0.2) as bus:
        bus.subscribe(deaf)
        bus.subscribe(good)
        bus.put_metric("m", 1)
        while not deaf.begun:
            time.sleep(0.001)
    assert time.monotonic() - began < 15
    assert len(good.payload) == 1
    assert not bus.stats().lanes["ListSink"].pending
    assert deaf.cancelled <= 3
    deaf.released = True
    end = time.monotonic() + 20
    while any(thread.name == "elastic-events" for thread in threading.enumerate()):
        assert time.monotonic() < end
        time.sleep(0.01)


async def test_a_call_that_ends_as_it_is_cancelled_counts_as_what_it_did() -> None:
    """A handler that delivers its record though its time is up has delivered it, and is not asked to again."""
    got: list[object] = []

    async def finishes(record: object) -> None:
        try:
            await anyio.sleep_forever()
        except anyio.get_cancelled_exc_class():
            got.append(record)

    async with EventBus(timeout=0.1) as bus:
        first = bus.subscribe(finishes, timeout=0.05, retry=Retry(base=0.01))
        bus.put_metric("m", 1)
        await until(lambda: first.stats().delivered == 1)
        last = bus.subscribe(finishes, timeout=None)
        bus.put_metric("m", 2)
    assert len(got) == 3
    assert (first.stats().delivered, last.stats().delivered) == (2, 1)


async def test_a_call_that_failed_before_it_was_cancelled_counts_as_failed() -> None:
    """Also of a `CancelledError` of its own, in the very turn of the loop in which the deadline came: it was no attempt."""
    raised: list[asyncio.CancelledError] = []

    async def cancels_itself() -> None:
        await asyncio.sleep(0)
        raised.append(asyncio.CancelledError("mine"))
        raise raised[0]

    calling = asyncio.create_task(Calls().make(cancels_itself))
    while not raised:
        await asyncio.sleep(0)
    calling.cancel()  # before it has heard of the end
    assert await calling is raised[0]
