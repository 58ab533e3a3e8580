"""The life of a bus: its rings, where its drain runs, how it opens and closes, and the one deadline of all at exit.

One file although it is long: each way to open, close or fork is right only beside all the others.
"""

import contextlib
import math
import os
import threading
import time
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Literal, NamedTuple, Self, cast

import anyio
import msgspec

from elastic_events.bus.block import Block
from elastic_events.bus.context import Context, completed, process_identity, read_context
from elastic_events.bus.drain import Drain
from elastic_events.bus.elsewhere import Elsewhere
from elastic_events.bus.emit import Emitter
from elastic_events.bus.ending import end_all, take_over
from elastic_events.bus.errors import BusClosed, ConfigError, ElasticEventsError, WouldDeadlock
from elastic_events.bus.exit import close_at_exit
from elastic_events.bus.fork import Armed, add_bus
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import FlushResult, LaneStats
from elastic_events.bus.pump import PipedRing, Pump
from elastic_events.bus.record import Record
from elastic_events.bus.ring import Ring
from elastic_events.bus.signals import Held
from elastic_events.bus.subscription import Subscription, handler_name
from elastic_events.bus.tell import Told
from elastic_events.bus.thread import MARGIN, LoopHome, ThreadHome
from elastic_events.front import front, open_recorder

if TYPE_CHECKING:
    from elastic_events.bus.bus import EventBus

__all__ = ("Life",)

#: Slots of each ring in memory, unless the user says otherwise: a quarter of a second of 60,000 records a second. A full one
#: takes 2 MB; emitting to it costs what it costs with 2,048, which such a flood overruns between two looks.
IN_MEMORY = 16_384


class _Renewal(NamedTuple):
    """What one thread does for a forked child's bus."""

    thread: int
    over: threading.Event


