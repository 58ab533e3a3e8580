"""EventBus: two rings, the lanes, and the drain that moves records between them."""

import os
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from types import SimpleNamespace
from typing import Any, Literal

import anyio

from elastic_events.bus.bound import Bound
from elastic_events.bus.context import Context
from elastic_events.bus.elsewhere import Elsewhere
from elastic_events.bus.emit import Emitter
from elastic_events.bus.handler import Handler
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import BusStats, FlushResult
from elastic_events.bus.pump import PipedRing
from elastic_events.bus.redact import SECRETS, Redactor
from elastic_events.bus.subscribing import Subscribing
from elastic_events.bus.text import noun
from elastic_events.bus.thread import MARGIN

__all__ = ("EventBus",)


class EventBus(Subscribing):
    """An async event bus whose emitters never block.

    `record()` and `put_metric()` may be called from any thread, coroutine, signal handler or finalizer. The records are
    delivered by a drain that runs in the caller's event loop (`async with`) or in a background thread (`with`).

    Args:
        handlers: what gets the records; each becomes a lane, as by `subscribe(handler)`.
        capacity: slots of each of the two rings, a power of two; sized for the burst between two looks. By default
            16,384; a recorder has 32,768 for metrics.
        interval: seconds between two looks of the drain at the rings.
        timeout: seconds that leaving the block may take to deliver what is left.
        report_every: seconds between two events `bus.stats`, whose metadata are the ledgers of all lanes; None for none.
        recorder: a directory; the rings live in a file there, which outlives the process. By default that of
            `ELASTIC_EVENTS_DIR`, if the environment has it; False for none.
        context: who speaks; read from the environment where it is not given.
        redact: regular expression on metadata keys whose values never reach a queue; None for none.
        strict: let `record()` raise `MetadataError` for values that JSON cannot hold.
        clock: monotonic nanoseconds, and `wall_clock` nanoseconds since the epoch; for tests.
        rings: internal: use these, whose records a drain in another process reads, too.
        elsewhere: internal: that drain. Sinks that are given as URLs are its lanes.
    """

    def __init__(
        self,
        *handlers: Handler,
        capacity: int | None = None,
        interval: float = 0.05,
        timeout: float = 5.0,
        report_every: float | None = None,
        recorder: str | os.PathLike[str] | Literal[False] | None = None,
        context: Context | None = None,
        redact: str | None = SECRETS,
        strict: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
        rings: tuple[PipedRing, PipedRing] | None = None,
        elsewhere: Elsewhere | None = None,
    ) -> None:
        self._report_every = report_every
        super().__init__(
            Emitter(None, None, Redactor(redact), strict=strict),
            capacity=capacity,
            interval=interval,
            timeout=timeout,
            recorder=recorder,
            context=context,
            clock=clock,
            wall_clock=wall_clock,
            rings=rings,
            elsewhere=elsewhere,
        )
        # Bound once: `bus.record(event)` is the hot path itself, not a method that calls it; those below are for `help`.
        self.record = self._emitter.record  # type: ignore[method-assign]
        self.put_metric = self._emitter.put_metric  # type: ignore[method-assign]
        self.record_rdzv_event = self._emitter.record_rdzv_event  # type: ignore[method-assign]
        for handler in handlers:
            self.subscribe(handler)

    # --- recording ---

    def record(self, event: Any, destination: str | None = "null") -> None:
        """Record one event on this bus. Any thread, signal handler or finalizer; never raises, never waits.

        `Event`, torch's own `Event`, or anything with name, source, timestamp and metadata. `destination` names a logging
        handler as in torch; the bus's own handlers see every event. `elastic_events.record` goes to the bus opened last.
        """
        self._emitter.record(event, destination)

    def put_metric(self, metric_name: str, metric_value: Any, metric_group: str | None = "torchelastic") -> None:
        """Record one metric point on this bus, as `record` does an event."""
        self._emitter.put_metric(metric_name, metric_value, metric_group)

    def record_rdzv_event(self, event: Any) -> None:
        """Record one rendezvous event on this bus, as `record` does an event."""
        self._emitter.record_rdzv_event(event)

    def bind(self, **fields: Any) -> Bound:
        """Return what records events with these fields in their metadata: `job = bus.bind(job_id=7); job.record(event)`."""
        return Bound(self.record, fields)

    # --- delivery ---

    async def flush(self, timeout: float = 5.0) -> FlushResult:
        """Wait until everything recorded before the call is settled in every lane, or the timeout; say what is not."""
        if self._state == "closed":  # also in a forked child, which has no loop
            return self._result()
        self._check_task()
        if self._loop is None or not self._loop.is_here:
            return await anyio.to_thread.run_sync(self.flush_sync, timeout)
        if self._state not in ("open", "closing"):
            return self._result()
        if self._elsewhere is None:
            return await self._drain.flush(timeout)
        both: dict[str, int] = {}
        elsewhere, heads = self._elsewhere, self._pump.heads()

        async def flush_here() -> None:
            both.update((await self._drain.flush(timeout)).undelivered)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush_here)
            both.update(await anyio.to_thread.run_sync(elsewhere.flush, heads, timeout))
        return FlushResult(both)

    def flush_sync(self, timeout: float = 5.0) -> FlushResult:
        """As `flush`, from any thread but the one that drains this bus."""
        self._renew()
        self._check_thread("flush")
        if self._state != "open":
            return self._result()
        home = self._home or self._loop
        timeout = max(0.0, timeout)
        heads, end = self._pump.heads(), time.monotonic() + timeout
        answer = None if home is None else home.begin(self._drain.flush, timeout)
        left = {} if self._elsewhere is None else self._elsewhere.flush(heads, timeout)
        flushed = None if answer is None else answer.wait(end - time.monotonic() + MARGIN)
        return FlushResult({**left, **(self._pending() if flushed is None else flushed.undelivered)})

    async def settled(self) -> None:
        """Wait until everything recorded before the call is settled, however long it takes. For tests."""
        await self.flush(float("inf"))

    # --- what it knows ---

    def stats(self) -> BusStats:
        """Return the ledgers as they stand. Any thread may call it.

        They add up while nobody emits and no handler is at work; asked from another thread in the midst of a delivery,
        records on their way from one place to the next may count twice, or not yet.
        """
        heads, begin = self._pump.heads(), sum(self._begin)
        closed = self._drain.closed_heads
        state = "dead" if self._state == "open" and self._drain.over else self._state
        lanes = {lane.name: lane.stats() for lane in self.lanes}
        if self._elsewhere is not None:
            lanes = {**self._elsewhere.lanes(), **lanes}
        return BusStats(
            state=state,
            accepted=sum(heads) - begin,
            closed=sum(heads) - sum(closed) if closed else 0,
            pending=self._pump.behind(heads) if self._is_drained_here and not closed else 0,
            lanes=lanes,
            errors=self._drain.errors,
            recorder=self.recorder,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        dropped = sum(lane.lost - lane.failed for lane in stats.lanes.values())
        failed = sum(lane.failed for lane in stats.lanes.values())
        lost = f"{dropped} dropped{f', {failed} failed' if failed else ''}"
        return f"<EventBus {stats.state}, {len(stats.lanes)} {noun(len(stats.lanes), 'lane')}, {stats.accepted} accepted, {lost}>"

    # --- inside ---

    def _wall_offset(self) -> int:
        """Return wall clock minus monotonic clock, nanoseconds."""
        return self._wall_clock() - self._clock()

    def _metric_head(self) -> int:
        """Return the sequence number of the next metric point."""
        return self._pump.heads()[1]

    def _build(self, rings: Sequence[PipedRing], lanes: Sequence[Lane]) -> None:
        super()._build(rings, lanes)
        if self._report_every is not None:
            self._drain.start(partial(self._report_itself, self._report_every))

    async def _report_itself(self, every: float) -> None:
        while True:
            await anyio.sleep(every)
            lanes = {name: lane._asdict() for name, lane in self.stats().lanes.items()}
            self.record(SimpleNamespace(name="bus.stats", source="AGENT", timestamp=0, metadata=lanes))

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") == "open":
            sentence = f"unclosed {self!r}: use a with block, or close it"
            warnings.warn(sentence, ResourceWarning, source=self, stacklevel=2)

    def __reduce__(self) -> Any:
        raise TypeError(
            "an EventBus cannot be sent to another process: open one there, or set ELASTIC_EVENTS_DIR (F12)"
        )
