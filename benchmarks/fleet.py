"""Does one launcher keep up with its workers' flight recorders, and what does an idle one cost?

`python -m benchmarks.fleet [WORKERS] [SECONDS]`: that many processes emit metric points into recorders, 1,000 a second each or,
of more than 64, 64,000 together; one bus collects them all into a handler that counts. All share this machine's cores.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import anyio

from benchmarks.measure import Row, print_table, table
from elastic_events import EventBus, Record

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
print(n)
"""


def run(
    quick: bool = False, counts: Sequence[int] = (1, 16, 64, 256), seconds: float = 10, idle: int = 64
) -> list[Row]:
    """Collect each number of workers for `seconds`, and `idle` workers that emit nothing."""
    if quick:
        counts, seconds, idle = (1, 4), 0.5, 4
    rows = [_fleet(count, seconds, min(1000, 64_000 // count)) for count in counts]
    return [*rows, _fleet(idle, seconds, 0)]


def _fleet(workers: int, seconds: float, rate: int) -> Row:
    with tempfile.TemporaryDirectory() as folder:
        row = anyio.run(_run, Path(folder) / "recorders", workers, seconds, rate)
    does = f"{rate:,}/s each" if rate else "idle"
    return {"subject": f"{workers} worker{'s' * (workers > 1)}, {does}", **row}


async def _run(folder: Path, workers: int, seconds: float, rate: int) -> Row:
    count = lost = 0

    async def counting(records: list[Record]) -> None:
        nonlocal count, lost
        count += sum(record.kind == "metric" for record in records)
        lost += sum(record.fields[2]["count"] for record in records if record.name == "recorder.lost")

    folder.mkdir(0o700)
    environ = {**os.environ, "ELASTIC_EVENTS_DIR": str(folder)}
    async with EventBus(timeout=60) as bus:
        bus.subscribe(counting, batch_size=1000)
        await bus.collect(folder)
        arguments = [sys.executable, "-c", WORKER, str(rate), str(seconds)]
        start = partial(subprocess.Popen, arguments, env=environ, stdout=subprocess.PIPE, text=True)
        # In a thread: starting 256 processes takes seconds, for which this loop would collect nothing.
        processes = await anyio.to_thread.run_sync(lambda: [start() for _ in range(workers)])
        began, spent = time.monotonic(), time.process_time()
        while any(process.poll() is None for process in processes):
            await anyio.sleep(0.1)
        while any(folder.glob("*.ring")):
            await anyio.sleep(0.1)
        wall, cpu = time.monotonic() - began, time.process_time() - spent
    emitted = sum(int(process.communicate()[0]) for process in processes)
    lost += sum(lane.lost for lane in bus.stats().lanes.values())
    assert emitted == count + lost, (emitted, count, lost)
    return {
        "emitted": emitted,
        "collected": count,
        "lost": lost,
        "per_second": count / wall,
        "cpu_percent": 100 * cpu / wall,
    }


def report(rows: list[Row]) -> str:
    """Return the table."""
    columns = {
        "emitted": lambda row: f"{row['emitted']:,}",
        "collected": lambda row: f"{row['collected']:,}",
        "lost": lambda row: f"{row['lost']:,}",
        "a second": lambda row: f"{row['per_second']:,.0f}",
        "launcher's CPU": lambda row: f"{row['cpu_percent']:.1f} %",
    }
    return table("One launcher, many recorders", rows, columns)


if __name__ == "__main__":
    numbers = [argument for argument in sys.argv[1:] if argument != "--quick"]
    options: dict[str, Any] = {"quick": "--quick" in sys.argv}
    if numbers:
        options |= {"counts": [int(numbers[0])], "idle": int(numbers[0])}
    if len(numbers) > 1:
        options["seconds"] = float(numbers[1])
    print_table(report(run(**options)))
