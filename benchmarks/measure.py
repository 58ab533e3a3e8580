"""How everything here is measured: in turn, several rounds, medians, and ratios to a floor of the same process."""

import collections
import importlib
import statistics
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

__all__ = ("Call", "Cost", "Row", "floor", "in_turn", "load", "print_table", "table")

Call = Callable[[], object]
Row = dict[str, Any]  #: one line of an answer; `subject` names it


class Cost(NamedTuple):
    """What one call costs, in nanoseconds, with the loop around it."""

    median: float  #: of the rounds' means
    p99: float  #: of single calls, the clock's own cost included
    p999: float
    ratio: float  #: median by the floor's median


def floor() -> Call:
    """Return the least that keeping a metric point can cost in Python: a call, a clock, a tuple, an append."""
    points: collections.deque[tuple[int, str, float, str]] = collections.deque(maxlen=2048)

    def put(name: str, value: float, group: str = "torchelastic") -> None:
        points.append((time.time_ns(), name, value, group))

    return lambda: put("loss", 0.5)


def in_turn(subjects: Mapping[str, Call], rounds: int = 7, calls: int = 20_000) -> dict[str, Cost]:
    """Measure each subject in turn, `rounds` times, so that a slow moment of the machine hits all of them.

    The subject called "floor" is what the others are divided by.
    """
    # A call of milliseconds needs no 20,000 repetitions to be told from one of microseconds.
    enough = {name: max(10, min(calls, int(3e7 / _mean(call, 10)))) for name, call in subjects.items()}
    means: dict[str, list[float]] = {name: [] for name in subjects}
    singles: dict[str, list[int]] = {name: [] for name in subjects}
    for _ in range(rounds):
        for name, call in subjects.items():
            means[name].append(_mean(call, enough[name]))
            singles[name] += _singles(call, enough[name] // 10)
    base = statistics.median(means["floor"])
    return {name: _cost(means[name], sorted(singles[name]), base) for name in subjects}


def _mean(call: Call, calls: int) -> float:
    began = time.perf_counter_ns()
    for _ in range(calls):
        call()
    return (time.perf_counter_ns() - began) / calls


def _singles(call: Call, calls: int) -> list[int]:
    spent = []
    now = time.perf_counter_ns
    for _ in range(calls):
        began = now()
        call()
        spent.append(now() - began)
    return spent


def _cost(means: list[float], singles: list[int], base: float) -> Cost:
    median = statistics.median(means)
    return Cost(median, singles[int(len(singles) * 0.99)], singles[int(len(singles) * 0.999)], median / base)


def table(title: str, rows: Mapping[str, Any] | Sequence[Row], columns: Mapping[str, Callable[[Any], str]]) -> str:
    """Return `rows` as a Markdown table, by name or by their `subject`; those with `absent` are named below."""
    named = rows if isinstance(rows, Mapping) else {row["subject"]: row for row in rows if "absent" not in row}
    lines = [f"### {title}", "", "| | " + " | ".join(columns) + " |", "|---" * (len(columns) + 1) + "|"]
    lines += [f"| {name} | " + " | ".join(show(row) for show in columns.values()) + " |" for name, row in named.items()]
    absent = [] if isinstance(rows, Mapping) else sorted({row["subject"] for row in rows if "absent" in row})
    if absent:
        lines += ["", f"Not installed here: {', '.join(absent)}."]
    return "\n".join(lines)


def print_table(text: str) -> None:
    """Print a table with the interpreter it was measured with."""
    print(text, f"Python {sys.version.split()[0]}", sep="\n\n")


def load(name: str) -> Any:
    """Import a module that has no types, or may be missing."""
    return importlib.import_module(name)
