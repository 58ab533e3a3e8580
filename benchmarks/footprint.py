"""What does it cost to be there: import, memory, threads, processor while idle? `python -m benchmarks.footprint`."""

import json
import statistics
import subprocess
import sys
from typing import NamedTuple

from benchmarks.measure import Row, print_table, table

SCRIPT = """
import json, resource, sys, threading, time
import anyio, msgspec
began = time.perf_counter()
import elastic_events, elastic_metrics
imported = time.perf_counter() - began

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

def used():
    usage = resource.getrusage(resource.RUSAGE_SELF)
    return usage.ru_utime + usage.ru_stime, usage.ru_nvcsw

async def nothing(records): pass

before, threads = resident(), threading.active_count()
bus = elastic_events.EventBus()
bus.subscribe(nothing, batch_size=500)
with bus:
    elastic_metrics.put_metric("loss", 1.0)
    bus.flush_sync()
    idle = resident() - before
    more = threading.active_count() - threads
    processor, switches = used()
    seconds = float(sys.argv[1])
    time.sleep(seconds)
    now, woken = used()
    for number in range(50_000):
        elastic_metrics.put_metric("loss", number)
    bus.flush_sync()
    busy = resident() - before
print(json.dumps([imported * 1e3, idle, busy, more, 100 * (now - processor) / seconds, (woken - switches) / seconds]))
"""


class Footprint(NamedTuple):
    """Of one bus with one handler."""

    import_ms: float  #: both packages, beyond anyio and msgspec
    idle_mib: float  #: resident memory beyond the imports
    used_mib: float  #: the same after 50,000 points
    threads: float
    idle_percent: float  #: of one core
    wakeups: float  #: a second, idle


def run(quick: bool = False) -> list[Row]:
    """Measure in fresh processes; give the medians."""
    rounds, seconds = (1, 0.2) if quick else (5, 3.0)
    command = [sys.executable, "-c", SCRIPT, str(seconds)]
    found = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
    row = Footprint(*map(statistics.median, zip(*found, strict=True)))
    return [{"subject": "ours", **row._asdict()}]


def report(rows: list[Row]) -> str:
    """Return the table."""
    columns = {
        "import ms": lambda row: f"{row['import_ms']:.0f}",
        "MiB idle": lambda row: f"{row['idle_mib']:.1f}",
        "MiB after 50,000 points": lambda row: f"{row['used_mib']:.1f}",
        "threads": lambda row: f"{row['threads']:.0f}",
        "% of a core, idle": lambda row: f"{row['idle_percent']:.2f}",
        "wake-ups a second, idle": lambda row: f"{row['wakeups']:.1f}",
    }
    return table("One bus, one handler, a background thread", rows, columns)


if __name__ == "__main__":
    print_table(report(run("--quick" in sys.argv)))
