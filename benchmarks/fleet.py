"""Does one launcher keep up with its workers' flight recorders, and what does an idle one cost?

`python -m benchmarks.fleet [WORKERS] [SECONDS]`: that many processes emit 1,000 metric points a second each into recorders;
one bus collects them all into a handler that counts.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import NamedTuple

import anyio

from benchmarks.measure import table
from elastic_events import EventBus, Record, collect

WORKER = """
import sys, time
from elastic_metrics import put_metric
rate, until = int(sys.argv[1]), time.monotonic() + float(sys.argv[2])
n = 0
tick = time.monotonic()
while time.monotonic() < until:
    for _ in range(rate // 50): put_metric("loss", n); n += 1
    tick += 0.02
    time.sleep(max(tick - time.monotonic(), 0))
"""


class Fleet(NamedTuple):
    """What one launcher collected."""

    collected: int  #: records
    lost: int  #: records overwritten in a worker's ring before they were collected
    per_second: float
    cpu: float  #: of the launcher, percent of a core


def run(workers: int = 64, seconds: float = 10, rate: int = 1000) -> Fleet:
    """Collect `workers` processes for `seconds`."""
    with tempfile.TemporaryDirectory() as folder:
        return anyio.run(_run, Path(folder) / "recorders", workers, seconds, rate)


async def _run(folder: Path, workers: int, seconds: float, rate: int) -> Fleet:
    count = lost = 0

    async def counting(records: list[Record]) -> None:
        nonlocal count, lost
        count += sum(record.kind == "metric" for record in records)
        lost += sum(record.fields[2]["count"] for record in records if record.name == "recorder.lost")

    folder.mkdir(0o700)
    environ = {**os.environ, "ELASTIC_EVENTS_DIR": str(folder)}
    async with EventBus(deadline=60) as bus:
        bus.subscribe(counting, batch_size=1000)
        bus.add_source(collect, folder, bus)
        arguments = [sys.executable, "-c", WORKER, str(rate), str(seconds)]
        processes = [subprocess.Popen(arguments, env=environ) for _ in range(workers)]
        began, spent = time.monotonic(), time.process_time()
        while any(process.poll() is None for process in processes):
            await anyio.sleep(0.1)
        while any(folder.glob("*.ring")):
            await anyio.sleep(0.1)
        wall, cpu = time.monotonic() - began, time.process_time() - spent
    return Fleet(count, lost, count / wall, 100 * cpu / wall)


def report(rows: dict[str, Fleet]) -> str:
    """Return the table."""
    columns = {
        "collected": lambda row: f"{row.collected:,}",
        "lost": lambda row: f"{row.lost:,}",
        "a second": lambda row: f"{row.per_second:,.0f}",
        "launcher's CPU": lambda row: f"{row.cpu:.1f} %",
    }
    return table("One launcher, many recorders", rows, columns)


if __name__ == "__main__":
    counts = [int(sys.argv[1])] if len(sys.argv) > 1 else [1, 16, 64]
    seconds = float(sys.argv[2]) if len(sys.argv) > 2 else 10
    rows = {f"{count} workers, 1,000/s each": run(count, seconds) for count in counts}
    rows[f"{counts[-1]} workers, idle"] = run(counts[-1], seconds, rate=0)
    print(report(rows))
