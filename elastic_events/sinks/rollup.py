"""A stage in front of any sink that turns a flood of metric points into a few a interval."""

import asyncio
import math
import sys
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from fractions import Fraction
from importlib import import_module
from typing import Any

import anyio
import msgspec

from elastic_events.bus.errors import PERMANENT, ConfigError, MissingExtra, PermanentError, TransientError, told
from elastic_events.bus.handler import BATCH, CallableSink, Sink
from elastic_events.bus.record import Record, record_of
from elastic_events.sinks.options import parse_duration

__all__ = ("SUFFIX", "Rollup")

#: What a roll-up appends to the name of the process whose points it sums up, before its interval.
SUFFIX = "~rollup"

#: Values of a window that are kept as they are; beyond, they go into a digest.
EXACT = 256

#: Made records that may wait for a sink that is away; beyond, the oldest are lost, and counted.
READY = 65_536

#: What is made of a window beside its quantiles, at most.
_SUMS = 6

#: Seconds that the timer gives the sink, as a lane does by default.
WRITE_TIMEOUT = 30.0

#: Seconds of the last attempt to pass on what is left, and of that and the closing of the sink behind: the lane gives one second.
LAST_TRY = 0.5
LAST = 0.9

#: Ids of the points of a failed batch that are remembered until the batch comes again.
_REMEMBERED = 65_536


