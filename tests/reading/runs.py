"""Small runs, written out record by record, with times in seconds from their beginning."""

from typing import Any

from elastic_events.bus.context import Context
from elastic_events.bus.record import Record, record_of

__all__ = ("START", "Run", "two_attempts")

START = 1_700_000_000_000_000_000


class Run:
    """Collects records of processes; `at` is in seconds."""

    def __init__(self, run_id: str = "run") -> None:
        self.run_id = run_id
        self.records: list[Record] = []

    def agent(self, host: str = "a", pid: int = 10) -> Context:
        """Return the context of an agent."""
        return Context(self.run_id, f"{host}-{pid}", host, pid)

    def worker(self, rank: int | None, restart: int = 0, host: str = "a", pid: int | None = None) -> Context:
        """Return the context of a worker: pid 100 and its rank and ten times its restart, unless it is given."""
        pid = 100 + (rank or 0) + 10 * restart if pid is None else pid
        return Context(self.run_id, f"{host}-{pid}", host, pid, rank, rank, restart=restart)

    def tell(self, at: float, who: Context, name: str, **facts: Any) -> None:
        """Record an event."""
        self.raw(at, who, name, facts)

    def raw(self, at: float, who: Context, name: Any, metadata: Any) -> None:
        """Record an event with any metadata."""
        time_ns = START + round(at * 1e9)
        fields = ("AGENT", 0, metadata)
        self.records.append(record_of("event", len(self.records), time_ns, time_ns, name, "null", fields, who))

    def metric(self, at: float, who: Context, name: str, value: Any) -> None:
        """Record a metric point."""
        time_ns = START + round(at * 1e9)
        self.records.append(record_of("metric", len(self.records), time_ns, time_ns, name, "train", (value,), who))

    def steps(self, who: Context, numbers: range, begin: float, each: float, *, ended: bool = True) -> float:
        """Record steps one after the other; the last one stays open unless `ended`. Return when the last one ended."""
        for number in numbers:
            self.tell(begin, who, "step.started", step=number)
            begin += each
            if ended or number != numbers[-1]:
                self.tell(begin, who, "step.ended", step=number)
        return begin

    def start(self, at: float, agent: Context, attempt: int, ranks: range, restart: int = 0, **facts: Any) -> None:
        """Record the start of an attempt and its workers."""
        facts = {"attempt": attempt, "world_size": len(ranks), "ranks": list(ranks), "round": attempt, **facts}
        self.tell(at, agent, "attempt.started", **facts)
        for rank in ranks:
            pid = self.worker(rank, restart).pid
            self.tell(at, agent, "worker.started", rank=rank, local_rank=rank, pid=pid, attempt=attempt)

    def failed(self, at: float, agent: Context, attempt: int, rank: int, **facts: Any) -> None:
        """Record that a worker failed."""
        facts = {"rank": rank, "local_rank": rank, "attempt": attempt, "first": True, "victim": False, **facts}
        self.tell(at, agent, "worker.failed", **facts)


def two_attempts() -> Run:
    """Two ranks; rank 1 is killed in step 3 after 8.5 s, the second attempt goes on from step 2 and ends well at 20 s."""
    run = Run()
    agent = run.agent()
    run.tell(0, agent, "job.started")
    run.tell(1, agent, "rendezvous.completed", round=0, world_size=1, rank=0, node="a", duration_ms=1000)
    run.start(1, agent, 0, range(2))
    run.steps(run.worker(0), range(4), 4, 1.25, ended=False)
    run.steps(run.worker(1), range(4), 4, 1.25, ended=False)
    run.failed(9, agent, 0, 1, signal="SIGKILL")
    run.failed(9, agent, 0, 0, signal="SIGTERM", first=False, victim=True)
    run.tell(9, agent, "attempt.ended", attempt=0, outcome="failed")
    run.tell(11, agent, "rendezvous.completed", round=1, world_size=1, rank=0, node="a", duration_ms=1500)
    run.start(11, agent, 1, range(2), restart=1)
    run.steps(run.worker(0, 1), range(2, 6), 14, 1.25)
    run.steps(run.worker(1, 1), range(2, 6), 14, 1.25)
    for rank in range(2):
        run.tell(19.5, agent, "worker.succeeded", rank=rank, local_rank=rank, attempt=1)
    run.tell(19.5, agent, "attempt.ended", attempt=1, outcome="succeeded")
    run.tell(20, agent, "job.succeeded", attempts=2, membership_changes=0)
    return run
