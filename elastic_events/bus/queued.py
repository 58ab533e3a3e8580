"""A queue of records that come and go many at a time: it holds them in the runs in which they came."""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, chain
from operator import attrgetter

from elastic_events.bus.record import Record
from elastic_events.bus.weight import weigh

__all__ = ("Queue",)

_SIZE = attrgetter("size")

#: Records of a run to which others are added: an object for each that trickles in would be the garbage collector's.
_RUN = 1024


class _Run:
    """Records that came together, their entry numbers, and the memory they take; those before `begin` have left."""

    __slots__ = ("begin", "entries", "records", "weight")

    def __init__(self, records: Sequence[Record], entries: Sequence[int], weight: int) -> None:
        self.records: list[Record] = list(records)
        self.entries = entries
        self.weight = weight
        self.begin = 0

    def __len__(self) -> int:
        return len(self.records) - self.begin

    def add(self, records: Sequence[Record], entries: Sequence[int], weight: int) -> bool:
        """Take them as well, if the run is short and they are the next; return whether."""
        here = self.entries
        is_next = isinstance(here, range) and isinstance(entries, range) and here.stop == entries.start
        if not is_next or len(self.records) >= _RUN:
            return False
        self.records += records
        self.entries = range(self.entries[0], entries[-1] + 1)
        self.weight += weight
        return True

    def cut(self, number: int) -> tuple[list[Record], Sequence[int], int]:
        """Remove the first `number`; return them, their entry numbers and their weight."""
        begin, end = self.begin, self.begin + number
        records, entries = self.records[begin:end], self.entries[begin:end]
        weight = self.weight if end == len(self.records) else weigh(records)
        self.weight -= weight
        self.begin = end
        if end > len(self.records) // 2:  # let go of what left, now and then rather than at each cut
            del self.records[:end]
            self.entries, self.begin = self.entries[end:], 0
        return records, entries, weight


class Queue:
    """Records in order, and beside each its entry number, which grows from one to the next."""

    def __init__(self) -> None:
        self.bytes: int = 0  #: of memory
        self._runs: deque[_Run] = deque()
        self._count = 0

    def __len__(self) -> int:
        return self._count

    @property
    def first(self) -> int | None:
        """Entry number of the first record."""
        return self._runs[0].entries[self._runs[0].begin] if self._count else None

    @property
    def records(self) -> list[Record]:
        """All of them."""
        return list(chain.from_iterable(run.records[run.begin :] for run in self._runs))

    @property
    def entries(self) -> list[int]:
        """The entry numbers of all of them."""
        return list(chain.from_iterable(run.entries[run.begin :] for run in self._runs))

    def before(self, mark: int) -> int:
        """Return how many records have entry numbers below `mark`."""
        return sum(bisect_left(run.entries, mark, run.begin) - run.begin for run in self._runs)

    def append(self, records: Sequence[Record], entries: Sequence[int], weight: int) -> None:
        """Put `records`, which take `weight` bytes of memory, at the end."""
        if records and not (self._runs and self._runs[-1].add(records, entries, weight)):
            self._runs.append(_Run(records, entries, weight))
        self._count += len(records)
        self.bytes += weight

    def take(self, most: int, bytes_: float = math.inf, before: float = math.inf) -> tuple[list[Record], list[int]]:
        """Remove the first records: up to `most`, no more than `bytes_` encoded, with entry numbers below `before`."""
        records: list[Record] = []
        entries: list[int] = []
        bounded = self.bytes > bytes_  # of memory, which is more
        while self._runs:
            run = self._runs[0]
            number = min(most - len(records), len(run))
            if before < math.inf:
                number = min(number, bisect_left(run.entries, before, run.begin) - run.begin)
            if bounded:
                sizes = list(accumulate(map(_SIZE, run.records[run.begin : run.begin + number])))
                number = bisect_left(sizes, bytes_ + 1)
                bytes_ -= sizes[number - 1] if number else 0
            whole = number == len(run)
            if number:
                some, numbers, weight = run.cut(number)
                records += some
                entries += numbers
                self._count -= number
                self.bytes -= weight
            if not whole:
                break
            self._runs.popleft()
        return records, entries

    def untake(self, records: Sequence[Record], entries: Sequence[int]) -> None:
        """Put what was taken at the front again."""
        if records:
            self._runs.appendleft(_Run(records, entries, weight := weigh(records)))
            self._count += len(records)
            self.bytes += weight

    def drop(self, *, newest: bool) -> None:
        """Remove one record."""
        run = self._runs[-1 if newest else 0]
        if newest:
            gone = weigh([run.records.pop()])
            run.entries = run.entries[:-1]
            run.weight -= gone
        else:
            _, _, gone = run.cut(1)
        self._count -= 1
        self.bytes -= gone
        if not run:
            self._runs.remove(run)
