"""What does the plug-in cost a torchrun job, and what does a slow sink do to it, beside torch's own handlers?

Three questions, each asked in turn of all contenders, several times; medians, and ratios to plain torchrun:

1. wall time of a two-process job that succeeds, without and with the plug-in;
2. with a sink that takes nothing, a locked database: from a worker's death by SIGKILL to its detection, and to torchrun's exit,
   which waits for its deadline: 5 s, or none;
3. the same with torch's own handlers, of a second a record (`--torch-slow`, for it takes half a minute a run).

Run: `python benchmarks/torchrun.py [--runs N] [--torch-slow]`, in an environment with torch and this project.
"""

import argparse
import contextlib
import datetime
import os
import platform
import re
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

WORKER = """
import os, signal, sys, time
time.sleep(0.5)
if sys.argv[1] == "killed":
    if os.environ["RANK"] == "1":
        open("died", "w").write(str(time.time_ns()))
        os.kill(os.getpid(), signal.SIGKILL)
    time.sleep(60)
"""

#: torchrun with handlers of its own that take a second a record.
SLOW = """
import logging, sys, time
from torch.distributed.elastic import metrics
from torch.distributed.elastic.events import handlers
from torch.distributed.run import main

class Slow(logging.Handler):
    def emit(self, record): time.sleep(1)

class SlowMetrics(metrics.MetricHandler):
    def emit(self, data): time.sleep(1)

handlers._log_handlers["slow"] = Slow()
metrics.configure(SlowMetrics())
main(sys.argv[1:])
"""

LOCKED = "sqlite:///locked.db"


def run(program: list[str], mode: str, *flags: str, **env: str) -> dict[str, float]:
    """Run a job; return its wall time, and the times from the worker's death to its detection and to the end, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("worker.py", WORKER), ("slow.py", SLOW)):
            Path(folder, name).write_text(text)
        rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=job")
        command = [sys.executable, *program, "--nproc-per-node=2", *rendezvous, *flags, "worker.py", mode]
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
        with contextlib.closing(sqlite3.connect(Path(folder, "locked.db"), isolation_level=None)) as writer:
            writer.execute("BEGIN EXCLUSIVE")
            begin = time.perf_counter()
            done = subprocess.run(
                command,
                cwd=folder,
                env={**kept, "OMP_NUM_THREADS": "1", "TMPDIR": folder, **env},
                capture_output=True,
                check=False,
            )
            wall, end = time.perf_counter() - begin, time.time_ns()
        assert done.returncode == (mode == "killed"), done.stderr.decode()
        if mode != "killed":
            return {"wall time": wall}
        died = int(Path(folder, "died").read_text()) / 1e9
        # Torch says so in its log, with the time of day: the same for all contenders.
        found = re.search(r"^E\d{4} (\S+) .* failed \(exitcode", done.stderr.decode(), re.MULTILINE)
        assert found, done.stderr.decode()
        day = datetime.datetime.fromtimestamp(died).date()  # noqa: DTZ006 - the log is in local time
        seen = datetime.datetime.combine(day, datetime.time.fromisoformat(found[1])).timestamp()
        return {"to detection": seen - died, "to the end": end / 1e9 - died}


def compare(
    title: str, contenders: dict[str, tuple[list[str], str, tuple[str, ...], dict[str, str]]], runs: int
) -> None:
    """Run all contenders in turn, `runs` times, every other time backwards, and print medians and ratios to the first."""
    times: dict[str, dict[str, list[float]]] = {}
    for turn in range(runs + 1):
        for name, (program, mode, flags, env) in list(contenders.items())[:: 1 if turn % 2 else -1]:
            for what, value in run(program, mode, *flags, **env).items():
                if turn:  # the first turn fills the caches
                    times.setdefault(what, {}).setdefault(name, []).append(value)
    for what, rows in times.items():
        print(f"\n{title}: {what}\n")
        print("| | median | least | most | ratio of medians | median difference in a turn |\n|---|---|---|---|---|---|")
        first = rows[next(iter(contenders))]
        for name in contenders:
            values = rows[name]
            median = statistics.median(values)
            apart = statistics.median(value - plain for value, plain in zip(values, first, strict=True))
            cells = (f"{median:.3f} s", f"{min(values):.3f}", f"{max(values):.3f}")
            print(f"| {name} | {' | '.join(cells)} | {median / statistics.median(first):.3f} | {apart:+.3f} s |")


def main() -> None:
    """Ask the questions."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--torch-slow", action="store_true", help="also run torch's own handlers with the slow sink")
    options = parser.parse_args()
    print(
        f"torch {torch.__version__}, Python {platform.python_version()}, {os.cpu_count()} CPUs, {platform.platform()}"
    )
    plain, ours = ["-m", "torch.distributed.run"], ("--event-log-handler=elastic",)
    compare(
        "A job that succeeds",
        {"torchrun": (plain, "ok", (), {}), "with the plug-in, into SQLite": (plain, "ok", ours, {})},
        options.runs,
    )
    none = {"ELASTIC_EVENTS_SINKS": LOCKED, "ELASTIC_EVENTS_TIMEOUT": "0"}
    away = {
        "torchrun": (plain, "killed", (), {}),
        "the plug-in, into SQLite": (plain, "killed", ours, {}),
        "a sink that is away": (plain, "killed", ours, {"ELASTIC_EVENTS_SINKS": LOCKED}),
        "likewise, with a deadline of 0": (plain, "killed", ours, none),
    }
    compare("From a worker's death", away, options.runs)
    if options.torch_slow:
        theirs = (["slow.py"], "killed", ("--event-log-handler=slow",), {})
        compare("The same, with torch's handlers", {"torchrun": away["torchrun"], "torch's handlers of 1 s": theirs}, 1)


if __name__ == "__main__":
    main()
