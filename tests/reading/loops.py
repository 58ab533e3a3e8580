"""Training loops with planted truth: what each moment was is written down as the loop is made, apart from its records.

Times are whole ticks, so that the truth of a bucket is a count of ticks. All ranks of a loop train together, but for a skew of
millionths of a tick.
"""

import random
from collections import Counter
from dataclasses import dataclass, field
from typing import Any, Literal

from hypothesis import strategies as st

from tests.reading.runs import Run

__all__ = ("TICK", "Held", "Loop", "Planted", "Tried", "held", "hold", "loops", "plant")

#: Seconds.
TICK = 0.25

Part = Literal["steps", "overlapping", "nested", "pause", "save", "beside", "caught", "rollback", "evaluation"]


@dataclass
class Tried:
    """What one attempt does, part by part, and how many ticks each takes."""

    parts: list[tuple[Part, int, int]]  #: what, how many steps, ticks of a step
    cut: int  #: ticks in the step that its failure cuts off; 0: it fails between steps
    back: int  #: steps that the attempt behind it does again, if it has done as many


@dataclass
class Loop:
    """A loop to make records of."""

    ranks: int
    ids: bool  #: marks have ids
    epoch: int  #: steps of an epoch, whose numbers begin anew; 0: there are none
    attempts: list[Tried]


@dataclass
class Planted:
    """What is true of a loop."""

    run: Run
    ticks: Counter[str] = field(default_factory=Counter)
    steps: int = 0
    redone: int = 0
    cut: int = 0


def loops() -> st.SearchStrategy[Loop]:
    """Give loops: attempts that fail and one that succeeds, each of some parts."""
    part = st.tuples(
        st.sampled_from(Part.__args__),  # type: ignore[attr-defined]
        st.integers(1, 6),
        st.integers(1, 4),
    )
    tried = st.builds(Tried, st.lists(part, min_size=1, max_size=6), st.integers(0, 3), st.integers(0, 8))
    return st.builds(
        Loop, st.integers(1, 3), st.booleans(), st.sampled_from([0, 0, 4]), st.lists(tried, min_size=1, max_size=4)
    )


@dataclass
class _Done:
    """A step that counts."""

    number: int  #: in the training
    ticks: list[int]
    attempt: int
    nested: bool = False


