"""The bounded queue between emitters and the drain: slots in memory, many writers, readers that take nothing.

An emitter takes a sequence number, encodes, and stores its frame in slot `sequence % capacity`. Each step is one call into
C that needs no lock of ours, so that a signal handler, a finalizer or another thread may emit between any two of them.
A frame begins with its own sequence number: a reader that finds a newer one knows how many it lost, and one that finds
an older one knows that an emitter was interrupted between taking and storing.
"""

import time
from collections.abc import Callable, Iterator
from operator import length_hint
from typing import Protocol

__all__ = ("END", "Pipe", "Ring", "Slots")

#: Where sequence numbers end: past what can be used up.
END = 2**63 - 1


class Slots(Protocol):
    """Where frames are stored: a list, or a mapped file."""

    def __setitem__(self, index: int, frame: bytes, /) -> None: ...
    def __getitem__(self, index: int, /) -> bytes | None: ...


#: What the hot path needs of a ring, in one tuple, so that one attribute load sees either the old ring or the new one:
#: the next sequence number, the slots, capacity - 1, and the monotonic clock in nanoseconds.
Pipe = tuple[Callable[[], int], Slots, int, Callable[[], int]]


class Ring:
    """`capacity` slots, a power of two; the newest record overwrites the oldest.

    A list and the iterator of a range survive signal handlers and finalizers, where `queue.Queue` and anything with a lock
    deadlock (M1). The iterator tells how far it has come; of `itertools.count` only the repr does, which takes a drain
    that wakes up to cold caches 40 microseconds instead of 5.
    """

    def __init__(
        self,
        capacity: int = 2048,
        clock: Callable[[], int] = time.monotonic_ns,
        *,
        numbers: Iterator[int] | None = None,
    ) -> None:
        if capacity < 2 or capacity & (capacity - 1):
            raise ValueError(f"capacity must be a power of two, such as 16384; it is {capacity}")
        self.capacity = capacity
        self._slots: list[bytes | None] = [None] * capacity
        #: Each record takes the next one. Those of another ring, whose emitters may still be at it, count both.
        self.numbers: Iterator[int] = iter(range(END)) if numbers is None else numbers
        self.pipe: Pipe = (self.numbers.__next__, self._slots, capacity - 1, clock)

    @property
    def head(self) -> int:
        """The next sequence number. Reading it takes none; any thread may."""
        return END - length_hint(self.numbers)

    def frames(self, first: int, stop: int) -> list[bytes | None]:
        """Return what the slots of `first` to `stop` hold now, each its frame, an older one, a newer one, or None."""
        begin = first & (self.capacity - 1)
        end = begin + stop - first
        return self._slots[begin:end] + self._slots[: max(end - self.capacity, 0)]

    def why_gone(self, _seq: int) -> str:
        """Return how a record was lost whose slot does not hold it: its emitter did not come to the end."""
        return "interrupted"

    def __repr__(self) -> str:
        return f"<Ring {self.capacity} slots, head {self.head}>"
