"""Records as a loop over them, in the event loop of their bus."""

from collections import deque
from collections.abc import Sequence
from typing import Self

import anyio.lowlevel

from elastic_events.bus.errors import ConfigError
from elastic_events.bus.handler import CallableSink
from elastic_events.bus.ledger import Ledger
from elastic_events.bus.record import Record
from elastic_events.bus.wakeup import Wakeup

__all__ = ("Listener",)


class Listener(CallableSink):
    """What `bus.listen` gives: an async iterator over the records, which ends when the bus closes.

    Holds up to `limit` records that nobody has taken; then the oldest fall out, counted in `dropped` and in the lane's ledger.
    """

    def __init__(self, limit: int) -> None:
        if not limit >= 1:
            raise ConfigError(f"limit is a number of records, 1 or more; it is {limit!r}")
        super().__init__(self._put, batches=True)
        self.limit = limit
        self.dropped: int = 0  #: records that fell out
        self.ledger: Ledger | None = None  # of the lane
        self._records: deque[Record] = deque()
        self._came = Wakeup()
        self._over = False

    def __aiter__(self) -> Self:
        return self

    async def __anext__(self) -> Record:
        await anyio.lowlevel.checkpoint()
        while not self._records:
            if self._over:
                raise StopAsyncIteration
            await self._came.wait()
        return self._records.popleft()

    async def aclose(self) -> None:
        """Let the loop end with what is here."""
        self._over = True
        self._came.set()

    async def _put(self, records: Sequence[Record]) -> None:
        self._records.extend(records)
        over = max(len(self._records) - self.limit, 0)
        for _ in range(over):
            self._records.popleft()
        self.dropped += over
        if over and self.ledger is not None:
            self.ledger.delivered -= over
            self.ledger.dropped["listener"] += over
        self._came.set()
