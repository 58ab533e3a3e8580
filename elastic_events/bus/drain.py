"""Pump and lanes as tasks of one event loop: asyncio, uvloop or trio, the caller's or a thread's own."""

import math
import time
from collections.abc import Awaitable, Callable
from typing import Any

import anyio
from anyio.abc import TaskGroup, TaskStatus

from elastic_events.bus.breath import TURN, haste, turns
from elastic_events.bus.handler import BATCH
from elastic_events.bus.lane import Lane
from elastic_events.bus.ledger import FlushResult
from elastic_events.bus.pump import Pump
from elastic_events.bus.thread import protect
from elastic_events.bus.wakeup import Wakeup

__all__ = ("Drain",)


class Drain:
    """Moves records until it is closed. Everything but `request_close` belongs to the loop it runs in.

    It runs in a task of its own and shields itself: a cancellation or Ctrl-C that ends the caller's block must not cut
    the last flush short (M5). The deadline of the close is its own.
    """

    def __init__(self, pump: Pump, interval: float, report: Callable[[str, BaseException], None]) -> None:
        self.pump = pump
        self.interval = interval
        self.lanes: tuple[Lane, ...] = ()  # replaced, never changed: a reader sees the old or the new (F44)
        self.errors = 0
        self.given_up: dict[str, int] = {}
        self.closed_heads: list[int] | None = None
        self.over = False  # nothing moves any more, and every record is booked
        self.ended = Wakeup()
        self.at_end: list[Callable[[], object]] = []
        self._report = report
        self._deadline: float | None = None  # seconds the close may take
        self._closing: anyio.CancelScope | None = None
        self._wake = Wakeup()
        self._group: TaskGroup | None = None
        self._sources: list[tuple[Callable[..., Awaitable[Any]], tuple[Any, ...]]] = []
        self._started: set[Lane] = set()

    # --- asked from the loop ---

    def add(self, lane: Lane) -> None:
        """Take a lane in; its task starts at the next look. Any thread may call it, one at a time."""
        self.lanes = (*self.lanes, lane)

    def add_source(self, source: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        """Run `source(*args)` as a task of the drain, cancelled when the close begins."""
        self._sources.append((source, args))

    def request_close(self, deadline: float) -> None:
        """Begin to close; of a second request only a deadline of 0 counts: it has come."""
        if self._deadline is None or deadline <= 0:
            self._deadline = max(deadline, 0.0)
            if self._closing is not None:
                self._closing.cancel()
        self._wake.set()

    async def flush(self, deadline: float) -> FlushResult:
        """Wait until all that was recorded before the call is settled in every lane, `deadline` seconds at most."""
        heads = self.pump.heads()
        with anyio.move_on_after(deadline):
            while self.pump.behind(heads) and not self.over:
                await self._step()
            marks = [(lane, lane.backlog.entered) for lane in self.lanes]
            for lane, mark in marks:
                while lane.unsettled_from < mark and not lane.finished:
                    await lane.progress.wait()
        behind = self.pump.behind(heads)
        return FlushResult({lane.name: count for lane in self.lanes if (count := behind + lane.unsettled)})

    # --- the task ---

    async def run(self, *, task_status: TaskStatus[None] = anyio.TASK_STATUS_IGNORED) -> None:
        """Open the lanes, drain until a close is requested, close within its deadline."""
        try:
            with anyio.CancelScope(shield=True):
                await self._open_all()
                async with anyio.create_task_group() as self._group:
                    self._start_new()
                    task_status.started()
                    async with anyio.create_task_group() as sources:
                        await self._work(sources)
                        sources.cancel_scope.cancel()
                    await self._close()
                    self._group.cancel_scope.cancel()
        except BaseException as error:
            if self._started and self._deadline is None:
                self._report("the drain ended by itself, and what is recorded now is lost", error)
            raise
        finally:
            for call in self.at_end:
                self._last_call(call)
            for lane in self.lanes:
                self._abandon(lane)
            self.closed_heads = self.closed_heads or self.pump.heads()
            self.over = True
            self.ended.set()

    async def _open_all(self) -> None:
        opened: list[Lane] = []
        try:
            for lane in self.lanes:
                await lane.open()
                opened.append(lane)
        except BaseException:
            for lane in opened:
                await lane.shut()
            raise

    async def _work(self, sources: TaskGroup) -> None:
        pause, moved = self.interval, 0
        while self._deadline is None:
            count, more = await self._burst()
            moved += count
            self._start_new()
            while self._sources:
                source, args = self._sources.pop()
                sources.start_soon(protect(self._guard), source, args)
            self._stir()
            if more or self._deadline is not None:  # a close that was asked for between two turns woke nobody
                continue
            # A ring that was found half full may overflow by the next look: look sooner, until the flood is over.
            flood = moved > self.pump.cursors[0].ring.capacity // 2
            calm = self.interval if moved else 2 * self.interval
            pause = max(pause / 4, 0.001) if flood else min(pause * 2, calm)
            moved = 0
            # The timer; emitters never wake the drain (M2).
            with anyio.move_on_after(pause):
                await self._wake.wait()

    async def _burst(self) -> tuple[int, bool]:
        """Read what is there, for an interval at most; return how many records came, and whether more are waiting."""
        full = self._full()
        hasty = full == 3  # too full to leave the GIL to others between two looks
        end = time.monotonic() + self.interval
        moved, more = 0, False

        def read() -> bool:
            nonlocal full, moved, more
            most = BATCH if hasty else TURN * (1 + full)
            count = self._look(most)
            moved, more, full = moved + count, count >= most, self._full()
            closing = self._deadline is not None
            return more and not closing and time.monotonic() < end and (hasty or full < 3)

        haste.set(math.inf if hasty else 1)
        if self.pump.behind():
            await turns(read)
        return moved, more

    def _stir(self) -> None:
        """Let the lanes deliver what they were offered: once a burst is read, rather than in small batches while it is."""
        for lane in self.lanes:
            lane.stir()

    def _full(self) -> int:
        """Return how many quarters of a ring are waiting to be read, 3 at most, of the ring where that is most."""
        return min(max(4 * cursor.behind() // cursor.ring.capacity for cursor in self.pump.cursors), 3)

    async def _guard(self, source: Callable[..., Awaitable[Any]], args: tuple[Any, ...]) -> None:
        try:
            await source(*args)
        except Exception as error:  # noqa: BLE001 - a source is a handler in reverse: its fault is its own
            self._fault("a source ended", error)

    async def _close(self) -> None:
        deadline = anyio.current_time() + (self._deadline or 0.0)
        # From here on an emitted record counts as closed.
        self.closed_heads = self.pump.heads()
        for lane in self.lanes:
            lane.end_at(self.closed_heads)
        self._start_new()  # a lane that was subscribed since the last look must run in order to end
        with anyio.CancelScope(deadline=deadline) as self._closing:
            while self.pump.behind(self.closed_heads):
                await self._step()
            for lane in self.lanes:
                lane.close()
            for lane in self.lanes:
                while not lane.finished:
                    await lane.progress.wait()

    async def _step(self) -> None:
        """Look once, out of turn; wait a little where only interrupted emitters are missing, which have their grace."""
        self._look()
        self._start_new()
        unread = any(cursor.position < cursor.ring.head for cursor in self.pump.cursors)
        if not unread:
            self._stir()
        await anyio.sleep(0 if unread else 0.005)

    def _start_new(self) -> None:
        if self._group is None:
            return
        for lane in self.lanes:
            if lane not in self._started:
                self._started.add(lane)
                self._group.start_soon(protect(self._run_lane), lane)
            elif lane.retired and not lane.closing:
                lane.close()

    async def _run_lane(self, lane: Lane) -> None:
        try:
            if not lane.opened:
                await lane.open()
        except Exception as error:  # noqa: BLE001 - a lane added later has no caller to raise to
            lane.last_error = f"{type(error).__name__}: {error}"
            self._report(f"handler {lane.name!r} could not be opened", error)
            lane.finished = True
            return
        await lane.run()

    def _look(self, most: int = BATCH) -> int:
        try:
            return self.pump.look(lambda: self.lanes, time.monotonic(), most)
        except Exception as error:  # noqa: BLE001 - the drain outlives its own faults, and counts them (F31)
            self._fault("the drain failed on a record", error)
            return 0

    def _fault(self, what: str, error: BaseException) -> None:
        self.errors += 1
        if self.errors == 1:
            self._report(what, error)

    def _last_call(self, call: Callable[[], object]) -> None:
        try:
            call()
        except Exception as error:  # noqa: BLE001 - the other lanes are still to be booked
            self._fault("a source failed at its end", error)

    def _abandon(self, lane: Lane) -> None:
        gone = lane.abandon("shutdown_deadline" if self._deadline is not None else "drain_died")
        if gone:
            self.given_up[lane.name] = gone
