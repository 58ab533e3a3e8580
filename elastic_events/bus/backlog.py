"""What a lane still has to deliver: bounded in records and bytes, events apart from metrics; in memory, then on disk."""

import math
from collections import Counter
from collections.abc import Sequence
from itertools import chain, groupby
from operator import attrgetter
from typing import Literal, NamedTuple, Protocol

from elastic_events.bus.queued import Queue
from elastic_events.bus.record import MetricRecord, Record

__all__ = ("Backlog", "Found", "Overflow", "Spooled", "Spooling")

Overflow = Literal["drop_oldest", "drop_newest"]


class Found(NamedTuple):
    """What an earlier process left in a spool."""

    records: int = 0  #: that wait to be delivered
    lost: int = 0  #: that were in it, and are damaged or gone
    unknown: int = 0  #: places where records are gone, and nothing says how many


class Spooled(Protocol):
    """One of a spool's two queues; what is taken from it stays on disk until it is committed."""

    def __len__(self) -> int:
        """Return how many records it holds."""

    @property
    def first(self) -> int | None:
        """As of `Queue`; while the disk cannot be read, a number that is no larger."""

    @property
    def exposed(self) -> int | None:
        """Entry number, or a smaller one, of the first record in flight that is not on disk any more."""

    def before(self, mark: int) -> int:
        """As of `Queue`, or more: the numbers are on disk. 0 where there are none."""

    def take(self, most: int, bytes_: float = ..., before: float = ...) -> tuple[list[Record], Sequence[int]]:
        """As of `Queue`, but perhaps fewer than there are; none while the disk cannot be read."""

    def untake(self, records: Sequence[Record], entries: Sequence[int]) -> None:
        """As of `Queue`."""


class Spooling(Protocol):
    """What a backlog asks of its spool: `recorder.spool.Spool`, which lies above this room."""

    found: Found
    entered: int
    refused: str
    error: str

    @property
    def queues(self) -> Sequence[Spooled]:
        """The events and the metrics."""

    @property
    def size(self) -> int:
        """Bytes on disk."""

    def append(self, queue: int, records: Sequence[Record], entries: Sequence[int], taken: int = ...) -> int:
        """Write `records`, of which the first `taken` were handed out; return how many are written now."""

    def commit(self) -> None:
        """Forget what was taken."""

    def losses(self) -> Counter[tuple[str, str]]:
        """Return what was lost since the last call, by reason and kind."""

    def close(self) -> None:
        """Leave the rest to the next process."""


class _Part(NamedTuple):
    """Records of the batch in flight, and the queue that they came from."""

    queue: Queue | Spooled
    records: list[Record]
    entries: Sequence[int]


