"""Where a drain runs: in a daemon thread with an event loop of its own, or in the caller's loop."""

import _thread
import asyncio
import threading
import time
from collections.abc import Awaitable, Callable, Coroutine
from contextlib import suppress
from contextvars import copy_context
from functools import partial
from typing import Any

import anyio
from anyio.lowlevel import current_token

__all__ = ("MARGIN", "Answer", "LoopHome", "ThreadHome", "is_trio", "protect")

#: Seconds a thread gets beside the deadline it was given, to end by itself.
MARGIN = 0.5


class Answer:
    """What a coroutine in the loop of a thread returned, for another thread."""

    def __init__(self, gone: Callable[[], bool]) -> None:
        self._gone = gone
        self._over = threading.Event()
        self._value: Any = None

    async def work(self, function: Callable[..., Awaitable[Any]], *args: Any) -> None:
        """Run `await function(*args)`."""
        try:
            self._value = await function(*args)
        finally:
            self._over.set()

    def wait(self, timeout: float) -> Any:
        """Return what it returned, or None after `timeout` seconds and where the thread has ended without."""
        end = time.monotonic() + timeout
        while not self._over.wait(min(max(end - time.monotonic(), 0.0), 0.1)):
            if self._gone() or time.monotonic() >= end:
                break
        return self._value


class ThreadHome:
    """One thread, one asyncio loop, one drain.

    A daemon: a thread that is none hangs the interpreter's exit for ever (M4). It is closed at exit instead.
    """

    def __init__(self, main: Callable[..., Awaitable[None]]) -> None:
        self.ident: int | None = None
        self._main = main
        self._loop: asyncio.AbstractEventLoop | None = None
        self._looping = threading.Event()
        self._ready = threading.Event()
        self._done = threading.Event()
        self._error: BaseException | None = None
        self._unwanted = False

    def start(self) -> None:
        """Start the thread and wait until its drain has tried all handlers.

        Raises:
            ConfigError: a handler cannot be opened, and why.
            RuntimeError: no thread can be started, since the interpreter shuts down, or no event loop: no descriptor is left.
        """
        threading.Thread(target=self._run, args=(True,), name="elastic-events", daemon=True).start()
        self._ready.wait()
        if isinstance(self._error, OSError) and self._loop is None:
            raise RuntimeError(f"no event loop: {self._error}") from self._error
        if self._error is not None:
            raise self._error

    def launch(self) -> None:
        """Start the thread without waiting for anything: an emitter may be the caller, in a signal handler.

        `Thread.start` waits for the new thread, which may need a lock that the interrupted code holds.

        Raises:
            RuntimeError: no thread can be started: the interpreter shuts down.
        """
        _thread.start_new_thread(self._run, (False,))

    @property
    def alive(self) -> bool:
        """Whether the drain has not ended."""
        return not self._done.is_set()

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in the loop, soon. Any thread; nothing happens where the loop has ended."""
        self._looping.wait()
        if self._loop is not None and self.alive:
            with suppress(RuntimeError):  # it ended between the look and the call
                self._loop.call_soon_threadsafe(function, *args)

    def drop(self, function: Callable[..., object], *args: Any) -> None:
        """As `call`, where `start` was interrupted: a thread that was not started by then never comes, or has nothing to do."""
        self._unwanted = True
        if self._loop is not None:  # else it looks at that next
            self.call(function, *args)

    def begin(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Answer:
        """Run `await function(*args)` in the loop, and do not wait for it."""
        answer = Answer(self._done.is_set)
        tasks: list[asyncio.Task[None]] = []
        self.call(lambda: tasks.append(asyncio.get_running_loop().create_task(answer.work(function, *args))))
        return answer

    def join(self, timeout: float) -> None:
        """Wait for the drain to end, `timeout` seconds at most."""
        self._done.wait(min(timeout, threading.TIMEOUT_MAX))

    def started(self, _value: object = None) -> None:
        """Be the drain's `task_status`: all handlers were tried."""
        self._ready.set()

    def _run(self, patient: bool) -> None:
        self.ident = threading.get_ident()
        try:
            anyio.run(self._in_loop, patient)
        except BaseException as error:  # noqa: BLE001 - raised again by `start`, in the thread that asked
            self._error = error
        finally:
            self._done.set()
            self._looping.set()
            self._ready.set()

    async def _in_loop(self, patient: bool) -> None:
        self._loop = asyncio.get_running_loop()
        self._looping.set()
        if not self._unwanted:
            await self._main(patient=patient, task_status=self)


