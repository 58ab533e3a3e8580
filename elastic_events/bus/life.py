"""The life of a bus: its rings, where its drain runs, how it opens and closes, and the one deadline of all at exit."""

import contextlib
import dataclasses
import itertools
import os
import threading
import time
import warnings
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, Self, cast

import anyio
import msgspec
from anyio.abc import TaskGroup

from elastic_events.bus.context import Context, process_identity, read_context
from elastic_events.bus.drain import Drain
from elastic_events.bus.elsewhere import Elsewhere
from elastic_events.bus.emit import Emitter
from elastic_events.bus.ending import end_all, take_over
from elastic_events.bus.errors import BusClosed, ConfigError, ElasticEventsError
from elastic_events.bus.exit import close_at_exit
from elastic_events.bus.fork import Armed, buses
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import FlushResult, LaneStats
from elastic_events.bus.pump import PipedRing, Pump
from elastic_events.bus.record import Record
from elastic_events.bus.ring import Ring
from elastic_events.bus.subscription import Subscription, handler_name
from elastic_events.bus.tell import Told
from elastic_events.bus.thread import MARGIN, LoopHome, ThreadHome, protect
from elastic_events.front import front, open_recorder

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus

__all__ = ("Life",)

#: Slots of each ring in memory, unless the user says otherwise: as many as stay in the processor's cache.
IN_MEMORY = 2048


