"""Following a JetStream stream from a thread that runs no event loop."""

import asyncio
import contextlib
import queue
from collections.abc import Iterator

from elastic_events.bus.record import Record
from elastic_events.sinks.nats_read import PULL, reader_of

__all__ = ("NatsFollower",)


class NatsFollower:
    """Follows a stream from a thread that runs no event loop; the connection lives in a thread of its own.

    Raises:
        ConfigError: the URL is wrong, or there is no server with JetStream.
        InputError: there is no such stream.
    """

    def __init__(self, url: str) -> None:
        from anyio.from_thread import start_blocking_portal

        self._reader = reader_of(url, follow=True)
        self._arrived: queue.SimpleQueue[list[Record]] = queue.SimpleQueue()
        self._stack = contextlib.ExitStack()
        with self._stack as stack:
            portal = stack.enter_context(start_blocking_portal("asyncio"))
            portal.call(self._reader.open)
            self._held = self._reader.behind  # messages that are still to come of those that were there
            stack.callback(portal.call, self._reader.aclose)
            self._task = portal.start_task_soon(self._fetch)
            stack.callback(self._task.cancel)
            self._stack = stack.pop_all()

    def look(self) -> Iterator[Record]:
        """Give what has arrived; the first look gives all that the stream held when it was opened, and ends there.

        A stream that is written meanwhile has no other end: there is always one more.
        """
        first = self._held > 0
        while self._held > 0 or not first:
            # Once the server has nothing more, the last batch may still be on its way to this thread.
            more = first and self._reader.behind > 0
            try:
                records = self._arrived.get(timeout=0.1 if first else 0)
            except queue.Empty:
                if self._task.done():
                    self._task.result()
                if not more:
                    break
            else:
                self._held -= 1
                yield from records
        self._held = 0

    def close(self) -> None:
        """End the connection."""
        self._stack.close()

    async def _fetch(self) -> None:
        while (records := await self._reader.batch()) is not None:
            self._arrived.put(records)
            while self._arrived.qsize() >= PULL:  # whoever looks is slow
                await asyncio.sleep(0.05)
