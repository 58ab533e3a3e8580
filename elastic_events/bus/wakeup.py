"""A wake-up within one event loop."""

import anyio

__all__ = ("Wakeup",)


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
        await event.wait()
