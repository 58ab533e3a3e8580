"""Goodput: how much of a job's wall time moved the training on, and where the rest went.

ETTR, the effective training time ratio, is productive time over wall time (Kokolis et al., "Revisiting Reliability in
Large-Scale Machine Learning Research Clusters", 2024, arXiv 2410.21680), here from the start of the job, without the time in
the scheduler's queue. Google calls the same ratio of a job its goodput.
"""

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from itertools import pairwise
from typing import NamedTuple

import msgspec

from elastic_events.reading.answer import Answer
from elastic_events.reading.causes import AT_ONCE
from elastic_events.reading.hang import hangs
from elastic_events.reading.observed import unsure_of
from elastic_events.reading.redone import Again, redone
from elastic_events.reading.steps import alike, called, cut, longest_pause, processes, step_times, unfinished, union
from elastic_events.reading.story import Attempt, Process, Story
from elastic_events.reading.words import seconds

__all__ = ("BUCKETS", "ORDER", "AttemptGoodput", "Bucket", "Goodput", "goodput", "headline")

#: Bucket -> what it holds. Where two overlap, the one that stands further up counts.
BUCKETS = {
    "checkpoint": "a rank wrote a checkpoint and ran no step of its own meanwhile: it holds up all others",
    "productive": "some rank was in a step that it finished and that nobody did again",
    "lost": "steps that were done again, or that the end of their attempt cut off",
    "requeue": "the job had ended and nobody had started it again: in a scheduler's queue, as a rule",
    "rendezvous": "the nodes gathered: from the first that began to the last that was done, and before it, where the "
    "membership changed, from the stop of the workers on",
    "startup": "from the start of the workers to the first step, loading a checkpoint included",
    "detection": "from the failure until the next rendezvous began: noticing it, and stopping the others",
    "unknown": "the workers ran, but nobody marked a step; or they were in steps of which nobody knows whether they were "
    "done again",
    "idle": "everything else: between steps, after the last one, steps that an exception left which the script caught, "
    "and what nobody recorded",
}

#: In which the buckets are shown.
ORDER = ("productive", "lost", "checkpoint", "startup", "rendezvous", "detection", "requeue", "unknown", "idle")


#: What nothing tells of where no step was marked.
_MARKED = frozenset({"productive", "lost", "startup"})


class Bucket(msgspec.Struct, frozen=True):
    """A part of the wall time."""

    name: str  #: as `--explain` has it
    seconds: float  #: of the wall time
    share: float  #: of the wall time, 0 to 1


class AttemptGoodput(msgspec.Struct, frozen=True):
    """An attempt with its rendezvous, and with what its failure took to notice; the last one goes to the end of the job."""

    attempt: int  #: its number
    outcome: str  #: succeeded, failed, membership, stopped, left, unknown
    start_s: float  #: from the beginning of the job
    wall_s: float  #: the sum of its buckets
    buckets: dict[str, float]  #: seconds
    unsure: str = ""  #: what is not known of its steps, in words: their numbers, or how much of the time was one


class Goodput(Answer, frozen=True):
    """What `elastic-events goodput --json` prints. The buckets sum up to the wall time."""

    run_id: str  #: of the job
    outcome: str  #: succeeded, failed, unknown
    wall_s: float  #: from the beginning of the job to its end, or to the last record
    ettr: float | None  #: productive / wall, 0 to 1; None: no step was marked, or it is not known which were done again
    buckets: list[Bucket]  #: those that are known
    attempts: list[AttemptGoodput]  #: in their order
    steps: int | None  #: that count: finished, and not done again later; None: it is not known which were
    steps_redone: int | None  #: finished, and done again by a later attempt, or after a rollback; None: not known
    steps_cut: int  #: that the end of their attempt cut off
    step_s: float | None  #: median over the ranks of their median step, as `slow` has it
    failures: int  #: attempts that failed
    between_failures_s: float | None  #: wall time / failures
    version: int = 1  #: of this schema: another one only where a field goes, or means something else


class _Piece(NamedTuple):
    start: int
    end: int
    bucket: str


