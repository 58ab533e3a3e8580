"""Metric points as an experiment tracker wants them: which name and step each has."""

import math
from bisect import bisect_right
from collections import deque
from collections.abc import Sequence
from typing import NamedTuple

from elastic_events.bus.record import Record
from elastic_events.sinks.rollup import SUFFIX

__all__ = ("Point", "Steps")

#: Step marks of a process that are kept: a point comes no later, even through a roll-up of a minute, at 500 steps a second.
MARKS = 32_768

#: Processes whose marks are kept, and curves without marks that are counted: those that were seen last.
PROCESSES = 4096
COUNTS = 65_536


class Point(NamedTuple):
    """One metric point as a tracker wants it."""

    tag: str
    value: float
    step: int
    time_ns: int


class Steps:
    """Which step a point belongs to. Plain state, used by one thread."""

    def __init__(self) -> None:
        self._marks: dict[str, deque[tuple[int, int]]] = {}  # process -> (monotonic time, step), ascending
        self._counts: dict[tuple[str, str], int] = {}

    def points(self, records: Sequence[Record]) -> dict[int, Point]:
        """Return the metric points among `records`, by `id()`, after having learnt from all their events."""
        for record in records:
            if record.kind == "event" and record.name == "step.started":
                self._mark(record)
        return {
            id(record): point
            for record in records
            if record.kind == "metric" and (point := self._point(record)) is not None
        }

    def _mark(self, record: Record) -> None:
        metadata = record.fields[2]
        step = metadata.get("step") if isinstance(metadata, dict) else None
        if type(step) is int:
            process = record.context.process
            marks = self._marks.pop(process) if process in self._marks else deque(maxlen=MARKS)
            self._marks[process] = marks  # now the newest
            marks.append((record.monotonic_ns, step))
            if len(self._marks) > PROCESSES:
                del self._marks[next(iter(self._marks))]

    def _point(self, record: Record) -> Point | None:
        value = record.fields[0]
        try:
            number = float(value) if isinstance(value, int | float) else None
        except OverflowError:
            number = None
        if number is None:
            return None
        rank = record.context.rank
        # The rank goes in front: MLflow's files cannot have both `loss` and `loss/rank3`.
        tag = "/".join(filter(None, (record.channel, f"rank{rank}" if rank else "", record.name)))
        return Point(tag, number, self._step(record, tag), record.time_ns)

    def _step(self, record: Record, tag: str) -> int:
        # A roll-up passes the marks on as they are; its sums have the time of the last point, in a name of their own.
        marks = self._marks.get(record.context.process.partition(SUFFIX)[0])
        if marks:
            place = bisect_right(marks, (record.monotonic_ns, math.inf))
            return marks[max(place - 1, 0)][1]
        key = (record.context.process, tag)
        count = self._counts.pop(key, 0)
        self._counts[key] = count + 1
        if len(self._counts) > COUNTS:
            del self._counts[next(iter(self._counts))]
        return count
