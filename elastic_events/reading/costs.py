"""What each failure cost, and who failed again and again."""

from collections import Counter
from collections.abc import Mapping
from itertools import pairwise

import msgspec

from elastic_events.reading.redone import counted
from elastic_events.reading.steps import keys
from elastic_events.reading.story import Attempt, Process, Story

__all__ = ("Cost", "Repeated", "costs", "repeated")


class Cost(msgspec.Struct, frozen=True):
    """What a failure cost, over attempts that failed in between. Seconds are None where the records do not tell them."""

    attempt: int  #: that failed
    at_s: float  #: the failure, as far as known, from the beginning of the job
    down_s: float | None  #: from there to the next first step of any rank
    redone_s: float | None  #: from there until the steps that had been finished were done again
    total_s: float | None  #: both
    between: list[int]  #: attempts in between, which came to no step


class Repeated(msgspec.Struct, frozen=True):
    """A rank, or a node, that failed first more than once."""

    rank: int | None  #: None: the node
    node: str  #: its name; for a rank that of its last failure
    attempts: list[int]  #: in which


def costs(story: Story) -> list[Cost]:
    """Return the cost of each failure of a job that marks steps; the end of a job that failed for good has none."""
    if not any(process.starts for process in story.processes):
        return []
    began = [attempt.first_step_ns for attempt in story.attempts]
    told = counted(story)
    return [
        _cost(story, attempt, began[attempt.number + 1 :], told)
        for attempt in story.attempts[:-1]
        if attempt.outcome == "failed" and (attempt.number == 0 or began[attempt.number] is not None)
    ]


def _cost(story: Story, attempt: Attempt, begins: list[int | None], told: Mapping[Attempt, list[Process]]) -> Cost:
    failed_ns = _failed_ns(story, attempt)
    later = story.attempts[attempt.number + 1 :]
    place = next((place for place, begin in enumerate(begins) if begin is not None), len(begins))
    between, after = [one.number for one in later[:place]], later[place:]
    at = (failed_ns - story.began_ns) / 1e9
    began = begins[place] if after else None
    if began is None:
        return Cost(attempt.number, at, None, None, None, between)
    down = max(0, began - failed_ns) / 1e9
    caught_up = _caught_up(told[attempt], [told[one] for one in after], began)
    redone = max(0, caught_up - began) / 1e9 if caught_up is not None else None
    return Cost(attempt.number, at, down, redone, down + redone if redone is not None else None, between)


def _failed_ns(story: Story, attempt: Attempt) -> int:
    first = attempt.first_failure
    ends = [first] if first is not None else [w for w in attempt.workers if w.outcome == "failed" and not w.victim]
    times = [worker.ended_ns for worker in ends if worker.ended_ns is not None]
    return min(times, default=story.span(attempt)[1])


def _caught_up(failed: list[Process], later: list[list[Process]], began: int) -> int | None:
    """Return when what an attempt had finished was done again, or one began beyond it; None: none did, or it is not clear."""
    if not any(any(process.ends) for process in failed):
        return began  # there was nothing to do again
    reached = max((number for p in failed if (number := _last(p)) is not None), default=None)
    if reached is None:
        return None
    for processes in filter(None, later):
        process = processes[0]
        steps = [
            (n, *times) for n, *times in zip(keys(process), process.starts, process.ends, strict=True) if n is not None
        ]
        if not steps or any(after[0] <= before[0] for before, after in pairwise(steps)):
            return None  # names, or numbers that come again, do not tell
        if steps[0][0] > reached:
            # Whichever rank was the first there: none did anything again.
            return min(one.starts[0] for one in processes)
        _, _, done = next(step for step in reversed(steps) if step[0] <= reached)
        beyond = next((start for number, start, _ in steps if number > reached), None)
        if beyond is not None or (steps[-1][0] == reached and done):
            return done or beyond  # between the two may be a checkpoint, or an evaluation
    return None


def _last(process: Process) -> int | None:
    """Return the number of the last step that a process finished; those of later epochs are higher."""
    told = zip(reversed(keys(process)), reversed(process.ends), strict=True)
    return next((number for number, end in told if end and number is not None), None)


def repeated(story: Story) -> list[Repeated]:
    """Return the ranks, and where there are several the nodes, that were the first to fail in more than one attempt."""
    firsts = [
        (attempt.number, attempt.first_failure) for attempt in story.attempts if attempt.first_failure is not None
    ]
    ranks = Counter(worker.rank for _, worker in firsts if worker.rank is not None)
    nodes = Counter(worker.place for _, worker in firsts if worker.place)
    found = [
        Repeated(
            rank, next(w.place for _, w in reversed(firsts) if w.rank == rank), [n for n, w in firsts if w.rank == rank]
        )
        for rank, times in ranks.items()
        if times > 1
    ]
    if len(story.nodes) > 1:
        found += (
            Repeated(None, node, [number for number, worker in firsts if worker.place == node])
            for node, times in nodes.items()
            if times > 1
        )
    return sorted(found, key=lambda one: (one.rank is None, -len(one.attempts)))
