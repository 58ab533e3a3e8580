"""For tests of programs that record: capture without a sleep, a clock to turn by hand, handlers that fail on purpose."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from typing import Any, Literal

import anyio

from elastic_events.bus.bus import EventBus
from elastic_events.bus.pump import Cursor, to_records
from elastic_events.bus.record import Record
from elastic_events.bus.ring import END
from elastic_events.front import front

__all__ = ("Capture", "FailingSink", "FakeClock", "GatedSink", "ListSink", "capture")


class _Tap:
    """Reads the rings of one bus, beside its own drain."""

    def __init__(self, bus: EventBus, begin: Sequence[int]) -> None:
        self.bus = bus
        self._cursors = [Cursor(ring) for ring in bus._rings]
        for cursor, position in zip(self._cursors, begin, strict=True):
            cursor.position = position
        self._ends: Sequence[int] = [END] * len(self._cursors)

    def end(self) -> None:
        """Read nothing of what comes from now on."""
        self._ends = self.bus._pump.heads()

    def read(self) -> list[Record]:
        """Return what came since the last call."""
        make = partial(to_records, context=self.bus.context, offset=self.bus._wall_offset())
        found: list[Record] = []
        for cursor, end in zip(self._cursors, self._ends, strict=True):
            found += cursor.look(END, 0.0, make, end)
            assert not any(reason == "overwritten" for reason, _, _ in cursor.lost), (
                f"more was recorded than the {cursor.ring.capacity} slots hold: give capture() a capacity=, or the bus"
            )
        return found


class Capture(Sequence[Record]):
    """The records since the `with` began, in order of their time. Reading it is the whole synchronisation."""

    def __init__(self) -> None:
        self._taps: list[_Tap] = []
        self._records: list[Record] = []

    def __getitem__(self, index: Any) -> Any:
        return self._read()[index]

    def __len__(self) -> int:
        return len(self._read())

    def __repr__(self) -> str:
        return repr(self._read())

    @property
    def events(self) -> list[Any]:
        """The `Event` and `RdzvEvent` objects."""
        return [record.event for record in self._read() if record.kind != "metric"]

    @property
    def metrics(self) -> list[Any]:
        """The `MetricData` objects."""
        return [record.metric for record in self._read() if record.kind == "metric"]

    def named(self, name: str) -> list[Record]:
        """The records of one name."""
        return [record for record in self._read() if record.name == name]

    def _read(self) -> list[Record]:
        fresh = [record for tap in list(self._taps) for record in tap.read()]
        self._records += sorted(fresh, key=lambda record: record.monotonic_ns)
        return self._records

    def _end(self) -> None:
        for tap in self._taps:
            tap.end()

    def _tap(self, bus: EventBus, *, whole: bool = True) -> None:
        """Read what `bus` records, from the first record that it was made for, or from now on."""
        if not any(tap.bus is bus for tap in self._taps):
            self._taps.append(_Tap(bus, bus._begin if whole else bus._pump.heads()))


@contextmanager
def capture(capacity: int = 65_536, *, buses: Literal["own", "all"] = "own", **options: Any) -> Iterator[Capture]:
    """Catch what `record` and `put_metric` emit in the block, in any thread; nothing runs in the background.

    By default a bus that is open keeps running, but gets nothing while the block lasts. With `buses="all"` every bus works
    as it does, and what is recorded on any of them is seen, also on one that is opened meanwhile: that of a service under
    test, say. `options` are those of `EventBus`.
    """
    bus = EventBus(capacity=capacity, recorder=False, **options)
    seen = Capture()
    seen._tap(bus)
    if buses == "own":
        front.opened(bus)
    else:
        for other in front.buses:
            seen._tap(other, whole=False)
        front.callbacks.append(seen._tap)
        front.buses.insert(0, bus)  # beneath the others: for what is recorded while none of them is open
        front.point()
    try:
        yield seen
    finally:
        seen._end()
        if buses == "all":
            front.callbacks.remove(seen._tap)
        front.closed(bus)


class FakeClock:
    """Wall and monotonic nanoseconds that move when told: `EventBus(clock=clock.monotonic_ns, wall_clock=clock.time_ns)`."""

    def __init__(self, time_ns: int = 1_700_000_000_000_000_000, monotonic_ns: int = 1_000_000_000) -> None:
        self.wall: int = time_ns
        self.monotonic: int = monotonic_ns

    def time_ns(self) -> int:
        """Return the wall clock."""
        return self.wall

    def monotonic_ns(self) -> int:
        """Return the monotonic clock."""
        return self.monotonic

    def advance(self, seconds: float) -> None:
        """Let time pass on both clocks."""
        self.wall += int(seconds * 1e9)
        self.monotonic += int(seconds * 1e9)

    def step_wall(self, seconds: float) -> None:
        """Set the wall clock forward, or back, as an administrator would."""
        self.wall += int(seconds * 1e9)


class ListSink:
    """A sink that keeps what it gets in `records`; `opened` and `closed` count the calls."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.batches: list[int] = []
        self.opened: int = 0
        self.closed: int = 0

    async def open(self) -> None:
        """Count the opening."""
        self.opened += 1

    async def write(self, records: Sequence[Record]) -> None:
        """Keep the records."""
        self.batches.append(len(records))
        self.records += records

    async def aclose(self) -> None:
        """Count the closing."""
        self.closed += 1

    @property
    def payload(self) -> list[Record]:
        """The records without the bus's own ledger."""
        return [record for record in self.records if record.kind != "ledger"]


class FailingSink(ListSink):
    """A sink whose write raises what `fails(records, attempt)` returns, if it returns an exception."""

    def __init__(self, fails: Callable[[Sequence[Record], int], BaseException | None]) -> None:
        super().__init__()
        self.fails = fails
        self.attempts: int = 0

    async def write(self, records: Sequence[Record]) -> None:
        """Fail or keep the records."""
        self.attempts += 1
        error = self.fails(records, self.attempts)
        if error is not None:
            raise error
        await super().write(records)


class GatedSink(ListSink):
    """A sink that hangs in `write` until `gate` is set: slow, or stuck for ever."""

    def __init__(self) -> None:
        super().__init__()
        self.gate: anyio.Event = anyio.Event()
        self.entered: anyio.Event = anyio.Event()

    async def write(self, records: Sequence[Record]) -> None:
        """Wait for the gate, then keep the records."""
        self.entered.set()
        await self.gate.wait()
        await super().write(records)
