"""A lane is its own house: what a handler raises, and what a key says, costs at most that lane."""

import asyncio
import math
from collections.abc import Sequence
from typing import Any

import pytest

from elastic_events import EventBus, PermanentError, Record, Retry
from elastic_events.testing import FailingSink, ListSink


class Asks(Exception):
    """An error of somebody else's, with an attribute `retry_after` that may mean anything, or raise."""

    def __init__(self, value: object) -> None:
        super().__init__(value)
        self.value = value

    @property
    def retry_after(self) -> object:
        """Return it, or raise it."""
        if isinstance(self.value, BaseException):
            raise self.value
        return self.value


class Rejects(PermanentError):
    """A refusal whose `rejected` is no list of records."""

    def __init__(self, value: object) -> None:
        super().__init__("refused")
        self.rejected = value  # type: ignore[assignment]


RAISED = [
    *(Asks(value) for value in ("0.001", math.nan, -1.0, 0, None, b"", 10**400, RuntimeError("x"), SystemExit(3))),
    *(Rejects(7), GeneratorExit(), SystemExit(3), asyncio.CancelledError(), BaseException("dead")),
]


@pytest.mark.parametrize("error", RAISED, ids=repr)
async def test_whatever_a_sink_raises_costs_its_lane_only(error: BaseException) -> None:
    """An error of any kind, with whatever attributes, is counted as failed; the other lanes get all."""
    good = ListSink()
    async with EventBus(good, recorder=False, interval=0.001, timeout=20) as bus:
        for _ in range(2):
            retry = Retry(base=0.001, attempts=2)
            lane = bus.subscribe(FailingSink(lambda *_: error), name="bad", retry=retry)
            for number in range(3):
                bus.put_metric("m", number)
            assert await bus.flush(20)
            assert (lane.stats().failed, lane.stats().balanced) == (3, True)
            lane.unsubscribe()
    assert bus.stats().errors == 0
    assert [one.fields[0] for one in good.payload] == 2 * [0, 1, 2]


@pytest.mark.parametrize("error", [SystemExit, GeneratorExit, asyncio.CancelledError, BaseException])
@pytest.mark.parametrize("option", ["key", "coalesce"])
async def test_whatever_a_key_raises_costs_its_records_only(option: str, error: type[BaseException]) -> None:
    """Without its key a record keeps its order among such, or is counted where it cannot wait; the drain goes on."""

    def key(_: Record) -> Any:
        raise error

    taken: list[float] = []

    async def handler(one: Record) -> None:
        taken.append(one.fields[0])

    good = ListSink()
    options: dict[str, Any] = {"key": {"key": key, "concurrency": 2}, "coalesce": {"coalesce": key}}[option]
    async with EventBus(good, recorder=False, interval=0.001) as bus:
        lane = bus.subscribe(handler, **options)
        for number in range(3):
            bus.put_metric("m", number)
        assert await bus.flush(20)
        assert taken == ([0, 1, 2] if option == "key" else [])
        assert lane.stats().dropped == ({} if option == "key" else {"key_error": 3})
        assert lane.stats().balanced
    assert len(good.payload) == 3


async def test_fault_in_a_lane_ends_that_lane_only(capfd: pytest.CaptureFixture[str]) -> None:
    """A fault of the package in one lane is told and counted, with all the lane's records; the others get theirs."""
    good, bad = ListSink(), ListSink()
    async with EventBus(good, recorder=False, interval=0.001) as bus:
        lane: Any = bus.subscribe(bad, name="bad")

        def broken(*_: object) -> Sequence[Record]:
            raise RuntimeError("broken")

        lane.backlog.take = broken
        for number in range(3):
            bus.put_metric("m", number)
        assert await bus.flush(20)
        for number in range(3, 6):
            bus.put_metric("m", number)
        assert await bus.flush(20)
        assert lane.stats().balanced
        assert lane.stats().dropped["lane_died"] == 3
    assert [one.fields[0] for one in good.payload] == list(range(6))
    assert bad.opened == bad.closed
    assert bus.stats().errors == 1
    assert "the lane 'bad' ended by itself" in capfd.readouterr().err


async def test_lane_that_is_lapped_before_it_begins_counts_each_loss_once() -> None:
    """A lane that comes while the ring laps shares what is overwritten with the pump's own look: nothing counts twice."""
    bus = EventBus(capacity=8, interval=3600, recorder=False)
    async with bus:
        for number in range(12):
            bus.put_metric("m", number)
        await bus.flush(20)
        lane = bus.subscribe(ListSink(), name="late", replay=4)
        for number in range(34):
            bus.put_metric("m", number)
        assert await bus.flush(20)
        assert lane.stats().dropped == {"overwritten": 30}
        assert (lane.stats().delivered, lane.stats().balanced) == (8, True)


@pytest.mark.parametrize("remarks", [None, 7, "text"])
async def test_sink_with_remarks_of_its_own_costs_nobody_anything(remarks: Any) -> None:
    """An attribute `remarks` that holds no sentences, in a sink of somebody else's, says nothing and ends no drain."""
    good, bad = ListSink(), ListSink()
    bad.remarks = remarks  # type: ignore[attr-defined]
    async with EventBus(good, bad, recorder=False, interval=0.001) as bus:
        bus.put_metric("m", 1)
        assert await bus.flush(20)
    assert len(good.payload) == len(bad.payload) == 1
