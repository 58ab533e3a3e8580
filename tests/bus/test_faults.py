"""Faults within the drain and in a user's clock: a record that one keeps from its lane still waits, or is counted as lost."""

import time
from collections.abc import Callable, Sequence
from typing import Any

import pytest

from elastic_events import Event, EventBus, EventSource
from elastic_events.bus.lane import Lane
from elastic_events.bus.record import Record
from elastic_events.testing import ListSink


def _once(call: Callable[..., Any], error: BaseException) -> Callable[..., Any]:
    """Return `call` such that the first call of it raises."""
    errors = [error]

    def raising(*args: Any, **options: Any) -> Any:
        if errors:
            raise errors.pop()
        return call(*args, **options)

    return raising


def _record(bus: EventBus, count: int, channel: str = "null") -> None:
    for number in range(count):
        bus.record(Event(str(number), EventSource.AGENT), channel)


@pytest.mark.parametrize("place", ["frames", "destination"])
async def test_flush_says_nothing_is_delivered_that_a_failed_look_did_not_read(place: str) -> None:
    """A look at the rings for which there is no memory has read nothing: the next reads the same, and the flush waits for it."""
    sink = ListSink()
    async with EventBus(sink, interval=3600, recorder=False) as bus:
        drain: Any = bus._drain
        where = {"frames": (drain.pump.cursors[0].ring, "frames"), "destination": (drain.pump, "_meet")}
        owner, name = where[place]
        _record(bus, 3, "elsewhere")
        setattr(owner, name, _once(getattr(owner, name), MemoryError()))
        result = await bus.flush(20)
        assert (result.undelivered, [one.name for one in sink.payload]) == ({}, ["0", "1", "2"])
        assert bus.stats().errors == 1
        assert bus.lanes[0].stats().balanced


async def test_lane_that_could_not_read_the_past_gets_it_with_the_next_look() -> None:
    """What a new lane is to have of the past is not said to be delivered because reading it failed."""
    async with EventBus(recorder=False, interval=3600) as bus:
        _record(bus, 3)
        await bus.flush(20)
        ring: Any = bus._rings[0]
        ring.frames = _once(ring.frames, MemoryError())
        late = ListSink()
        bus.subscribe(late, replay=3)
        assert await bus.flush(20)
        assert [one.name for one in late.payload] == ["0", "1", "2"]


@pytest.mark.parametrize("done", [False, True])
async def test_what_finds_no_place_in_a_backlog_is_counted(done: bool) -> None:
    """A backlog that fails costs its own lane what it did not take, counted with the reason; the other lanes get theirs."""
    bad, good = ListSink(), ListSink()
    async with EventBus(recorder=False, interval=3600) as bus:
        lane, other = bus.subscribe(bad, name="bad"), bus.subscribe(good, name="good")
        push: Any = lane.backlog.push

        def failing(records: Sequence[Record]) -> None:
            if done:  # all of it
                push(records)
            raise MemoryError

        lane.backlog.push = failing  # type: ignore[method-assign,assignment]
        _record(bus, 3)
        assert await bus.flush(20)
        lane.backlog.push = push  # type: ignore[method-assign]
        _record(bus, 2)
        assert await bus.flush(20)
        assert lane.stats().dropped == ({} if done else {"lane_fault": 3})
        assert (lane.stats().delivered, other.stats().delivered) == (5 if done else 2, 5)
        assert lane.stats().balanced
        assert "MemoryError" in lane.stats().last_error or done


async def test_ctrl_c_in_a_backlog_waits_until_every_record_has_its_outcome() -> None:
    """What the backlog did not take when Ctrl-C struck in it is counted, and Ctrl-C is raised then."""
    bus = EventBus(recorder=False)
    lane = bus.subscribe(ListSink())
    other = bus.subscribe(ListSink(), name="other")
    lane.backlog.push = _once(lane.backlog.push, KeyboardInterrupt())  # type: ignore[method-assign]
    _record(bus, 3)
    with pytest.raises(KeyboardInterrupt):
        bus._drain._look()
    assert lane.stats().dropped == {"lane_fault": 3}
    assert other.stats().pending == len(other.backlog) == 3
    bus.close()


@pytest.mark.parametrize("clock", ["wall_clock", "clock"])
@pytest.mark.parametrize("says", ["nothing", "no number"])
def test_clock_that_fails_costs_no_record(clock: str, says: str, capfd: pytest.CaptureFixture[str]) -> None:
    """A user's clock that raises, or gives no number, is told once; records have the machine's time, and all arrive."""
    sink = ListSink()

    def broken() -> int:
        if says == "nothing":
            raise RuntimeError("broken")
        return float("nan")  # type: ignore[return-value]

    with EventBus(sink, recorder=False, **{clock: broken}) as bus:
        _record(bus, 3)
        assert bus.flush_sync(20)
    assert [one.name for one in sink.payload] == ["0", "1", "2"]
    assert bus.stats().errors == 0
    if clock == "wall_clock":
        assert abs(sink.payload[0].time_ns - time.time_ns()) < 600e9
    assert capfd.readouterr().err.count("a clock of the bus failed") == 1


async def test_drain_that_cannot_read_rests_between_two_tries(monkeypatch: pytest.MonkeyPatch) -> None:
    """A flush beside a ring that cannot be read tries a few hundred times a second, not as fast as the processor can."""
    rests: list[float] = []
    async with EventBus(ListSink(), recorder=False, interval=3600) as bus:
        _record(bus, 1)
        ring: Any = bus._rings[0]
        frames, calls = ring.frames, iter(range(20))

        def failing(*args: Any) -> Any:
            if next(calls, None) is not None:
                raise MemoryError
            return frames(*args)

        async def sleep(seconds: float) -> None:
            rests.append(seconds)

        ring.frames = failing
        with monkeypatch.context() as patch:
            patch.setattr("elastic_events.bus.drain.anyio.sleep", sleep)
            await bus._drain._read(bus._pump.heads())
    assert len(rests) >= 19
    assert min(rests[:19]) > 0


async def test_destination_whose_handler_is_none_keeps_no_record_back(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]
) -> None:
    """An object that is no handler, registered for a destination, is told; the bus's own handlers get the events."""
    import elastic_events.handlers

    monkeypatch.setitem(elastic_events.handlers._log_handlers, "strange", object())  # type: ignore[arg-type]
    sink = ListSink()
    async with EventBus(sink, recorder=False) as bus:
        _record(bus, 3, "strange")
        assert await bus.flush(20)
        assert bus.stats().errors == 0
    assert len(sink.payload) == 3
    assert "destination 'strange'" in capfd.readouterr().err


def test_lane_of_which_a_part_is_past_its_end_counts_what_it_could_not_list() -> None:
    """Records that a lane is handed, and for whose list there is no memory, are counted as handed out."""
    bus = EventBus(recorder=False)
    lane: Lane = bus.subscribe(ListSink())
    _record(bus, 2)
    lane.unsubscribe()
    _record(bus, 2)

    class Scarce(list[Record]):
        """Can be walked through twice: for the last and for the count."""

        walks = 0

        def __iter__(self) -> Any:
            self.walks += 1
            if self.walks > 2:
                raise MemoryError
            return super().__iter__()

    records = bus._pump._read(time.monotonic(), 100)[0]
    lane.offer(0, Scarce(records))
    assert lane.stats().dropped == {"lane_fault": 2}
    assert lane.stats().balanced
    bus.close()