def goodput(story: Story) -> Goodput:
    """Return the goodput of a run. Exact: the buckets are cut out of the wall time, which is whole nanoseconds."""
    again = redone(story)
    marked = any(process.starts for process in story.processes)
    usual, longest = step_times(story)
    failures = sum(attempt.outcome == "failed" for attempt in story.attempts)
    hung = {hang.attempt for hang in hangs(story, usual, longest_pause(story))} if failures else set[int]()
    pieces = list(_requeued(story))
    ends: list[int] = []
    counts = [0, 0, 0, 0]
    for attempt in story.attempts:
        steps = _Steps(attempt, again)
        end = _end_of_training(story, attempt, steps, longest, hung=attempt.number in hung)
        counts = [sum(pair) for pair in zip(counts, steps.counts(), strict=True)]
        pieces += steps.pieces(end)
        pieces += _around(story, attempt, end, ends[-1] if ends else story.began_ns, marked)
        ends.append(_over(story, attempt))
    if not story.attempts and not marked:
        pieces.append(_Piece(story.began_ns, story.ended_ns, "unknown"))
    if story.gathering:  # in vain, but gathering all the same
        pieces.append(
            _Piece(min(r.start_ns for r in story.gathering), max(r.end_ns for r in story.gathering), "rendezvous")
        )
    windows = [story.began_ns, *ends[:-1], story.ended_ns] if ends else [story.began_ns, story.ended_ns]
    parts = list(_sweep(pieces, _rising(windows, story.began_ns, story.ended_ns)))
    total = {name: sum(part[name] for part in parts) for name in BUCKETS}
    wall = story.ended_ns - story.began_ns
    names = ORDER if marked else tuple(name for name in ORDER if name not in _MARKED)
    finished, again_done, cut_off, doubted = counts
    return Goodput(
        run_id=story.run_id,
        outcome=story.outcome,
        wall_s=story.wall_s,
        ettr=None if not marked or doubted else total["productive"] / wall if wall else 0.0,
        buckets=[Bucket(name, total[name] / 1e9, total[name] / wall if wall else 0.0) for name in names],
        attempts=[
            AttemptGoodput(
                attempt.number,
                attempt.outcome,
                (start - story.began_ns) / 1e9,
                sum(part.values()) / 1e9,
                {name: part[name] / 1e9 for name in names},
                unsure_of(attempt),
            )
            for attempt, part, start in zip(story.attempts, parts, windows, strict=False)
        ],
        steps=None if doubted else finished,
        steps_redone=None if doubted else again_done,
        steps_cut=cut_off,
        step_s=usual / 1e9 if usual is not None else None,
        failures=failures,
        between_failures_s=story.wall_s / failures if failures else None,
    )


