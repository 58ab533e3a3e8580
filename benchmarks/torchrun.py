"""What does the plug-in cost a torchrun job, and what does a slow sink do to it, beside torch's own handlers?

Three questions, each asked in turn of all contenders, several times; medians, and ratios to plain torchrun:

1. wall time of a two-process job that succeeds, without and with the plug-in;
2. with a sink that takes a second a record: from a worker's death by SIGKILL to its detection, and to torchrun's exit;
3. the same with torch's own handlers of the same slowness (`--torch-slow`, for it takes half a minute a run).

Run: `python benchmarks/torchrun.py [--runs N] [--torch-slow]`, in an environment with torch and this project.
"""

import argparse
import datetime
import os
import platform
import re
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

#: torchrun with something in it that takes a second a record.
SLOW = """
import sys, time
from torch.distributed.run import main

class Sink:
    async def open(self): pass
    async def write(self, records):
        import asyncio
        await asyncio.sleep(len(records))
    async def aclose(self): pass

def ours():
    from elastic_events.sinks.urls import SCHEMES
    SCHEMES["slow"] = lambda url: Sink()

def torchs():
    import logging
    from torch.distributed.elastic import metrics
    from torch.distributed.elastic.events import handlers
    class Slow(logging.Handler):
        def emit(self, record): time.sleep(1)
    class SlowMetrics(metrics.MetricHandler):
        def emit(self, data): time.sleep(1)
    handlers._log_handlers["slow"] = Slow()
    metrics.configure(SlowMetrics())

{"ours": ours, "torchs": torchs}[sys.argv.pop(1)]()
main(sys.argv[1:])
"""


def run(program: list[str], mode: str, *flags: str, **env: str) -> dict[str, float]:
    """Run a job; return its wall time, and the times from the worker's death to its detection and to the end, seconds."""
    with tempfile.TemporaryDirectory() as folder:
        for name, text in (("worker.py", WORKER), ("slow.py", SLOW)):
            Path(folder, name).write_text(text)
        rendezvous = ("--rdzv-backend=c10d", "--rdzv-endpoint=localhost:0", "--rdzv-id=job")
        command = [sys.executable, *program, "--nproc-per-node=2", *rendezvous, *flags, "worker.py", mode]
        kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
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
    slow = {
        "torchrun": (plain, "killed", (), {}),
        "the plug-in, sink of 1 s a record": (["slow.py", "ours"], "killed", ours, {"ELASTIC_EVENTS_SINKS": "slow:"}),
    }
    compare("From a worker's death", slow, options.runs)
    if options.torch_slow:
        theirs = (["slow.py", "torchs"], "killed", ("--event-log-handler=slow",), {})
        compare("The same, with torch's handlers", {"torchrun": slow["torchrun"], "torch's handlers of 1 s": theirs}, 1)


if __name__ == "__main__":
    main()