class LoopHome:
    """The event loop of whoever opened the bus: the drain is a task of its own there, which no scope of theirs reaches.

    So a bus may be left in another task than it was entered in, and what cancels the one that opens it does not cut the
    drain short.
    """

    def __init__(
        self,
        main: Callable[..., Awaitable[None]],
        stop: Callable[[], object],
        failed: Callable[[BaseException], object],
        over: Callable[[], object],
    ) -> None:
        self.ident: int = threading.get_ident()
        self._failed = failed  # is told what ended the drain
        self._is_over = over  # is told that it has ended
        self._main = main
        self._stop = stop  # lets the drain close: the loop ends beneath it
        self._loop: Any = current_token().native_token  # asyncio's, or trio's token
        self._trio = is_trio()
        self._tasks: set[asyncio.Task[None]] = set()
        self._begun = False
        self._ready = anyio.Event()
        self._over = anyio.Event()
        self._error: BaseException | None = None

    async def start(self) -> None:
        """Start the drain and wait until all handlers were tried; raise what kept it from starting."""
        self._spawn(self._run_watched if self._trio else self._run)
        await self._ready.wait()
        if self._error is not None:
            raise self._error

    async def join(self) -> None:
        """Wait for the end of the drain, which has its own deadline, whatever cancels this wait meanwhile (M5)."""
        cancelled: BaseException | None = None
        while not self._over.is_set():
            try:
                with anyio.CancelScope(shield=True):
                    await self._over.wait()
            except anyio.get_cancelled_exc_class() as error:  # asyncio's own `Task.cancel`, which knows no shield
                cancelled = error
        if cancelled is not None:
            raise cancelled

    @property
    def alive(self) -> bool:
        """Whether the loop runs. Trio's ends no run before its system tasks."""
        running = getattr(self._loop, "is_running", None)
        return running is None or bool(running())

    @property
    def is_here(self) -> bool:
        """Whether the caller runs in this loop."""
        try:
            return current_token().native_token is self._loop
        except RuntimeError:  # the caller runs in none
            return False

    def call(self, function: Callable[..., object], *args: Any) -> None:
        """Call `function(*args)` in it, soon; nothing happens where it has ended."""
        with suppress(Exception):  # asyncio raises RuntimeError, trio an error of its own
            (getattr(self._loop, "call_soon_threadsafe", None) or self._loop.run_sync_soon)(function, *args)

    def begin(self, function: Callable[..., Awaitable[Any]], *args: Any) -> Answer:
        """Run `await function(*args)` in it, for another thread, and do not wait for it."""
        answer = Answer(lambda: not self.alive)
        self.call(self._spawn, partial(answer.work, function, *args))
        return answer

    def started(self, _value: object = None) -> None:
        """Be the drain's `task_status`."""
        self._ready.set()

    def _spawn(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        if self._trio:
            import trio

            trio.lowlevel.spawn_system_task(run, context=copy_context())
        else:
            task = asyncio.get_running_loop().create_task(run())
            self._tasks.add(task)  # the loop holds it weakly
            task.add_done_callback(self._forget)

    def _forget(self, task: "asyncio.Task[None]") -> None:
        """Let a task go; a drain that asyncio cancelled before it began was never told: it begins, and closes."""
        self._tasks.discard(task)
        if task.cancelled() and not self._begun:
            self._stop()
            self._spawn(self._run)

    async def _run(self) -> None:
        self._begun = True
        try:
            await self._main(task_status=self)
        except (KeyboardInterrupt, SystemExit, GeneratorExit):
            raise
        except anyio.get_cancelled_exc_class():
            raise
        except BaseException as error:  # noqa: BLE001 - raised where the bus is opened, or left
            self._error = error
            self._failed(error)
        finally:
            self._ready.set()
            self._over.set()
            self._is_over()

    async def _run_watched(self) -> None:
        """Trio cancels its system tasks when the program's own has ended, and waits for them: close then."""

        async def watch() -> None:
            try:
                await anyio.sleep_forever()
            finally:
                self._stop()

        async with anyio.create_task_group() as tasks:
            tasks.start_soon(watch)
            await self._run()
            tasks.cancel_scope.cancel()


def is_trio() -> bool:
    """Whether the running event loop is trio's."""
    return type(current_token().native_token).__module__.partition(".")[0] == "trio"


def protect(run: Callable[..., Coroutine[Any, Any, None]]) -> Callable[..., Coroutine[Any, Any, None]]:
    """Return `run` such that Ctrl-C is raised in the caller's task, not in it: trio may raise it anywhere (M5).

    For each task that is started: trio's protection is not inherited.
    """
    if not is_trio():
        return run
    import trio

    return trio.lowlevel.enable_ki_protection(run)