class _Steps:
    """The steps of one attempt, over all its processes.

    A step of the job is one number or name, as often as the rank began it that did so most often.
    """

    def __init__(self, attempt: Attempt, redone: Again) -> None:
        told = [worker.process for worker in attempt.workers if worker.process is not None]
        #: The checkpoints that held up who wrote them.
        self.saves = [span for process in told for span in process.spans if span.what == "checkpoint" and span.blocking]
        self._groups: list[_Group] = []
        done: Counter[object] = Counter()
        begun: Counter[object] = Counter()
        self._finished: Counter[object] = Counter()
        self._redone: Counter[object] = Counter()
        self._doubted = 0
        ended = attempt.outcome not in ("unknown", "succeeded")
        tells = set(redone.counted[attempt])
        for members in alike(processes(attempt)):
            by_fate: dict[str, _Group] = {}
            for process in members:
                again, doubted = redone.lost.get(process, []), redone.doubted.get(process, [])
                cut_off = cut(process) if ended else []
                fate = f"{again}{doubted}{cut_off}" if again or doubted or cut_off else ""
                if fate not in by_fate:
                    lost = _positions(again)
                    by_fate[fate] = _Group([], lost, _positions(doubted) - lost, cut_off)
                by_fate[fate].members.append(process)
            for group in by_fate.values():
                names, open_ = called(members[0]), unfinished(members[0])
                finished = Counter(names)
                finished.subtract(names[at] for at in open_)
                again_done = Counter(names[at] for at in group.again if at not in open_)
                done |= finished
                if not tells.isdisjoint(group.members):
                    self._redone |= again_done
                    self._finished |= finished - again_done
                self._doubted += len(group.doubted.difference(open_))
                begun |= finished + Counter(names[at] for at in group.cut)
            self._groups += by_fate.values()
        self._cut = begun - done
        for group in self._groups:  # a step that some rank finished was not cut off
            group.cut = [at for at in group.cut if called(group.members[0])[at] in self._cut]

    @property
    def cut(self) -> Iterator[tuple[Process, int]]:
        """Who was in a step that no rank finished, when it ended, and its position."""
        return ((process, at) for group in self._groups for at in group.cut for process in group.members)

    @property
    def latest_ns(self) -> int:
        """The last end of a step; 0: none ended."""
        return max((max(process.ends) for group in self._groups for process in group.members), default=0)

    def counts(self) -> tuple[int, int, int, int]:
        """Return how many count, were done again, were cut off, and of how many it is not known whether they count."""
        return self._finished.total(), self._redone.total(), self._cut.total(), self._doubted

    def pieces(self, end: int) -> Iterator[_Piece]:
        """Give the steps and checkpoints, those without an end up to `end`."""
        spans: dict[str, list[tuple[int, int]]] = {"productive": [], "lost": [], "unknown": [], "checkpoint": []}
        for group in self._groups:
            for at, (start, stop) in group.columns():
                bucket = "lost" if at in group.again else "unknown" if at in group.doubted else "productive"
                spans[bucket].append((start, stop))
        spans["lost"] += ((process.starts[at], process.errors.get(at, end)) for process, at in self.cut)
        spans["checkpoint"] += ((span.start_ns, span.end_ns or end) for span in self.saves)
        for name, found in spans.items():
            whole = [(start, stop) for start, stop in found if stop > start]
            for start, stop in union((start for start, _ in whole), (stop for _, stop in whole)):
                yield _Piece(start, stop, name)


@dataclass(slots=True)
class _Group:
    """Processes that did the same steps, with the same fate."""

    members: list[Process]
    again: set[int]  #: positions of the steps that were done again
    doubted: set[int]  #: positions of those of which nobody knows it
    cut: list[int]  #: positions of those that were cut off

    def columns(self) -> Iterator[tuple[int, tuple[int, int]]]:
        """Give the times at which any member was in a step that it finished, with the position of the step."""
        columns = zip(zip(*(p.starts for p in self.members)), zip(*(p.ends for p in self.members)))  # noqa: B905 - alike
        for at, (starts, ends) in enumerate(columns):
            if not ends[0]:
                continue
            if max(starts) <= min(ends):  # all were in it at once
                yield at, (min(starts), max(ends))
            else:
                yield from ((at, span) for span in union(starts, ends))


def _positions(ranges: Iterable[tuple[int, int]]) -> set[int]:
    return {at for low, high in ranges for at in range(low, high)}


def _end_of_training(story: Story, attempt: Attempt, steps: _Steps, longest: int | None, *, hung: bool) -> int:
    """Return when an attempt's training ended: its end, but of one that failed in a step the failure, as far as known.

    A process that exits is noticed within the agent's monitor interval. One that hangs is not: a step that was cut off
    therefore counts as training for as long as the longest step of the job took, and what is beyond that as detection; a
    checkpoint likewise.
    """
    _, end = story.span(attempt)
    if attempt.outcome != "failed":
        return end
    first = attempt.first_failure
    seen = [steps.latest_ns, *(process.errors[at] for process, at in steps.cut if at in process.errors)]
    died = first.ended_ns if first is not None and first.ended_ns is not None else end
    open_ = [process.starts[at] for process, at in steps.cut if at not in process.errors]
    saving = [span.start_ns for span in steps.saves if not span.end_ns]
    usual = max((span.end_ns - span.start_ns for span in steps.saves if span.end_ns), default=0 if hung else None)
    for begun, most in ((open_, longest), (saving, usual)):
        if begun:
            seen.append(died if most is None else min(died, max(begun) + most))
    if first is not None and first.signal in AT_ONCE and first.died_ns is not None and not (open_ or saving or hung):
        seen.append(first.died_ns)  # it did something until then, and hung no more than it evaluated
    elif not open_:
        seen.append(first.process.last_ns if first is not None and first.process is not None else end)
    return min(end, max(seen))