class Rollup:
    """Sums up metric points by name, group, process and interval; events and all else pass unchanged.

    Of the points of `loss` within an interval it makes metric points `loss.count`, `loss.sum`, `loss.min`, `loss.max`,
    `loss.last` and a quantile each, `loss.p50`, `loss.p90`, `loss.p99`, all with the time of the last point. Values that
    are not finite are in `count` and `last` only, and `loss.nonfinite` says how many; values that are no numbers pass.
    Quantiles are by nearest rank: exact of up to 256 points, and beyond of a t-digest (`fastdigest`; Dunning and Ertl, 2019),
    which keeps up to about a thousand values as they are, and where there are more puts neighbours together.

    Intervals are those of the points' own times, beginning at multiples of `every`, so a replay is summed up as the
    original was. One is passed on when a point of the next arrives, when nothing more came for `every` seconds, before
    the lane's ledger, and on closing. The made records' ids follow from the points: a retry makes the same ones, under a
    process name of their own and of the interval, with gaps in `seq`.

    Delivered means, of a metric point: summed up in memory; a process that is killed loses up to `every` seconds of
    them. What the sink behind refuses for good, or does not take at the end, is counted in `lost`, and told then. The ledger
    record that passes says `absorbed`, `emitted` and `lost`: records behind = delivered - absorbed + emitted - lost.

    Args:
        sink: what gets the records.
        every: seconds, or text such as "10s".
        quantiles: between 0 and 1.
        max_series: series held at once; the oldest is passed on early when there are more.

    Raises:
        ConfigError: `every` or a quantile is wrong.
        MissingExtra: fastdigest is not installed, and there are quantiles.
    """

    def __init__(
        self,
        sink: Sink,
        every: float | str = 10.0,
        *,
        quantiles: Iterable[float] = (0.5, 0.9, 0.99),
        max_series: int = 10_000,
    ) -> None:
        self.sink = sink
        self.is_read_back: Any | bool = getattr(sink, "is_read_back", False)
        self.every: float = _seconds(every)
        self.quantiles: tuple[float, ...] = tuple(sorted(quantiles))
        self.max_series = max_series
        self.name: Any | str = getattr(sink, "name", type(sink).__name__)
        if not all(0 <= quantile <= 1 for quantile in self.quantiles):
            raise ConfigError(f"a quantile is between 0 and 1: {self.quantiles}")
        # A function that takes one record a call is given one.
        self._most = 1 if isinstance(sink, CallableSink) and not sink.batches else BATCH
        self._digest = _digest_class() if self.quantiles else None
        self._reset()

    def _reset(self) -> None:
        self.absorbed: int = 0  #: metric points that were summed up
        self.emitted: int = 0  #: records made of them
        self.lost: int = 0  #: made records that the sink refused for good, or that were too many
        self._why = "too many waited"  # of the last ones that were lost
        self._windows: dict[tuple[str, str, str, str], _Window] = {}
        self._ready: list[Record] = []  # made, and not yet taken
        self._done: dict[str, None] = {}  # what is dealt with of a batch that failed: the batch comes again
        self._turn = anyio.Lock()  # a sink is called by one task at a time, and the timer is another
        self._timer: anyio.CancelScope | None = None

    @property
    def remarks(self) -> Sequence[str]:
        """What the sink behind remarks."""
        return getattr(self.sink, "remarks", ())

    async def open(self) -> None:
        """Open the sink behind, and start the timer."""
        self._reset()
        await self.sink.open()
        self._timer = anyio.CancelScope()
        _spawn(self._watch, self._timer)

    async def write(self, records: Sequence[Record]) -> None:
        """Sum up the points, and pass on the rest and what is complete.

        Raises:
            PermanentError: the sink behind refuses some of these records.
            Exception: whatever else it raises; the same batch may be written again.
        """
        summed, passing = self._absorb(records)
        self._note(summed)
        ledgers = [record for record in passing if record.kind == "ledger"]
        if ledgers:
            self._close_windows()
        async with self._turn:
            # Events first: a sink that keeps steps takes those of the sums from the marks among them.
            await self._pass_on([record for record in passing if record.kind != "ledger"])
            await self._deliver()
            await self._pass_on(ledgers)
        for record in records if self._done else ():
            self._done.pop(record.id, None)

    async def pass_on_rest(self) -> None:
        """Pass on what is left. The lane calls it as it ends, when there is more time than for closing.

        Raises:
            Exception: whatever the sink behind raises; closing tries once more.
        """
        self._close_windows()
        async with self._turn:
            await self._deliver()

    async def aclose(self) -> None:
        """Pass on what is left, in one attempt, and close the sink behind.

        Raises:
            TransientError: sums were lost, now or earlier: how many, and why.
        """
        if self._timer is not None:
            self._timer.cancel()
        begun = anyio.current_time()
        try:
            with anyio.fail_after(LAST_TRY):
                await self.pass_on_rest()
        except Exception as error:  # noqa: BLE001 - whatever the sink raises costs what it did not take
            self._why = told(error)
        finally:
            self.lost += len(self._ready)
            self._ready = []
            await self._close_sink(begun + LAST)
        if self.lost:
            raise TransientError(f"{self.lost} of {self.emitted} sums of the roll-up are lost: {self._why}")

    def __repr__(self) -> str:
        return f"<Rollup {self.every:g} s of {self.sink!r}, {self.absorbed} absorbed, {self.emitted} emitted>"

    async def _close_sink(self, deadline: float) -> None:
        """Close the sink behind; where sums are lost, in time to tell that, and whatever it raises."""
        with anyio.CancelScope(deadline=deadline if self.lost else math.inf) as scope:
            try:
                await self.sink.aclose()
            except Exception as error:
                if not self.lost:
                    raise
                self._why = f"{self._why}; closing it: {told(error)}"
        if scope.cancelled_caught:
            self._why = f"{self._why}; closing it took too long"

    # --- summing up: plain methods ---

    def _absorb(self, records: Sequence[Record]) -> tuple[list[Record], list[Record]]:
        """Take the points in; return them, and the records that pass."""
        summed, passing = [], []
        for record in records:
            if self._done and record.id in self._done:
                continue
            value = _number(record.fields[0]) if record.kind == "metric" else None
            if value is None:
                passing.append(record)
            else:
                self._add(record, value)
                summed.append(record)
        return summed, passing

    def _add(self, record: Record, value: float) -> None:
        key = (record.context.run_id, record.context.process, record.channel, record.name)
        interval = int(record.time_ns / 1e9 // self.every)
        window = self._windows.get(key)
        if window is None or window.interval != interval:
            if window is not None:
                self._close(key)
            elif len(self._windows) >= self.max_series:
                self._close(next(iter(self._windows)))
            window = self._windows[key] = _Window(interval, anyio.current_time(), record)
        window.add(record, value, self._digest)
        self.absorbed += 1

    def _close(self, key: tuple[str, str, str, str]) -> None:
        made = self._windows.pop(key).records(self.quantiles, f"{SUFFIX}{self.every:g}")
        self.emitted += len(made)
        self._ready += made
        excess = len(self._ready) - READY
        if excess > 0:
            self.lost += excess
            del self._ready[:excess]

    def _close_windows(self, opened_before: float = math.inf) -> None:
        for key in [key for key, window in self._windows.items() if window.opened <= opened_before]:
            self._close(key)

    def _note(self, records: Sequence[Record]) -> None:
        """Note what must not be done twice if this batch fails and comes again."""
        self._done.update(dict.fromkeys(record.id for record in records))
        while len(self._done) > max(_REMEMBERED, len(records)):
            del self._done[next(iter(self._done))]

    def _with_counts(self, record: Record) -> Record:
        if record.kind != "ledger":
            return record
        counts = {"absorbed": self.absorbed, "emitted": self.emitted, "lost": self.lost}
        return msgspec.structs.replace(record, ledger={**record.fields[0], **counts})

    # --- passing on ---

    async def _deliver(self) -> None:
        """Write what is ready, in order; what the sink refuses for good is counted, and no concern of the lane's."""
        size = self._most
        while batch := self._ready[:size]:
            try:
                await self.sink.write(batch)
            except PERMANENT as error:
                rejected = getattr(error, "rejected", ())
                if not rejected and len(batch) > 1:
                    size = len(batch) // 2
                    continue
                self.lost += len(rejected) or 1
                self._why = told(error)
            del self._ready[: len(batch)]
            size = min(size * 2, self._most)

    async def _pass_on(self, records: Sequence[Record]) -> None:
        """Write what is not summed up; an error names these records, which the lane knows."""
        refused: list[Record] = []
        reason = ""
        for start in range(0, len(records), self._most):
            part = records[start : start + self._most]
            if part[0].kind == "ledger" and isinstance(self.sink, CallableSink):
                continue  # a function gets what was recorded; no lane gives it a ledger
            try:
                await self.sink.write([self._with_counts(record) for record in part])
            except PermanentError as error:
                if not error.rejected:
                    raise
                known = {record.id: record for record in part}
                refused += [known.get(record.id, record) for record in error.rejected]
                reason = error.reason
            self._note(part)
        if refused:
            raise PermanentError(reason, refused)

    async def _watch(self, scope: anyio.CancelScope) -> None:
        """Pass on windows to which nothing more comes: a job that stalls shows its last seconds."""
        with scope:
            while True:
                await anyio.sleep(self.every)
                self._close_windows(anyio.current_time() - self.every)
                async with self._turn:
                    # What fails here stays ready; the lane's next write tells, and retries.
                    with suppress(Exception), anyio.move_on_after(WRITE_TIMEOUT):
                        await self._deliver()


@dataclass(slots=True)
class _Window:
    """The points of one series in one interval."""

    interval: int
    opened: float  # monotonic, of the loop
    last: Record
    value: float = math.nan
    count: int = 0
    odd: int = 0
    total: float = 0.0
    low: float = math.inf
    high: float = -math.inf
    values: Any = None
    digest: Any = None

    def add(self, record: Record, value: float, digest_class: Any) -> None:
        self.last, self.value = record, value
        self.count += 1
        if not math.isfinite(value):
            self.odd += 1
            return
        self.total += value
        self.low, self.high = min(self.low, value), max(self.high, value)
        if digest_class is None:
            return
        if self.values is None:
            self.values = []
        self.values.append(value)
        if len(self.values) > EXACT:
            if self.digest is None:
                self.digest = digest_class()
            self.digest.batch_update(self.values)
            self.values = []

    def records(self, quantiles: Sequence[float], suffix: str) -> list[Record]:
        """Return the sums as metric points."""
        numbers: dict[str, float] = {"count": self.count, "last": self.value}
        if self.count > self.odd:
            numbers |= {"sum": self.total, "min": self.low, "max": self.high}
            numbers |= {f"p{quantile * 100:g}": self.quantile(quantile) for quantile in quantiles}
        if self.odd:
            numbers["nonfinite"] = self.odd
        last = self.last
        context = msgspec.structs.replace(last.context, process=f"{last.context.process}{suffix}")
        # The last point of a window is in no other: its sequence number, with room for the sums, is theirs alone.
        room = max(64, _SUMS + len(quantiles))
        return [
            record_of(
                *("metric", last.seq * room + place, last.time_ns, last.monotonic_ns, f"{last.name}.{what}"),
                *(last.channel, (number,), context, last.size, last.recovered),
            )
            for place, (what, number) in enumerate(numbers.items())
        ]

    def quantile(self, quantile: float) -> float:
        """Return a quantile by nearest rank: the value that stands there, of many the mean of those around it.

        The digest's own way goes straight between two values that are far apart, to one that was never there.
        """
        rank = max(
            1, math.ceil(Fraction(str(float(quantile))) * (self.count - self.odd))
        )  # as it is written: 0.07 of 100 is 7
        if self.digest is None:
            self.values.sort()
            return float(self.values[rank - 1])
        if self.values:
            self.digest.batch_update(self.values)
            self.values = []
        before = 0.0
        for mean, weight in self.digest.centroids:
            before += weight
            if before >= rank:
                return float(mean)
        return self.high


def _number(value: object) -> float | None:
    """Return a metric's value as a float, or None where it is none."""
    if not isinstance(value, int | float):
        return None
    try:
        return float(value)
    except OverflowError:
        return None


def _seconds(every: float | str) -> float:
    try:
        seconds = parse_duration(every) if isinstance(every, str) else float(every)
    except ValueError:
        seconds = 0.0
    if not 0 < seconds < math.inf:
        raise ConfigError(f"a roll-up's interval is seconds, or text such as 10s or 1m, not {every!r}")
    return seconds


def _digest_class() -> Any:
    try:
        return import_module("fastdigest").TDigest
    except ImportError:
        raise MissingExtra("a roll-up with quantiles", "rollup") from None


_tasks: set[Any] = set()


def _spawn(function: Any, scope: anyio.CancelScope) -> None:
    """Start a task beside the lane's: a sink opens in one task and closes in another, so no task group can hold it."""
    try:
        task = asyncio.get_running_loop().create_task(function(scope))
    except RuntimeError:
        sys.modules["trio"].lowlevel.spawn_system_task(function, scope)
    else:
        _tasks.add(task)
        task.add_done_callback(_tasks.discard)
