"""A queue of records that come and go many at a time: it holds them in the runs in which they came."""

import math
from bisect import bisect_left
from collections import deque
from collections.abc import Sequence
from itertools import accumulate, chain, islice
from operator import attrgetter

from elastic_events.bus.record import Record
from elastic_events.bus.weight import bound, weigh

__all__ = ("Queue",)

_SIZE = attrgetter("size")

#: Records of a run to which others are added: an object for each that trickles in would be the garbage collector's.
_RUN = 1024


class _Run:
    """Records that came together, and their entry numbers; those before `begin` have left. It weighs 0 until it is weighed."""

    __slots__ = ("begin", "encoded", "entries", "records", "weight")

    def __init__(self, records: Sequence[Record], entries: Sequence[int], encoded: int) -> None:
        self.records: list[Record] = list(records)
        self.entries = entries
        self.encoded = encoded
        self.weight = 0
        self.begin = 0

    def __len__(self) -> int:
        return len(self.records) - self.begin

    def weigh(self) -> int:
        """Find out what it takes; return that."""
        self.weight = weigh(self.records[self.begin :])
        return self.weight

    def add(self, records: Sequence[Record], entries: Sequence[int], encoded: int) -> bool:
        """Take them as well, if the run is short and they are the next; return whether."""
        here = self.entries
        is_next = isinstance(here, range) and isinstance(entries, range) and here.stop == entries.start
        if not is_next or len(self.records) >= _RUN:
            return False
        self.records += records
        self.entries = range(self.entries[0], entries[-1] + 1)
        self.encoded += encoded
        return True

    def cut(self, number: int) -> tuple[list[Record], Sequence[int], int, int]:
        """Remove the first `number`; return them, their entry numbers, encoded bytes, and weight, if the run is weighed."""
        begin, end = self.begin, self.begin + number
        records, entries = self.records[begin:end], self.entries[begin:end]
        whole = end == len(self.records)
        weight = self.weight if whole or not self.weight else weigh(records)
        encoded = self.encoded if whole else sum(map(_SIZE, records))
        self.weight -= weight
        self.encoded -= encoded
        self.begin = end
        if end > len(self.records) // 2:  # let go of what left, now and then rather than at each cut
            del self.records[:end]
            self.entries, self.begin = self.entries[end:], 0
        return records, entries, encoded, weight


class Queue:
    """Records in order, and beside each its entry number, which grows from one to the next.

    They are weighed where it matters what they take: where the most that their encoded bytes may become is too much.
    """

    def __init__(self) -> None:
        self._runs: deque[_Run] = deque()
        self._count = 0
        self._encoded = 0
        self._known = 0  # runs that are weighed: the first ones
        self._weight = 0  # of these

    def __len__(self) -> int:
        return self._count

    @property
    def bytes(self) -> int:
        """Bytes of memory that they take; any thread may ask, and changes nothing by it."""
        return sum(run.weight or weigh(run.records[run.begin :]) for run in tuple(self._runs))

    def fits(self, records: Sequence[Record], encoded: int, bytes_: int) -> bool:
        """Whether `records` of `encoded` bytes, and all that is here, take no more than `bytes_` of memory."""
        most = bound(self._count + len(records), self._encoded + encoded)
        return most <= bytes_ or self._weigh() + weigh(records) <= bytes_

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

    def append(self, records: Sequence[Record], entries: Sequence[int], encoded: int) -> None:
        """Put `records` of `encoded` bytes at the end."""
        if records and not (self._runs and self._runs[-1].add(records, entries, encoded)):
            self._runs.append(_Run(records, entries, encoded))
        elif records and self._known == len(self._runs):
            more = weigh(records)
            self._runs[-1].weight += more
            self._weight += more
        self._count += len(records)
        self._encoded += encoded

    def take(self, most: int, bytes_: float = math.inf, before: float = math.inf) -> tuple[list[Record], Sequence[int]]:
        """Remove the first records: up to `most`, no more than `bytes_` encoded, with entry numbers below `before`."""
        records: list[Record] = []
        entries: list[Sequence[int]] = []
        bounded = self._encoded > bytes_
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
                some, numbers, encoded, weight = run.cut(number)
                records += some
                entries.append(numbers)
                self._left(number, encoded, weight)
            if not whole:
                break
            self._runs.popleft()
            self._known = max(self._known - 1, 0)
        return records, entries[0] if len(entries) == 1 else list(chain.from_iterable(entries))

    def untake(self, records: Sequence[Record], entries: Sequence[int]) -> None:
        """Put what was taken at the front again."""
        if records:
            encoded = sum(map(_SIZE, records))
            self._runs.appendleft(run := _Run(records, entries, encoded))
            self._weight += run.weigh()
            self._known += 1
            self._count += len(records)
            self._encoded += encoded

    def drop(self, *, newest: bool) -> None:
        """Remove one record."""
        if not newest:
            self.take(1)
            return
        self._weigh()
        run = self._runs[-1]
        gone = run.records.pop()
        run.entries = run.entries[:-1]
        weight = weigh([gone]) if run else run.weight
        run.weight -= weight
        run.encoded -= gone.size
        self._left(1, gone.size, weight)
        if not run:
            self._runs.pop()
            self._known -= 1

    def _weigh(self) -> int:
        """Weigh the runs that are not weighed; return what all take."""
        for run in islice(self._runs, self._known, None):
            self._weight += run.weigh()
        self._known = len(self._runs)
        return self._weight

    def _left(self, count: int, encoded: int, weight: int) -> None:
        self._count -= count
        self._encoded -= encoded
        self._weight -= weight
