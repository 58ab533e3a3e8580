"""What a lane still has to deliver: bounded in records and bytes, events apart from metrics."""

from collections import deque
from collections.abc import Sequence
from itertools import accumulate, groupby, islice, takewhile
from operator import attrgetter
from typing import Literal

from elastic_events.bus.record import Record

__all__ = ("Backlog", "Overflow")

Overflow = Literal["drop_oldest", "drop_newest"]


class _Queue:
    """Records in order, and beside each its entry number; two deques, which grow and shrink by many at a time."""

    __slots__ = ("bytes", "entries", "records")

    def __init__(self) -> None:
        self.records: deque[Record] = deque()
        self.entries: deque[int] = deque()
        self.bytes = 0

    def append(self, records: Sequence[Record], entry: int, size: int) -> None:
        """Put `records` of `size` bytes at the end; the first has the number `entry`."""
        self.records.extend(records)
        self.entries.extend(range(entry, entry + len(records)))
        self.bytes += size

    def take(self, most: int, bytes_: int) -> list[Record]:
        """Remove and return the first records: up to `most`, and no more than `bytes_` of them."""
        number = min(most, len(self.records))
        if self.bytes > bytes_:
            sizes = accumulate(record.size for record in islice(self.records, number))
            number = sum(1 for size in takewhile(lambda size: size <= bytes_, sizes))
        if number == len(self.records):
            records = list(self.records)
            self.records.clear()
            self.entries.clear()
            self.bytes = 0
            return records
        records = [self.records.popleft() for _ in range(number)]
        for _ in records:
            self.entries.popleft()
        self.bytes -= _size(records)
        return records


class Backlog:
    """Two queues, each with its own bounds, so that a flood of metrics never pushes an event out.

    Records leave in the order they came in, whichever queue they wait in. `entered` counts all that came in; `oldest` is
    the entry number of the first that has not left, which is how a flush knows that everything before it is settled.
    """

    def __init__(self, records: int, bytes_: int, overflow: Overflow) -> None:
        if overflow not in ("drop_oldest", "drop_newest"):
            raise ValueError(f"overflow is 'drop_oldest' or 'drop_newest', not {overflow!r}")
        self.records = records
        self.bytes = bytes_
        self.overflow = overflow
        self.entered = 0
        self.spool: None = None
        self._events = _Queue()
        self._metrics = _Queue()

    def __len__(self) -> int:
        return len(self._events.records) + len(self._metrics.records)

    @property
    def size(self) -> int:
        """Encoded bytes held."""
        return self._events.bytes + self._metrics.bytes

    @property
    def oldest(self) -> int:
        """Entry number of the first record still here, or of the next to come."""
        heads = [queue.entries[0] for queue in (self._events, self._metrics) if queue.entries]
        return min(heads, default=self.entered)

    @property
    def safe_from(self) -> int:
        """Entry number of the oldest record that is in memory only."""
        return 0

    def push(self, records: Sequence[Record]) -> int:
        """Take `records`; return how many fell out for them (of themselves, if the newest are dropped)."""
        fell = 0
        for kind, group in groupby(records, attrgetter("kind")):
            run = list(group)
            queue, size = self._metrics if kind == "metric" else self._events, _size(run)
            if len(queue.records) + len(run) <= self.records and queue.bytes + size <= self.bytes:
                queue.append(run, self.entered, size)
                self.entered += len(run)
            else:
                fell += sum(self._squeeze_in(queue, record) for record in run)
        return fell

    def take(self, most: int, bytes_: int) -> list[Record]:
        """Remove and return the oldest records: up to `most`, and up to `bytes_` but one at least."""
        batch: list[Record] = []
        held = self.size
        while len(batch) < most:
            room = bytes_ - (held - self.size)
            queue, other = self._events, self._metrics
            if queue.entries and other.entries:  # in turn, one by one
                if other.entries[0] < queue.entries[0]:
                    queue = other
                taken = queue.take(1, room)
            else:
                queue = queue if queue.entries else other
                taken = queue.take(most - len(batch), room)
            if not taken:
                if batch or not queue.entries:
                    break
                taken = queue.take(1, queue.bytes)  # longer than a batch: alone
            batch += taken
        return batch

    def clear(self) -> int:
        """Drop everything; return how many records that were."""
        count = len(self)
        self._events, self._metrics = _Queue(), _Queue()
        return count

    def _squeeze_in(self, queue: _Queue, record: Record) -> int:
        fell = 0
        while len(queue.records) >= self.records or queue.bytes + record.size > self.bytes:
            if self.overflow == "drop_newest":
                return 1
            if not queue.records:  # longer than the bound: it has the queue to itself
                break
            fell += len(queue.take(1, queue.bytes))
        queue.append([record], self.entered, record.size)
        self.entered += 1
        return fell


def _size(records: Sequence[Record]) -> int:
    return sum([record.size for record in records])
