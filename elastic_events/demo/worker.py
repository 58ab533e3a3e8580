"""One worker of the demo: trains its shard, records, and knows nothing of who collects it.

It has no bus and no drain thread: `ELASTIC_EVENTS_DIR` in its environment makes `record` and `put_metric` write to its
flight recorder. What it recorded is there whatever kills it.
"""

import json
import os
import socket
import time
from pathlib import Path
from typing import Any

from elastic_events import checkpoint, restore, step
from elastic_events.demo.model import accuracy, gradient, initial, load
from elastic_metrics import prof, put_metric

RATE = 0.5


class AllReduce:
    """Means of vectors over all workers, by way of the launcher."""

    def __init__(self, port: int, rank: int) -> None:
        self._file = socket.create_connection(("127.0.0.1", port), timeout=30).makefile("rwb")
        self._send(rank)

    def mean(self, vector: list[float]) -> list[float]:
        """Return the mean of every worker's `vector`; waits until all have given theirs."""
        self._send(vector)
        line = self._file.readline()
        if not line:
            raise ConnectionError("the launcher is gone, or the group is restarting")
        mean: list[float] = json.loads(line)
        return mean

    def _send(self, value: Any) -> None:
        self._file.write(json.dumps(value).encode() + b"\n")
        self._file.flush()


def main() -> None:
    """Train from the last checkpoint to the last step."""
    rank, world = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    steps, saved = int(os.environ["DEMO_STEPS"]), Path(os.environ["DEMO_CHECKPOINT"])
    everyone = AllReduce(int(os.environ["DEMO_PORT"]), rank)
    samples = load()
    shard = samples[rank::world]
    first, weights = resume(saved)
    for number in range(first, steps):
        with step(number):
            began = time.monotonic()
            loss, own = gradient(weights, shard)
            loss, *mean = everyone.mean([loss, *own])
            weights = [weight - RATE * slope for weight, slope in zip(weights, mean, strict=True)]
            put_metric("loss", loss, "train")
            put_metric("step_time_s", time.monotonic() - began, "train")
        if rank == 0 and number % 20 == 19:
            with checkpoint(number):
                save(saved, number + 1, weights)
    if rank == 0:
        put_metric("accuracy", accuracy(weights, samples), "train")


def resume(saved: Path) -> tuple[int, list[float]]:
    """Return the next step and the weights: of the checkpoint, or the beginning."""
    if not saved.exists():
        return 0, initial()
    with restore():
        number, weights = json.loads(saved.read_text())
    return number, weights


@prof
def save(saved: Path, number: int, weights: list[float]) -> None:
    """Write the checkpoint whole or not at all."""
    part = saved.with_suffix(".part")
    part.write_text(json.dumps([number, weights]))
    part.replace(saved)


if __name__ == "__main__":
    try:
        main()
    except ConnectionError as _error:
        raise SystemExit(f"worker {os.environ['RANK']}: {_error}") from None