class Life:
    """A bus from its making to its end. `EventBus` adds what users call beside opening and closing."""

    def __init__(
        self,
        emitter: Emitter,
        *,
        capacity: int | None,
        interval: float,
        timeout: float,
        recorder: str | os.PathLike[str] | Literal[False] | None,
        context: Context | None,
        clock: Callable[[], int],
        wall_clock: Callable[[], int],
        rings: tuple[PipedRing, PipedRing] | None,
        elsewhere: Elsewhere | None,
    ) -> None:
        if math.isnan(interval) or math.isnan(timeout):
            raise ConfigError("interval and timeout are seconds: nan is no number of them")
        self.interval = interval
        self.timeout = timeout
        self._emitter = emitter
        self.context: Context = read_context() if context is None else completed(context)
        self._own_context = context
        self._capacity = capacity
        self._recorder = recorder
        self._told = self._teller()
        self._clock = self._sure(clock, time.monotonic_ns)
        self._wall_clock = self._sure(wall_clock, time.time_ns)
        self._elsewhere = elsewhere
        self._subscribing = threading.RLock()
        self._changing = False  # its lanes, by the thread that holds that
        self._loop: LoopHome | None = None
        self._block: Block | None = None
        self._leaving = False  # it closes, or its block is left
        self._failure: BaseException | None = None  # what is to end the block
        self._home: ThreadHome | None = None
        self._state = "new"
        self._left: dict[str, int] = {}  # what the drain elsewhere had not delivered at the close
        self._renewals: dict[str, _Renewal] = {}  # one at most, while it is under way in a forked child
        self._build(rings or self._make_rings(), ())
        add_bus(cast("EventBus", self))

    # --- in the caller's event loop ---

    async def __aenter__(self) -> Self:
        self._may_open()
        drain = self._drain  # in a forked child the bus has another one, and this one is to end
        over = partial(self._loop_over, drain)
        loop = self._loop = LoopHome(drain.run, lambda: drain.request_close(drain.patience), self._fail, over)
        try:
            await loop.start()
        except BaseException:
            self._drain.request_close(0.0)
            try:
                await loop.join()
            finally:
                self._closed()
            raise
        self._block = Block()
        self._opened()
        if self._failure is not None:  # while it opened
            self._block.cancel_soon()
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        block, loop, heads = self._block, self._loop, self._pump.heads()
        if block is None or loop is None:  # in a forked child, where it is closed: what ends the child goes on
            return
        rest = block.leave(error)
        self._leave()
        self._drain.request_close(self.timeout)
        try:
            await loop.join()
            if self._elsewhere is not None and self._state == "open":
                await anyio.to_thread.run_sync(self._close_elsewhere, heads, self.timeout)
        finally:
            self._closed()
        self._raise(rest)
        if rest is not None and rest is not error:
            raise rest

    async def aclose(self, timeout: float | None = None) -> FlushResult:
        """Deliver what is left within `timeout` seconds, then end. Idempotent; says what it could not deliver."""
        if self._state == "closed":  # also in a forked child, which has no loop
            return self._result()
        self._check_task()
        if self._loop is None or not self._loop.is_here or self._state not in ("open", "closing"):
            return await anyio.to_thread.run_sync(self.close, timeout)
        timeout = self._seconds(timeout)
        heads, left = self._pump.heads(), {}
        self._leave()
        self._drain.request_close(timeout)
        if self._elsewhere is not None:
            left = await anyio.to_thread.run_sync(self._close_elsewhere, heads, timeout)
        if not self._drain.over:
            await self._drain.ended.wait()
        self._closed()
        return self._result(left)

    # --- in a background thread ---

    def __enter__(self) -> Self:
        self.open()
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()
        self._raise(error)

    def open(self) -> None:
        """Start the drain in a background thread with an event loop of its own; return when the handlers were tried.

        What is left when the process ends is delivered then, within `timeout`.

        Raises:
            ConfigError: a handler cannot be opened, and why.
        """
        self._may_open()
        if self._is_drained_here:
            self._home = ThreadHome(self._drain.run)
            try:
                self._home.start()
            except RuntimeError as error:  # the interpreter shuts down, or nothing can be had: the close drains it
                self._home = None
                if threading.main_thread().is_alive():
                    self._told.say(f"nothing is delivered before the bus is closed: {error}")
            except BaseException:
                self._home.drop(self._drain.request_close, 0.0)  # Ctrl-C, say: it would open its sinks all the same
                self._closed()
                raise
        self._opened()

    def _open_soon(self) -> None:
        """As `open`, without waiting for the thread: callable where `record()` is, in a signal handler too."""
        self._may_open()
        if self._is_drained_here:
            self._launch()
        self._opened()

    def close(self, timeout: float | None = None) -> FlushResult:
        """As `aclose`, for a bus in a background thread. Any thread may call it."""
        if self._renewals:  # another thread uses a forked child's bus: what that records is to be delivered
            self._renew()
        self._check_thread("aclose")
        if self._state not in ("open", "closing"):
            self._closed()
            return self._result()
        timeout = self._seconds(timeout)
        end, heads = time.monotonic() + timeout, self._pump.heads()
        self._ask_to_close(timeout)
        return self._finish(end, heads)

    def _seconds(self, timeout: float | None) -> float:
        """Return how long a close may take, for what its caller asked for; of no number it makes 0."""
        return self.timeout if timeout is None else max(0.0, timeout)

    def _fail(self, error: BaseException) -> None:
        """Let the block end with `error`: cancel it, if its task is still in it; only the first failure counts."""
        if self._failure is None:
            self._failure = error
            if self._block is not None:
                self._block.cancel()

    def _leave(self) -> None:
        """Let what is recorded while it closes go to the bus beneath, if there is one: this one takes it for nobody."""
        self._leaving = True
        front.point()

    def _loop_over(self, drain: Drain) -> None:
        """Close where the loop ended the drain before anybody left the bus: what is recorded now is for the bus beneath."""
        is_open = drain.over and self._state == "open" and self._block is not None and self._elsewhere is None
        if is_open and not self._leaving and self._failure is None:
            self._closed()

    def _raise(self, error: BaseException | None) -> None:
        """Raise what failed, unless the block ends with an error of its own."""
        failure, self._failure = self._failure, None
        if failure is not None and error is not None:
            error.add_note(f"elastic_events: meanwhile, {failure}")
        elif failure is not None:
            raise failure

    def _check_task(self) -> None:
        """Refuse to wait in a handler for what that handler does."""
        here = anyio.get_current_task().id
        for lane in self._drain.lanes:
            if here in lane.calls.tasks:
                raise WouldDeadlock(f"called in the handler of the lane {lane.name!r}, it would wait for itself")

    def _check_loop(self, what: str) -> None:
        is_open = self._state == "open" and self._drain.takes_new
        if self._loop is None or not self._loop.is_here or not is_open:
            raise BusClosed(f"{what}() is for a bus that is open in this event loop: async with EventBus(...) as bus")

    def _check_thread(self, instead: str) -> None:
        """Refuse to block the thread in which the drain runs."""
        home = self._home or self._loop
        if home is not None and home.ident == threading.get_ident() and home.alive and not self._drain.over:
            raise WouldDeadlock(
                f"called in the thread of the bus's event loop, it would block that: await bus.{instead}()"
            )

    @property
    def _is_drained_here(self) -> bool:
        return self._elsewhere is None or bool(self._drain.lanes)

    def _launch(self) -> None:
        home = ThreadHome(self._drain.run)
        with contextlib.suppress(RuntimeError):  # the interpreter shuts down: the exit drains it
            home.launch()
            self._home = home

    # --- the end of the process ---

    def _ask_to_close(self, timeout: float) -> None:
        """Let the drain begin to close, wherever it runs, or end, with 0 seconds; wait for nothing."""
        if self._state == "open":
            self._state = "closing"
            self._leave()
        home = self._home or self._loop
        if home is not None:
            home.call(self._drain.request_close, timeout)

    def _finish(self, end: float, heads: Sequence[int]) -> FlushResult:
        """Wait until monotonic `end` for a close that was asked for; say what is left."""
        left = {} if self._elsewhere is None else self._close_elsewhere(heads, max(end - time.monotonic(), 0.0))
        if self._is_adrift:
            take_over({self: max(end - time.monotonic(), 0.0)})
        while self._loop is not None and not self._drain.over and time.monotonic() < end + MARGIN:
            time.sleep(0.01)  # its loop runs in another thread
        if self._home is not None:
            self._home.join(end - time.monotonic() + 2 * MARGIN)
        self._closed()
        return self._result(left)

    @property
    def _is_idle(self) -> bool:
        """Whether a forked child has not used it: there is nothing to close, and what its parent has is its parent's."""
        return self._state == "forked" and not self._renewals

    @property
    def _is_adrift(self) -> bool:
        """Whether nobody runs its drain: its loop ended without leaving the block, or no thread could be started."""
        if not self._is_drained_here or self._drain.over:
            return False
        if self._home is not None:
            return not self._home.alive
        return self._loop is None or not self._loop.alive

    # --- both ---

    def _feed(self, records: Sequence[Record]) -> None:
        """Hand records of other processes to every lane. Only in the drain's loop."""
        held = Held()
        for lane in self._drain.lanes:
            with held:
                lane.feed(records)
        held.release()

    def _say_lost(self) -> None:
        """Say on stderr what each lane lost in all."""
        self._drain.notices.end()

    def _teller(self) -> Told:
        """Return what says what cannot be raised to anybody."""
        return Told()

    def _sure(self, clock: Callable[[], int], own: Callable[[], int]) -> Callable[[], int]:
        """Return a user's clock that says the machine's `own` time where it raises, or gives no number."""
        if clock is own:
            return clock

        def now() -> int:
            try:
                return int(clock())
            except Exception as error:  # noqa: BLE001 - the user's function: a record needs a time, and the drain goes on
                self._told.report("a clock of the bus failed, and the machine's own is used", error)
                return own()

        return now

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
            self._say_lost()
            front.closed(cast("EventBus", self))
            self._let_go()

    def _result(self, left: dict[str, int] | None = None) -> FlushResult:
        self._left = self._left if left is None else left
        return FlushResult({**self._left, **(self._drain.given_up if self._drain.over else self._pending())})

    def _pending(self) -> dict[str, int]:
        if self._state == "forked" and (waiting := sum(armed.waiting for armed in self._armed)):
            # A signal handler asks, in the very thread that begins the bus anew: what others recorded meanwhile waits.
            urls = [] if self._elsewhere is None else self._elsewhere.urls
            return dict.fromkeys([*(lane.name for lane in self._drain.lanes), *map(handler_name, urls)], waiting)
        return {lane.name: count for lane in self._drain.lanes if (count := lane.stats().pending)}

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
                self._warn(f"running without the flight recorder: {error}")
        return [Ring(self._capacity or IN_MEMORY, self._clock) for _ in range(2)]

    def _warn(self, sentence: str) -> None:
        try:
            warnings.warn(sentence, RuntimeWarning, stacklevel=6)
        except RuntimeWarning:  # where warnings are errors: an emitter never raises
            if self._state != "forked":
                raise

    def _build(self, rings: Sequence[PipedRing], lanes: Sequence[Lane]) -> None:
        """Make all that reads `rings`; `lanes`, of before a fork, begin again with the next record."""
        self._rings = list(rings)
        self.recorder: str = str(getattr(rings[0], "path", ""))
        self._pump = Pump(self._rings, self.context, self._wall_clock, self._destination)
        self._begin = self._pump.skip()
        self._drain = Drain(self._pump, self.interval, self.timeout, self._told, self._fail)
        self._emitter.events, self._emitter.metrics = (ring.pipe for ring in rings)
        for lane in lanes:
            lane.begin_anew(self._begin, self._pump.heads)
            self._drain.add(lane)

    def _lane(self, name: str, subscription: Subscription, origins: Sequence[int]) -> Lane:
        return Lane(name, subscription, origins, self._pump.heads, partial(self._ledger, name))

    def _ledger(self, lane: str, stats: LaneStats) -> Record:
        return stats.as_record(lane, sum(self._pump.heads()), self._wall_clock(), self._clock(), self.context)

    def _destination(self, name: str, seq: int) -> bool:  # noqa: ARG002
        """Act on an event for a destination `name` that is new, which is event `seq`; return whether a lane serves it now."""
        return False

    def _close_elsewhere(self, heads: Sequence[int], timeout: float) -> dict[str, int]:
        assert self._elsewhere is not None
        if not self._is_drained_here:  # else the drain says it, behind its last look
            self._drain.closed_heads = self._drain.closed_heads or self._pump.heads()
        self._close_rings()
        return self._elsewhere.close(heads, timeout)

    def _close_rings(self) -> None:
        for ring in self._rings:
            close = getattr(ring, "close", None)
            if close is not None:
                close()

    def _let_go(self) -> None:
        """Close a recorder of the bus's own and drop it: its map and its descriptor go with the last emitter's call."""
        if front.give_back(self) or not self.recorder:
            return
        self._close_rings()
        rings = [Ring(2, numbers=ring.numbers) for ring in self._rings]  # which count what comes too late
        self._emitter.events, self._emitter.metrics = (ring.pipe for ring in rings)
        for cursor, ring in zip(self._pump.cursors, rings, strict=True):
            cursor.ring = ring
        self._rings = list(rings)

    # --- a forked child ---

    def after_fork(self) -> None:
        """Start empty in the child; only rebinds attributes (F2, F4).

        What was not open yet can be opened here, too. A drain in a thread starts again with the first emit or flush; one in
        an event loop has no loop here: it is closed.
        """
        if self._state == "closed":  # who closed it may not have let go of the parent's file yet, and is not here
            self._emitter.events = self._emitter.metrics = None
            front.closed(cast("EventBus", self))
            return
        self._subscribing, self._changing = threading.RLock(), False
        self._told = self._teller()
        in_loop = self._loop is not None
        self._block = self._loop = self._home = self._failure = None
        self._leaving = False
        if self._state != "forked":  # a child's child finds it as it was before both
            self._becomes = "new" if self._state == "new" else "open"
        self._renewals = {}
        self._renewed = False
        # What runs of it ends at once, and whoever asks a lane that had ended is told so.
        self._drain.over, self._drain.patience = True, 0.0
        self._build([Ring(2), Ring(2)], self._lasting())
        self._state = "closed" if in_loop else "forked"
        if in_loop:
            self._emitter.events = self._emitter.metrics = None
            front.closed(cast("EventBus", self))
        else:
            self._armed = [Armed(self._renew_soon, partial(self._pipe, index)) for index in range(2)]
            self._emitter.events, self._emitter.metrics = (armed.pipe for armed in self._armed)
            front.point()

    def _lasting(self) -> list[Lane]:
        """Return the lanes that a child has, too."""
        return [lane for lane in self._drain.lanes if lane.lasting]

    def _reopen(self) -> tuple[Sequence[PipedRing], list[tuple[str, Subscription]]]:
        """Return a child's rings under the drain elsewhere; where there can be none, the lanes that serve its sinks here."""
        assert self._elsewhere is not None
        try:
            return self._elsewhere.reopen(self.context), []
        except (OSError, ElasticEventsError) as error:
            self._warn(f"drained by a thread of this process: {error}")
            urls, self._elsewhere = self._elsewhere.urls, None
            lanes = [(handler_name(url), Subscription.of(url)) for url in urls]
            return [Ring(IN_MEMORY, self._clock) for _ in range(2)], lanes

    def _pipe(self, ring: int) -> Any:
        return self._rings[ring].pipe if self._renewed else None

    def _renew(self) -> None:
        """Give a forked child's bus rings, a drain and an identity of its own, with its first use, maybe another thread's."""
        while (other := self._renew_soon()) is not None:
            other.over.wait()

    def _renew_soon(self) -> "_Renewal | None":
        """As `_renew`, for emitters, which never wait: return the renewal of another thread, if there is one."""
        renewals = self._renewals
        if self._state != "forked" and not renewals:
            return None
        mine = _Renewal(threading.get_ident(), threading.Event())
        try:
            # A single operation on a dict: a lock could be held by what a signal handler interrupted.
            first = renewals.setdefault("first", mine)
            if first is not mine:
                return first if first.thread != mine.thread else None
            if self._state != "forked":  # it was done a moment ago
                return None
            self._begin_anew()
            self._renewed = True
            for armed in self._armed:  # what other threads recorded meanwhile is before what they ask for next
                armed.forward()
            self._state = self._becomes
            if self._state == "open" and self._is_drained_here:
                self._launch()
        finally:  # after Ctrl-C the next use does it
            if renewals.get("first") is mine:
                renewals.clear()
            mine.over.set()
        # Nobody waits for this: it calls others, who have locks of their own.
        if self._state == "open":
            self._opened()
        return None

    def _begin_anew(self) -> None:
        # Ids are made of the process: a child that kept its parent's would give two records one id.
        context = self._own_context or read_context()
        self.context = msgspec.structs.replace(context, process=process_identity(), pid=os.getpid())
        rings, lanes = (self._make_rings(), []) if self._elsewhere is None else self._reopen()
        self._build(rings, self._lasting())
        for name, subscription in lanes:
            self._drain.add(self._lane(name, subscription, self._begin))