class _Maker:
    """Plays a loop: a clock in ticks, the records, and for each tick what it was."""

    def __init__(self, loop: Loop) -> None:
        self.loop = loop
        self.run = Run()
        self.truth = Planted(self.run)
        self.now = 0
        self.moments: dict[int, str] = {}  # tick -> what it was
        self.done: list[_Done] = []  # the steps that count
        self.extra = 0  # finished steps that nobody does again: evaluations and micro-steps
        self.at = 0  # the next step
        self.marks = 0
        self.attempt = 0
        self.longest = 1

    def play(self) -> Planted:
        agent = self.run.agent()
        self.tell(agent, 0, "job.started")
        last = len(self.loop.attempts) - 1
        for attempt, tried in enumerate(self.loop.attempts):
            self.attempt = attempt
            self.gather(agent)
            for what, count, ticks in tried.parts:
                getattr(self, what)(count, ticks)
            if self.attempt == last:
                self.tell(agent, self.now, "attempt.ended", attempt=self.attempt, outcome="succeeded")
            else:
                self.fail(agent, tried)
        self.tell(agent, self.now, "job.succeeded")
        for at in range(self.now):
            self.truth.ticks[self.moments.get(at, "idle")] += 1
        self.truth.steps = len(self.done) + self.extra
        self.run.records.sort(key=lambda record: record.time_ns)
        return self.truth

    def tell(self, who: Any, at: float, name: str, **facts: Any) -> None:
        self.run.tell(at * TICK, who, name, **facts)

    def spend(self, bucket: str, ticks: int) -> list[int]:
        found = list(range(self.now, self.now + ticks))
        self.moments.update(dict.fromkeys(found, bucket))
        self.now += ticks
        return found

    def gather(self, agent: Any) -> None:
        self.spend("rendezvous", 2)
        self.tell(agent, self.now, "rendezvous.completed", round=self.attempt, world_size=1, duration_ms=2000 * TICK)
        self.run.start(self.now * TICK, agent, self.attempt, range(self.loop.ranks), restart=self.attempt)
        self.spend("startup", 3)
        self.steps(1, 1)  # each attempt comes to a step

    def fail(self, agent: Any, tried: Tried) -> None:
        """Cut a step off, for no longer than the longest step took; then let two ticks go by until it is noticed."""
        ticks = min(tried.cut, self.longest)
        if ticks:
            self.mark("step", self.now, None, self.at)
            self.truth.cut += 1
            self.spend("lost", ticks)
        else:
            self.metric()
            self.spend("detection", 2)
        for rank in range(self.loop.ranks):
            facts = {"signal": "SIGKILL"} if not rank else {"signal": "SIGTERM", "first": False, "victim": True}
            self.run.failed(self.now * TICK, agent, self.attempt, rank, **facts)
        self.tell(agent, self.now, "attempt.ended", attempt=self.attempt, outcome="failed")
        self.spend("detection", 2)
        self.take_back(tried.back)

    def take_back(self, count: int) -> None:
        """Let so many of the last steps be done again; micro-steps have names, and nobody can say that they were lost."""
        gone: set[int] = set()
        while count and self.done and not self.done[-1].nested:
            step = self.done.pop()
            gone.update(step.ticks)
            self.at = step.number
            self.truth.redone += 1
            count -= 1
        for step in self.done:
            gone.difference_update(step.ticks)
        self.moments.update((at, "lost") for at in gone if self.moments[at] == "productive")

    def metric(self) -> None:
        for rank in range(self.loop.ranks):
            self.run.metric(self.now * TICK, self.run.worker(rank, self.attempt), "loss", 1.0)

    def mark(self, what: str, start: float, end: float | None, number: Any, **more: Any) -> None:
        """Record a mark of all ranks; a step of the training with its number in the epoch."""
        self.marks += 1
        facts: dict[str, Any] = {"step": number, **more}
        if what == "step" and self.loop.epoch and isinstance(number, int):
            facts["epoch"], facts["step"] = divmod(number, self.loop.epoch)
        if self.loop.ids:
            facts["mark_id"] = self.marks
        error = facts.pop("error", None)
        for rank in range(self.loop.ranks):
            who, skew = self.run.worker(rank, self.attempt), rank / 1e6
            self.tell(who, start + skew, f"{what}.started", **facts)
            if end is not None:
                self.tell(who, end + skew, f"{what}.ended", **facts, **({"error": error} if error else {}))

    # --- parts ---

    def finish(self, ticks: list[int], *, nested: bool = False) -> None:
        """Note that the next step was finished, in these ticks."""
        self.done.append(_Done(self.at, ticks, self.attempt, nested))
        self.at += 1
        self.longest = max(self.longest, len(ticks))

    def steps(self, count: int, ticks: int) -> None:
        for _ in range(count):
            self.mark("step", self.now, self.now + ticks, self.at)
            self.finish(self.spend("productive", ticks))

    def overlapping(self, count: int, ticks: int) -> None:
        """Each step goes on for a tick beside the next one."""
        for _ in range(count):
            self.mark("step", self.now, self.now + ticks + 1, self.at)
            self.finish([*self.spend("productive", ticks), self.now])
        self.spend("productive", 1)

    def nested(self, count: int, ticks: int) -> None:
        """Steps with two micro-steps each, which have names."""
        for _ in range(count):
            for micro in range(2):
                begin = self.now + micro * ticks + 0.25
                self.mark("step", begin, begin + 0.5, f"micro {micro}")
            self.extra += 2
            self.mark("step", self.now, self.now + 2 * ticks, self.at)
            self.finish(self.spend("productive", 2 * ticks), nested=True)

    def pause(self, _count: int, ticks: int) -> None:
        self.spend("idle", ticks)

    def save(self, count: int, ticks: int) -> None:
        """A checkpoint that the ranks wait for, and within it one of another kind."""
        self.mark("checkpoint", self.now, self.now + count * ticks, self.at - 1)
        self.mark("checkpoint", self.now + 0.25, self.now + 0.5, self.at - 1)
        self.spend("checkpoint", count * ticks)

    def beside(self, count: int, ticks: int) -> None:
        """Steps beside a checkpoint, which begins with the first and ends in the last."""
        self.mark("checkpoint", self.now, self.now + count * ticks - 0.5, self.at - 1)
        self.steps(count, ticks)

    def caught(self, _count: int, ticks: int) -> None:
        """A step that an exception left, and one that follows it."""
        self.mark("step", self.now, self.now + ticks, self.at, error="OutOfMemoryError")
        self.spend("idle", ticks)
        self.at += 1
        self.steps(1, ticks)

    def rollback(self, count: int, ticks: int) -> None:
        """Go back to an earlier step of the attempt, but not to its first, and go on from there."""
        own = sum(step.attempt == self.attempt for step in self.done)
        begin = self.now
        self.spend("idle", ticks)
        self.take_back(min(count, own - 1))
        self.mark("restore", begin, self.now, self.at - 1)
        self.steps(1, 1)

    def evaluation(self, count: int, ticks: int) -> None:
        """A loop of its own, whose steps have names."""
        for number in range(count):
            self.mark("step", self.now, self.now + ticks, f"evaluation {number}")
            self.spend("productive", ticks)
            self.extra += 1
        self.longest = max(self.longest, ticks)


