"""How the background leaves the GIL to training: short turns, one at a time, and a real sleep before each.

A thread that lets go of the GIL and asks again at once has it again before another wakes up: what were short turns is one
long one, and a training step that waited for it is late. The same where the turns of two tasks, or of two threads, follow
one another. Sleeping, however short, hands the GIL over; CPython then lets the other thread run for its switch interval of
5 ms, and the drain wakes up to cold caches: a turn that does next to nothing takes 0.3 ms, each hundred records 0.2 more.
So what takes long is done in the drain's event loop, a turn at a time; a task whose work is done wakes up in a turn of its
own; and a sink's thread only waits for I/O, for many records at once, while there are no turns.
"""

import math
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from contextvars import ContextVar
from typing import TYPE_CHECKING, Any, TypeVar

import anyio
from anyio.lowlevel import RunVar, current_token

from elastic_events.bus.record import Record

if TYPE_CHECKING:
    import asyncio

__all__ = ("SLICE", "TURN", "alone", "haste", "in_turns", "turns")

#: Seconds of work that make a turn where caches are warm; beside training it takes twice that.
SLICE = 0.00025

#: Records of a turn.
TURN = 100

#: Seconds between two turns.
BREATH = 0.001

#: Seconds for which a sink's thread is left alone, at most: less than the drain sleeps between two looks.
PATIENCE = 0.04

T = TypeVar("T")

#: How many times longer the turns of a task are, since it has fallen behind; infinity for no turns at all.
haste: ContextVar[float] = ContextVar("elastic_events.haste", default=1)

_queue: RunVar["_Queue | _TimerQueue"] = RunVar("elastic_events.turns")


async def turns(work: Callable[[], bool] | None = None) -> None:
    """Call `work` until it returns False, each time in a turn of its own; what the caller does next begins one more.

    Work that raises ends its turns, and is raised here.
    """
    if haste.get() == math.inf:
        await anyio.sleep(0)  # the other tasks of the loop go on
        while work is not None and work():
            await anyio.sleep(0)
        return
    queue = _queue.get(None)
    if queue is None:
        loop: Any = current_token().native_token
        queue = _TimerQueue(loop) if hasattr(loop, "call_later") else _Queue()
        _queue.set(queue)
    await queue.turns(work)


async def in_turns(call: Callable[[Sequence[Record]], T], records: Sequence[Record], each: int = TURN) -> list[T]:
    """Call `call` with `records`, as many as `each` in a turn, and return what it returned."""
    results: list[T] = []
    size = int(min(each * haste.get(), len(records)))

    def call_next() -> bool:
        begin = len(results) * size
        results.append(call(records[begin : begin + size]))
        return begin + size < len(records)

    await turns(call_next)
    return results


@contextmanager
def alone() -> Iterator[None]:
    """Put off the turns of this loop while a sink's thread works: each of its system calls waits for the GIL, too.

    Not for a task that has fallen behind: its ring may be filling up.
    """
    queue = _queue.get(None)
    if haste.get() > 1 or not isinstance(queue, _TimerQueue):
        yield
        return
    queue.put_off(PATIENCE)
    try:
        yield
    finally:
        queue.put_off(BREATH)


class _Queue:
    """Who waits for turns in one event loop."""

    def __init__(self) -> None:
        self._lock = anyio.Lock()

    async def turns(self, work: Callable[[], bool] | None) -> None:
        while True:
            async with self._lock:
                await anyio.sleep(BREATH)
                if work is None:
                    return
                work = work if work() else None


class _TimerQueue:
    """The same for asyncio, by bare timers: to wake a task for each turn would add half as much to what it holds the GIL."""

    def __init__(self, loop: "asyncio.AbstractEventLoop") -> None:
        self._loop = loop
        self._waiting: deque[tuple[asyncio.Future[None], Callable[[], bool] | None]] = deque()
        self._timer: asyncio.TimerHandle | None = None
        self._not_before = 0.0

    async def turns(self, work: Callable[[], bool] | None) -> None:
        done = self._loop.create_future()
        self._waiting.append((done, work))
        if self._timer is None:
            self._set_timer()
        await done

    def put_off(self, seconds: float) -> None:
        """Let the next turn begin `seconds` from now."""
        self._not_before = time.monotonic() + seconds
        if self._timer is not None:
            self._timer.cancel()
            self._set_timer()

    def _set_timer(self) -> None:
        self._timer = self._loop.call_later(max(self._not_before - time.monotonic(), BREATH), self._next)

    def _next(self) -> None:
        done, work = self._waiting.popleft()
        if not done.done():  # or nobody waits for it any more
            try:
                if work is None:
                    done.set_result(None)
                else:
                    self._waiting.append((done, work if work() else None))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the task that waits
                done.set_exception(error)
        self._timer = None
        if self._waiting:
            self._set_timer()
