"""The async skin of a sink whose calls block: they run in a thread of its own, and the sink below stays synchronous."""

import os
import time
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import anyio

from elastic_events.bus.errors import TransientError
from elastic_events.bus.pump import BREATH
from elastic_events.bus.record import Record
from elastic_events.bus.sink_thread import SinkThread

__all__ = ("BlockingSink", "EncodingSink")

Encoded = TypeVar("Encoded")

#: Records that are encoded at once, beside others who want the GIL: they take as long as to read `FEW` of them.
ENCODED = 250


class BlockingSink(ABC):
    """A sink made of three plain methods, `open_now`, `write_now` and `close_now`, which run in order in one thread.

    A call that its lane gave up waiting for is dropped if it has not begun. One that has begun runs to its end; when
    the lane tries the same batch again and the first call wrote it after all, it is not written twice.
    """

    #: Name of the thread.
    thread_name = "elastic-events sink"

    #: Its thread serves any event loop, also after the one it was opened in.
    any_loop = True

    def __init__(self) -> None:
        self._thread: SinkThread | None = None
        self._stuck: SinkThread | None = None  # of an attempt that nobody waited for to its end
        self._hurried = False
        self._pid = 0
        self._unsure: Sequence[Record] | None = None  # the batch whose call was not waited for to its end
        self._written: Sequence[Record] | None = None  # the batch written last

    async def open(self) -> None:
        """Start the thread and open; in a forked child, open anew what the parent has open."""
        if self._pid != os.getpid():
            self._stuck = None
            if self._thread is not None:
                self.abandon()
        if self._stuck is not None and self._stuck.alive:
            # Not a thread more for each attempt, all at work on one sink.
            raise TransientError("the last attempt to open it has not ended yet")
        self._pid = os.getpid()
        self._unsure = self._written = None
        self._thread = SinkThread(self.thread_name)
        try:
            await self._thread.run(self._begin)
        except Exception:
            self._thread.close()
            self._thread = None
            raise

    async def write(self, records: Sequence[Record]) -> None:
        """Write `records` in the thread; see the class of the sink for what "delivered" means."""
        assert self._thread is not None, "write() before open()"
        again = self._unsure is records
        self._unsure = records
        waited_for = [True]
        try:
            await self._thread.run(self._call, records, again, waited_for)
        except Exception:
            self._unsure = None
            raise
        finally:
            waited_for.clear()
        self._unsure = None

    async def aclose(self) -> None:
        """Close in the thread, after the calls it has."""
        thread, self._thread = self._thread, None
        if thread is not None and self._pid != os.getpid():
            self.abandon()
        elif thread is not None:
            try:
                await thread.run(self.close_now)
            except anyio.get_cancelled_exc_class():
                self._stuck = thread
                raise
            finally:
                thread.close()

    def _begin(self) -> None:
        try:
            self.open_now()
        except BaseException:
            self.close_now()
            raise

    def hurry(self, on: bool) -> None:
        """Work without pauses from now on, or with them again. Any thread."""
        self._hurried = on

    def _call(self, records: Sequence[Record], again: bool, waited_for: list[bool]) -> None:
        if not waited_for or (again and self._written is records):
            return
        self._written = None
        self.write_now(records)
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
    """A blocking sink that encodes, in parts, then writes, with sleeps between: its thread holds the GIL for none of it long."""

    #: Records a call: each of its system calls waits for the GIL, and more records a call are fewer waits.
    batch_size = 4096

    def write_now(self, records: Sequence[Record]) -> None:
        """Encode and write `records`."""
        parts: list[Encoded] = []
        for begin in range(0, len(records), ENCODED):
            self._rest()
            parts.append(self.encode(records[begin : begin + ENCODED]))
        self._rest()
        self.write_encoded(parts)
        self._rest()

    def _rest(self) -> None:
        """Let others have the GIL: a thread that only lets go of it, and asks again at once, has it again."""
        if not self._hurried:
            time.sleep(BREATH)

    @abstractmethod
    def encode(self, records: Sequence[Record]) -> Encoded:
        """Return what is to be written for `records`. Does no I/O."""

    @abstractmethod
    def write_encoded(self, parts: Sequence[Encoded]) -> None:
        """Write what `encode` returned, all or none of it as far as the medium lets it."""