def plant(loop: Loop) -> Planted:
    """Make the records of a loop, and what is true of it."""
    return _Maker(loop).play()


# --- ranks that hold up the others ---


@dataclass
class Held:
    """Ranks that train together, some of which hold up the others."""

    ranks: int
    steps: int
    stragglers: set[int]
    kind: Literal["slow", "late"]
    begin: int  #: the first step in which they do
    every: int  #: in each so many steps
    factor: float  #: how much longer a step takes them, or how much of a step they begin it later
    missing: set[int]  #: ranks that never begin the step in which the job hangs; empty: it does not
    within: bool  #: the missing ranks began it, but never left it
    seed: int


@st.composite
def held(draw: st.DrawFn) -> Held:
    """Give jobs of two ranks and more, of which the quickest quarter is well."""
    ranks = draw(st.integers(2, 16))
    steps = draw(st.integers(20, 30))
    well = (ranks - 1) // 4 + 1
    stragglers = draw(st.sets(st.integers(0, ranks - 1), max_size=ranks - well))
    begin = draw(st.sampled_from([0, steps // 2, steps - steps // 4 - 1]))
    missing = draw(st.sets(st.integers(0, ranks - 1), max_size=ranks - 1))
    return Held(
        ranks,
        steps,
        stragglers,
        draw(st.sampled_from(["slow", "late"])),
        begin,
        draw(st.sampled_from([1, 1, 2])),
        draw(st.sampled_from([0.5, 1.5, 4.0])),
        missing,
        draw(st.booleans()),
        draw(st.integers(0, 9)),
    )


def hold(job: Held) -> tuple[Run, float]:
    """Make the records of a job; return them and when the last of the waiting ranks began to wait."""
    run, noise = Run(), random.Random(job.seed)
    agent = run.agent()
    run.start(0, agent, 0, range(job.ranks))
    at = 2.0
    for step in range(job.steps):
        now = step >= job.begin and step % job.every == 0
        begins = {rank: at + noise.uniform(0, 0.01) for rank in range(job.ranks)}
        took = {rank: noise.uniform(0.98, 1.02) for rank in range(job.ranks)}
        for rank in job.stragglers if now else ():
            if job.kind == "slow":
                took[rank] *= 1 + job.factor
            else:
                begins[rank] += job.factor
        ends = {rank: begins[rank] + took[rank] for rank in range(job.ranks)}
        last = max(ends.values())
        for rank in range(job.ranks):
            run.tell(begins[rank], run.worker(rank), "step.started", step=step)
            # Who waits for a late one waits within the step; where one is slow, behind it.
            end = last if job.kind == "late" else ends[rank]
            run.tell(end, run.worker(rank), "step.ended", step=step)
        at = last + 0.05
    if job.missing:
        waiting = [rank for rank in range(job.ranks) if rank not in job.missing]
        for rank in range(job.ranks):
            if rank in waiting or job.within:
                run.tell(at, run.worker(rank), "step.started", step=job.steps)
        for rank in waiting if job.within else waiting[:1]:
            run.tell(at + 600, run.worker(rank), "step.ended", step=job.steps, error="RuntimeError")
        for rank in range(job.ranks):
            facts = {"exit_code": 1} if rank == waiting[0] else {"signal": "SIGTERM", "first": False, "victim": True}
            run.failed(at + 601, agent, 0, rank, **facts)
        run.tell(at + 601, agent, "attempt.ended", attempt=0, outcome="failed")
    return run, at
