"""What is left of 10,000 points when the process dies? `python -m benchmarks.survive`.

Each subject emits in a process of its own and dies there at once; then its file is read. The flight recorder keeps the
newest points of its ring by design: here the ring holds all of them. A collector process goes on when its program is dead:
its file is read when it has removed its directory, which it does when all is delivered.
"""

import contextlib
import logging
import logging.handlers
import os
import queue
import signal
import sqlite3
import subprocess
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.collector import until
from benchmarks.measure import Row, print_table, table

POINTS = 10_000
DEATHS = ("returns", "sys.exit", "exception", "SIGTERM", "os._exit", "SIGKILL")
COLLECTED = "ours, collector process, SQLite"
SUBJECTS = (
    COLLECTED,
    "ours, JSON Lines, handle_sigterm",
    "ours, flight recorder",
    "logging, FileHandler",
    "logging, QueueListener",
    "loguru, enqueue",
    "structlog, file",
)


def run(quick: bool = False) -> list[Row]:
    """Return how many points were left after each death: rows have `subject`, `points` and a key a death, or `absent`."""
    points = 500 if quick else POINTS
    rows: list[Row] = []
    for name in SUBJECTS:
        left = {death: _left(name, death, points) for death in DEATHS}
        rows.append(
            {"subject": name, "points": points, **left}
            if left["returns"] is not None
            else {"subject": name, "absent": ""}
        )
    return rows


def _left(name: str, death: str, points: int) -> int | None:
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "benchmarks.survive", "--subject", name, death, str(points), folder]
        environ = {**os.environ, "TMPDIR": folder}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False, timeout=60)
        if "ModuleNotFoundError" in done.stderr:
            return None
        if name == COLLECTED:
            until(lambda: not list(Path(folder).glob("elastic-events-*/*")))
            with contextlib.closing(sqlite3.connect(Path(folder) / "out")) as connection:
                (found,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
            return int(found)
        if name == "ours, flight recorder":
            from elastic_events.reading.source import read_records

            return sum(record.kind == "metric" for record in read_records(folder))
        file = Path(folder) / "out"
        return sum(b"loss" in line for line in file.read_bytes().splitlines()) if file.exists() else 0


def one(name: str, death: str, points: int, folder: Path) -> None:
    """Emit, and die."""
    emit = _emitter(name, folder, points)
    for number in range(points):
        emit("loss", number)
    if death == "sys.exit":
        sys.exit(3)
    if death == "exception":
        raise RuntimeError("the training step failed")
    if death == "os._exit":
        os._exit(3)
    if death in ("SIGTERM", "SIGKILL"):
        os.kill(os.getpid(), getattr(signal, death))


def _emitter(name: str, folder: Path, points: int) -> Callable[[str, float], object]:
    file = folder / "out"
    if name == COLLECTED:
        import elastic_events
        from elastic_metrics import put_metric

        elastic_events.start(f"sqlite:///{file}")
        return put_metric
    if name.startswith("ours"):
        import elastic_events
        from elastic_metrics import put_metric

        recorder = folder if "recorder" in name else None
        handlers = () if recorder else (f"jsonl:///{file}",)
        elastic_events.start(
            *handlers,
            drain="thread",
            recorder=recorder,
            capacity=1 << (points - 1).bit_length(),
            handle_sigterm=not recorder,
        )
        return put_metric
    if name.startswith("loguru"):
        import importlib

        log = importlib.import_module("loguru").logger
        log.remove()
        log.add(str(file), enqueue=True)
        info = log.info
        return lambda key, value: info("{}={}", key, value)
    if name.startswith("structlog"):
        import importlib

        write = importlib.import_module("structlog").WriteLogger(file.open("w"))
        return lambda key, value: write.info(f"{key}={value}")
    handler: logging.Handler = logging.FileHandler(file)
    logger = logging.Logger("bench", logging.INFO)
    if "Queue" in name:
        records: queue.SimpleQueue[Any] = queue.SimpleQueue()
        listener = logging.handlers.QueueListener(records, handler)
        handler = logging.handlers.QueueHandler(records)
        listener.start()
        import atexit

        atexit.register(listener.stop)
    logger.addHandler(handler)
    return lambda key, value: logger.info("%s=%s", key, value)


def report(rows: list[Row]) -> str:
    """Return the table."""

    def column(death: str) -> Callable[[Row], str]:
        return lambda row: f"{row[death]:,}"

    return table(f"Points left of {rows[0]['points']:,}", rows, {death: column(death) for death in DEATHS})


if __name__ == "__main__":
    if "--subject" in sys.argv:
        one(sys.argv[2], sys.argv[3], int(sys.argv[4]), Path(sys.argv[5]))
    else:
        print_table(report(run("--quick" in sys.argv)))
