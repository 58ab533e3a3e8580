"""Does telemetry show in the training step? A step of 1 ms that emits 10 metrics, in a fresh process a subject.

    python -m benchmarks.interference [--quick] [--beside]
    python -m benchmarks.interference --step Python --rounds 12 --only "no telemetry" --only "logging, QueueListener"

Three steps: pure Python, which holds the GIL all the time; NumPy, which lets go of it; torch, where it is installed. A late
step is one that took over 1 ms longer than the median of the steps around it: a machine that is slower for a while, as
shared ones are, makes all of them longer, and none late. "By the loop" is the same by the median of all steps, which such a
machine is in. "Delivered" is how much of what was emitted had reached the sink by the end of the loop: who delivers later
interferes less, and loses more. "No sink" is a handler that counts, of logging one that formats as well. Subjects run in
turn, round by round; `--beside` keeps a process spinning beside all of them.
"""

import argparse
import contextlib
import json
import logging
import logging.handlers
import queue
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.measure import Row, load, print_table, table

__all__ = ("main", "report", "run")

NOTHING = "no telemetry"
STEPS = ("Python", "NumPy", "torch")
METRICS = 10
AROUND = 25  # steps before and after one that tell how long it should have taken
LATE = 1_000_000  # nanoseconds


class Subject(NamedTuple):
    """One way to emit, in a loop that is about to begin."""

    emit: Callable[[str, float], object]
    stop: Callable[[], object]
    delivered: Callable[[], int] | None = None  #: how many have arrived by now; None where nobody can tell


def run(quick: bool = False) -> list[Row]:
    """Measure each subject with each step in processes of its own; medians of the rounds."""
    return measure(list(SUBJECTS), STEPS[:1], 1, 300) if quick else measure(list(SUBJECTS), STEPS, 3, 1500)


def measure(
    names: Sequence[str],
    kinds: Sequence[str],
    rounds: int,
    steps: int,
    say: Callable[[str], object] = lambda _line: None,
) -> list[Row]:
    """Measure the subjects of these names in turn, `rounds` times, with each kind of step."""
    rows: list[Row] = []
    for step in kinds:
        found: dict[str, list[Row]] = {name: [] for name in names}
        for turn in range(rounds):
            say(f"{step} step, round {turn + 1} of {rounds}")
            for name in names:
                found[name].append(_process(name, step, steps))
        rows += (_medians(name, step, found[name]) for name in names)
    return rows


@contextlib.contextmanager
def beside(wanted: bool) -> Iterator[None]:
    """Keep a process spinning, if `wanted`."""
    if not wanted:
        yield
        return
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as spinning:
        try:
            yield
        finally:
            spinning.kill()


def _process(name: str, step: str, steps: int) -> Row:
    call = [sys.executable, "-m", "benchmarks.interference", "--subject", name, step, str(steps)]
    done = subprocess.run(call, capture_output=True, text=True, check=False)
    if done.returncode:
        return {"absent": done.stderr.strip().splitlines()[-1:]}
    row: Row = json.loads(done.stdout)
    return row


def _medians(name: str, step: str, rows: list[Row]) -> Row:
    if "absent" in rows[0]:
        return {"subject": name, "step": step, **rows[0]}
    found = {key: statistics.median(row[key] for row in rows) for key in rows[0]}
    # Of few late steps the median of the rounds is nothing: the mean tells how many there were.
    means = {
        f"{key}_mean": statistics.mean(row[key] for row in rows) for key in ("late_percent", "late_by_loop_percent")
    }
    return {"subject": name, "step": step, **found, **means}


def one(name: str, step: str, steps: int) -> Row:
    """Run the loop with one way to emit."""
    with tempfile.TemporaryDirectory() as folder:
        work = WORK[step]()
        emit, stop, delivered = SUBJECTS[name](Path(folder))
        work()
        spent = []
        for _ in range(steps):
            began = time.perf_counter_ns()
            for metric in range(METRICS):
                emit("loss", metric)
            work()
            spent.append(time.perf_counter_ns() - began)
        arrived = {"delivered_percent": 100 * delivered() / (steps * METRICS)} if delivered else {}
        stop()
    around = [statistics.median(spent[max(0, at - AROUND) : at + AROUND + 1]) for at in range(steps)]
    late = {
        "late_percent": _late_percent(spent, around),
        "late_by_loop_percent": _late_percent(spent, [statistics.median(spent)] * steps),
    }
    spent.sort()
    at = {key: spent[int(len(spent) * share)] / 1e3 for key, share in (("p50", 0.5), ("p99", 0.99), ("p999", 0.999))}
    return {**{f"{key}_us": value for key, value in at.items()}, **late, **arrived}


