"""What a bus delivers to, and whom it collects: lanes, listeners, workers."""

import itertools
import os
from collections.abc import AsyncIterator, Callable, Hashable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from typing import TYPE_CHECKING, Any, cast

import anyio

from elastic_events.bus.backlog import Overflow
from elastic_events.bus.elsewhere import LaneElsewhere
from elastic_events.bus.errors import BusClosed, ConfigError, WouldDeadlock
from elastic_events.bus.filter import Patterns
from elastic_events.bus.handler import Handler, OnFailure
from elastic_events.bus.lane import Lane as OwnLane
from elastic_events.bus.life import Life
from elastic_events.bus.listener import Listener
from elastic_events.bus.record import Record
from elastic_events.bus.retry import Retry
from elastic_events.bus.subscribed import Lane
from elastic_events.bus.subscription import Subscription, check_url, handler_name

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus
    from elastic_events.recorder.collecting import Collecting

__all__ = ("Subscribing",)


class Subscribing(Life):
    """A bus and what it is connected with. `EventBus` adds recording, flushing and looking."""

    _collected: str | None = None  # the directory that was collected last

    # --- lanes ---

    def subscribe(
        self,
        handler: Handler,
        *,
        name: str | None = None,
        events: Patterns = True,
        metrics: Patterns | None = None,
        source: str | None = None,
        where: Callable[[Record], bool] | None = None,
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
        concurrency: int = 1,
        key: Callable[[Record], Hashable] | None = None,
        coalesce: Callable[[Record], Hashable] | None = None,
        replay: int = 0,
        on_failure: OnFailure = "continue",
    ) -> Lane:
        """Deliver records from now on to `handler`, in a lane of its own. Any thread may call it.

        `lane.unsubscribe()` and `await lane.aclose()` end it before the bus does, and so does `async with` around it.

        Args:
            handler: an async function of one record, or of a list of records where `batch_size` is given; a `Sink`, or
                its URL; a torch-style `MetricHandler`; a `logging.Handler`.
            name: of the lane in `stats()`; made unique.
            events: which events: True, False, or shell-style patterns on the name. `metrics` likewise; by default all, but
                none where `events` has patterns.
            source: only events of this source ("AGENT" or "WORKER").
            where: a predicate on the record, asked last.
            batch_size: records a call at most, `batch_bytes` encoded bytes at most; `linger` seconds to wait for more.
            timeout: seconds a call may take; None for no limit.
            retry: when to try again. Sinks have `Retry()`, functions and adapted handlers one attempt.
            backlog: records that may wait, events and metrics each: 65,536, or the capacity of a larger ring;
                `backlog_bytes` of memory, likewise.
            overflow: which records a full backlog loses: "drop_oldest" or "drop_newest".
            dead_letters: a handler or URL ("jsonl:///dead.jsonl") for the records that were given up;
                `elastic-events replay` sends them again. Of a sink's URL by default what its option `dead_letters=` or
                ELASTIC_EVENTS_DEAD_LETTERS says.
            rollup: seconds (or "10s") over which metric points are summed up before the handler gets them.
            spool: a directory of this lane's own, where its backlog goes on while its sink is away: up to 1 GiB, which
                outlives the process.
            concurrency: calls of an async function at the same time. `key` gives those whose records must keep their order.
            coalesce: gives a key, of whose records only the latest waits; the others count as dropped["coalesced"].
            replay: begin with the last so many events, and metrics, that are in the rings.
            on_failure: "raise" ends the block of the bus with `HandlerFailed` when the handler gives up a record.

        Raises:
            ConfigError: the handler is of no known shape, its URL is wrong, or an option.
            BusClosed: the bus is closed.
            WouldDeadlock: a signal handler subscribes, which struck in a subscribe of this bus.
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
            "on_failure": on_failure,
            "concurrency": concurrency,
            "key": key,
            "coalesce": coalesce,
            "capacity": 0,
        }
        elsewhere = self._elsewhere
        plain = name is None and not replay and options == Subscription.PLAIN
        if elsewhere is not None and plain and isinstance(handler, str) and elsewhere.takes(handler):
            # What users ask of a lane it has; the other process knows nothing of options.
            check_url(handler)
            self._renew()
            self._check_open()
            if self._elsewhere is not None:
                return LaneElsewhere(elsewhere.subscribe(handler), elsewhere)  # type: ignore[return-value]
        if not replay >= 0:
            raise ConfigError(f"replay is a number of records, 0 or more; it is {replay!r}")
        subscription = Subscription.of(handler, **{**options, "capacity": self._rings[0].capacity})
        self._renew()  # in a forked child: the lane is the child's own, and so is its spool
        with self._alone():
            self._check_open()
            late = self._state == "open" and self._home is None and self._loop is None
            if late:  # the first lane of its own: nobody has read here so far
                self._pump.skip()
            lane = self._add(name or handler_name(handler), subscription, self._origins(replay))
            if late:
                self._launch()
        return lane

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Let one thread change the lanes at a time, and no signal handler in the midst of it: that would wait for ever."""
        with self._subscribing:
            if self._changing:
                raise WouldDeadlock(
                    "called in the midst of a subscribe of this bus, by a signal handler say: do it elsewhere"
                )
            self._changing = True
            try:
                yield
            finally:
                self._changing = False

    def _check_open(self) -> None:
        if self._state in ("closing", "closed"):
            raise BusClosed(f"this bus is {self._state}: what is recorded now reaches no handler; make a new EventBus")

    def _add(self, name: str, subscription: Subscription, origins: Sequence[int]) -> OwnLane:
        taken = {lane.name for lane in self.lanes}
        labels = (name if number == 1 else f"{name}-{number}" for number in itertools.count(1))
        lane = self._lane(next(label for label in labels if label not in taken), subscription, origins)
        self._drain.add(lane)
        return lane

    @asynccontextmanager
    async def listen(
        self,
        events: Patterns = True,
        *,
        metrics: Patterns | None = None,
        where: Callable[[Record], bool] | None = None,
        limit: int = 1024,
    ) -> AsyncIterator[Listener]:
        """Give the records of the block, as they come: `async with bus.listen("worker.*") as records: async for one in records`.

        The filter is that of `subscribe`. Up to `limit` records wait to be taken, then the oldest fall out, counted in
        `records.dropped`. The loop ends when the bus closes. In the bus's own event loop.

        Raises:
            BusClosed: the bus is not open in this event loop.
        """
        self._check_loop("listen")
        listener = Listener(limit)
        subscription = Subscription.of(listener, events=events, metrics=metrics, where=where, timeout=None)
        with self._alone():
            lane = self._add("listen", subscription, self._origins(0))
            lane.lasting = False
        listener.ledger = lane.ledger
        try:
            yield listener
        finally:
            with self._alone():
                self._drain.remove(lane)

    async def next(
        self,
        events: Patterns = True,
        *,
        metrics: Patterns | None = None,
        where: Callable[[Record], bool] | None = None,
        timeout: float | None = None,
    ) -> Record:
        """Wait for the next record, from now on, that the filter wants; see `listen`.

        Raises:
            TimeoutError: none came within `timeout` seconds.
            BusClosed: the bus closed before one came, or is not open in this event loop.
        """
        async with self.listen(events, metrics=metrics, where=where) as records:
            with anyio.fail_after(timeout):
                async for record in records:
                    return record
        raise BusClosed("the bus closed before such a record came")

    # --- workers ---

    async def collect(
        self,
        directory: str | os.PathLike[str],
        *,
        interval: float = 0.05,
        exit_code: Callable[[int], int | None] = lambda _pid: None,
        on_failure: OnFailure = "continue",
    ) -> "Collecting":
        """Deliver what processes record in `directory`, as they do, until the bus closes. In the bus's own event loop.

        When it returns, what lay there is with the lanes. A flush covers what the workers recorded before it. A process that
        dies is told by an event `worker.died` behind its last record; `worker_env` is for starting them.

        Args:
            directory: where the workers record; made, private, if it is missing.
            interval: seconds between two looks at the files.
            exit_code: returns what a pid ended with, as `subprocess` has it (negative for a signal), or None; one that raises
                does not know it.
            on_failure: "raise" ends the block of the bus when the collecting fails later.

        Raises:
            ConfigError: the directory cannot be used, or another launcher collects it.
            BusClosed: the bus is not open in this event loop.
        """
        from elastic_events.recorder.collecting import Collecting

        self._check_loop("collect")
        source = Collecting.of(cast("EventBus", self), directory, interval=interval, exit_code=exit_code)
        try:
            await source.open()
            self._check_loop("collect")  # it may close meanwhile
        except BaseException:
            source.abandon()
            raise
        self._drain.follow(source, on_failure)
        self._collected = str(source.directory)
        return source

    def worker_env(
        self,
        *,
        rank: int | None = None,
        local_rank: int | None = None,
        world_size: int | None = None,
        attempt: int | None = None,
        role: str | None = None,
    ) -> dict[str, str]:
        """Return the environment for a worker: this process's own, the run's id, and where `collect` looks.

        `subprocess.Popen(args, env=bus.worker_env(rank=0, local_rank=0, world_size=2, attempt=0))`
        """
        given = {
            "RANK": rank,
            "LOCAL_RANK": local_rank,
            "WORLD_SIZE": world_size,
            "TORCHELASTIC_RESTART_COUNT": attempt,
            "ROLE_NAME": role,
            "ELASTIC_EVENTS_RUN_ID": self.context.run_id,
            "ELASTIC_EVENTS_DIR": self._collected,
        }
        return {**os.environ, **{name: str(value) for name, value in given.items() if value is not None}}

    @property
    def lanes(self) -> tuple[Lane, ...]:
        """The lanes, in the order of their subscription."""
        return self._drain.lanes

    def _origins(self, replay: int) -> list[int]:
        """Return the first sequence of each ring that a new lane gets."""
        if self._state == "new":
            return self._begin
        rings = zip(self._pump.heads(), self._begin, self._rings, strict=True)
        return [max(head - min(replay, ring.capacity), begin) for head, begin, ring in rings]

    def _destination(self, name: str, seq: int) -> bool:
        """Give torch's logging handler of the destination `name` a lane: event `seq` is the first for it."""
        from elastic_events.handlers import find, is_null

        handler = find(name)
        if handler is None:
            unknown = ConfigError("no logging handler has that name; the bus's own handlers got the event")
            self._told.report(f"destination {name!r}", unknown)
        elif not is_null(handler):
            try:
                subscription = Subscription.of(handler, metrics=False, where=lambda record: record.channel == name)
            except ConfigError as error:  # what was registered is no handler: the bus's own get the event
                self._told.report(f"destination {name!r}", error)
                return False
            with self._alone():
                lane = self._add(f"log:{name}", subscription, [seq, self._pump.heads()[1]])
            lane.is_new = False  # it begins with the event that the pump is about to hand out
            lane.lasting = False  # a forked child makes its own, with its first event for it
            return True
        return False
