"""What does a collector process cost, and what does it keep up with? `python -m benchmarks.collector [--quick]`.

Start: how long the call of `start` takes, how long until a first record is in the database, and how much longer a script
takes that records one event and ends. Flush: of one record, while it idles. Idle: CPU and memory of the collector with
writers that write nothing; memory is what is its own (`Private` in smaps) without the mapped rings, which are its writers'.
Load: how many records of writers at full pace arrive. Each figure is the median of several runs, in processes of their own.
"""

import json
import os
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from benchmarks.measure import Row, print_table, table

__all__ = ("collectors", "main", "private_mib", "report", "run", "until")

START = """
import sys, time, json
import elastic_events
from elastic_events import Event, record
began = time.perf_counter()
bus = elastic_events.start("sqlite:///run.db", timeout=30)
called = time.perf_counter() - began
record(Event("first", "WORKER"))
bus.flush_sync(30)
arrived = time.perf_counter() - began
flushes = []
for _ in range(20):
    time.sleep(0.05)
    record(Event("one", "WORKER"))
    at = time.perf_counter()
    bus.flush_sync(30)
    flushes.append(time.perf_counter() - at)
flushes.sort()
print(json.dumps({"call_ms": called * 1e3, "collecting_ms": arrived * 1e3, "flush_ms": flushes[10] * 1e3}))
"""

SHORT = """
import elastic_events
from elastic_events import Event, record
{start}
record(Event("only", "WORKER"))
"""

LOAD = """
import sys, time
import elastic_events
from elastic_metrics import put_metric
elastic_events.start("sqlite:///run.db", timeout=60)
rate, seconds = int(sys.argv[1]), float(sys.argv[2])
began, n = time.monotonic(), 0
while n < rate * seconds:
    due = min(int((time.monotonic() - began) * rate) + 1, int(rate * seconds))
    while n < due:
        put_metric("loss", n)
        n += 1
    time.sleep(0.001)
"""

IDLE = """
import sys
import elastic_events
from elastic_metrics import put_metric
elastic_events.start("sqlite:///run.db")
put_metric("loss", 1)
print("ready", flush=True)
sys.stdin.readline()
"""


def run(quick: bool = False) -> list[Row]:
    """Ask each question `rounds` times."""
    rounds, seconds = (1, 0.5) if quick else (5, 10.0)
    rows = [_start(rounds), _short(rounds)]
    rows += [_idle(writers, seconds) for writers in ((1, 4) if quick else (1, 64))]
    loads = ((1, 5000),) if quick else ((1, 60_000), (64, 1000))
    return [*rows, *(_load(writers, rate, seconds) for writers, rate in loads)]


def _start(rounds: int) -> Row:
    found = [json.loads(_python(START)) for _ in range(rounds)]
    return {"subject": "start", **{key: statistics.median(one[key] for one in found) for key in found[0]}}


def _short(rounds: int) -> Row:
    ways = {"without": "", "with": 'elastic_events.start("sqlite:///run.db")'}
    spent: dict[str, list[float]] = {way: [] for way in ways}
    for _ in range(rounds):
        for way, start in ways.items():
            began = time.perf_counter()
            _python(SHORT.format(start=start))
            spent[way].append(time.perf_counter() - began)
    longer = statistics.median(spent["with"]) - statistics.median(spent["without"])
    return {"subject": "a script of one event", "longer_ms": longer * 1e3}


def _idle(writers: int, seconds: float) -> Row:
    with _place() as folder:
        idle = [_popen(folder, IDLE, stdin=subprocess.PIPE, RANK=str(rank)) for rank in range(writers)]
        for program in idle:
            assert program.stdout is not None
            program.stdout.readline()
        (pid,) = until(lambda: collectors(folder))
        time.sleep(1)
        before = _cpu_seconds(pid)
        time.sleep(seconds)
        cpu = 100 * (_cpu_seconds(pid) - before) / seconds
        private = private_mib(pid)
        for program in idle:
            program.communicate("\n")
    return {"subject": f"idle, {writers} writer{'s' * (writers > 1)}", "cpu_percent": cpu, "private_mib": private}


