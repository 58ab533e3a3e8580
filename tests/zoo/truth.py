"""What really happened in a job: the facts that its processes wrote, put together by attempt."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.zoo.life import TRUTH

__all__ = ("Attempt", "Fact", "Span", "Truth", "Worker", "facts")

Fact = dict[str, Any]


def facts(folder: Path) -> list[Fact]:
    """Return the facts of a job, in the order in which they were written."""
    try:
        lines = (folder / TRUTH).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


@dataclass
class Span:
    """A step or a save. Its mark was begun between the first two times and ended between the last two; 0: it was not."""

    number: Any
    before: int
    begun: int = 0
    ended: int = 0
    behind: int = 0


@dataclass
class Worker:
    """One rank of one attempt."""

    rank: int
    pid: int
    node: int
    born: int
    died: int | None = None  #: when it ended by itself
    cause: str = ""  #: of what
    breaks: bool = False  #: it failed since a peer was gone
    victim: bool = False  #: an agent ended it
    killed: bool = False  #: it was killed together with its agent
    done: bool = False
    word: str = ""  #: the last thing that it said
    hangs: bool = False
    spans: dict[str, list[Span]] = field(default_factory=lambda: {"step": [], "save": []})

    def take(self, fact: Fact) -> None:
        """Take one fact."""
        what, t = fact["what"], fact["t"]
        if what in _EDGES:
            kind, edge = _EDGES[what]
            number, spans = fact.get("number"), self.spans[kind]
            if edge == "before" or (edge == "begun" and (not spans or spans[-1].begun)):
                spans.append(Span(number, t))
            if edge != "before":
                setattr(next(s for s in reversed(spans) if s.number == number and not getattr(s, edge)), edge, t)
        elif what == "dies":
            self.died, self.cause = t, fact["cause"]
        elif what == "word":
            self.word = fact["word"]
        else:
            name = {"ended": "victim"}.get(what, what)
            setattr(self, name, True)

    @property
    def steps(self) -> list[Span]:
        """The steps that it began."""
        return [step for step in self.spans["step"] if step.begun]

    @property
    def saves(self) -> list[Span]:
        """The checkpoints that it began."""
        return [save for save in self.spans["save"] if save.begun]

    @property
    def last_step(self) -> int | None:
        """The number of the last step that it finished."""
        return next((step.number for step in reversed(self.steps) if step.ended), None)


@dataclass
class Attempt:
    """The workers of one life, on all nodes."""

    world: int
    workers: dict[int, Worker] = field(default_factory=dict)

    @property
    def first(self) -> Worker | None:
        """The first that ended by itself."""
        return min((w for w in self.workers.values() if w.died), key=lambda w: w.died or 0, default=None)

    @property
    def breaks(self) -> int:
        """How many broke since a peer was gone; each of them fails, or its agent ends it just before that."""
        return sum(w.breaks and not w.victim for w in self.workers.values())

    @property
    def victims(self) -> set[int]:
        """Ranks that an agent ended."""
        return {w.rank for w in self.workers.values() if w.victim and not w.died}


class Truth:
    """All attempts, in their order."""

    def __init__(self, folder: Path) -> None:
        self.attempts: list[Attempt] = []
        self.facts = facts(folder)
        lives: dict[str, Attempt] = {}
        pids: dict[int, Worker] = {}
        for fact in self.facts:
            if fact["what"] == "born":
                attempt = lives.get(fact["life"])
                if attempt is None:
                    attempt = lives[fact["life"]] = Attempt(fact["world"])
                    self.attempts.append(attempt)
                worker = attempt.workers.get(fact["rank"])
                if worker is None or worker.pid != fact["pid"]:  # else another program of it
                    worker = Worker(fact["rank"], fact["pid"], fact["node"], fact["t"])
                    pids[worker.pid] = attempt.workers[worker.rank] = worker
            elif fact.get("pid") in pids:
                pids[fact["pid"]].take(fact)

    def last_steps(self) -> dict[int, int | None]:
        """Return the last finished step of each rank, in the last attempt that it was part of."""
        return {rank: worker.last_step for attempt in self.attempts for rank, worker in attempt.workers.items()}

    def seconds(self, bucket: str) -> tuple[float, float]:
        """Return how long it was `productive`, `checkpoint` or `lost`: at least and at most, by painting milliseconds."""
        least, most = sorted(self._painted(bucket, outer) for outer in (False, True))
        return least, most

    def _painted(self, bucket: str, outer: bool) -> float:
        painted: dict[int, str] = {}
        for name, start, end in self._spans(outer):
            for at in range(start // 1_000_000, end // 1_000_000):
                if _ABOVE.index(name) <= _ABOVE.index(painted.get(at, "lost")):
                    painted[at] = name
        return sum(name == bucket for name in painted.values()) / 1000

    def _spans(self, outer: bool) -> Iterator[tuple[str, int, int]]:
        later: list[int] = []  # the numbers with which later attempts begin
        for attempt in reversed(self.attempts):
            workers = attempt.workers.values()
            finished = {step.number for w in workers for step in w.steps if step.ended}
            first = attempt.first
            for worker in workers:
                for step in worker.steps:
                    again = any(step.number >= begun for begun in later)
                    if step.ended:
                        yield ("lost" if again else "productive"), *_times(step, outer)
                    elif step.number not in finished and first is not None and first.died:
                        yield "lost", _times(step, outer)[0], first.died
                yield from (("checkpoint", *_times(save, outer)) for save in worker.saves if save.ended)
            begun = [step.number for w in workers for step in w.steps]
            later += [min(begun)] if begun else []


def _times(span: Span, outer: bool) -> tuple[int, int]:
    return (span.before, span.behind or span.ended) if outer else (span.begun, span.ended)


#: What is written -> a step's or a save's, and which of its times.
_EDGES = {
    "to step": ("step", "before"),
    "step": ("step", "begun"),
    "stepped": ("step", "ended"),
    "left step": ("step", "behind"),
    "to save": ("save", "before"),
    "save": ("save", "begun"),
    "saved": ("save", "ended"),
    "left save": ("save", "behind"),
}

_ABOVE = ("checkpoint", "productive", "lost")