class Life:
    """A bus from its making to its end. `EventBus` adds what users call beside opening and closing."""

    def __init__(
        self,
        emitter: Emitter,
        *,
        capacity: int | None,
        interval: float,
        deadline: float,
        recorder: str | os.PathLike[str] | Literal[False] | None,
        context: Context | None,
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
        rings: tuple[PipedRing, PipedRing] | None,
        elsewhere: Elsewhere | None,
    ) -> None:
        self.interval = interval
        self.deadline = deadline
        self.emitter = emitter
        self.context = context or read_context()
        self._own_context = context
        self._capacity = capacity
        self._recorder = recorder
        self._clock = clock
        self._wall_clock = wall_clock
        self._elsewhere = elsewhere
        self._subscriptions: list[tuple[str, Subscription]] = []  # how to make each lane again, in a forked child
        self._subscribing = threading.Lock()
        self._group: TaskGroup | None = None
        self._loop: LoopHome | None = None
        self._home: ThreadHome | None = None
        self._state = "new"
        self._left: dict[str, int] = {}  # what the drain elsewhere had not delivered at the close
        self.told = self._teller()
        self._build(rings or self._make_rings())
        buses.add(cast("EventBus", self))

    # --- in the caller's event loop ---

    async def __aenter__(self) -> Self:
        self._may_open()
        self._loop = LoopHome(self.drain.run)
        self._group = anyio.create_task_group()
        await self._group.__aenter__()
        self._group.start_soon(protect(self._loop.run))
        try:
            await self._loop.started_up()
        except BaseException:
            self.drain.request_close(0.0)
            group, self._group = self._group, None
            try:
                await group.__aexit__(None, None, None)  # what failed is raised as it is, not in a group
            finally:
                self._closed()
            raise
        self._opened()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        heads = self.pump.heads()
        self.drain.request_close(self.deadline)
        group, self._group = self._group, None
        assert group is not None
        try:
            # The drain is a task of its own and shielded: whatever cancels this wait, it ends by its own deadline (M5).
            # The group is not told of the block's exception: it would wrap it.
            await group.__aexit__(None, None, None)
            if self._elsewhere is not None and self._state == "open":
                await anyio.to_thread.run_sync(self._close_elsewhere, heads, self.deadline)
        finally:
            self._closed()

    async def aclose(self, deadline: float | None = None) -> FlushResult:
        """Deliver what is left within `deadline` seconds, then end. Idempotent; says what it could not deliver."""
        if self._group is None or self._state not in ("open", "closing"):
            return self._result() if self._state == "closed" else await anyio.to_thread.run_sync(self.close, deadline)
        deadline = self.deadline if deadline is None else deadline
        heads, left = self.pump.heads(), {}
        self.drain.request_close(deadline)
        if self._elsewhere is not None:
            left = await anyio.to_thread.run_sync(self._close_elsewhere, heads, deadline)
        if not self.drain.over:
            await self.drain.ended.wait()
        self._closed()
        return self._result(left)

    # --- in a background thread ---

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def open(self) -> None:
        """Start the drain in a background thread with an event loop of its own; return when the handlers were tried.

        What is left when the process ends is delivered then, within `deadline`.

        Raises:
            ConfigError: a handler cannot be opened, and why.
        """
        self._may_open()
        if self._is_drained_here:
            self._home = ThreadHome(self.drain.run)
            try:
                self._home.start()
            except RuntimeError:  # the interpreter shuts down: the exit drains it
                self._home = None
            except BaseException:
                self._closed()
                raise
        self._opened()

    def launch(self) -> None:
        """As `open`, without waiting for the thread: callable where `record()` is, in a signal handler too."""
        self._may_open()
        if self._is_drained_here:
            self._launch()
        self._opened()

    def close(self, deadline: float | None = None) -> FlushResult:
        """As `aclose`, for a bus in a background thread. Any thread may call it."""
        if self._group is not None and self._state == "open":
            raise BusClosed("this bus lives in an event loop: await bus.aclose() there, or leave its block")
        if self._state not in ("open", "closing"):
            self._closed()
            return self._result()
        deadline = self.deadline if deadline is None else deadline
        end, heads = time.monotonic() + deadline, self.pump.heads()
        self.ask_to_close(deadline)
        return self.finish(end, heads)

    @property
    def _is_drained_here(self) -> bool:
        return self._elsewhere is None or bool(self.drain.lanes)

    def _launch(self) -> None:
        home = ThreadHome(self.drain.run)
        with contextlib.suppress(RuntimeError):  # the interpreter shuts down: the exit drains it
            home.launch()
            self._home = home

    # --- the end of the process ---

    def ask_to_close(self, deadline: float) -> None:
        """Let the drain begin to close, wherever it runs; wait for nothing."""
        if self._state == "open":
            self._state = "closing"
            home = self._home or self._loop
            if home is not None:
                home.call(self.drain.request_close, deadline)

    def finish(self, end: float, heads: Sequence[int]) -> FlushResult:
        """Wait until monotonic `end` for a close that was asked for; say what is left."""
        left = {} if self._elsewhere is None else self._close_elsewhere(heads, max(end - time.monotonic(), 0.0))
        if self.is_adrift:
            take_over({self: max(end - time.monotonic(), 0.0)})
        while self._loop is not None and not self.drain.over and time.monotonic() < end + MARGIN:
            time.sleep(0.01)  # its loop runs in another thread
        if self._home is not None:
            self._home.join(end - time.monotonic() + 2 * MARGIN)
        self._closed()
        return self._result(left)

    @property
    def is_adrift(self) -> bool:
        """Whether nobody runs its drain: its loop ended without leaving the block, or no thread could be started."""
        if not self._is_drained_here or self.drain.over:
            return False
        return self._home is None and (self._loop is None or not self._loop.alive)

    # --- both ---

    def feed(self, records: Sequence[Record]) -> dict[Lane, int]:
        """Hand records of other processes to every lane. Only in the drain's loop, so from a source.

        Returns a mark for `is_settled`.
        """
        for lane in self.drain.lanes:
            lane.feed(records)
        return {lane: lane.backlog.entered for lane in self.drain.lanes}

    def at_end(self, call: Callable[[], object]) -> None:
        """Call `call()` when every lane has ended, before the bus is closed. For sources, which end before."""
        self.drain.at_end.append(call)

    @staticmethod
    def is_settled(mark: dict[Lane, int]) -> bool:
        """Whether every lane has delivered, or given up, all that it was fed before `mark` was taken."""
        return all(lane.unsettled_from >= entered for lane, entered in mark.items())

    def add_source(self, source: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `source(*args)` as a task in the drain's loop, cancelled when the bus closes."""
        if self._home is None:
            self.drain.add_source(source, args)
        else:
            self._home.call(self.drain.add_source, source, args)

    def say_lost(self) -> None:
        """Say on stderr what each lane lost in all."""
        for notices in self.drain.notices:
            notices.end()

    def _teller(self) -> Told:
        """Return what says what cannot be raised to anybody."""
        return Told()

    def _may_open(self) -> None:
        self._renew()
        if self._state != "new":
            raise BusClosed(f"this bus is {self._state}; a bus opens once: make a new EventBus")
        self._state = "open"

    def _opened(self) -> None:
        close_at_exit(end_all)
        front.opened(cast("EventBus", self))

    def _closed(self) -> None:
        if self._state != "closed":
            self._state = "closed"
            self.say_lost()
            front.closed(cast("EventBus", self))
            self._let_go()

    def _result(self, left: dict[str, int] | None = None) -> FlushResult:
        self._left = self._left if left is None else left
        settled = self.drain.over or self._state == "new"
        return FlushResult({**self._left, **(self.drain.given_up if settled else self._pending())})

    def _pending(self) -> dict[str, int]:
        return {lane.name: count for lane in self.drain.lanes if (count := lane.stats().pending)}

    # --- rings, lanes and drain ---

    def _make_rings(self) -> Sequence[PipedRing]:
        if self._recorder is None and self._own_context is None and self._capacity is None:
            rings = front.borrow(self)
            if rings is not None:
                self.context = cast("Context", front.context)
                return rings
        named = front.environ("ELASTIC_EVENTS_DIR") if self._recorder is None else self._recorder
        if named:
            try:
                return open_recorder(Path(named), self.context, self._capacity)
            except (OSError, ConfigError) as error:
                warnings.warn(f"running without the flight recorder: {error}", RuntimeWarning, stacklevel=5)
        return [Ring(self._capacity or IN_MEMORY, self._clock) for _ in range(2)]

    def _build(self, rings: Sequence[PipedRing]) -> None:
        """Make all that reads `rings`; the lanes begin with the next record."""
        self.rings = list(rings)
        self.recorder = str(getattr(rings[0], "path", ""))
        self.pump = Pump(self.rings, self.context, self._wall_clock, self._destination)
        self._begin = self.pump.skip()
        self.drain = Drain(self.pump, self.interval, self.deadline, self.told)
        self.emitter.events, self.emitter.metrics = (ring.pipe for ring in rings)
        for name, subscription in self._subscriptions:
            # A spool is the parent's; in a child the backlog is in memory.
            own = dataclasses.replace(subscription, spool=None)
            self.drain.add(self._lane(name, own, self._begin))

    def _lane(self, name: str, subscription: Subscription, origins: Sequence[int]) -> Lane:
        return Lane(name, subscription, origins, self.pump.heads, partial(self._ledger, name))

    def _ledger(self, lane: str, stats: LaneStats) -> Record:
        return stats.as_record(lane, sum(self.pump.heads()), self._wall_clock(), self._clock(), self.context)

    def _destination(self, name: str, seq: int) -> None:
        """Act on the first event for the destination `name`, which is event `seq`."""

    def _close_elsewhere(self, heads: Sequence[int], deadline: float) -> dict[str, int]:
        assert self._elsewhere is not None
        self._close_rings()
        return self._elsewhere.close(heads, deadline)

    def _close_rings(self) -> None:
        for ring in self.rings:
            close = getattr(ring, "close", None)
            if close is not None:
                close()

    def _let_go(self) -> None:
        """Close a recorder of the bus's own and drop it: its map and its descriptor go with the last emitter's call."""
        if front.give_back(self) or not self.recorder:
            return
        self._close_rings()
        rings = [Ring(2, begin=ring.head) for ring in self.rings]  # which count what comes too late
        self.emitter.events, self.emitter.metrics = (ring.pipe for ring in rings)
        for cursor, ring in zip(self.pump.cursors, rings, strict=True):
            cursor.ring = ring
        self.rings = list(rings)

    # --- a forked child ---

    def after_fork(self) -> None:
        """Start empty in the child; only rebinds attributes (F2, F4).

        What was not open yet can be opened here, too. A drain in a thread starts again with the first emit or flush; one in
        an event loop has no loop here: it is closed.
        """
        if self._state == "closed":
            return
        self._subscribing = threading.Lock()
        self.told = self._teller()
        in_loop = self._loop is not None
        self._group = self._loop = self._home = None
        self._becomes = "new" if self._state == "new" else "open"
        self._renewals = itertools.count()
        self._renewed = False
        self._build([Ring(2), Ring(2)])
        self._state = "closed" if in_loop else "forked"
        if in_loop:
            self.emitter.events = self.emitter.metrics = None
            front.closed(cast("EventBus", self))
        else:
            pipes = (Armed(self._renew, partial(self._pipe, index)).pipe for index in range(2))
            self.emitter.events, self.emitter.metrics = pipes
            front.point()

    def _reopen(self) -> Sequence[PipedRing]:
        """Return a child's rings under the drain elsewhere; where there can be none, its sinks are served here."""
        assert self._elsewhere is not None
        try:
            return self._elsewhere.reopen(self.context)
        except (OSError, ElasticEventsError) as error:
            with contextlib.suppress(RuntimeWarning):  # where warnings are errors: an emitter never raises
                warnings.warn(f"drained by a thread of this process: {error}", RuntimeWarning, stacklevel=5)
            urls, self._elsewhere = self._elsewhere.urls, None
            self._subscriptions += [(handler_name(url), Subscription.of(url)) for url in urls]
            return [Ring(IN_MEMORY, self._clock) for _ in range(2)]

    def _pipe(self, ring: int) -> Any:
        return self.rings[ring].pipe if self._renewed else None

    def _renew(self) -> None:
        """Give a forked child's bus rings, a drain and an identity of its own, with its first use."""
        if self._state != "forked" or next(self._renewals) > 0:
            return
        # Ids are made of the process: a child that kept its parent's would give two records one id.
        context = self._own_context or read_context()
        self.context = msgspec.structs.replace(context, process=process_identity(), pid=os.getpid())
        self._build(self._reopen() if self._elsewhere is not None else self._make_rings())
        self._state = self._becomes
        if self._state == "open" and self._is_drained_here:
            self._launch()
        self._renewed = True
        if self._state == "open":
            self._opened()