def _load(writers: int, rate: int, seconds: float) -> Row:
    with _place() as folder:
        began = time.perf_counter()
        programs = [_popen(folder, LOAD, str(rate), str(seconds), RANK=str(rank)) for rank in range(writers)]
        for program in programs:
            program.communicate()
        spent = time.perf_counter() - began
        connection = sqlite3.connect(folder / "run.db")
        (arrived,) = connection.execute("SELECT count(*) FROM metrics").fetchone()
        connection.close()
    emitted = writers * int(rate * seconds)
    subject = f"{writers} writer{'s' * (writers > 1)}, {rate:,}/s each"
    return {"subject": subject, "emitted": emitted, "arrived": arrived, "seconds": spent}


# --- processes ---


class _Place(tempfile.TemporaryDirectory[str]):
    """A folder for a database and, below it, the recorders."""

    def __enter__(self) -> Path:  # type: ignore[override]
        folder = Path(super().__enter__())
        (folder / "tmp").mkdir()
        return folder


def _place() -> _Place:
    return _Place(ignore_cleanup_errors=True)


def _environment(folder: Path, **more: str) -> dict[str, str]:
    path = os.pathsep.join(filter(None, [str(Path.cwd()), *sys.path]))
    return {**os.environ, "TMPDIR": str(folder / "tmp"), "PYTHONPATH": path, **more}


def _python(program: str) -> str:
    with _place() as folder:
        call = [sys.executable, "-c", program]
        done = subprocess.run(call, cwd=folder, env=_environment(folder), capture_output=True, text=True, check=True)
    return done.stdout


def _popen(
    folder: Path, program: str, *arguments: str, stdin: int | None = None, **env: str
) -> "subprocess.Popen[str]":
    return subprocess.Popen(
        [sys.executable, "-c", program, *arguments],
        cwd=folder,
        env=_environment(folder, **env),
        stdin=stdin,
        stdout=subprocess.PIPE,
        text=True,
    )


def collectors(folder: Path) -> list[int]:
    """Return the pids of the collectors of the directories below `folder`, without the shells that look after them."""
    return [
        pid
        for pid, words in _processes()
        if Path(words[0]).name != "sh"
        and any("recorder.daemon" in word for word in words)
        and any(word.startswith(str(folder)) for word in words)
    ]


def _processes() -> Iterator[tuple[int, list[str]]]:
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with suppress(OSError):
                yield int(entry.name), (entry / "cmdline").read_bytes().decode(errors="replace").split("\0")


def until(condition: Callable[[], Any], seconds: float = 30) -> Any:
    """Wait until `condition()` holds; return what it returned.

    Raises:
        TimeoutError: it did not.
    """
    deadline = time.monotonic() + seconds
    while not (found := condition()):
        if time.monotonic() > deadline:
            raise TimeoutError(f"it did not come about in {seconds:.0f} s")
        time.sleep(0.01)
    return found


def _cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_bytes().rpartition(b")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def private_mib(pid: int) -> float:
    """Return the memory that is a collector's own: not the rings, of which it maps pages that their writers have not touched."""
    kib, is_ring = 0, False
    for line in Path(f"/proc/{pid}/smaps").read_text().splitlines():
        if not line.partition(" ")[0].endswith(":"):  # the first line of a mapping ends with its file
            is_ring = line.endswith((".ring", ".ring (deleted)"))
        elif line.startswith("Private_") and not is_ring:
            kib += int(line.split()[1])
    return kib / 1024


def report(rows: list[Row]) -> str:
    """Return the table."""

    def show(key: str, unit: str, digits: int = 1) -> Callable[[Row], str]:
        return lambda row: f"{row[key]:,.{digits}f}{unit}" if key in row else ""

    columns = {
        "the call": show("call_ms", " ms"),
        "first record delivered": show("collecting_ms", " ms", 0),
        "flush": show("flush_ms", " ms"),
        "longer": show("longer_ms", " ms", 0),
        "CPU": show("cpu_percent", " %", 2),
        "its memory": show("private_mib", " MiB"),
        "emitted": show("emitted", "", 0),
        "arrived": show("arrived", "", 0),
    }
    return table("The collector process", rows, columns)


def main() -> None:
    """Measure, and print."""
    print_table(report(run("--quick" in sys.argv)))


if __name__ == "__main__":
    main()
