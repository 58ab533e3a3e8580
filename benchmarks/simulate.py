"""Does reading keep up with a large job? A job of 2,000 nodes with 8 ranks and 10 restarts, in ten million records.

    python -m benchmarks.simulate                       times and memory of summary, timeline and goodput, at three sizes
    python -m benchmarks.simulate --out run.db          only make the database

The database is what the SQLite sink would have written, and what is true of the job is known from how it was made.
"""

import argparse
import json
import random
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from elastic_events.sinks.sqlite import SqliteSink
from elastic_events.sinks.sqlite_schema import insertion

__all__ = ("Job", "Truth", "main", "run", "simulate")

START = 1_760_000_000_000_000_000
S = 1_000_000_000

#: Seconds of a simulated job's phases.
GATHER, LAUNCH, STARTUP, STEP, GAP, SAVE, CUT, STOP, EVERY = 20, 1, 40, 30, 1, 6, 12, 8, 4


@dataclass
class Job:
    """The size of a job."""

    nodes: int = 2000
    ranks: int = 8  #: a node
    restarts: int = 10
    steps: int = 8  #: finished by an attempt
    records: int = 10_000_000
    seed: int = 0

    @property
    def world(self) -> int:
        """Ranks of all nodes."""
        return self.nodes * self.ranks


@dataclass
class Truth:
    """What is true of a simulated job."""

    wall_s: float = 0
    buckets: dict[str, float] = field(default_factory=lambda: dict.fromkeys(_BUCKETS, 0.0))
    failures: list[tuple[int, str]] = field(default_factory=list)  #: rank and signal of each attempt's first
    late: int = 0  #: the rank that begins every step late
    quiet: int = 0  #: the rank that records nothing in the second half of the last attempt
    steps: int = 0


_BUCKETS = ("productive", "lost", "checkpoint", "startup", "rendezvous", "detection", "requeue", "unknown", "idle")


def simulate(path: Path, job: Job) -> Truth:
    """Write the database of `job` to `path`, which must not exist; return what is true of it."""
    sink = SqliteSink(path)
    sink.open_now()
    sink.close_now()
    writer = _Writer(path)
    truth = _Script(job, writer).play()
    writer.fill(job)
    writer.close()
    return truth


class _Writer:
    """Rows in bulk, as the sink writes them one batch at a time."""

    def __init__(self, path: Path) -> None:
        self._connection = sqlite3.connect(path, isolation_level=None)
        self._connection.execute("PRAGMA journal_mode = OFF")
        self._connection.execute("PRAGMA synchronous = OFF")
        self._connection.execute("BEGIN")
        self._sequence: dict[int, int] = {}
        self._rows: list[tuple[Any, ...]] = []
        self._lives: list[tuple[int, int, int]] = []  # context of a worker, its first step, its end
        self.contexts = 0
        self.events = 0

    def context(self, host: str, pid: int, *worker: Any) -> int:
        """Add a process."""
        self.contexts += 1
        number = self.contexts
        who = worker or (None,) * 6
        row = (number, number, "simulated", f"{pid:x}-{number:x}-simulated", host, pid, *who)
        self._connection.execute(f"INSERT INTO contexts VALUES ({', '.join('?' * len(row))})", row)
        return number

    def event(self, context: int, time_ns: int, name: str, source: str, metadata: str) -> None:
        """Add an event."""
        sequence = self._sequence.get(context, 0)
        self._sequence[context] = sequence + 1
        self.events += 1
        self._rows.append(
            (context, context, sequence, time_ns, time_ns - START, name, "null", source, 0, metadata, False, None)
        )
        if len(self._rows) >= 50_000:
            self._flush()

    def life(self, context: int, first: int, end: int) -> None:
        """Remember when a worker may record metrics."""
        self._lives.append((context, first, end))

    def fill(self, job: Job) -> None:
        """Add metrics until there are as many records as asked for, the same number for each worker."""
        self._flush()
        each, more = divmod(max(0, job.records - self.events), len(self._lives))
        self._connection.executemany(insertion("metric"), self._metrics(each, more))

    def _metrics(self, each: int, more: int) -> Iterator[tuple[Any, ...]]:
        for at, (context, first, end) in enumerate(self._lives):
            count = each + (at < more)
            for number in range(count):
                time_ns = first + (end - first) * number // count
                name = ("loss", "grad_norm", "tokens_per_s")[number % 3]
                yield (context, context, number, time_ns, time_ns - START, name, "train", 1 / (1 + number), False, None)

    def close(self) -> None:
        """Commit."""
        self._flush()
        self._connection.execute("COMMIT")
        self._connection.close()

    def _flush(self) -> None:
        self._connection.executemany(insertion("event"), self._rows)
        self._rows = []


