"""What a lane still has to deliver: bounded in records and bytes, events apart from metrics."""

from collections import deque
from typing import Literal

from elastic_events.bus.record import Record

__all__ = ("Backlog", "Overflow")

Overflow = Literal["drop_oldest", "drop_newest"]


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
        self._events: deque[tuple[int, Record]] = deque()
        self._metrics: deque[tuple[int, Record]] = deque()
        self._event_bytes = 0
        self._metric_bytes = 0

    def __len__(self) -> int:
        return len(self._events) + len(self._metrics)

    @property
    def size(self) -> int:
        """Encoded bytes held."""
        return self._event_bytes + self._metric_bytes

    @property
    def oldest(self) -> int:
        """Entry number of the first record still here, or of the next to come."""
        heads = [queue[0][0] for queue in (self._events, self._metrics) if queue]
        return min(heads, default=self.entered)

    def push(self, record: Record) -> int:
        """Take `record`; return how many records fell out for it (the record itself, if the newest are dropped)."""
        metric = record.kind == "metric"
        queue = self._metrics if metric else self._events
        size = (self._metric_bytes if metric else self._event_bytes) + record.size
        fell = 0
        if self.overflow == "drop_newest" and (len(queue) >= self.records or size > self.bytes):
            return 1
        while queue and (len(queue) >= self.records or size > self.bytes):
            size -= queue.popleft()[1].size
            fell += 1
        queue.append((self.entered, record))
        self.entered += 1
        if metric:
            self._metric_bytes = size
        else:
            self._event_bytes = size
        return fell

    def take(self, most: int, bytes_: int) -> list[Record]:
        """Remove and return the oldest records: up to `most`, and up to `bytes_` but one at least."""
        batch: list[Record] = []
        room = bytes_
        while len(batch) < most and (queue := self._next()):
            record = queue[0][1]
            if batch and record.size > room:
                break
            room -= record.size
            queue.popleft()
            batch.append(record)
            if queue is self._metrics:
                self._metric_bytes -= record.size
            else:
                self._event_bytes -= record.size
        return batch

    def clear(self) -> int:
        """Drop everything; return how many records that were."""
        count = len(self)
        self._events.clear()
        self._metrics.clear()
        self._event_bytes = self._metric_bytes = 0
        return count

    def _next(self) -> deque[tuple[int, Record]] | None:
        events, metrics = self._events, self._metrics
        if events and metrics:
            return events if events[0][0] < metrics[0][0] else metrics
        return events or metrics or None
