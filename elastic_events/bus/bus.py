"""EventBus: two rings, the lanes, and the drain that moves records between them."""

import itertools
import os
import time
import warnings
from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import Any, Literal

import anyio

from elastic_events.bus.backlog import Overflow
from elastic_events.bus.context import Context
from elastic_events.bus.elsewhere import Elsewhere, LaneElsewhere
from elastic_events.bus.emit import Emitter
from elastic_events.bus.errors import BusClosed, ConfigError
from elastic_events.bus.filter import Patterns
from elastic_events.bus.handler import Handler
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import BusStats, FlushResult
from elastic_events.bus.life import Life
from elastic_events.bus.pump import PipedRing
from elastic_events.bus.record import Record
from elastic_events.bus.redact import SECRETS, Redactor
from elastic_events.bus.retry import Retry
from elastic_events.bus.subscription import Subscription, check_url, handler_name
from elastic_events.bus.thread import MARGIN

__all__ = ("EventBus",)


class EventBus(Life):
    """An async event bus whose emitters never block.

    `record()` and `put_metric()` may be called from any thread, coroutine, signal handler or finalizer. The records are
    delivered by a drain that runs in the caller's event loop (`async with`) or in a background thread (`with`).

    Args:
        handlers: what gets the records; each becomes a lane, as by `subscribe(handler)`.
        capacity: slots of each of the two rings, a power of two; sized for the burst between two looks. By default 2,048 in
            memory, 16,384 with a recorder.
        interval: seconds between two looks of the drain at the rings.
        deadline: seconds that leaving the block may take to deliver what is left.
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
        deadline: float = 5.0,
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
            deadline=deadline,
            recorder=recorder,
            context=context,
            clock=clock,
            wall_clock=wall_clock,
            rings=rings,
            elsewhere=elsewhere,
        )
        # Bound once: `bus.record(event)` is the hot path itself, not a method that calls it.
        self.record = self.emitter.record
        self.put_metric = self.emitter.put_metric
        self.record_rdzv_event = self.emitter.record_rdzv_event
        for handler in handlers:
            self.subscribe(handler)

    # --- lanes ---

    def subscribe(
        self,
        handler: Handler,
        *,
        name: str | None = None,
        events: Patterns = True,
        metrics: Patterns = True,
        source: str | None = None,
        where: Callable[[Record], Any] | None = None,
        batch_size: int | None = None,
        batch_bytes: int = 4 * 2**20,
        linger: float = 0.0,
        timeout: float | None = 30.0,
        retry: Retry | None = None,
        backlog: int | None = None,
        backlog_bytes: int = 64 * 2**20,
        overflow: Overflow = "drop_oldest",
        dead_letters: Handler | None = None,
        rollup: float | str | None = None,
        spool: str | os.PathLike[str] | None = None,
        since: int | None = None,
    ) -> Lane:
        """Deliver records from now on to `handler`, in a lane of its own. Any thread may call it.

        Args:
            handler: an async function of one record, or of a list of records where `batch_size` is given; a `Sink`, or
                its URL; a torch-style `MetricHandler`; a `logging.Handler`.
            name: of the lane in `stats()`; made unique.
            events: which events: True, False, or shell-style patterns on the name. `metrics` likewise.
            source: only events of this source ("AGENT" or "WORKER").
            where: a predicate on the record, asked last.
            batch_size: records a call at most, `batch_bytes` encoded bytes at most; `linger` seconds to wait for more.
            timeout: seconds a call may take; None for no limit.
            retry: when to try again. Sinks have `Retry()`, functions and adapted handlers one attempt.
            backlog: records that may wait, events and metrics each: 65,536, or the capacity of a larger ring;
                `backlog_bytes` encoded bytes, likewise.
            overflow: which records a full backlog loses: "drop_oldest" or "drop_newest".
            dead_letters: a handler or URL ("jsonl:///dead.jsonl") for the records that were given up;
                `elastic-events replay` sends them again. Of a sink's URL by default what its option `dead_letters=` or
                ELASTIC_EVENTS_DEAD_LETTERS says.
            rollup: seconds (or "10s") over which metric points are summed up before the handler gets them.
            spool: a directory of this lane's own, where its backlog goes on while its sink is away: up to 1 GiB, which
                outlives the process.
            since: sequence number of the first event the lane gets; by default the next one.

        Raises:
            ConfigError: the handler is of no known shape, its URL is wrong, or an option.
        """
        options: dict[str, Any] = {
            "events": events,
            "metrics": metrics,
            "source": source,
            "where": where,
            "batch_size": batch_size,
            "batch_bytes": batch_bytes,
            "linger": linger,
            "timeout": timeout,
            "retry": retry,
            "backlog": backlog,
            "backlog_bytes": backlog_bytes,
            "overflow": overflow,
            "dead_letters": dead_letters,
            "rollup": rollup,
            "spool": spool,
            "capacity": 0,
        }
        elsewhere = self._elsewhere
        plain = name is None and options == Subscription.PLAIN
        if elsewhere is not None and plain and isinstance(handler, str) and elsewhere.takes(handler):
            # What users ask of a lane it has; the other process knows nothing of options.
            check_url(handler)
            self._renew()
            if self._elsewhere is not None:
                return LaneElsewhere(elsewhere.subscribe(handler), elsewhere)  # type: ignore[return-value]
        subscription = Subscription.of(handler, **{**options, "capacity": self.rings[0].capacity})
        with self._subscribing:
            late = self._state == "open" and self._home is None and self._group is None
            if late:  # the first lane of its own: nobody has read here so far
                self.pump.skip()
            lane = self._lane(self._unique(name or handler_name(handler)), subscription, self._origins(since))
            self._subscriptions.append((lane.name, subscription))
            self.drain.add(lane)
            if late:
                self._launch()
        return lane

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes, in the order of their subscription."""
        return self.drain.lanes

    def wall_offset(self) -> int:
        """Return wall clock minus monotonic clock, nanoseconds."""
        return self._wall_clock() - self._clock()

    def metric_head(self) -> int:
        """Return the sequence number of the next metric point."""
        return self.pump.heads()[1]

    def _origins(self, since: int | None) -> list[int]:
        if self._state == "new":
            return self._begin
        events, metrics = self.pump.heads()
        return [events if since is None else since, metrics]

    def _unique(self, name: str) -> str:
        taken = {lane.name for lane in self.lanes}
        labels = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        return next(label for label in labels if label not in taken)

    # --- delivery ---

    async def flush(self, deadline: float = 5.0) -> FlushResult:
        """Wait until everything recorded before the call is settled in every lane, or the deadline; say what is not."""
        if self._group is None:
            return await anyio.to_thread.run_sync(self.flush_sync, deadline)
        if self._state not in ("open", "closing"):
            return self._result()
        if self._elsewhere is None:
            return await self.drain.flush(deadline)
        both: dict[str, int] = {}
        elsewhere, heads = self._elsewhere, self.pump.heads()

        async def flush_here() -> None:
            both.update((await self.drain.flush(deadline)).undelivered)

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(flush_here)
            both.update(await anyio.to_thread.run_sync(elsewhere.flush, heads, deadline))
        return FlushResult(both)

    def flush_sync(self, deadline: float = 5.0) -> FlushResult:
        """As `flush`, from a thread that runs no event loop."""
        self._renew()
        if self._state != "open":
            return self._result()
        if self._group is not None:
            raise BusClosed("this bus lives in an event loop: await bus.flush() there")
        heads, end = self.pump.heads(), time.monotonic() + deadline
        answer = None if self._home is None else self._home.begin(self.drain.flush, deadline)
        left = {} if self._elsewhere is None else self._elsewhere.flush(heads, deadline)
        flushed = None if answer is None else answer.wait(end - time.monotonic() + MARGIN)
        return FlushResult({**left, **(self._pending() if flushed is None else flushed.undelivered)})

    async def settled(self) -> None:
        """Wait until everything recorded before the call is settled, however long it takes. For tests."""
        await self.flush(float("inf"))

    # --- what it knows ---

    def stats(self) -> BusStats:
        """Return the ledgers as they stand; exact while nobody emits. Any thread may call it."""
        heads, begin = self.pump.heads(), sum(self._begin)
        closed = self.drain.closed_heads
        state = "dead" if self._state == "open" and self.drain.over else self._state
        lanes = {lane.name: lane.stats() for lane in self.lanes}
        if self._elsewhere is not None:
            lanes = {**self._elsewhere.lanes(), **lanes}
        return BusStats(
            state=state,
            accepted=sum(heads) - begin,
            closed=sum(heads) - sum(closed) if closed else 0,
            pending=self.pump.behind(heads) if self._is_drained_here and not closed else 0,
            lanes=lanes,
            errors=self.drain.errors,
            recorder=self.recorder,
        )

    def __repr__(self) -> str:
        stats = self.stats()
        dropped = sum(sum(lane.dropped.values()) for lane in stats.lanes.values())
        failed = sum(lane.failed for lane in stats.lanes.values())
        lost = f"{dropped} dropped{f', {failed} failed' if failed else ''}"
        return f"<EventBus {stats.state}, {len(stats.lanes)} lanes, {stats.accepted} accepted, {lost}>"

    # --- inside ---

    def _build(self, rings: Sequence[PipedRing]) -> None:
        super()._build(rings)
        if self._report_every is not None:
            self.drain.add_source(self._report_itself, (self._report_every,))

    async def _report_itself(self, every: float) -> None:
        while True:
            await anyio.sleep(every)
            lanes = {name: lane._asdict() for name, lane in self.stats().lanes.items()}
            self.record(SimpleNamespace(name="bus.stats", source="AGENT", timestamp=0, metadata=lanes))

    def _destination(self, name: str, seq: int) -> None:
        """Give torch's logging handler of the destination `name` a lane: event `seq` is the first for it."""
        from elastic_events.handlers import find, is_null

        handler = find(name)
        if handler is None:
            unknown = ConfigError("no logging handler has that name; the bus's own handlers got the event")
            self.told.report(f"destination {name!r}", unknown)
        elif not is_null(handler):
            self.subscribe(
                handler, name=f"log:{name}", metrics=False, where=lambda record: record.channel == name, since=seq
            )

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") == "open":
            sentence = f"unclosed {self!r}: use a with block, or close it"
            warnings.warn(sentence, ResourceWarning, source=self, stacklevel=2)

    def __reduce__(self) -> Any:
        raise TypeError(
            "an EventBus cannot be sent to another process: open one there, or set ELASTIC_EVENTS_DIR (F12)"
        )
