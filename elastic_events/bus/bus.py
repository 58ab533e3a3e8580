"""EventBus: two rings, the lanes, and the drain that moves records between them."""

import contextlib
import itertools
import os
import threading
import time
import warnings
import weakref
from collections.abc import Awaitable, Callable, Iterable, Sequence
from functools import partial
from pathlib import Path
from types import SimpleNamespace, TracebackType
from typing import Any, Protocol, Self

import anyio
import msgspec
from anyio.abc import TaskGroup

from elastic_events.bus.backlog import Backlog, Overflow
from elastic_events.bus.context import Context, process_identity, read_context
from elastic_events.bus.drain import Drain
from elastic_events.bus.emit import Emitter
from elastic_events.bus.errors import BusClosed, ConfigError
from elastic_events.bus.filter import Patterns, wanted
from elastic_events.bus.handler import BATCH, Handler, Sink, adapt, handler_name, stages
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import BusStats, FlushResult, LaneStats
from elastic_events.bus.process import Armed, after_fork_in_child, close_at_exit, forget
from elastic_events.bus.pump import Pump, Source
from elastic_events.bus.record import Record
from elastic_events.bus.redact import SECRETS, Redactor
from elastic_events.bus.retry import NO_RETRY, Retry
from elastic_events.bus.ring import Pipe, Ring
from elastic_events.bus.thread import ThreadHome, protect

__all__ = ("EventBus", "buses", "observers", "recorders")


class PipedRing(Source, Protocol):
    """A ring that can be emitted to and read: in memory, or in a mapped file."""

    @property
    def pipe(self) -> Pipe:
        """What the hot path needs."""
        ...


class Observer(Protocol):
    """Told when a bus opens and closes: how the module functions find the bus opened last."""

    def opened(self, bus: "EventBus") -> None:
        """`bus` is draining now."""

    def closed(self, bus: "EventBus") -> None:
        """`bus` drains no longer."""

    def destination(self, bus: "EventBus", name: str, seq: int) -> None:
        """Event `seq` is the first for the destination `name`. Called in the drain's loop."""


#: Asked in turn on every opening and closing.
observers: list[Observer] = []

#: The function that makes a bus's rings in a directory of flight recorders; set by the package above.
recorders: list[Callable[..., tuple[PipedRing, PipedRing]]] = []

#: Every bus of this process that is not garbage; what a fork must reset.
buses: "weakref.WeakSet[EventBus]" = weakref.WeakSet()


