"""Pump and lanes as tasks of one event loop: asyncio, uvloop or trio, the caller's or a thread's own.

The rule: look, move at most so many records, sleep (`pump.pace`). Lanes deliver when nothing waits in the rings.
"""

import asyncio
import time
from collections.abc import Awaitable, Callable, Sequence
from typing import Any, cast

import anyio
from anyio.abc import TaskGroup, TaskStatus
from anyio.lowlevel import current_token

from elastic_events.bus.errors import USERS
from elastic_events.bus.handler import OnFailure
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import FlushResult
from elastic_events.bus.notices import Board
from elastic_events.bus.pump import BREATH, MANY, Pump, pace
from elastic_events.bus.signals import ends_the_program
from elastic_events.bus.source import Source
from elastic_events.bus.tell import Told
from elastic_events.bus.thread import protect
from elastic_events.bus.wakeup import Signal, Wakeup

__all__ = ("Drain",)

#: Seconds that a bus waits at its start for sinks that neither open nor fail.
OPENING = 5.0

#: Seconds between two looks of a task in another event loop whether a lane has ended.
ELSEWHERE = 0.01

#: Lanes that have ended and are still in `stats`, at most.
ENDED_LANES = 64


class Drain:
    """Moves records until it is closed. Everything but `request_close` and `add` belongs to the loop it runs in.

    It runs in a task of its own and shields itself: a cancellation or Ctrl-C that ends the caller's block must not cut
    the last flush short (M5). The deadline of the close is its own. What is left where a loop is stopped in the middle is
    delivered by running it again in another (`resume`).
    """

    def __init__(
        self,
        pump: Pump,
        interval: float,
        patience: float,
        told: Told,
        fail: Callable[[BaseException], None],
    ) -> None:
        self.pump = pump
        self.interval = interval
        self.patience = patience  # seconds that a close may take that nobody asked for
        self.lanes: tuple[Lane, ...] = ()  # replaced, never changed: a reader sees the old or the new (F44)
        self.errors: int = 0
        self.given_up: dict[str, int] = {}
        self.closed_heads: list[int] | None = None
        self.over: bool = False  # nothing moves any more, and every record is booked
        self.ended: Wakeup = Wakeup()
        self.at_end: list[Callable[[], object]] = []
        self.notices: Board = Board(told.say)
        self._told = told
        self._fail = fail  # ends the block of the bus
        self._timeout: float | None = None  # seconds the close may take
        self._closing: anyio.CancelScope | None = None
        self._wake = Signal()
        self._group: TaskGroup | None = None
        self._loop: object = None  # that it runs in
        self.sources: list[Source] = []  #: that a flush covers
        self._to_start: list[tuple[Callable[[], Awaitable[Any]], OnFailure]] = []
        self._started: set[Lane] = set()
        self._until: float | None = None  # when it must have ended, by the loop's clock
        self._refusal: BaseException | None = None  # why the start failed
        self._done = False
        self._run = object()  # the run that counts

    # --- asked from the loop ---

    def add(self, lane: Lane) -> None:
        """Take a lane in; its task starts at the next look. Any thread may call it, one at a time.

        Of the lanes that were unsubscribed and have ended the last ones stay, for `stats`.
        """
        over = set([one for one in self.lanes if one.finished and not one.lasting][:-ENDED_LANES])
        self.notices.end(over)
        self.lanes = tuple(other for other in self.lanes if other not in over)
        self._started -= over
        lane.ended = self._ended
        self.lanes = (*self.lanes, lane)
        self.notices.add(lane)

    def remove(self, lane: Lane) -> None:
        """Forget a lane, which ends at once. In the loop, or before it runs; one thread at a time."""
        self.lanes = tuple(other for other in self.lanes if other is not lane)
        self.notices.forget({lane})
        self._started.discard(lane)
        lane.discard()

    async def _ended(self, lane: Lane) -> None:
        """Wait for the end of a lane that was unsubscribed."""
        is_here = current_token().native_token is self._loop
        if is_here:
            self._wake.set()
        while self._group is not None and not (lane.finished or self.over):
            # The wake-ups are of the drain's own loop: to wait for one in another would hang, or kill the drain.
            await (lane.progress.wait() if is_here else anyio.sleep(ELSEWHERE))

    def start(self, task: Callable[[], Awaitable[Any]], on_failure: OnFailure = "continue") -> None:
        """Run `task()` in the drain's loop, from the next look until the close begins."""
        self._to_start.append((task, on_failure))

    def follow(self, source: Source, on_failure: OnFailure = "continue") -> None:
        """Run `source`, which flushes cover from now on."""
        self.sources.append(source)
        self.start(source.run, on_failure)

    @property
    def takes_new(self) -> bool:
        """Whether what is added now still gets its task."""
        return self._timeout is None and not self.over

    def request_close(self, timeout: float) -> None:
        """Begin to close; of a second request only a timeout of 0 counts."""
        if self._timeout is None or timeout <= 0:
            self._timeout = max(0.0, timeout)
            if self._closing is not None:
                self._closing.cancel()
        self._wake.set()

    async def flush(self, timeout: float) -> FlushResult:
        """Wait until all that was recorded before the call is settled in every lane, `timeout` seconds at most.

        What the workers of the sources have recorded by then belongs to it.
        """
        heads = self.pump.heads()
        marks: list[tuple[Lane, int]] = []
        sources = [(source, source.mark()) for source in self.sources]
        self._wake.set()  # who was subscribed since the last look gets its task
        with anyio.move_on_after(timeout):
            for source, mark in sources:
                await source.flush(mark)
            await self._read(heads)
            marks = [(lane, lane.backlog.entered) for lane in self.lanes]
            await self._settle(marks)
        if self.over:  # it closed meanwhile, and what it gave up is in no backlog any more
            return FlushResult(dict(self.given_up))
        behind = self.pump.behind(heads)
        marks = marks or [(lane, lane.backlog.entered) for lane in self.lanes]
        # Of a lane that has not begun the pump may have read what it still is to get.
        left = {
            lane.name: (lane.ledger.unread if lane.is_new else min(behind, lane.ledger.unread)) + lane.waiting(mark)
            for lane, mark in marks
        }
        away = sum(source.behind(mark) for source, mark in sources)
        return FlushResult({name: count + away for name, count in left.items() if count + away})

    async def _read(self, heads: Sequence[int]) -> None:
        """Read the rings up to `heads`, and not beyond before that is done: what came later is not waited for."""
        self.pump.bounds.append(heads)
        try:
            while not self.over:
                moved = self._look()
                if not self._behind(heads):
                    break
                await self._rest(moved)
        finally:
            self.pump.bounds.remove(heads)
        self._stir()

    async def _settle(self, marks: Sequence[tuple[Lane, int]]) -> None:
        for lane, _ in marks:
            lane.waiters += 1
            lane.hasten()
        try:
            for lane, mark in marks:
                while lane.unsettled_from < mark and not (lane.finished or self.over):
                    await lane.progress.wait()
        finally:
            for lane, _ in marks:
                lane.waiters -= 1

    # --- the task ---

    async def run(self, *, patient: bool = True, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open the lanes, drain until a close is requested, close within its deadline.

        With `patient`, wait until each sink was tried, and raise what is the user's mistake; other failures are a delay.
        """
        run = self._run = object()
        self._loop = current_token().native_token
        try:
            with anyio.CancelScope(shield=True):
                while not self._done:
                    await self._through(self._move, patient, task_status)
                    patient, task_status = False, anyio.TASK_STATUS_IGNORED
                while not await self._through(self._shut_all):
                    pass
        except (KeyboardInterrupt, GeneratorExit):
            raise  # the loop stops here; what is left is delivered in another (`resume`)
        except BaseException as error:
            self._told.report("the drain ended by itself, and what is recorded now is lost", error)
            with anyio.CancelScope(shield=True):
                await self._shut_all()
            self._end(run)
            raise
        self._end(run)
        if self._refusal is not None:
            raise self._refusal

    def resume(self, timeout: float) -> None:
        """Make ready to run in another loop, and to close within `timeout` seconds: the one of before is gone."""
        self._run = object()
        self._timeout, self._until = timeout, None
        self._closing = self._group = None
        self._wake, self.ended = Signal(), Wakeup()
        for lane in self.lanes:
            lane.resume()

    async def _through(self, step: Callable[..., Awaitable[None]], *args: Any) -> bool:
        """Run `step`; return whether no `Task.cancel` cut it short: that knows no shield, and ends `asyncio.run`. Then close."""
        try:
            await step(*args)
        except anyio.get_cancelled_exc_class():
            cast("asyncio.Task[Any]", asyncio.current_task()).uncancel()
            self.request_close(self.patience)
            return False
        return True

    async def _move(self, patient: bool, task_status: TaskStatus[None]) -> None:
        """Run the lanes, drain and close; then `_done` is set."""
        self._started.clear()
        async with anyio.create_task_group() as self._group:
            self._start_new()
            if patient and self._timeout is None:
                await self._tried()
            if self._refusal is None:
                task_status.started()
                async with anyio.create_task_group() as sources:
                    await self._work(sources)
                    sources.cancel_scope.cancel()
                await self._close()
            self._done = True
            self._group.cancel_scope.cancel()

    async def _tried(self) -> None:
        """Wait until each sink is open or has failed to; note the first failure that the user must act on."""
        self.notices.held = True  # what refuses now is raised, not told
        with anyio.move_on_after(OPENING) as self._closing:
            for lane in self.lanes:
                while not lane.opened and lane.refusal is None:
                    await lane.progress.wait()
        self.notices.held = False
        refusals = (lane.refusal for lane in self.lanes)
        self._refusal = next((error for error in refusals if isinstance(error, USERS)), None)

    async def _work(self, sources: TaskGroup) -> None:
        rest = self.interval
        while self._timeout is None:
            self.notices.look()
            most, rest = pace(self.pump.fill(), rest, self.interval)
            moved = self._look(most)
            self._start_new()
            self._start_tasks(sources)
            if moved:  # what comes next is not added to the look: it begins with the GIL handed over
                await anyio.sleep(BREATH)
            if moved >= most:
                continue
            self._stir()
            # The timer; emitters never wake the drain (M2).
            with anyio.move_on_after(rest):
                await self._wake.wait()
        self._start_tasks(sources)  # one that came with the close has its last look

    def _stir(self) -> None:
        """Let the lanes deliver what they were offered: once all is read, rather than in small batches while it is."""
        for lane in self.lanes:
            lane.stir()

    def _start_tasks(self, sources: TaskGroup) -> None:
        while self._to_start:
            sources.start_soon(protect(self._guard), *self._to_start.pop())

    async def _guard(self, task: Callable[[], Awaitable[Any]], on_failure: OnFailure) -> None:
        try:
            await task()
        except Exception as error:  # noqa: BLE001 - a source is a handler in reverse: its fault is its own
            self._fault("a source ended", error)
            if on_failure == "raise":
                self._fail(error)

    async def _close(self) -> None:
        self._until = self._until or anyio.current_time() + (self._timeout or 0.0)
        # From here on an emitted record counts as closed.
        self.closed_heads = self.closed_heads or self.pump.heads()
        for lane in self.lanes:
            lane.ledger.end_at(self.closed_heads)
        self._start_new()  # a lane that was subscribed since the last look must run in order to end
        with anyio.CancelScope(deadline=self._until) as self._closing:
            while self._behind(self.closed_heads):
                await self._step()
            for lane in self.lanes:
                lane.close()
            for lane in self.lanes:
                while not lane.finished:
                    await lane.progress.wait()

    async def _step(self) -> None:
        """Look once, out of turn."""
        moved = self._look()
        self._start_new()
        await self._rest(moved)

    def _behind(self, heads: Sequence[int]) -> bool:
        """Whether a lane is still to be handed something of before `heads`."""
        return self.pump.behind(heads) > 0 or any(lane.is_new for lane in self.lanes)

    async def _rest(self, moved: int) -> None:
        """Let others run; wait a little where a look moved nothing: it failed, or interrupted emitters have their grace."""
        unread = any(cursor.position < cursor.ring.head for cursor in self.pump.cursors)
        if not unread:
            self._stir()
        await anyio.sleep(0 if unread and moved else 0.005)

    def _start_new(self) -> None:
        if self._group is None:
            return
        for lane in self.lanes:
            if lane not in self._started:
                self._started.add(lane)
                self._group.start_soon(protect(self._run_lane), lane)
            if lane.ledger.ended and not lane.closing:
                lane.close()

    async def _run_lane(self, lane: Lane) -> None:
        try:
            await lane.run(self._fail)
        except Exception as error:  # noqa: BLE001 - a fault of ours: the other lanes go on
            self._fault(f"the lane {lane.name!r} ended by itself", error)
            lane.give_out()

    def _look(self, most: int = MANY) -> int:
        try:
            self._catch_up()
            return self.pump.look(lambda: [lane for lane in self.lanes if lane.receives], time.monotonic(), most)
        except BaseException as error:  # the drain outlives its own faults, and counts them (F31)
            if ends_the_program(error):
                self._fail(error)
            elif isinstance(error, Exception):
                self._fault("the drain failed on a record", error)
            else:
                raise
            return 0

    def _catch_up(self) -> None:
        """Hand new lanes what the pump has read since their first record, or before: they may begin in the past."""
        for lane in self.lanes:
            if lane.is_new:
                self.pump.replay(lane, lane.ledger.origins)

    async def _shut_all(self) -> None:
        """Close the sinks that did not come to it themselves, all at once."""
        async with anyio.create_task_group() as group:
            for lane in self.lanes:
                group.start_soon(protect(lane.shut))

    # --- its end ---

    def _end(self, run: object) -> None:
        if run is not self._run:
            return  # another run took over
        for call in self.at_end:
            self._last_call(call)
        for lane in self.lanes:
            self._abandon(lane)
        self.closed_heads = self.closed_heads or self.pump.heads()
        self.over = True
        self.ended.set()

    def _fault(self, what: str, error: BaseException) -> None:
        self.errors += 1
        if self.errors == 1:
            self._told.report(what, error)

    def _last_call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the other lanes are still to be booked
            self._fault("a source failed at its end", error)

    def _abandon(self, lane: Lane) -> None:
        reason = "not_opened" if lane.refusal is not None else "shutdown_deadline"
        gone = lane.abandon("drain_died" if self._timeout is None else reason) + lane.unsettled
        lane.progress.set()
        if gone:
            self.given_up[lane.name] = gone
