"""The async skin of a sink whose calls block: they run in a thread of its own, and the sink below stays synchronous."""

import os
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import Generic, TypeVar

from elastic_events.bus.breath import alone, in_turns
from elastic_events.bus.record import Record
from elastic_events.bus.worker import Worker

__all__ = ("BlockingSink", "EncodingSink")

Encoded = TypeVar("Encoded")

#: Records that are encoded in a turn: they take as long as to read `TURN` of them.
ENCODED = 250


class BlockingSink(ABC):
    """A sink made of three plain methods, `open_now`, `write_now` and `close_now`, which run in order in one thread.

    A call that its lane gave up waiting for is dropped if it has not begun. One that has begun runs to its end; when
    the lane tries the same batch again and the first call wrote it after all, it is not written twice.
    """

    #: Name of the thread.
    thread_name = "elastic-events sink"

    def __init__(self) -> None:
        self._worker: Worker | None = None
        self._pid = 0
        self._unsure: Sequence[Record] | None = None  # the batch whose call was not waited for to its end
        self._written: Sequence[Record] | None = None  # the batch written last

    async def open(self) -> None:
        """Start the thread and open; in a forked child, open anew what the parent has open."""
        if self._worker is not None and self._pid != os.getpid():
            self.abandon()
        self._pid = os.getpid()
        self._unsure = self._written = None
        self._worker = Worker(self.thread_name)
        await self._worker.run(self._begin)

    async def write(self, records: Sequence[Record]) -> None:
        """Write `records` in the thread; see the class of the sink for what "delivered" means."""
        assert self._worker is not None, "write() before open()"
        again = self._unsure is records
        self._unsure = records
        waited_for = [True]
        try:
            work = await self._work(records)
            with alone():
                await self._worker.run(self._call, work, records, again, waited_for)
        except Exception:
            self._unsure = None
            raise
        finally:
            waited_for.clear()
        self._unsure = None

    async def aclose(self) -> None:
        """Close in the thread, after the calls it has."""
        worker, self._worker = self._worker, None
        if worker is not None and self._pid != os.getpid():
            self.abandon()
        elif worker is not None:
            try:
                await worker.run(self.close_now)
            finally:
                worker.close()

    def _begin(self) -> None:
        try:
            self.open_now()
        except BaseException:
            self.close_now()
            raise

    async def _work(self, records: Sequence[Record]) -> Callable[[], None]:
        """Return what the thread is to do for `records`."""
        return partial(self.write_now, records)

    def _call(self, work: Callable[[], None], records: Sequence[Record], again: bool, waited_for: list[bool]) -> None:
        if not waited_for or (again and self._written is records):
            return
        self._written = None
        work()
        self._written = records

    @abstractmethod
    def open_now(self) -> None:
        """Open. Raises `ConfigError` where the user must act."""

    @abstractmethod
    def write_now(self, records: Sequence[Record]) -> None:
        """Write `records`, all or none of them as far as the medium lets it."""

    @abstractmethod
    def close_now(self) -> None:
        """Close; also twice, and after a failed `open_now`."""

    @abstractmethod
    def abandon(self) -> None:
        """Forget, in a forked child, what belongs to the parent, without a call that would touch it."""


class EncodingSink(BlockingSink, Generic[Encoded]):
    """A blocking sink whose records are encoded in the event loop, in turns: its thread writes, and holds no GIL for long."""

    #: Records a call: beside training a call of the thread takes as long as to encode a thousand.
    batch_size = 4096

    async def _work(self, records: Sequence[Record]) -> Callable[[], None]:
        return partial(self.write_encoded, await in_turns(self.encode, records, ENCODED))

    def write_now(self, records: Sequence[Record]) -> None:
        """Encode and write `records`."""
        self.write_encoded([self.encode(records)])

    @abstractmethod
    def encode(self, records: Sequence[Record]) -> Encoded:
        """Return what is to be written for `records`. Does no I/O, and is called in the event loop."""

    @abstractmethod
    def write_encoded(self, parts: Sequence[Encoded]) -> None:
        """Write what `encode` returned, all or none of it as far as the medium lets it."""
