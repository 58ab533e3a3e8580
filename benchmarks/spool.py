"""Ten minutes of a sink that is away, at 2,000 records a second: how fast, how large? `python -m benchmarks.spool`."""

import json
import statistics
import subprocess
import sys
from typing import NamedTuple

from benchmarks.measure import Row, print_table, table

SCRIPT = """
import json, resource, sys, tempfile, time
from pathlib import Path
from elastic_events.bus.backlog import Backlog
from elastic_events.bus.context import read_context
from elastic_events.bus.record import Record, record_of
from elastic_events.recorder.spool import Spool

kind, limit, count = sys.argv[1], int(sys.argv[2]), int(sys.argv[3])
context = read_context()
FEED, BATCH = 500, 500

def records(first):
    if kind == "metrics":
        return [record_of("metric", n, n, n, "loss", "torchelastic", (0.5,), context, 40) for n in range(first, first + FEED)]
    about = {"epoch": 1, "loss": 0.5, "path": "/data/shard", "ok": True}
    return [
        record_of("event", n, n, n, "step", "null", ("WORKER", 0, {"step": n, **about}), context, 120)
        for n in range(first, first + FEED)
    ]

def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * resource.getpagesize() / 2**20

with tempfile.TemporaryDirectory() as folder:
    spool = Spool(Path(folder, "spool"), limit=limit) if limit else None
    # Without one: memory for all of them, as a comparison.
    backlog = Backlog(65_536 if limit else count, 64 * 2**20 if limit else 2**40, "drop_oldest", spool)
    before = most = resident()
    filled = into = out = disk = 0
    for first in range(0, count, FEED):
        fed = records(first)
        began = time.perf_counter()
        backlog.push(fed)
        into += time.perf_counter() - began
        if first % 50_000 == 0:
            filled = filled or (resident() if first >= 100_000 else 0)  # memory was full once, and is on disk
            most = max(most, resident())
    disk = spool.size / 2**20 if limit else 0
    lost = backlog.losses().total()
    taken = 0
    while True:
        began = time.perf_counter()
        batch = backlog.take(BATCH, 2**20)
        out += time.perf_counter() - began
        if not batch:
            break
        taken += len(batch)
        if taken % 50_000 == 0:
            most = max(most, resident())
    assert taken + lost == count, (taken, lost)
    backlog.close()
print(json.dumps([count / into, taken / out, disk, filled - before, most - before, lost]))
"""

SUBJECTS = (("metrics", 2**30), ("metrics", 32 * 2**20), ("events", 2**30), ("metrics", 0))


class Spooled(NamedTuple):
    """Of one backlog."""

    into: float  #: records a second
    out: float  #: likewise
    disk_mib: float  #: when all were in
    filled_mib: float  #: resident memory beyond the imports, after 100,000 records
    most_mib: float  #: and at most
    lost: float  #: of a full spool, counted


def run(quick: bool = False) -> list[Row]:
    """Measure in fresh processes; give the medians."""
    rounds, count = (1, 120_000) if quick else (3, 1_200_000)
    rows: list[Row] = []
    for kind, limit in SUBJECTS:
        command = [sys.executable, "-c", SCRIPT, kind, str(limit), str(count)]
        found = [json.loads(subprocess.check_output(command)) for _ in range(rounds)]
        median = Spooled(*map(statistics.median, zip(*found, strict=True)))
        where = f"at most {limit / 2**20:,.0f} MiB" if limit else "in memory, for comparison"
        rows.append({"subject": f"{count:,} {kind}, {where}", **median._asdict()})
    return rows


def report(rows: list[Row]) -> str:
    """Return the table."""
    columns = {
        "records a second in": lambda row: f"{row['into']:,.0f}",
        "out": lambda row: f"{row['out']:,.0f}",
        "MiB on disk": lambda row: f"{row['disk_mib']:.0f}",
        "MiB of memory after 100,000": lambda row: f"{row['filled_mib']:.1f}",
        "at most": lambda row: f"{row['most_mib']:.1f}",
        "lost, counted": lambda row: f"{row['lost']:,.0f}",
    }
    return table("A sink that is away: a backlog that goes on in files", rows, columns)


if __name__ == "__main__":
    print_table(report(run("--quick" in sys.argv)))