def _around(story: Story, attempt: Attempt, end: int, before: int, marked: bool) -> Iterator[_Piece]:
    """Give what is not training: the rendezvous, the start, and the detection of the failure."""
    start, over = story.span(attempt)
    gathered = [r for r in attempt.rendezvous if r.completed]
    if gathered:
        began = min(max(r.start_ns, before) for r in gathered)
        changed = attempt.number and story.attempts[attempt.number - 1].outcome == "membership"
        yield _Piece(before if changed else began, max(r.end_ns for r in gathered), "rendezvous")
    if marked:
        first = min((process.starts[0] for process in processes(attempt)), default=min(over, end))
        yield _Piece(start, first, "startup")
    else:
        yield _Piece(start, over, "unknown")
    if attempt.outcome == "failed":
        yield _Piece(end, _over(story, attempt), "detection")


def _requeued(story: Story) -> Iterator[_Piece]:
    """Give the times at which nobody of the job was there any more, until an agent began anew."""
    agents = {(node.host, node.pid) for node in story.nodes}
    there = list(union((p.first_ns for p in story.processes), (p.last_ns for p in story.processes)))
    begun = [p.first_ns for p in story.processes if (p.context.host, p.context.pid) in agents]
    for (_, left), (back, _) in pairwise(there):
        if back in begun and min(begun) < left:
            yield _Piece(left, back, "requeue")


def _over(story: Story, attempt: Attempt) -> int:
    """Return when the next attempt began to gather; for the last one, when the job ended."""
    _, end = story.span(attempt)
    if attempt.outcome != "failed":
        return end
    later = story.attempts[attempt.number + 1 :][:1]
    starts = [max(r.start_ns, end) for a in later for r in a.rendezvous if r.completed]
    starts += [max(r.start_ns, end) for r in story.gathering if not later]
    return min([*starts, *(story.span(a)[0] for a in later)], default=story.ended_ns)


def _rising(times: Iterable[int], low: int, high: int) -> list[int]:
    """Return `times` within the bounds, none before the one before it."""
    found: list[int] = []
    for time in times:
        found.append(min(high, max(low, time, *found[-1:])))
    return found


def _sweep(pieces: list[_Piece], windows: list[int]) -> Iterator[dict[str, int]]:
    """Give the nanoseconds of each bucket within each window; where pieces overlap, the highest bucket counts."""
    ranks = {name: rank for rank, name in enumerate(BUCKETS)}
    edges: list[tuple[int, int, int]] = []
    for start, end, bucket in pieces:
        if end > start:
            edges += ((start, ranks[bucket], 1), (end, ranks[bucket], -1))
    edges.sort()
    open_ = [0] * len(BUCKETS)
    names = list(BUCKETS)
    at, place = windows[0], 0
    for low, high in pairwise(windows):
        parts = dict.fromkeys(BUCKETS, 0)
        at = low
        while at < high:
            while place < len(edges) and edges[place][0] <= at:
                open_[edges[place][1]] += edges[place][2]
                place += 1
            until = min(high, edges[place][0]) if place < len(edges) else high
            bucket = next((names[rank] for rank, count in enumerate(open_) if count), "idle")
            parts[bucket] += until - at
            at = until
        yield parts


def headline(answer: Goodput) -> str:
    """Return the ratio in words."""
    wall = seconds(answer.wall_s)
    if answer.ettr is not None:
        return f"{answer.ettr:.1%} of {wall} moved the training on"
    shares = {bucket.name: bucket.share for bucket in answer.buckets}
    if "productive" not in shares:
        return f"how much of {wall} moved the training on is unknown: no steps were recorded"
    least, most = shares["productive"], shares["productive"] + shares["unknown"]
    return f"{least:.1%} to {most:.1%} of {wall} moved the training on: which steps were done again is not known"