class _Script:
    """The job as it goes: each phase moves the clock on, and is added to what is true."""

    def __init__(self, job: Job, writer: _Writer) -> None:
        self.job = job
        self.writer = writer
        self.random = random.Random(job.seed)
        self.truth = Truth(late=job.world // 3, quiet=job.world // 2)
        self.now = START
        self.step = 0  # the next one
        self.saved = 0
        self.agents = [writer.context(f"node{node:04}", 1000) for node in range(job.nodes)]

    def play(self) -> Truth:
        for agent in self.agents:
            self.tell(agent, self.now, "job.started", {"role": "trainer", "local_world_size": self.job.ranks})
        for attempt in range(self.job.restarts + 1):
            self.attempt(attempt, last=attempt == self.job.restarts)
        for agent in self.agents:
            self.tell(agent, self.now, "job.succeeded", {"attempts": self.job.restarts + 1})
        self.truth.wall_s = (self.now - START) / S
        self.truth.steps = self.step
        return self.truth

    def tell(self, agent: int, time_ns: int, name: str, facts: dict[str, Any]) -> None:
        """Record what an agent says."""
        self.writer.event(agent, time_ns, name, "AGENT", json.dumps(facts, separators=(",", ":")))

    def spend(self, bucket: str, seconds: float) -> None:
        """Move the clock on."""
        self.now += round(seconds * S)
        self.truth.buckets[bucket] += seconds

    def attempt(self, number: int, *, last: bool) -> None:
        """Play one attempt, and what follows its failure."""
        job, begun, lowest = self.job, self.now, self.step
        self.spend("rendezvous", GATHER)
        for node, agent in enumerate(self.agents):
            waited = GATHER * 1e3 if node == 0 else self.random.uniform(GATHER / 2, GATHER) * 1e3
            facts = {
                "round": number,
                "world_size": job.nodes,
                "rank": node,
                "node": f"node{node:04}",
                "duration_ms": waited,
            }
            self.tell(agent, self.now, "rendezvous.completed", facts)
        self.spend("idle", LAUNCH)
        workers = self.start(number)
        self.spend("startup", STARTUP)
        for count in range(job.steps):
            quiet = self.truth.quiet if last and count >= job.steps // 2 else None
            self.train(workers, quiet)
            if count % EVERY == EVERY - 1:
                self.save(workers, quiet)
        ended = self.now if last else self.fail(workers, number)
        for rank, worker in enumerate(workers):
            end = ended if not (last and rank == self.truth.quiet) else (begun + ended) // 2
            self.writer.life(worker, begun + (GATHER + LAUNCH + STARTUP) * S, end)
        self.end(number, last, ended)
        redone = self.step - self.saved if not last else 0
        self.truth.buckets["productive"] += (job.steps - redone) * STEP
        self.truth.buckets["lost"] += redone * STEP
        assert lowest <= self.saved, "each attempt has to come to a checkpoint"
        self.step = self.saved if not last else self.step

    def start(self, number: int) -> list[int]:
        """Start the workers of all nodes; return their contexts, by rank."""
        job, workers = self.job, []
        for node, agent in enumerate(self.agents):
            own = range(node * job.ranks, (node + 1) * job.ranks)
            facts = {
                "attempt": number,
                "round": number,
                "world_size": job.world,
                "group_rank": node,
                "ranks": list(own),
            }
            self.tell(agent, self.now, "attempt.started", facts)
            for local, rank in enumerate(own):
                pid = 2000 + number * job.ranks + local
                about = (rank, local, job.world, node, "trainer", number)
                workers.append(self.writer.context(f"node{node:04}", pid, *about))
                self.tell(
                    agent,
                    self.now,
                    "worker.started",
                    {"rank": rank, "local_rank": local, "pid": pid, "attempt": number},
                )
        return workers

    def train(self, workers: list[int], quiet: int | None, *, whole: bool = True) -> None:
        """Play one step of all ranks, which end it together; without `whole` only its beginning."""
        metadata = f'{{"step":{self.step}}}'
        for rank, worker in enumerate(workers):
            late = 2 * S if rank == self.truth.late else rank % 7 * 1_000_000
            if rank != quiet:
                self.writer.event(worker, self.now + late, "step.started", "WORKER", metadata)
        if whole:
            self.now += STEP * S
            for rank, worker in enumerate(workers):
                if rank != quiet:
                    self.writer.event(worker, self.now, "step.ended", "WORKER", metadata)
            self.step += 1
            self.spend("idle", GAP)

    def save(self, workers: list[int], quiet: int | None) -> None:
        """Play a checkpoint, which the first rank of each node writes."""
        metadata = f'{{"step":{self.step - 1}}}'
        writing = [worker for rank, worker in enumerate(workers) if rank % self.job.ranks == 0 and rank != quiet]
        for worker in writing:
            self.writer.event(worker, self.now, "checkpoint.started", "WORKER", metadata)
        self.spend("checkpoint", SAVE)
        for worker in writing:
            self.writer.event(worker, self.now, "checkpoint.ended", "WORKER", metadata)
        self.saved = self.step

    def fail(self, workers: list[int], number: int) -> int:
        """Cut a step off; return when the agents noticed."""
        self.train(workers, None, whole=False)
        self.spend("lost", CUT)
        signal = ("SIGKILL", "SIGABRT", "SIGSEGV")[number % 3]
        self.truth.failures.append((self.random.randrange(self.job.world), signal))
        ended = self.now
        self.spend("detection", STOP)
        return ended

    def end(self, number: int, last: bool, ended: int) -> None:
        """Record how each worker ended."""
        first, signal = (None, None) if last else self.truth.failures[-1]
        for node, agent in enumerate(self.agents):
            for local in range(self.job.ranks):
                rank = node * self.job.ranks + local
                facts = {
                    "rank": rank,
                    "local_rank": local,
                    "pid": 2000 + number * self.job.ranks + local,
                    "attempt": number,
                }
                if last:
                    self.tell(agent, ended, "worker.succeeded", facts)
                else:
                    cause = {"exit_code": None, "signal": signal if rank == first else "SIGTERM", "message": None}
                    label = {"first": rank == first, "victim": rank != first}
                    self.tell(agent, ended, "worker.failed", {**facts, **cause, **label})
            outcome = "succeeded" if last else "failed"
            self.tell(agent, ended, "attempt.ended", {"attempt": number, "outcome": outcome})


def measure(path: Path, command: str) -> tuple[float, float]:
    """Return the seconds and the MiB of resident memory that a command takes, in a process of its own."""
    code = (
        "import resource, sys, time; from elastic_events.cli import main; begun = time.perf_counter()\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "used = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024\n"
        "print(time.perf_counter() - begun, used, file=sys.stderr)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, command, str(path)],
        capture_output=True,
        text=True,
        check=True,
        stdin=subprocess.DEVNULL,
    )
    took, used = done.stderr.splitlines()[-1].split()
    return float(took), float(used)


def run(quick: bool = False, say: Callable[[str], object] = lambda _line: None) -> list[dict[str, Any]]:
    """Make jobs of growing size, and read them; return a row a size and command."""
    sizes = (
        [Job(20, 8, 3, 4, 20_000)] if quick else [Job(500, 8, 10, 8, 2_500_000), Job(1000, 8, 10, 8, 5_000_000), Job()]
    )
    rows = []
    for job in sizes:
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder) / "run.db"
            simulate(path, job)
            for command in ("summary", "timeline", "goodput"):
                took, used = measure(path, command)
                rows.append({"records": job.records, "ranks": job.world, "command": command, "s": took, "MiB": used})
                say(f"{job.records:>12,} {job.world:>8,} {command:>10} {took:8.2f} {used:8.0f}")
    return rows


def main() -> None:
    """Make a database, or make several and measure how they are read."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, help="make this database, and print what is true of it")
    parser.add_argument("--quick", action="store_true")
    for name, value in vars(Job()).items():
        parser.add_argument(f"--{name}", type=int, default=value)
    options = parser.parse_args()
    if options.out is None:
        print(f"{'records':>12} {'ranks':>8} {'command':>10} {'s':>8} {'MiB':>8}")
        run(options.quick, print)
        return
    begun = time.perf_counter()
    truth = simulate(options.out, Job(**{name: getattr(options, name) for name in vars(Job())}))
    print(json.dumps(vars(truth), indent=2))
    print(f"wrote {options.out} in {time.perf_counter() - begun:.0f} s", file=sys.stderr)


if __name__ == "__main__":
    main()
