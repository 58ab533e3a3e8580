"""A sink that refuses everything: no poison among the records, but a fault of its own, which may be mended."""

from collections.abc import Sequence
from typing import Any

import anyio
import pytest
from trio.testing import MockClock

from elastic_events import EventBus, PermanentError, Record
from elastic_events.testing import FailingSink
from elastic_metrics import put_metric


@pytest.fixture
def anyio_backend() -> Any:
    """Run on trio with a clock that jumps to the next deadline."""
    return "trio", {"clock": MockClock(autojump_threshold=0)}


class Refuses(FailingSink):
    """A sink that takes nothing while `all_of_it`, and never the values of `poison`."""

    def __init__(self, *poison: int) -> None:
        super().__init__(self._judge)
        self.all_of_it = False
        self.poison = set(poison)

    def _judge(self, records: Sequence[Record], _attempt: int) -> BaseException | None:
        values = {record.fields[0] for record in records if record.kind == "metric"}
        return PermanentError("413") if self.all_of_it or values & self.poison else None


async def test_sink_that_refuses_everything_is_only_probed() -> None:
    """A server that answers every request with a refusal is tried with a record now and then; the others wait for it."""
    sink = Refuses()
    sink.all_of_it = True
    async with EventBus() as bus:
        lane = bus.subscribe(sink)
        for number in range(2000):
            put_metric("m", number)
        await anyio.sleep(60)
        stats = lane.stats()
        assert stats.circuit == "open"
        assert sink.attempts < 60
        assert stats.pending > 1940
        sink.all_of_it = False
        with anyio.fail_after(60):
            await bus.settled()
        assert lane.stats().circuit == "closed"
    stats = lane.stats()
    assert stats.failed + stats.delivered == 2000
    assert stats.failed == 2000 - len(sink.payload) < 60


async def test_a_few_poison_records_side_by_side_cost_themselves_only() -> None:
    """Four refused in a row are four poison records: the others are delivered at once."""
    sink = Refuses(100, 101, 102, 103, 700)
    async with EventBus() as bus:
        lane = bus.subscribe(sink)
        for number in range(1000):
            put_metric("m", number)
        with anyio.fail_after(1):
            await bus.settled()
    assert lane.stats().failed == 5
    assert [one.fields[0] for one in sink.payload] == [n for n in range(1000) if n not in sink.poison]


async def test_closing_does_not_wait_for_a_sink_that_refuses() -> None:
    """The close tries each record that is left, without a pause between, and ends."""
    sink = Refuses()
    sink.all_of_it = True
    async with EventBus() as bus:
        lane = bus.subscribe(sink)
        for number in range(50):
            put_metric("m", number)
        began = anyio.current_time()
    assert anyio.current_time() - began < 20
    assert lane.stats().failed == 50
