"""Calls of a handler in tasks of their own: one that ignores its cancellation holds up nothing but its own lane.

A scope of anyio waits for what it cancels, and cancels it again and again: a handler that swallows that would keep a bus from
closing, and a processor busy. Here a call is cancelled once, and left behind if it does not end. In trio nobody can leave a
task behind, its own `run` no more than we.
"""

import asyncio
import math
import sys
from collections.abc import Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio

from elastic_events.bus.thread import is_trio

__all__ = ("Calls",)

#: Seconds that a cancelled call has to end.
LAST_CHANCE = 0.5


Call = Coroutine[Any, Any, BaseException | None]


class Calls:
    """The calls of one lane's handler, in one event loop."""

    def __init__(self) -> None:
        self.tasks: set[int | None] = set()  #: that call it, by the id that anyio gives them
        self._left: set[asyncio.Task[BaseException | None]] = set()  # which go on though they were cancelled
        self._loop: asyncio.AbstractEventLoop | None = None  # None in trio, and before the first call

    async def make(self, call: Callable[..., Any], *args: Any) -> BaseException | None:
        """Call `call(*args)` and return what it raised; while one goes on that was cancelled, wait for that first."""
        if self._loop is None:
            if is_trio():
                return await self._booked(call, *args)
            self._loop = asyncio.get_running_loop()
        if self._left:
            await asyncio.wait(self._left)
        task = _start(self._loop, self._booked(call, *args))
        if task.done():  # without a wait, as most functions are
            return task.result()
        try:
            return await asyncio.shield(task)
        except asyncio.CancelledError:
            await self._cancel(task)
            if not task.done() or task.cancelled():
                raise
            if task.cancelling() and isinstance(task.result(), asyncio.CancelledError):  # else it is the handler's own
                raise
            return task.result()  # it came to its end: what it delivered is delivered

    async def _booked(self, call: Callable[..., Any], *args: Any) -> BaseException | None:
        here = self._here()
        self.tasks.add(here)
        try:
            return await _outcome(call, *args)
        except GeneratorExit as error:
            if self._here() != here:  # nobody runs this task any more, and the interpreter throws it away
                raise
            return error  # the handler's own
        finally:
            self.tasks.discard(here)

    def _here(self) -> int | None:
        """Return the id of the task that runs now."""
        if self._loop is not None:
            return id(asyncio.current_task(self._loop))
        with suppress(RuntimeError):
            return anyio.get_current_task().id
        return None

    async def _cancel(self, task: asyncio.Task[BaseException | None]) -> None:
        task.cancel()
        self._left.add(task)
        task.add_done_callback(self._left.discard)
        with anyio.CancelScope(shield=True):
            await asyncio.wait((task,), timeout=LAST_CHANCE)


if sys.version_info >= (3, 12):

    def _start(loop: asyncio.AbstractEventLoop, call: Call) -> asyncio.Task[BaseException | None]:
        """Begin `call` at once, in a task that is its own all the same: one that waits for nothing costs no turn of the loop."""
        return asyncio.Task(call, loop=loop, eager_start=True)

else:

    def _start(loop: asyncio.AbstractEventLoop, call: Call) -> asyncio.Task[BaseException | None]:
        return loop.create_task(call)


async def _outcome(call: Callable[..., Any], *args: Any) -> BaseException | None:
    """Return what `call(*args)` raised.

    The one broad except of the core: a handler may raise anything, `CancelledError` and `SystemExit` included, and it
    costs this batch only (F27, F32). A cancellation of our own scope is not a failure and goes on.
    """
    try:
        await call(*args)
    except (KeyboardInterrupt, GeneratorExit):
        raise
    except BaseException as error:
        if isinstance(error, anyio.get_cancelled_exc_class()) and anyio.current_effective_deadline() == -math.inf:
            raise
        return error
    return None
