"""Is an acknowledged record ever lost to SIGKILL? `python -m benchmarks.torture [KILLS] [JOBS]`, 10,000 in 2 by default.

Each kill starts a worker that emits at full speed and publishes what was acknowledged, and kills it at a random instant.

`python -m benchmarks.torture --collected [KILLS] [JOBS]`, 1,000 in 1 by default: the same with programs of one line, which
a collector process delivers into SQLite with nobody doing anything; it is killed, too, beside every tenth of them.
"""

import os
import random
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from contextlib import closing, suppress
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks.collector import collectors, until
from tests.recorder.test_collect import Tortured, torture

__all__ = ("Collected", "report", "run", "torture_collected")

#: Kills that one job makes at a time; with a collector, those that share a directory and a database.
SHARE = 50

#: One line, and records at full speed; what was acknowledged is in a mapped file, which outlives it.
PROGRAM = """
import mmap, os, sys, threading
import elastic_events
from elastic_metrics import put_metric
elastic_events.start(sys.argv[2], timeout=0)
assert threading.active_count() == 1, "a thread drains"
shared = memoryview(mmap.mmap(os.open(sys.argv[1], os.O_RDWR), 8)).cast("Q")
n = 0
while True:
    put_metric("m", n)
    n += 1
    shared[0] = n  # put_metric has returned for all below n
"""


class Collected(NamedTuple):
    """What became of killed programs and what they had recorded."""

    acknowledged: int = 0  #: `put_metric` had returned before the kill
    delivered: int = 0  #: in the database, each number once
    lost: int = 0  #: and counted in events `recorder.lost`: overwritten, or under way at the kill
    missing: int = 0  #: acknowledged, neither delivered nor counted
    excess: int = 0  #: counted as lost, and delivered all the same, or never recorded
    twice: int = 0  #: delivered under different ids
    corrupt: int = 0  #: delivered, and never recorded so
    deaths: int = 0  #: told, once a program


def run(kills: int = 10_000, jobs: int = 2) -> Tortured:
    """Kill `kills` workers, `jobs` at a time, and return what was left of them."""
    return _shared(_share, Tortured(), kills, jobs)


def run_collected(kills: int = 1000, jobs: int = 1) -> Collected:
    """Kill `kills` programs of one line, and return what their collectors made of it."""
    return _shared(_share_collected, Collected(), kills, jobs)


def _shared(share: Callable[[int], Any], total: Any, kills: int, jobs: int) -> Any:
    shares = [min(SHARE, kills - begin) for begin in range(0, kills, SHARE)]
    with ProcessPoolExecutor(jobs) as pool:
        for number, found in enumerate(pool.map(share, shares), start=1):
            total = type(total)(*map(sum, zip(total, found, strict=True)))
            print(f"{sum(shares[:number]):,} of {kills:,} kills: {report(total)}", file=sys.stderr, flush=True)
    return total


def report(found: Tortured | Collected) -> str:
    """Return one sentence."""
    return ", ".join(f"{count:,} {name}" for name, count in found._asdict().items())


def _share(kills: int) -> Tortured:
    with tempfile.TemporaryDirectory() as folder:
        return torture(Path(folder), kills)


def _share_collected(kills: int) -> Collected:
    with tempfile.TemporaryDirectory() as folder:
        return torture_collected(Path(folder), kills)


# --- through a collector ---


def torture_collected(folder: Path, kills: int, collector_every: int = 10) -> Collected:
    """Kill `kills` programs that share a directory, and its collector with some of them; return what is in the database."""
    acknowledged = dict(_kill(folder, number % collector_every == collector_every - 1) for number in range(kills))
    # A run of the collector ends when all is delivered; what it cannot deliver it leaves.
    until(lambda: not collectors(folder) and not list((folder / "recorders").iterdir()), 600)
    with closing(sqlite3.connect(folder / "run.db")) as connection:
        return _judge(connection, acknowledged)


def _kill(folder: Path, collector: bool) -> tuple[int, int]:
    """Start a program, kill it at a random instant, and its collector if so; return its pid and what it had acknowledged."""
    counter = folder / "acknowledged"
    counter.write_bytes(bytes(8))
    environ = {**os.environ, "ELASTIC_EVENTS_DIR": str(folder / "recorders"), "PYTHONPATH": os.pathsep.join(sys.path)}
    program = subprocess.Popen([sys.executable, "-c", PROGRAM, str(counter), f"sqlite:///{folder}/run.db"], env=environ)
    try:
        until(lambda: int.from_bytes(counter.read_bytes(), "little") or program.poll() is not None)
        time.sleep(random.random() ** 3)  # the instant is what is random: before it is collected, and later
        if collector:
            for pid in collectors(folder):
                with suppress(ProcessLookupError):
                    os.kill(pid, signal.SIGKILL)
    finally:
        program.kill()
        program.wait()
    return program.pid, int.from_bytes(counter.read_bytes(), "little")


def _judge(connection: sqlite3.Connection, acknowledged: dict[int, int]) -> Collected:
    total = Collected()
    for pid, count in acknowledged.items():
        values = connection.execute(
            "SELECT seq, value FROM metrics JOIN contexts USING (context) WHERE pid = ? AND name = 'm'", (pid,)
        ).fetchall()
        delivered = {value for _, value in values}
        lost = sum(
            counted
            for (counted,) in connection.execute(
                "SELECT max(metadata ->> 'total') FROM events WHERE name = 'recorder.lost' AND metadata ->> 'pid' = ?"
                " GROUP BY metadata ->> 'process', metadata ->> 'reason'",
                (pid,),
            )
            if counted
        )
        (deaths,) = connection.execute(
            "SELECT count(*) FROM events JOIN contexts USING (context) WHERE name = 'worker.died' AND pid = ?", (pid,)
        ).fetchone()
        gone = len(set(range(count)) - delivered)
        one = Collected(
            acknowledged=count,
            delivered=len(delivered),
            lost=lost,
            missing=max(gone - lost, 0),
            excess=max(lost - gone - 1, 0),  # the one that was under way may be counted
            twice=len(values) - len(delivered),
            corrupt=sum(seq != value for seq, value in values),
            deaths=deaths,
        )
        total = Collected(*map(sum, zip(total, one, strict=True)))
    return total


if __name__ == "__main__":
    words = [word for word in sys.argv[1:] if word != "--collected"]
    found = (run_collected if "--collected" in sys.argv else run)(*map(int, words[:2]))
    print(report(found))
    sys.exit(1 if found.missing or found.corrupt or getattr(found, "twice", 0) else 0)
