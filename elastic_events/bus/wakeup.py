"""A wake-up within one event loop."""

import anyio

__all__ = ("Signal", "Wakeup")


class Wakeup:
    """Wakes all tasks that wait now. Made anywhere, bound to no loop until somebody waits; used from one loop only."""

    def __init__(self) -> None:
        self._waiting: list[anyio.Event] = []

    def set(self) -> None:
        """Wake the tasks that wait."""
        waiting, self._waiting = self._waiting, []
        for event in waiting:
            event.set()

    async def wait(self) -> None:
        """Wait for the next `set`."""
        event = anyio.Event()
        self._waiting.append(event)
        try:
            await event.wait()
        finally:
            # Given up: the drain does so at each look that finds nothing, for as long as the program lives.
            if not event.is_set():
                self._waiting.remove(event)


class Signal(Wakeup):
    """Wakes one task, now or when it next waits: nothing is missed by who was busy."""

    def __init__(self) -> None:
        super().__init__()
        self._is_set = False

    def set(self) -> None:
        """Let the wait end, or the next one."""
        self._is_set = True
        super().set()

    async def wait(self) -> None:
        """Wait for a `set` since the last wait."""
        while not self._is_set:
            await super().wait()
        self._is_set = False

    def clear(self) -> None:
        """Forget a `set` that nobody has waited for."""
        self._is_set = False
