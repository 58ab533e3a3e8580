"""Where a drain runs when not in the caller's loop: a daemon thread with an event loop of its own."""

import _thread
import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from typing import Any

import anyio
from anyio.lowlevel import current_token

__all__ = ("ThreadHome", "protect")

#: Seconds a thread gets beside the deadline it was given, to end by itself.
MARGIN = 0.5


class ThreadHome:
    """One thread, one asyncio loop, one drain.

    A daemon: a thread that is none hangs the interpreter's exit for ever (M4). It is closed at exit instead.
    """

    def __init__(self, main: Callable[..., Awaitable[None]]) -> None:
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        self._ready = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None

    def start(self) -> None:
        """Start the thread and wait until its drain has opened all handlers; raise what kept it from that."""
        threading.Thread(target=self._run, name="elastic-events", daemon=True).start()
        self._ready.wait()
        if self._error is not None:
            raise self._error

    def launch(self) -> None:
        """Start the thread without waiting for anything: an emitter may be the caller, in a signal handler.

        `Thread.start` waits for the new thread, which may need a lock that the interrupted code holds.
        """
        _thread.start_new_thread(self._run, ())

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in the loop, soon. Any thread; nothing happens where the loop has ended."""
        self._ready.wait()
        if self._loop is not None and not self._done.is_set():
            with suppress(RuntimeError):  # it ended between the look and the call
                self._loop.call_soon_threadsafe(function, *args)

    def run(self, function: Callable[..., Awaitable[Any]], *args: Any, timeout: float) -> Any:
        """Run `await function(*args)` in the loop and return its result, or None after `timeout` and a margin."""
        over = threading.Event()
        outcome: list[Any] = []

        async def work() -> None:
            try:
                outcome.append(await function(*args))
            finally:
                over.set()

        tasks: list[asyncio.Task[None]] = []
        self.call(lambda: tasks.append(asyncio.get_running_loop().create_task(work())))
        limit = min(timeout + MARGIN, threading.TIMEOUT_MAX)
        while not over.wait(min(limit, 0.1)) and limit > 0 and not self._done.is_set():
            limit -= 0.1
        return outcome[0] if outcome else None

    def join(self, deadline: float, patient: Callable[[], bool] | None = None) -> bool:
        """Wait for the drain to end, `deadline` seconds and a margin, and while `patient()`; return whether it did."""
        limit = min(deadline + 2 * MARGIN, threading.TIMEOUT_MAX)
        if patient is None:
            return self._done.wait(limit)
        end = time.monotonic() + limit
        while patient() and time.monotonic() < end:
            if self._done.wait(0.01):
                return True
        return self._done.is_set()

    def hurry(self, limit: float) -> bool:
        """Wait for the drain to end, `limit` seconds and no more; return whether it did."""
        return self._done.wait(limit)

    def started(self, _value: object = None) -> None:
        """Be the drain's `task_status`: all handlers are open."""
        self._ready.set()

    def _run(self) -> None:
        try:
            anyio.run(self._in_loop)
        except BaseException as error:  # noqa: BLE001 - raised again by `start`, in the thread that asked
            self._error = error
        finally:
            self._done.set()
            self._ready.set()

    async def _in_loop(self) -> None:
        self._loop = asyncio.get_running_loop()
        await self._main(task_status=self)


def protect(run: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return `run` such that Ctrl-C is raised in the caller's task, not in it: trio may raise it anywhere (M5).

    For each task that is started: trio's protection is not inherited.
    """
    if type(current_token().native_token).__module__.partition(".")[0] != "trio":
        return run
    import trio

    return trio.lowlevel.enable_ki_protection(run)
