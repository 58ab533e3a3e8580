"""The block of code that a bus was opened for in an event loop: what fails behind it can end it."""

import asyncio
from typing import Any

from elastic_events.bus.thread import is_trio

__all__ = ("Block",)


class Block:
    """The rest of the task that opened a bus, until it leaves the bus.

    On asyncio the task is cancelled as `asyncio.timeout` does it, which needs no nesting: the block may be left in another
    task (the fixtures of a test, the hooks of a web service), and then raises there. Trio knows scopes only, which belong to
    one task.
    """

    def __init__(self) -> None:
        self._over = False
        self._cancelled = False
        self._scope: Any = None
        self._host: Any = None
        self._task: asyncio.Task[object] | None = None
        if is_trio():
            import trio

            self._host = trio.lowlevel.current_task()
            self._scope = trio.CancelScope()
            self._scope.__enter__()
        else:
            self._task = asyncio.current_task()

    def cancel(self) -> None:
        """Cancel what the block waits for, so that it is left. In the block's loop; nothing where it is left already."""
        if self._over or self._cancelled:
            return
        self._cancelled = True
        if self._scope is not None:
            self._scope.cancel()
        elif self._task is not None:
            self._cancelled = self._task.cancel()

    def cancel_soon(self) -> None:
        """As `cancel`, called by the block's own task: on asyncio nothing takes back a cancellation that it gave itself."""
        if self._scope is not None:
            self.cancel()
        else:
            asyncio.get_running_loop().call_soon(self.cancel)

    def leave(self, error: BaseException | None) -> BaseException | None:
        """Note that the block is left with `error`; return what remains of that without the cancellation of `cancel`."""
        self._over = True
        if self._scope is not None:
            import trio

            if trio.lowlevel.current_task() is not self._host:  # whose scope went with it
                return error
            try:
                swallowed = self._scope.__exit__(type(error), error, None)
            except BaseException as rest:  # noqa: BLE001 - a group without the cancellations in it
                return rest
            return None if swallowed else error
        here = asyncio.current_task()
        if here is None or here is not self._task or not self._cancelled:
            return error
        cancelled_by_others = here.uncancel() > 0
        return None if isinstance(error, asyncio.CancelledError) and not cancelled_by_others else error