def _late_percent(spent: Sequence[int], usual: Sequence[float]) -> float:
    return 100 * sum(took > expected + LATE for took, expected in zip(spent, usual, strict=True)) / len(spent)


# --- the steps ---


def _calibrated(work: Callable[[int], object]) -> Callable[[], object]:
    """Return `work` with the amount that takes a millisecond here."""
    amount = 64
    while _seconds(work, amount) < 0.001:
        amount = amount * 5 // 4
    return lambda: work(amount)


def _seconds(work: Callable[[int], object], amount: int) -> float:
    times = []
    for _ in range(5):
        began = time.perf_counter()
        work(amount)
        times.append(time.perf_counter() - began)
    return min(times)


def _python() -> Callable[[], object]:
    def work(rounds: int) -> int:
        total = 0
        for number in range(rounds):
            total += number * number % 7
        return total

    return _calibrated(work)


def _numpy() -> Callable[[], object]:
    numpy = load("numpy")
    values = numpy.linspace(0, 1, 1 << 22)
    return _calibrated(lambda amount: numpy.sqrt(values[: amount * 64]).sum())


def _torch() -> Callable[[], object]:
    torch = load("torch")
    torch.set_num_threads(1)
    values = torch.linspace(0, 1, 1 << 22)
    return _calibrated(lambda amount: torch.sqrt(values[: amount * 64]).sum())


WORK = {"Python": _python, "NumPy": _numpy, "torch": _torch}


# --- the subjects ---


def _nothing(_folder: Path) -> Subject:
    return Subject(lambda _name, _value: None, lambda: None)


def _recorder(folder: Path) -> Subject:
    from elastic_events.bus.context import read_context
    from elastic_events.bus.emit import Emitter
    from elastic_events.bus.redact import Redactor
    from elastic_events.recorder.writer import open_rings

    events, metrics = open_rings(folder / "rings", read_context())
    put_metric = Emitter(events.pipe, metrics.pipe, Redactor()).put_metric
    return Subject(put_metric, lambda: None, lambda: metrics.head)  # a record is in the file when the call returns


def _jsonl(folder: Path) -> Subject:
    return _bus(f"jsonl:///{folder}/out", _lines(folder / "out"))


def _discard(_folder: Path) -> Subject:
    from elastic_events import EventBus
    from elastic_events.bus.handler import BATCH

    bus, count = EventBus(), [0]

    async def discard(records: Any) -> None:
        count[0] += len(records)

    bus.subscribe(discard, batch_size=BATCH)
    bus.open()
    return Subject(bus.put_metric, bus.close, lambda: count[0])


def _collected(folder: Path) -> Subject:
    import elastic_events

    bus = elastic_events.start(f"sqlite:///{folder}/out", timeout=60)
    assert threading.active_count() == 1  # no collector could be started, and a thread drains
    bus.put_metric("first", 0)
    bus.flush_sync(60)  # it collects: what its start costs, `collector.py` says

    def stop() -> None:
        left = bus.close()
        assert left, left

    return Subject(bus.put_metric, stop, lambda: _points(folder / "out") - 1)


def _sqlite(folder: Path) -> Subject:
    return _bus(f"sqlite:///{folder}/out", lambda: _points(folder / "out"))


