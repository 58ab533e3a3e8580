"""What a scrape shows of each metric and each rank, line by line in Prometheus' text format."""

import math
from bisect import bisect_left
from collections.abc import Callable, Iterator, Sequence
from itertools import islice
from typing import Any

from elastic_events.bus.record import Record

__all__ = ("RANK", "Rank", "Series", "Spread", "labelled", "small_family", "whole_family")

#: Lines between which a scrape lets other threads have their turn.
_PIECE = 500

_ESCAPES = str.maketrans({"\\": "\\\\", '"': '\\"', "\n": "\\n"})


def labelled(name: str, labels: dict[str, str]) -> str:
    """Return the beginning of a sample's line, up to its value."""
    pairs = ",".join(f'{key}="{value.translate(_ESCAPES)}"' for key, value in labels.items())
    return f"{name}{{{pairs}}} "


def whole_family(name: str, kind: str, what: str, lines: Iterator[str]) -> Iterator[str]:
    """Yield a family's head and its lines, in pieces."""
    yield f"# HELP {name} {what}\n# TYPE {name} {kind}\n"
    while piece := list(islice(lines, _PIECE)):
        yield "".join(piece)


def small_family(family: Any) -> str:
    """Return one of prometheus_client's families as text; of the bus's own ledger, which has a few lines."""
    name = f"{family.name}_total" if family.type == "counter" else family.name
    lines = [labelled(sample.name, sample.labels) + f"{float(sample.value)}\n" for sample in family.samples]
    return f"# HELP {name} {family.documentation}\n# TYPE {name} {family.type}\n" + "".join(lines)


class Series:
    """One metric of one rank."""

    __slots__ = ("_points", "_value", "count", "last", "spread")

    def __init__(self, key: tuple[str, ...], spread: "Spread") -> None:
        labels = dict(zip(("name", "group", "run", "rank"), key, strict=True))
        self._value = labelled("elastic_metric_value", labels)
        self._points = labelled("elastic_metric_points_total", labels)
        self.last: float = math.nan
        self.count: int = 0
        self.spread: Spread = spread

    def add(self, value: float, bounds: Sequence[float]) -> None:
        self.last = value
        self.count += 1
        if math.isfinite(value):  # one NaN would make the sum NaN for ever
            self.spread.total += value
            self.spread.buckets[bisect_left(bounds, value)] += 1

    def value(self, number: Callable[[float], str]) -> str:
        return f"{self._value}{number(self.last)}\n"

    def points(self) -> str:
        return f"{self._points}{self.count}.0\n"


class Spread:
    """How the finite values of one metric are spread, over all ranks: of each rank it would be 27 lines."""

    __slots__ = ("buckets", "labels", "total")

    def __init__(self, key: tuple[str, ...], bounds: int) -> None:
        self.labels: dict[str, str] = dict(zip(("name", "group", "run"), key, strict=True))
        self.total: float = 0.0
        self.buckets: list[int] = [0] * (bounds + 1)

    def lines(self, bounds: Sequence[str], number: Callable[[float], str]) -> str:
        """Return the buckets as the exposition format has them: each includes those below."""
        name = "elastic_metric_distribution"
        running, found = 0, []
        for bound, count in zip(bounds, self.buckets.copy(), strict=True):
            running += count
            found.append(labelled(f"{name}_bucket", {**self.labels, "le": bound}) + f"{running}.0\n")
        found.append(labelled(f"{name}_sum", self.labels) + f"{number(self.total)}\n")
        found.append(labelled(f"{name}_count", self.labels) + f"{running}.0\n")
        return "".join(found)


class Rank:
    """How far a rank has come, and when it last said anything."""

    __slots__ = (
        *("_begun", "_furthest", "_labels", "last_record_timestamp_seconds", "last_step", "productive_seconds_total"),
        *("restarts", "step_seconds"),
    )

    def __init__(self, run: str, rank: int) -> None:
        self._labels = {"run": run, "rank": str(rank)}
        self._begun: tuple[object, int] = (None, 0)
        self._furthest = -math.inf
        self.last_step: float | None = None
        self.step_seconds: float | None = None
        self.last_record_timestamp_seconds: float | None = None
        self.restarts: float | None = None
        self.productive_seconds_total: float | None = None

    def see(self, record: Record) -> None:
        self.last_record_timestamp_seconds = max(self.last_record_timestamp_seconds or 0.0, record.time_ns / 1e9)
        if record.context.restart is not None:
            self.restarts = max(self.restarts or 0, record.context.restart)
        if record.kind != "event" or record.name not in ("step.started", "step.ended"):
            return
        metadata = record.fields[2]
        number = metadata.get("step") if isinstance(metadata, dict) else None
        if record.name == "step.started":
            self._begun = (number, record.monotonic_ns)
        elif type(number) is int and "error" not in metadata:
            self.last_step = number
            if self._begun[0] == number:
                self.step_seconds = (record.monotonic_ns - self._begun[1]) / 1e9
                again = 0.0 if number <= self._furthest else self.step_seconds
                self.productive_seconds_total = (self.productive_seconds_total or 0.0) + again
            self._furthest = max(self._furthest, number)

    def line(self, what: str, number: Callable[[float], str]) -> str:
        value = getattr(self, what)
        return "" if value is None else labelled(f"elastic_rank_{what}", self._labels) + f"{number(value)}\n"


#: Gauge, or counter, of a rank -> what it says.
RANK = {
    "last_step": "The last step that the rank finished.",
    "step_seconds": "How long that step took.",
    "last_record_timestamp_seconds": "When the rank last recorded anything, in seconds since the epoch.",
    "restarts": "Restarts of the worker, as torchrun counts them.",
    "productive_seconds_total": "Seconds in finished steps, without those done before, ahead of a restart.",
}
