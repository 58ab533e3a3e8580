"""What really happened in a job: the facts that its processes wrote, put together by attempt."""

import json
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.zoo.life import TRUTH

__all__ = ("Attempt", "Fact", "Truth", "Worker", "facts")

Fact = dict[str, Any]


def facts(folder: Path) -> list[Fact]:
    """Return the facts of a job, in the order in which they were written."""
    try:
        lines = (folder / TRUTH).read_text().splitlines()
    except FileNotFoundError:
        return []
    return [json.loads(line) for line in lines]


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
    steps: list[tuple[Any, int, int]] = field(default_factory=list)  #: number, begin, end; 0: not finished
    saves: list[tuple[int, int]] = field(default_factory=list)

    def take(self, fact: Fact) -> None:
        """Take one fact."""
        what, t = fact["what"], fact["t"]
        if what == "step":
            self.steps.append((fact["number"], t, 0))
        elif what == "stepped":
            at = max(at for at, step in enumerate(self.steps) if step[0] == fact["number"] and not step[2])
            self.steps[at] = (*self.steps[at][:2], t)
        elif what == "save":
            self.saves.append((t, 0))
        elif what == "saved":
            self.saves[-1] = (self.saves[-1][0], t)
        elif what == "dies":
            self.died, self.cause = t, fact["cause"]
        elif what == "word":
            self.word = fact["word"]
        else:
            name = {"ended": "victim"}.get(what, what)
            setattr(self, name, True)

    @property
    def last_step(self) -> int | None:
        """The number of the last step that it finished."""
        return next((number for number, _, end in reversed(self.steps) if end), None)


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
                worker = Worker(fact["rank"], fact["pid"], fact["node"], fact["t"])
                pids[worker.pid] = attempt.workers[worker.rank] = worker
            elif fact.get("pid") in pids:
                pids[fact["pid"]].take(fact)

    def last_steps(self) -> dict[int, int | None]:
        """Return the last finished step of each rank, in the last attempt that it was part of."""
        return {rank: worker.last_step for attempt in self.attempts for rank, worker in attempt.workers.items()}

    def seconds(self, bucket: str) -> float:
        """Return how long it was `productive`, `checkpoint` or `lost`, by painting milliseconds."""
        painted: dict[int, str] = {}
        for name, start, end in self._spans():
            for at in range(start // 1_000_000, end // 1_000_000):
                if _ABOVE.index(name) <= _ABOVE.index(painted.get(at, "lost")):
                    painted[at] = name
        return sum(name == bucket for name in painted.values()) / 1000

    def _spans(self) -> Iterator[tuple[str, int, int]]:
        later: list[int] = []  # the numbers with which later attempts begin
        for attempt in reversed(self.attempts):
            workers = attempt.workers.values()
            finished = {number for w in workers for number, _, end in w.steps if end}
            first = attempt.first
            for worker in workers:
                for number, begin, end in worker.steps:
                    again = any(number >= begun for begun in later)
                    if end:
                        yield ("lost" if again else "productive"), begin, end
                    elif number not in finished and first is not None and first.died:
                        yield "lost", begin, first.died
                yield from (("checkpoint", begin, end) for begin, end in worker.saves if end)
            begun = [number for w in workers for number, _, _ in w.steps]
            later += [min(begun)] if begun else []


_ABOVE = ("checkpoint", "productive", "lost")
