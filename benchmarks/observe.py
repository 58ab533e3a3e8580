"""What does it cost a training step to be observed? The same loop with and without, in fresh processes, in turn.

    python -m benchmarks.observe [--rounds N]

Two steps: as small as they get (one parameter, one batch from a `DataLoader`), where the observer's own time shows, and one
of 10 ms, where its share does. Needs torch, and this package installed beside it.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from typing import Any

from benchmarks.measure import Row, load, print_table, table

__all__ = ("main", "run")

#: Step -> how many of them are a round.
STEPS = {"smallest": 20_000, "10 ms": 300}

COLUMNS: dict[str, Callable[[Row], str]] = {
    "unobserved": lambda row: f"{row['off_us']:,.1f} us",
    "observed": lambda row: f"{row['on_us']:,.1f} us",
    "more": lambda row: f"{row['more_us']:.2f} us",
    "of the step": lambda row: f"{row['more_percent']:.2f} %",
}


def run(rounds: int = 7) -> list[Row]:
    """Measure both steps, `rounds` times each; medians of the rounds."""
    rows = []
    for step in STEPS:
        found: dict[str, list[float]] = {"off": [], "on": []}
        for _ in range(rounds):
            for observe, times in found.items():
                times.append(_process(step, observe))
        usual = statistics.median(found["off"])
        more = statistics.median(on - off for on, off in zip(found["on"], found["off"], strict=True))
        row = {"subject": step, "off_us": usual, "on_us": statistics.median(found["on"])}
        rows.append({**row, "more_us": more, "more_percent": 100 * more / usual})
    return rows


def _process(step: str, observe: str) -> float:
    with tempfile.TemporaryDirectory() as folder:
        env = {**os.environ, "ELASTIC_EVENTS_OBSERVE": observe, "ELASTIC_EVENTS_DIR": f"{folder}/recorders"}
        # As a worker: torchrun gives each a folder of its own.
        env |= {"RANK": "0", "TORCHELASTIC_ERROR_FILE": f"{folder}/error.json", "OMP_NUM_THREADS": "1"}
        call = [sys.executable, "-m", "benchmarks.observe", "--step", step]
        done = subprocess.run(call, env=env, capture_output=True, text=True, check=True)
    found: float = json.loads(done.stdout)
    return found


def one(step: str) -> float:
    """Return the microseconds of a step: the median of them."""
    torch = load("torch")
    torch.set_num_threads(1)
    count = STEPS[step]
    parameter = torch.nn.Parameter(torch.zeros(1))
    parameter.grad = torch.zeros(1)
    optimizer = torch.optim.SGD([parameter], lr=0.1)
    batches = iter(torch.utils.data.DataLoader(range(count), batch_size=None))
    work = _work(torch) if step != "smallest" else lambda: None
    spent = []
    for _ in range(count):
        began = time.perf_counter_ns()
        next(batches)
        work()
        optimizer.step()
        spent.append(time.perf_counter_ns() - began)
    return statistics.median(spent) / 1e3


def _work(torch: Any) -> Callable[[], object]:
    """Return what takes 10 ms, in calls of a few microseconds."""
    values = torch.linspace(0, 1, 4096)

    def work() -> None:
        until = time.perf_counter_ns() + 10_000_000
        while time.perf_counter_ns() < until:
            torch.sqrt(values)

    return work


def main() -> None:
    """Measure, and print a table."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.observe", description=__doc__)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--step", choices=STEPS, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.step:
        print(one(options.step))
        return
    print_table(table("A step that is observed", run(options.rounds), COLUMNS))


if __name__ == "__main__":
    main()