class EventBus:
    """An async event bus whose emitters never block.

    `record()` and `put_metric()` may be called from any thread, coroutine, signal handler or finalizer. The records are
    delivered by a drain that runs in the caller's event loop (`async with`) or in a background thread (`with`).

    Args:
        handlers: what gets the records; each becomes a lane, as by `subscribe(handler)`.
        capacity: slots of each of the two rings, a power of two; sized for the burst between two looks.
        interval: seconds between two looks of the drain at the rings.
        deadline: seconds that leaving the block may take to deliver what is left.
        report_every: seconds between two events `bus.stats`, whose metadata are the ledgers of all lanes; None for none.
        recorder: a directory; the rings live in a file there, which outlives the process.
        context: who speaks; read from the environment where it is not given.
        redact: regular expression on metadata keys whose values never reach a queue; None for none.
        strict: let `record()` raise `MetadataError` for values that JSON cannot hold.
        clock: monotonic nanoseconds, and `wall_clock` nanoseconds since the epoch; for tests.
    """

    def __init__(
        self,
        *handlers: Handler,
        capacity: int = 2048,
        interval: float = 0.05,
        deadline: float = 5.0,
        report_every: float | None = None,
        recorder: str | os.PathLike[str] | None = None,
        context: Context | None = None,
        redact: str | None = SECRETS,
        strict: bool = False,
        clock: Callable[[], int] = time.monotonic_ns,
        wall_clock: Callable[[], int] = time.time_ns,
    ) -> None:
        self.interval = interval
        self.deadline = deadline
        self.context = context or read_context()
        self.recorder = Path(recorder) if recorder is not None else None
        self._capacity = capacity
        self._clock = clock
        self._wall_clock = wall_clock
        self._own_context = context
        self._subscriptions: list[Callable[[], Lane]] = []  # how to make each lane again, in a forked child
        self._group: TaskGroup | None = None
        self._home: ThreadHome | None = None
        self._state = "new"
        self._subscribing = threading.Lock()
        self._reported: set[str] = set()
        self.emitter = Emitter(None, None, Redactor(redact), strict=strict)
        self._make_rings()
        # Bound once: `bus.record(event)` is the hot path itself, not a method that calls it.
        self.record = self.emitter.record
        self.put_metric = self.emitter.put_metric
        self.record_rdzv_event = self.emitter.record_rdzv_event
        for handler in handlers:
            self.subscribe(handler)
        if report_every is not None:
            self.drain.add_source(self._report_itself, (report_every,))
        buses.add(self)

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
                `elastic-events replay` sends them again.
            rollup: seconds (or "10s") over which metric points are summed up before the handler gets them.
            since: sequence number of the first event the lane gets; by default the next one.

        Raises:
            ConfigError: the handler is of no known shape, or its URL is wrong.
        """
        sink = adapt(handler, batches=batch_size is not None)
        patient = isinstance(handler, Sink | str)
        if rollup is not None:
            sink = stages["rollup"](sink, rollup)
        if batch_size is None:
            batch_size = getattr(sink, "batch_size", BATCH if patient or rollup is not None else 1)
        grave = None if dead_letters is None else adapt(dead_letters, batches=True)
        accepts = wanted(events, metrics, source, where)

        def make(label: str) -> Lane:
            return Lane(
                *(label, sink),
                accepts=accepts,
                backlog=Backlog(backlog or max(65_536, self._capacity), backlog_bytes, overflow),
                batch_size=max(batch_size, 1),
                batch_bytes=batch_bytes,
                linger=linger,
                timeout=timeout,
                retry=retry or (Retry() if patient else NO_RETRY),
                dead_letters=grave,
                origins=self._origins(since),
                heads=self.pump.heads,
                ledger=partial(self._ledger, label),
            )

        with self._subscribing:
            lane = make(self._unique(name or handler_name(handler)))
            self._subscriptions.append(partial(make, lane.name))
            self.drain.add(lane)
        return lane

    def _origins(self, since: int | None) -> list[int]:
        if self._state == "new":
            return [0, 0]
        events, metrics = self.pump.heads()
        return [events if since is None else since, metrics]

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

    # --- life ---

    async def __aenter__(self) -> Self:
        self._may_open()
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        try:
            await self._group.start(protect(self.drain.run))
        except BaseException:
            self._state = "closed"
            group, self._group = self._group, None
            await group.__aexit__(None, None, None)  # what failed is raised as it is, not in a group
            raise
        self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.drain.request_close(self.deadline)
        group, self._group = self._group, None
        assert group is not None
        try:
            # The drain is a task of its own and shielded: whatever cancels this wait, it ends by its own deadline (M5).
            # The group is not told of the block's exception: it would wrap it.
            await group.__aexit__(None, None, None)
        finally:
            self._closed()

    async def aclose(self, deadline: float | None = None) -> FlushResult:
        """Deliver what is left within `deadline` seconds, then end. Idempotent; says what it could not deliver."""
        if self._home is not None:
            return await anyio.to_thread.run_sync(self.close, deadline)
        if self._state in ("open", "closing"):
            self.drain.request_close(self.deadline if deadline is None else deadline)
            if not self.drain.over:
                await self.drain.ended.wait()
            self._closed()
        return self._result()

    async def flush(self, deadline: float = 5.0) -> FlushResult:
        """Wait until everything recorded before the call is settled in every lane, or the deadline; say what is not."""
        if self._home is not None:
            return await anyio.to_thread.run_sync(self.flush_sync, deadline)
        if self._state not in ("open", "closing"):
            return self._result()
        return await self.drain.flush(deadline)

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the drain in a background thread with an event loop of its own; return when the handlers are open.

        What is left when the process ends is delivered then, within `deadline`.

        Raises:
            ConfigError: a handler cannot be opened, and why.
        """
        self._may_open()
        self._home = ThreadHome(self.drain.run)
        try:
            self._home.start()
        except BaseException:
            self._state = "closed"
            raise
        close_at_exit(self.close)
        self._opened()

    def launch(self) -> None:
        """As `open`, without waiting for the thread: callable where `record()` is, in a signal handler too."""
        self._may_open()
        self._home = ThreadHome(self.drain.run)
        self._home.launch()
        close_at_exit(self.close)
        self._opened()

    def close(self, deadline: float | None = None, *, patient: Callable[[], bool] | None = None) -> FlushResult:
        """As `aclose`, for a bus in a background thread. Any thread may call it.

        `patient` is asked every 10 ms: when it returns False, the deadline has come. A drain that is blocked by a handler
        is then left to itself after 50 ms.
        """
        deadline = self.deadline if deadline is None else deadline
        if self._home is None:
            if self._state == "open":
                raise BusClosed("this bus lives in an event loop: await bus.aclose() there, or leave its block")
            return self._result()
        if self._state == "open":
            self._state = "closing"
            self._home.call(self.drain.request_close, deadline)
        if not self._home.join(deadline, patient) and patient is not None:
            self._home.call(self.drain.request_close, 0.0)
            self._home.hurry(0.05)
        self._closed()
        return self._result()

    def flush_sync(self, deadline: float = 5.0) -> FlushResult:
        """As `flush`, from a thread that runs no event loop."""
        self._restart_if_forked()
        if self._state != "open":
            return self._result()
        if self._home is None:
            raise BusClosed("this bus lives in an event loop: await bus.flush() there")
        result = self._home.run(self.drain.flush, deadline, timeout=deadline)
        return result if result is not None else FlushResult({lane.name: lane.stats().pending for lane in self.lanes})

    # --- what it knows ---

    def stats(self) -> BusStats:
        """Return the ledgers as they stand; exact while nobody emits. Any thread may call it."""
        heads = self.pump.heads()
        closed = self.drain.closed_heads
        state = self._state
        if state == "open" and self.drain.over:
            state = "dead"
        return BusStats(
            state=state,
            accepted=sum(heads),
            closed=sum(heads) - sum(closed) if closed else 0,
            pending=0 if closed else self.pump.behind(heads),
            lanes={lane.name: lane.stats() for lane in self.lanes},
            errors=self.drain.errors,
            recorder=str(getattr(self.rings[0], "path", "")),
        )

    def __repr__(self) -> str:
        stats = self.stats()
        dropped = sum(lane.lost for lane in stats.lanes.values())
        return f"<EventBus {stats.state}, {len(stats.lanes)} lanes, {stats.accepted} accepted, {dropped} dropped>"

    async def settled(self) -> None:
        """Wait until everything recorded before the call is settled, however long it takes. For tests."""
        await self.flush(float("inf"))

    # --- records of other processes ---

    def add_source(self, source: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `source(*args)` as a task in the drain's loop, cancelled when the bus closes."""
        if self._home is None:
            self.drain.add_source(source, args)
        else:
            self._home.call(self.drain.add_source, source, args)

    def feed(self, records: Sequence[Record]) -> dict[Lane, int]:
        """Hand records of other processes to every lane. Only in the drain's loop, so from a source.

        Returns a mark for `is_settled`.
        """
        for lane in self.lanes:
            lane.feed(records)
        return {lane: lane.backlog.entered for lane in self.lanes}

    def at_end(self, call: Callable[[], object]) -> None:
        """Call `call()` when every lane has ended, before the bus is closed. For sources, which end before."""
        self.drain.at_end.append(call)

    @staticmethod
    def is_settled(mark: dict[Lane, int]) -> bool:
        """Whether every lane has delivered, or given up, all that it was fed before `mark` was taken."""
        return all(lane.unsettled_from >= entered for lane, entered in mark.items())

    # --- inside ---

    def _make_rings(self) -> None:
        rings: Iterable[PipedRing] = (Ring(self._capacity, self._clock), Ring(self._capacity, self._clock))
        if self.recorder is not None and recorders:
            rings = self._recorded(self.recorder) or rings
        self.rings = list(rings)
        self._make_drain()

    def _make_drain(self) -> None:
        self.pump = Pump(self.rings, self.context, self._wall_clock, self._destination)
        self.drain = Drain(self.pump, self.interval, self.report)
        self.emitter.events, self.emitter.metrics = (ring.pipe for ring in self.rings)

    def _recorded(self, directory: Path) -> tuple[PipedRing, PipedRing] | None:
        try:
            return recorders[0](directory, self.context, self._capacity)
        except (OSError, ConfigError) as error:
            warnings.warn(f"running without the flight recorder: {error}", RuntimeWarning, stacklevel=4)
            return None

    def _may_open(self) -> None:
        self._restart_if_forked()
        if self._state != "new":
            raise BusClosed(f"this bus is {self._state}; a bus opens once: make a new EventBus")
        self._state = "open"

    def _opened(self) -> None:
        for observer in observers:
            observer.opened(self)

    def _closed(self) -> None:
        if self._state != "closed":
            self._state = "closed"
            forget(self.close)
            for observer in observers:
                observer.closed(self)
            for ring in self.rings:
                close = getattr(ring, "close", None)
                if close is not None:
                    close()

    def _result(self) -> FlushResult:
        if self.drain.over or self._state == "new":
            return FlushResult(dict(self.drain.given_up))
        return FlushResult({lane.name: count for lane in self.lanes if (count := lane.stats().pending)})

    def _unique(self, name: str) -> str:
        taken = {lane.name for lane in self.lanes}
        number = 2
        label = name
        while label in taken:
            label = f"{name}-{number}"
            number += 1
        return label

    async def _report_itself(self, every: float) -> None:
        while True:
            await anyio.sleep(every)
            lanes = {name: lane._asdict() for name, lane in self.stats().lanes.items()}
            self.record(SimpleNamespace(name="bus.stats", source="AGENT", timestamp=0, metadata=lanes))

    def _ledger(self, lane: str, stats: LaneStats) -> Record:
        body = {"lane": lane, "dropped": stats.dropped, **{name: getattr(stats, name) for name in _LEDGER}}
        wall, monotonic = self._wall_clock(), self._clock()
        return Record("ledger", sum(self.pump.heads()), wall, monotonic, "bus.ledger", lane, (body,), self.context)

    def _destination(self, name: str, seq: int) -> None:
        for observer in observers:
            observer.destination(self, name, seq)

    def report(self, what: str, error: BaseException) -> None:
        """Say once on stderr what the bus cannot raise to anybody; never through logging, which may lead back here (F36)."""
        if what not in self._reported:
            self._reported.add(what)
            _say(f"elastic_events: {what}: {type(error).__name__}: {error}")

    def __del__(self) -> None:
        if getattr(self, "_state", "closed") == "open":
            warnings.warn(
                f"unclosed {self!r}: use a with block, or close it", ResourceWarning, source=self, stacklevel=2
            )

    def __reduce__(self) -> Any:
        raise TypeError(
            "an EventBus cannot be sent to another process: open one there, or set ELASTIC_EVENTS_DIR (F12)"
        )

    # --- fork ---

    def after_fork(self) -> None:
        """Start empty in the child; only rebinds attributes (F2, F4).

        A drain in a thread starts again with the first emit or flush; one in an event loop has no loop here: it is closed.
        """
        if self._state in ("new", "closed"):
            return
        in_thread = self._home is not None
        self._home = self._group = None
        self._subscribing = threading.Lock()
        self._state = "forked" if in_thread else "closed"
        self._restarts = itertools.count()
        self.rings = [Ring(self._capacity, self._clock), Ring(self._capacity, self._clock)]
        self._restarted = False
        self.emitter.events = self.emitter.metrics = None
        if in_thread:
            real = [lambda i=index: self.rings[i].pipe if self._restarted else None for index in range(2)]
            self.emitter.events, self.emitter.metrics = (Armed(self._restart_if_forked, ring).pipe for ring in real)
            for observer in observers:
                observer.opened(self)

    def _restart_if_forked(self) -> None:
        if self._state != "forked" or next(self._restarts) > 0:
            return
        # Ids are made of the process: a child that kept its parent's would give two records one id.
        self.context = msgspec.structs.replace(
            self._own_context or read_context(), process=process_identity(), pid=os.getpid()
        )
        self._state = "new"  # lanes made now begin at the first record
        self._make_rings()
        for make in self._subscriptions:
            self.drain.add(make())
        self._home = ThreadHome(self.drain.run)
        self._home.launch()
        self._state = "open"
        self._restarted = True
        close_at_exit(self.close)
        for observer in observers:
            observer.opened(self)


after_fork_in_child(lambda: buses)

_LEDGER = ("accepted", "delivered", "failed", "filtered", "pending", "retries", "dead_lettered")


def _say(text: str) -> None:
    with contextlib.suppress(OSError):  # no stderr, nobody to tell
        os.write(2, text.encode(errors="backslashreplace") + b"\n")
