"""A sink that is down for a minute, in virtual time."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from elastic_events import EventBus, Record, Retry
from elastic_events.testing import FailingSink, ListSink
from elastic_metrics import put_metric


@pytest.fixture
def anyio_backend() -> Any:
    """Run on trio with a clock that jumps to the next deadline."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Outage(FailingSink):
    """Down between two moments of the loop's clock."""

    def __init__(self, begin: float, end: float) -> None:
        super().__init__(self.down)
        self.begin, self.end = begin, end
        self.tries: list[float] = []

    def down(self, _records: Sequence[Record], _attempt: int) -> BaseException | None:
        """Refuse while down."""
        now = anyio.current_time()
        self.tries.append(now)
        return ConnectionRefusedError("down") if self.begin <= now < self.end else None


async def emit(seconds: int, rate: int = 1000) -> None:
    """Emit `rate` points a second, numbered."""
    for second in range(seconds):
        for number in range(rate):
            put_metric("m", second * rate + number)
        await anyio.sleep(1)


async def test_outage_of_a_minute_loses_nothing() -> None:
    """At 1,000 records a second, a sink that was down for 60 s gets everything, in order, and the other was complete (F38)."""
    start = anyio.current_time()
    sick, well = Outage(start + 10, start + 70), ListSink()
    async with EventBus(well) as bus:
        lane = bus.subscribe(sick, name="sick", retry=Retry(base=0.1, cap=5, budget=120))
        await emit(65)
        assert lane.circuit == "open"
        assert len(well.records) >= 64_000
        assert lane.stats().pending > 50_000
        with anyio.fail_after(60):
            await bus.settled()
        assert lane.circuit == "closed"
    assert [r.fields[0] for r in sick.payload] == list(range(65_000))
    assert lane.stats().lost == 0
    gaps = [later - earlier for earlier, later in zip(sick.tries, sick.tries[1:], strict=False)]
    assert max(gaps) <= 5.1
    failing = [moment for moment in sick.tries if start + 10 <= moment < start + 70]
    assert 12 <= len(failing) < 120  # backed off, not hammered


async def test_outage_longer_than_the_backlog_is_counted() -> None:
    """What a bounded backlog cannot hold is lost from its oldest end, exactly counted, and memory stays bounded (F52)."""
    start = anyio.current_time()
    sick = Outage(start, start + 60)
    async with EventBus() as bus:
        lane = bus.subscribe(sick, backlog=5000, batch_size=100, retry=Retry(base=0.1, cap=5, budget=120))
        await emit(30)
        assert len(lane.backlog) == 5000
        with anyio.fail_after(120):
            await bus.settled()
    stats = lane.stats()
    assert stats.balanced
    assert stats.dropped == {"backlog": 30_000 - len(sick.payload)}
    assert 5000 < len(sick.payload) <= 5000 + 100  # the backlog, and the batch in flight
    assert [r.fields[0] for r in sick.payload][-5000:] == list(range(25_000, 30_000))


async def test_budget_shorter_than_the_outage_is_counted_as_failed() -> None:
    """A batch whose budget ends counts as failed; with the circuit open the next does not start the backoff anew (F38)."""
    start = anyio.current_time()
    sick = Outage(start, start + 100)
    async with EventBus() as bus:
        lane = bus.subscribe(sick, batch_size=10, retry=Retry(base=0.1, cap=5, budget=20))
        await emit(1, rate=30)
        await anyio.sleep(120)
    assert lane.stats().failed == 30
    assert len(sick.tries) < 100


async def test_server_says_when_to_come_back() -> None:
    """An error with `retry_after` is waited for as long as the server says."""
    from elastic_events.bus.errors import TransientError

    moments: list[float] = []

    def busy(_records: Sequence[Record], attempt: int) -> BaseException | None:
        moments.append(anyio.current_time())
        error = TransientError("429")
        error.retry_after = 7.0
        return error if attempt == 1 else None

    async with EventBus() as bus:
        bus.subscribe(FailingSink(busy))
        put_metric("m", 1)
        await bus.settled()
    assert moments[1] - moments[0] == pytest.approx(7.0)


async def test_linger_waits_for_a_full_batch() -> None:
    """A lane with a linger waits that long for its batch to fill, and not when it is full."""
    sink = ListSink()
    async with EventBus() as bus:
        bus.subscribe(sink, batch_size=5, linger=10.0)
        put_metric("m", 1)
        await anyio.sleep(5)
        put_metric("m", 2)
        await anyio.sleep(4)
        assert sink.batches == []
        await anyio.sleep(2)
        assert sink.batches == [2]
        for number in range(5):
            put_metric("m", number)
        await anyio.sleep(1)
        assert sink.batches == [2, 5]