class Backlog:
    """Two queues, each with its own bounds, so that a flood of metrics never pushes an event out.

    Records leave in the order they came in, whichever queue they wait in. `entered` is the entry number of the next to
    come; `oldest` that of the first that has not left, which is how a flush knows that everything before it is settled.

    With a spool the bounds are those of memory alone: what would pass them goes to disk with all that is in memory, and
    so does what comes after it, until the spool is empty again. One batch is in flight at a time: it is forgotten on disk
    by the next `take()` or by `settle()`, and until then `untake()` gives it back. Does I/O with a spool, else none.
    """

    def __init__(self, records: int, bytes_: int, overflow: Overflow, spool: Spooling | None = None) -> None:
        if overflow not in ("drop_oldest", "drop_newest"):
            raise ValueError(f"overflow is 'drop_oldest' or 'drop_newest', not {overflow!r}")
        self.records = records
        self.bytes = bytes_
        self.overflow = overflow
        self.spool = spool
        self.entered: int = spool.entered if spool is not None else 0
        self._events = Queue()
        self._metrics = Queue()
        self._memory = (self._events, self._metrics)
        self._queues: tuple[Queue | Spooled, ...] = (*self._memory, *(spool.queues if spool is not None else ()))
        self._in_flight: list[_Part] = []
        self._lost: Counter[str] = Counter()

    def __len__(self) -> int:
        return sum(map(len, self._queues))

    @property
    def size(self) -> int:
        """Bytes held: those of memory, and what the spool takes on disk."""
        return self._events.bytes + self._metrics.bytes + (self.spool.size if self.spool is not None else 0)

    @property
    def oldest(self) -> int:
        """Entry number of the first record still here, or of the next to come."""
        return min((first for queue in self._queues if (first := queue.first) is not None), default=self.entered)

    @property
    def safe_from(self) -> int:
        """Entry number of the first record that is in memory only, in flight or not: all before it outlive this process."""
        firsts = [queue.first for queue in self._memory if queue.first is not None]
        firsts += [part.entries[0] for part in self._in_flight if part.queue in self._memory]
        if self.spool is not None:
            firsts += [entry for queue in self.spool.queues if (entry := queue.exposed) is not None]
        return min(firsts, default=self.entered)

    def before(self, mark: int, flight: Sequence[Record]) -> int:
        """Return how many that entered before entry number `mark` wait, or are in `flight`, of the last take."""
        flying = set(map(id, flight))
        taken = (pair for part in self._in_flight for pair in zip(part.records, part.entries, strict=True))
        return sum(queue.before(mark) for queue in self._queues) + sum(
            1 for record, entry in taken if entry < mark and id(record) in flying
        )

    def adopt(self) -> Found:
        """Return what an earlier process left in the spool; its records are here and count as entered."""
        return self.spool.found if self.spool is not None else Found()

    def losses(self) -> Counter[str]:
        """Return how many records fell out since the last call, by reason.

        "backlog": memory is full. "spool": the spool is full. "spool_failed": the disk refuses, and memory is full.
        "spool_damaged": they were on disk, and cannot be read.
        """
        self._collect_losses()
        lost, self._lost = self._lost, Counter()
        return lost

    def push(self, records: Sequence[Record]) -> int:
        """Take `records`; return how many fell out for them (of themselves, if the newest are dropped)."""
        before = self._collect_losses()
        spooling = self.spool is not None
        for kind, run in _runs(records):
            queue = self._metrics if kind is MetricRecord else self._events
            over = len(queue) + len(run) - self.records
            if not spooling and self.overflow == "drop_oldest" and 0 < over <= len(queue):  # all at once
                queue.take(over)
                self._lost["backlog"] += over
            encoded = _size(run)
            if spooling or (len(queue) + len(run) <= self.records and queue.fits(run, encoded, self.bytes)):
                queue.append(run, range(self.entered, self.entered + len(run)), encoded)
                self.entered += len(run)
            else:
                self._lost["backlog"] += sum(self._squeeze_in(queue, record) for record in run)
        if self.spool is not None and (any(self.spool.queues) or any(map(self._over, self._memory))):
            self.spill()
            self._shrink(self.spool.refused)
        return self._collect_losses() - before

    def spill(self) -> int:
        """Move memory into the spool, what is in flight too; return how many stay, since there is none or it refuses."""
        if self.spool is not None:
            for number, queue in enumerate(self._memory):
                self._spill(self.spool, number, queue)
        return sum(map(len, self._memory))

    def take(self, most: int, bytes_: int) -> list[Record]:
        """Remove and return the oldest records: up to `most`, and up to `bytes_` but one at least.

        None, though there are some, while the disk cannot be read: the process has no descriptor left, say.
        """
        self.settle()
        batch: list[Record] = []
        while len(batch) < most and (heads := self._heads()):
            before = heads[1][0] if len(heads) > 1 else math.inf
            queue = self._queues[heads[0][1]]
            records, entries = queue.take(most - len(batch), bytes_, before)
            if not records and not batch:
                records, entries = queue.take(1)  # longer than a batch: alone
            if not records:
                break
            self._in_flight.append(_Part(queue, records, entries))
            batch += records
            if len(batch) < most:
                bytes_ -= _size(records)
        return batch

    def settle(self) -> None:
        """Forget the batch in flight, on disk too: every record of it has its outcome."""
        if self._in_flight:
            self._in_flight.clear()
            if self.spool is not None:
                self.spool.commit()

    def untake(self, batch: Sequence[Record]) -> None:
        """Put `batch`, all of the last take or some of it, at the front again; the others have their outcome."""
        given = set(map(id, batch))
        for queue, records, entries in reversed(self._in_flight):
            back = [pair for pair in zip(records, entries, strict=True) if id(pair[0]) in given]
            if back:
                queue.untake([record for record, _ in back], [entry for _, entry in back])
        self._in_flight.clear()
        if self.spool is not None:
            self.spool.commit()

    def clear(self) -> int:
        """Drop what is in memory; return how many records that were. The spool keeps what it has."""
        count = sum(map(len, self._memory))
        for queue in self._memory:
            queue.take(len(queue))
        return count

    def close(self) -> None:
        """Settle, and let the spool go; what is in it waits for the next process."""
        self.settle()
        if self.spool is not None:
            self.spool.close()

    def _heads(self) -> list[tuple[int, int]]:
        """Return the first entry number of each queue that has one, and which queue it is; the oldest first."""
        firsts = [(queue.first, number) for number, queue in enumerate(self._queues)]
        return sorted((first, number) for first, number in firsts if first is not None)

    def _spill(self, spool: Spooling, number: int, queue: Queue) -> None:
        # What is in flight goes first: it is older, and the order on disk is that of the entry numbers.
        flying = [part for part in self._in_flight if part.queue is queue]
        records = [*chain.from_iterable(part.records for part in flying), *queue.records]
        entries = [*chain.from_iterable(part.entries for part in flying), *queue.entries]
        taken = sum(len(part.records) for part in flying)
        written = spool.append(number, records, entries, taken)
        both = min(taken, written)
        queue.take(written - both)
        self._in_flight = [part for part in self._in_flight if part.queue is not queue]
        if both:
            self._in_flight.append(_Part(spool.queues[number], records[:both], entries[:both]))
        if both < taken:
            self._in_flight.append(_Part(queue, records[both:taken], entries[both:taken]))

    def _shrink(self, reason: str) -> None:
        """Drop what passes the bounds of memory, since the spool did not take it."""
        for queue in self._memory:
            while len(queue) > 1 and self._over(queue):
                queue.drop(newest=self.overflow == "drop_newest")
                self._lost[reason] += 1

    def _over(self, queue: Queue) -> bool:
        return len(queue) > self.records or not queue.fits((), 0, self.bytes)

    def _squeeze_in(self, queue: Queue, record: Record) -> int:
        fell = 0
        while len(queue) >= self.records or not queue.fits([record], record.size, self.bytes):
            if self.overflow == "drop_newest":
                return 1
            if not queue:  # longer than the bound: it has the queue to itself
                break
            queue.drop(newest=False)
            fell += 1
        queue.append([record], range(self.entered, self.entered + 1), record.size)
        self.entered += 1
        return fell

    def _collect_losses(self) -> int:
        """Return how many records fell out since `losses()` was called, those of the spool too."""
        if self.spool is not None:
            for (reason, _), count in self.spool.losses().items():
                self._lost[reason] += count
        return self._lost.total()


_SIZE = attrgetter("size")


def _runs(records: Sequence[Record]) -> list[tuple[type[Record], Sequence[Record]]]:
    """Return `records` in runs of one kind: all of them, nearly always."""
    kinds = list(map(type, records))
    if kinds and kinds.count(kinds[0]) == len(kinds):
        return [(kinds[0], records)]
    return [(kind, list(run)) for kind, run in groupby(records, type)]


def _size(records: Sequence[Record]) -> int:
    return sum(map(_SIZE, records))
