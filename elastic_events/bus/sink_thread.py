"""One thread of its own for a sink, or for a collector in a loop, started when that opens, for the calls that block."""

from collections.abc import Callable
from contextlib import suppress
from queue import SimpleQueue
from threading import Thread
from typing import Any, TypeVar, TypeVarTuple

import anyio
from anyio.lowlevel import current_token

__all__ = ("SinkThread",)

T = TypeVar("T")
Args = TypeVarTuple("Args")


class SinkThread:
    """Runs blocking calls of one sink, in order, in one thread.

    An executor would do but for interpreter exit, where no new future is to be had (F15, F16). From Python 3.12 on no thread
    can be started there either: without one the calls run where they are made. A call whose waiter was cancelled runs on to
    its end; its result is dropped.
    """

    def __init__(self, name: str) -> None:
        self._calls: SimpleQueue[Callable[[], object] | None] = SimpleQueue()
        self._thread: Thread | None = Thread(target=self._loop, name=name, daemon=True)
        try:
            self._thread.start()
        except RuntimeError:
            self._thread = None

    async def run(self, function: Callable[[*Args], T], *args: *Args) -> T:
        """Run `function(*args)` in the thread, wait for it and return or raise what it did."""
        if self._thread is None:
            return function(*args)
        done = anyio.Event()
        loop: Any = current_token().native_token  # asyncio's, or trio's token
        tell = getattr(loop, "call_soon_threadsafe", None) or loop.run_sync_soon
        outcome: list[Any] = []

        def call() -> None:
            try:
                outcome.append((function(*args), None))
            except BaseException as error:  # noqa: BLE001 - it is raised again in the waiter
                outcome.append((None, error))
            with suppress(RuntimeError):  # the waiter's loop is gone, and the waiter with it
                tell(done.set)

        self._calls.put(call)
        await done.wait()
        value, error = outcome[0]
        if error is not None:
            raise error
        return value  # type: ignore[no-any-return]

    @property
    def alive(self) -> bool:
        """Whether its thread has not ended."""
        return self._thread is not None and self._thread.is_alive()

    def soon(self, function: Callable[[], object]) -> None:
        """Run `function()` in the thread after the calls it has, and wait for nothing."""
        self._calls.put(function)

    def close(self) -> None:
        """Let the thread end after the calls it has. Does not wait: a call that hangs must not hang its lane."""
        self._calls.put(None)

    def _loop(self) -> None:
        while (call := self._calls.get()) is not None:
            call()
