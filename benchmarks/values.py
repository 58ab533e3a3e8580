"""What does an event cost its caller that holds something else than five plain values, and how long can one take?

`python -m benchmarks.values`. Each event is made afresh, with a dict of its own, as a training loop makes it, and is divided
by the floor of an event: the same made, with the clock read, in a tuple that is appended to a `deque`. "quiet" is twenty in a
row and a pause, "flat out" all in a row with the drain's thread beside. The largest dicts are told in microseconds.
"""

import collections
import decimal
import itertools
import statistics
import time
import uuid
from collections.abc import Callable
from typing import Any

import numpy

from benchmarks.emit import ours
from benchmarks.measure import Call, Row, print_table, table
from elastic_events import Event, EventSource

#: What an event holds beside its step -> the value, made at each call.
VALUES: dict[str, Callable[[], Any]] = {
    "plain values": lambda: 0.25,
    "numpy.float32": lambda: numpy.float32(0.25),
    "numpy.float64": lambda: numpy.float64(0.25),
    "a list of four numbers": lambda: [1, 2, 3, 4],
    "a list of two texts": lambda: ["adam", "cosine"],
    "a dict of three": lambda: {"lr": 0.1, "beta": 0.9, "name": "adam"},
    "a list of lists": lambda: [[1, 2], [3, 4]],
    "a dict of new keys": lambda: {uuid.uuid4().hex: 1},
    "a Decimal": lambda: DECIMAL,
    "bytes": lambda: b"0123456789",
    "a traceback of 3,000 characters": lambda: TRACE,
    "a text of 1 MB": lambda: TEXT,
}
DECIMAL = decimal.Decimal("0.25")
TRACE = 'File "train.py", line 7, in step\n  loss = model(batch)\n' * 53
TEXT = "words of a log, one after the other " * 28_000


class _Key:
    """A key that is an object."""


#: Kind of key -> a dict of so many items.
DICTS: dict[str, Callable[[int], dict[Any, Any]]] = {
    "names of parameters, numbers": lambda n: {f"model.layers.{i}.mlp.weight": 0.5 for i in range(n)},
    "new texts, numbers": lambda n: {uuid.uuid4().hex: 1 for _ in range(n)},
    "new texts, texts": lambda n: {uuid.uuid4().hex: "x" for _ in range(n)},
    "texts, new texts": lambda n: {str(i): uuid.uuid4().hex for i in range(n)},
    "texts like secrets": lambda n: {f"token_{uuid.uuid4().hex}": "x" for _ in range(n)},
    "integers": lambda n: dict.fromkeys(range(n), 1),
    "tuples": lambda n: {(i, "x"): 1 for i in range(n)},
    "objects": lambda n: {_Key(): 1 for _ in range(n)},
    "texts of 1,100 characters": lambda n: {"x" * 1_100 + str(i): "x" for i in range(n)},
    "texts, dicts": lambda n: {str(i): {"a": i} for i in range(n)},
}
SIZES = (10, 100, 800, 4_096, 100_000)


def run(quick: bool = False) -> list[Row]:
    """Measure; rows have `subject` and `ratio` and `quiet` to the floor of an event, or `us`, the slowest size's median."""
    rounds = 3 if quick else 15
    with ours() as bus:
        record = bus.record
        floor = _paced(_floor(), rounds), _flat(_floor(), rounds)
        rows: list[Row] = [{"subject": "floor of an event", "quiet_ns": floor[0], "quiet": 1.0, "flat": 1.0}]
        for name, value in VALUES.items():
            call = _event(record, value)
            quiet, flat = _paced(call, rounds), _flat(call, rounds)
            rows.append({"subject": name, "quiet_ns": quiet, "quiet": quiet / floor[0], "flat": flat / floor[1]})
        sizes = SIZES[:3] if quick else SIZES
        for name, make in DICTS.items():
            rows += [{"subject": f"{size:,} {name}", **_dict(record, make, size, rounds)} for size in sizes]
    return rows


def _event(record: Callable[[Any], object], value: Callable[[], Any]) -> Call:
    steps = itertools.count().__next__
    return lambda: record(
        Event("train.step", EventSource.WORKER, 0, {"step": steps(), "loss": 0.5, "role": "default", "value": value()})
    )


def _floor() -> Call:
    """Return the least that keeping an event can cost in Python."""
    kept: collections.deque[tuple[int, Any]] = collections.deque(maxlen=2048)
    now = time.time_ns
    return _event(lambda event: kept.append((now(), event)), VALUES["plain values"])


def _paced(call: Call, rounds: int) -> float:
    """Return the median of a call's nanoseconds, twenty in a row and a pause that lets the drain's thread work."""
    spent = []
    for _ in range(10 * rounds):
        time.sleep(0.002)
        began = time.perf_counter_ns()
        for _ in range(20):
            call()
        spent.append((time.perf_counter_ns() - began) / 20)
    return statistics.median(spent)


def _flat(call: Call, rounds: int) -> float:
    """Return the median of a call's nanoseconds over thousands in a row."""
    spent = []
    for _ in range(rounds):
        began = time.perf_counter_ns()
        for _ in range(2_000):
            call()
        spent.append((time.perf_counter_ns() - began) / 2_000)
    return statistics.median(spent)


def _dict(record: Callable[[Any], object], make: Callable[[int], dict[Any, Any]], size: int, rounds: int) -> Row:
    """Measure the first `record()` of dicts that were never seen."""
    spent = []
    for _ in range(rounds):
        event = Event("e", EventSource.WORKER, 0, make(size))
        time.sleep(0.002)
        began = time.perf_counter_ns()
        record(event)
        spent.append((time.perf_counter_ns() - began) / 1_000)
    return {"us": statistics.median(spent), "worst_us": max(spent)}


def report(rows: list[Row]) -> str:
    """Return both tables."""
    values = {
        "quiet, × floor": lambda row: f"{row['quiet']:.1f}",
        "flat out, × floor": lambda row: f"{row['flat']:.1f}",
        "quiet, ns": lambda row: f"{row['quiet_ns']:.0f}",
    }
    dicts = {"median us": lambda row: f"{row['us']:.0f}", "worst us": lambda row: f"{row['worst_us']:.0f}"}
    return "\n\n".join(
        (
            table("Cost of an event by what it holds", [row for row in rows if "quiet" in row], values),
            table("Cost of an event with a large dict, its first time", [row for row in rows if "us" in row], dicts),
        )
    )


if __name__ == "__main__":
    print_table(report(run()))
