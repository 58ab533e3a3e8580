"""Does telemetry show in the training step? A pure-Python step of 1 ms that emits 10 metrics, in a fresh process a subject.

`python -m benchmarks.interference`. A late step is one that took over 1 ms longer than the loop's own median.
"""

import json
import logging
import logging.handlers
import queue
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import table

SUBJECTS = ("nothing", "ours, flight recorder", "ours, background thread", "logging, QueueListener")


class Steps(NamedTuple):
    """Step times of one subject."""

    p50_us: float
    p99_us: float
    late: float  #: share of steps over a millisecond late, percent


def run(rounds: int = 3, steps: int = 1500) -> dict[str, Steps]:
    """Measure each subject in processes of its own, in turn."""
    found: dict[str, list[Steps]] = {name: [] for name in SUBJECTS}
    for _ in range(rounds):
        for name in SUBJECTS:
            done = subprocess.run(
                [sys.executable, "-m", "benchmarks.interference", "--subject", name, str(steps)],
                capture_output=True,
                text=True,
                check=True,
            )
            found[name].append(Steps(*json.loads(done.stdout)))
    return {name: Steps(*map(statistics.median, zip(*rows, strict=True))) for name, rows in found.items()}


def one(name: str, steps: int) -> Steps:
    """Run the loop with one way to emit."""
    with tempfile.TemporaryDirectory() as folder:
        emit, stop = _emitter(name, Path(folder))
        _work(200)
        spent = []
        for _ in range(steps):
            began = time.perf_counter_ns()
            for metric in range(10):
                emit("loss", metric)
            _work(30_000)
            spent.append(time.perf_counter_ns() - began)
        stop()
    spent.sort()
    median = spent[len(spent) // 2]
    late = sum(took > median + 1_000_000 for took in spent)
    return Steps(median / 1e3, spent[int(len(spent) * 0.99)] / 1e3, 100 * late / len(spent))


def _work(rounds: int) -> int:
    """Hold the GIL for about a millisecond, as a Python training loop does."""
    total = 0
    for number in range(rounds):
        total += number * number % 7
    return total


def _emitter(name: str, folder: Path) -> tuple[Callable[[str, float], object], Callable[[], object]]:
    if name == "nothing":
        return (lambda _name, _value: None), (lambda: None)
    if name == "logging, QueueListener":
        records: queue.SimpleQueue[Any] = queue.SimpleQueue()
        listener = logging.handlers.QueueListener(records, logging.FileHandler(folder / "log"))
        logger = logging.Logger("bench", logging.INFO)
        logger.addHandler(logging.handlers.QueueHandler(records))
        listener.start()
        return (lambda key, value: logger.info("%s=%s", key, value)), listener.stop
    if name == "ours, flight recorder":
        from elastic_events.bus.context import read_context
        from elastic_events.bus.emit import Emitter
        from elastic_events.bus.redact import Redactor
        from elastic_events.recorder import open_rings

        events, metrics = open_rings(folder / "rings", read_context())
        return Emitter(events.pipe, metrics.pipe, Redactor()).put_metric, lambda: None
    from elastic_events import EventBus

    bus = EventBus(f"jsonl:///{folder / 'out.jsonl'}")
    bus.open()
    return bus.put_metric, bus.close


def report(rows: dict[str, Steps]) -> str:
    """Return the table."""
    columns = {
        "p50 µs": lambda row: f"{row.p50_us:.0f}",
        "p99 µs": lambda row: f"{row.p99_us:.0f}",
        "late steps": lambda row: f"{row.late:.2f} %",
    }
    return table("A 1 ms step that emits 10 metrics", rows, columns)


if __name__ == "__main__":
    if "--subject" in sys.argv:
        print(json.dumps(one(sys.argv[2], int(sys.argv[3]))))
    else:
        print(report(run(1, 300) if "--quick" in sys.argv else run()))