def _points(database: Path) -> int:
    connection = sqlite3.connect(f"file:{database}?mode=ro", uri=True)
    try:
        (found,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
    finally:
        connection.close()
    return int(found)


def _bus(url: str, delivered: Callable[[], int]) -> Subject:
    from elastic_events import EventBus

    bus = EventBus(url)
    bus.open()
    return Subject(bus.put_metric, bus.close, delivered)


def _lines(path: Path, mark: bytes = b"\n") -> Callable[[], int]:
    return lambda: path.read_bytes().count(mark)


def _logging(folder: Path, module: Any = logging) -> Subject:
    return _queued(module, module.FileHandler(str(folder / "log")), _lines(folder / "log"))


def _logging_discard(_folder: Path) -> Subject:
    class Discard(logging.Handler):
        count = 0

        def emit(self, record: logging.LogRecord) -> None:
            self.format(record)
            self.count += 1

    handler = Discard()
    return _queued(logging, handler, lambda: handler.count)


def _queued(module: Any, handler: Any, delivered: Callable[[], int]) -> Subject:
    records: queue.SimpleQueue[Any] = queue.SimpleQueue()
    handlers = load(f"{module.__name__}.handlers")
    listener = handlers.QueueListener(records, handler)
    logger = module.Logger("bench", module.INFO)
    logger.addHandler(handlers.QueueHandler(records))
    listener.start()
    return Subject(lambda key, value: logger.info("%s=%s", key, value), listener.stop, delivered)


def _loguru(folder: Path) -> Subject:
    logger = load("loguru").logger
    logger.remove()
    logger.add(folder / "log", enqueue=True)
    info = logger.info
    return Subject(lambda key, value: info("{}={}", key, value), logger.complete, _lines(folder / "log"))


def _opentelemetry(folder: Path) -> Subject:
    logs, export = load("opentelemetry.sdk._logs"), load("opentelemetry.sdk._logs.export")
    out = (folder / "log").open("w")
    provider = logs.LoggerProvider()
    exporter = getattr(export, "ConsoleLogRecordExporter", None) or export.ConsoleLogExporter
    provider.add_log_record_processor(export.BatchLogRecordProcessor(exporter(out=out)))
    logger = logging.Logger("bench", logging.INFO)
    logger.addHandler(logs.LoggingHandler(logger_provider=provider))
    info = logger.info
    return Subject(lambda key, value: info("%s=%s", key, value), provider.shutdown, _lines(folder / "log", b'"body"'))


def _tensorboard(folder: Path) -> Subject:
    writer = load("tensorboardX").SummaryWriter(str(folder))
    return Subject(writer.add_scalar, writer.close)


SUBJECTS: dict[str, Callable[[Path], Subject]] = {
    NOTHING: _nothing,
    "ours, flight recorder": _recorder,
    "ours, collector process, SQLite": _collected,
    "ours, background thread, no sink": _discard,
    "ours, background thread, JSON Lines": _jsonl,
    "ours, background thread, SQLite": _sqlite,
    "logging, QueueListener, no sink": _logging_discard,
    "logging, QueueListener": _logging,
    "picologging, QueueListener": lambda folder: _logging(folder, load("picologging")),
    "loguru, enqueue": _loguru,
    "OpenTelemetry logs, batch": _opentelemetry,
    "TensorBoard (tensorboardX)": _tensorboard,
}


def report(rows: list[Row]) -> str:
    """Return a table a step."""
    columns = {
        "p50 µs": lambda row: f"{row['p50_us']:.0f}",
        "p99 µs": lambda row: f"{row['p99_us']:.0f}",
        "p99.9 µs": lambda row: f"{row['p999_us']:.0f}",
        "late steps": lambda row: f"{row['late_percent']:.2f} %",
        "mean": lambda row: f"{row['late_percent_mean']:.2f} %",
        "late by the loop": lambda row: f"{row['late_by_loop_percent']:.2f} %",
        "its mean": lambda row: f"{row['late_by_loop_percent_mean']:.2f} %",
        "delivered": lambda row: f"{row['delivered_percent']:.0f} %" if "delivered_percent" in row else "",
    }
    steps = [step for step in STEPS if any(row["step"] == step and "absent" not in row for row in rows)]
    return "\n\n".join(
        table(f"A {step} step of 1 ms that emits 10 metrics", [row for row in rows if row["step"] == step], columns)
        for step in steps
    )


def main() -> None:
    """Measure, and print."""
    if "--subject" in sys.argv:
        print(json.dumps(one(sys.argv[2], sys.argv[3], int(sys.argv[4]))))
        return
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.interference", description=(__doc__ or "").splitlines()[0]
    )
    parser.add_argument("--quick", action="store_true", help="a smoke run")
    parser.add_argument("--only", action="append", choices=list(SUBJECTS), help="measure this subject; repeatable")
    parser.add_argument("--step", action="append", choices=STEPS, help="with this step; repeatable")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--beside", action="store_true", help="keep a process spinning beside the loop")
    options = parser.parse_args()
    rounds, steps = (1, 300) if options.quick else (3, 1500)
    kinds = options.step or (STEPS[:1] if options.quick else STEPS)
    with beside(options.beside):
        rows = measure(
            options.only or list(SUBJECTS),
            kinds,
            options.rounds or rounds,
            steps,
            lambda line: print(line, file=sys.stderr),
        )
    print_table(report(rows))


if __name__ == "__main__":
    main()
