"""Goodput: how much of a job's wall time moved the training on, and where the rest went.

ETTR, the effective training time ratio, is productive time over wall time (Kokolis et al., "Revisiting Reliability in
Large-Scale Machine Learning Research Clusters", 2024, arXiv 2410.21680), here from the start of the job, without the time in
the scheduler's queue. Google calls the same ratio of a job its goodput.
"""

from collections.abc import Iterable, Iterator
from itertools import pairwise
from statistics import median
from typing import NamedTuple

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.reading.shown import shown
from elastic_events.reading.story import Attempt, Story
from elastic_events.reading.words import counted, seconds

__all__ = ("BUCKETS", "AttemptGoodput", "Bucket", "Goodput", "explain", "goodput", "goodput_terminal")

#: Bucket -> what it holds. Where two overlap, the one that stands further up counts.
BUCKETS = {
    "checkpoint": "a rank wrote a checkpoint and ran no step of its own meanwhile: it holds up all others",
    "productive": "steps that some rank finished and that no later attempt did again",
    "lost": "steps that a later attempt did again, or that the end of their attempt cut off",
    "rendezvous": "the nodes gathered: from the first that began to the last that was done, and before it, where the "
    "membership changed, from the stop of the workers on",
    "startup": "from the start of the workers to the first step, loading a checkpoint included",
    "detection": "from the failure until the next rendezvous began: noticing it, and stopping the others",
    "idle": "everything else: between steps, after the last one, and what nobody recorded",
}

_COLOURS = {
    "productive": "green",
    "lost": "red",
    "checkpoint": "blue",
    "startup": "cyan",
    "rendezvous": "magenta",
    "detection": "yellow",
    "idle": "bright_black",
}


_HEADS = {
    "productive": "produc-\ntive",
    "checkpoint": "check-\npoint",
    "startup": "start-\nup",
    "rendezvous": "rendez-\nvous",
    "detection": "detec-\ntion",
}


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


class Goodput(msgspec.Struct, frozen=True):
    """What `elastic-events goodput --json` prints. The buckets sum up to the wall time."""

    run_id: str  #: of the job
    outcome: str  #: succeeded, failed, unknown
    wall_s: float  #: from the beginning of the job to its end, or to the last record
    ettr: float  #: productive / wall, 0 to 1
    buckets: list[Bucket]  #: all seven
    attempts: list[AttemptGoodput]  #: in their order
    steps: int  #: that count: finished, and not done again later
    steps_redone: int  #: finished, and done again by a later attempt
    steps_cut: int  #: that the end of their attempt cut off
    step_s: float | None  #: median time of a step, over the whole job
    failures: int  #: attempts that failed
    between_failures_s: float | None  #: wall time / failures


class _Step(NamedTuple):
    """One step of the whole job, in one attempt."""

    number: int
    start: int
    end: int  #: of the last rank that finished it; 0: none did


class _Piece(NamedTuple):
    start: int
    end: int
    bucket: str


def goodput(story: Story) -> Goodput:
    """Return the goodput of a run. Exact: the buckets are cut out of the wall time, which is whole nanoseconds."""
    steps = [list(_steps(attempt)) for attempt in story.attempts]
    lasted = [step.end - step.start for attempt in steps for step in attempt if step.end]
    first_later = _first_of_later(steps)
    pieces: list[_Piece] = []
    ends: list[int] = []
    done = redone = cut = 0
    for attempt, own, later in zip(story.attempts, steps, first_later, strict=True):
        end = _end_of_training(story, attempt, own, max(lasted, default=None))
        finished = [step for step in own if step.end]
        counting = [step for step in finished if later is None or step.number < later]
        done, redone = done + len(counting), redone + len(finished) - len(counting)
        cut += len(own) - len(finished) if attempt.outcome not in ("unknown", "succeeded") else 0
        pieces += _trained(attempt, own, counting, end)
        pieces += _around(story, attempt, own, end, ends[-1] if ends else story.began_ns, bool(lasted))
        ends.append(_over(story, attempt))
    windows = [story.began_ns, *ends[:-1], story.ended_ns] if ends else [story.began_ns, story.ended_ns]
    parts = list(_sweep(pieces, _rising(windows, story.began_ns, story.ended_ns)))
    total = {name: sum(part[name] for part in parts) for name in BUCKETS}
    wall = story.ended_ns - story.began_ns
    failures = sum(attempt.outcome == "failed" for attempt in story.attempts)
    return Goodput(
        run_id=story.run_id,
        outcome=story.outcome,
        wall_s=story.wall_s,
        ettr=total["productive"] / wall if wall else 0.0,
        buckets=[Bucket(name, total[name] / 1e9, total[name] / wall if wall else 0.0) for name in _COLOURS],
        attempts=[
            AttemptGoodput(
                attempt.number,
                attempt.outcome,
                (start - story.began_ns) / 1e9,
                sum(part.values()) / 1e9,
                {name: part[name] / 1e9 for name in _COLOURS},
            )
            for attempt, part, start in zip(story.attempts, parts, windows, strict=False)
        ],
        steps=done,
        steps_redone=redone,
        steps_cut=cut,
        step_s=median(lasted) / 1e9 if lasted else None,
        failures=failures,
        between_failures_s=story.wall_s / failures if failures else None,
    )


def _steps(attempt: Attempt) -> Iterator[_Step]:
    """Give the steps of an attempt: from the start of the first rank that began it to the end of the last one."""
    starts: dict[int, int] = {}
    ends: dict[int, int] = {}
    for worker in attempt.workers:
        process = worker.process
        if process is None:
            continue
        for number, start, end in zip(process.steps, process.starts, process.ends, strict=True):
            if start < starts.get(number, start + 1):
                starts[number] = start
            if end > ends.get(number, 0):
                ends[number] = end
    for number in sorted(starts):
        yield _Step(number, starts[number], ends.get(number, 0))


def _first_of_later(steps: list[list[_Step]]) -> list[int | None]:
    """Return, for each attempt, the lowest step with which a later one began: from there on its own were done again."""
    lowest: int | None = None
    found: list[int | None] = []
    for own in reversed(steps):
        found.append(lowest)
        if own:
            lowest = own[0].number if lowest is None else min(lowest, own[0].number)
    return found[::-1]


def _end_of_training(story: Story, attempt: Attempt, own: list[_Step], longest: int | None) -> int:
    """Return when an attempt's training ended: its end, but of one that failed in a step the failure, as far as known.

    A process that exits is noticed within the agent's monitor interval. One that hangs is not: a step that was cut off
    therefore counts as training for as long as the longest step of the job took, and what is beyond that as detection.
    """
    _, end = story.span(attempt)
    if attempt.outcome != "failed":
        return end
    running = [step for step in own if not step.end]
    if running and longest is not None:
        return min(end, max(step.start for step in running) + longest)
    first = attempt.first_failure
    seen = first.process.last_ns if not running and first is not None and first.process is not None else end
    return min(end, max([seen, *(step.end for step in own)]))


def _trained(attempt: Attempt, own: list[_Step], counting: list[_Step], end: int) -> Iterator[_Piece]:
    """Give the steps and checkpoints of an attempt."""
    counts = {step.number for step in counting}
    for step in own:
        if step.end:
            yield _Piece(step.start, step.end, "productive" if step.number in counts else "lost")
        elif attempt.outcome not in ("unknown", "succeeded"):
            yield _Piece(step.start, end, "lost")
    for worker in attempt.workers:
        for span in worker.process.spans if worker.process is not None else ():
            if span.what == "checkpoint" and span.blocking:
                yield _Piece(span.start_ns, span.end_ns or end, "checkpoint")


def _around(story: Story, attempt: Attempt, own: list[_Step], end: int, before: int, marked: bool) -> Iterator[_Piece]:
    """Give what is not training: the rendezvous, the start, and the detection of the failure."""
    start, over = story.span(attempt)
    gathered = [r for r in attempt.rendezvous if r.completed]
    if gathered:
        began = min(max(r.start_ns, before) for r in gathered)
        changed = attempt.number and story.attempts[attempt.number - 1].outcome == "membership"
        yield _Piece(before if changed else began, max(r.end_ns for r in gathered), "rendezvous")
    if marked:
        yield _Piece(start, min((step.start for step in own), default=min(over, end)), "startup")
    if attempt.outcome == "failed":
        yield _Piece(end, _over(story, attempt), "detection")


def _over(story: Story, attempt: Attempt) -> int:
    """Return when the next attempt began to gather; for the last one, when the job ended."""
    _, end = story.span(attempt)
    if attempt.outcome != "failed":
        return end
    later = story.attempts[attempt.number + 1 :][:1]
    starts = [max(r.start_ns, end) for a in later for r in a.rendezvous if r.completed]
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


# --- in the terminal ---


def goodput_terminal(answer: Goodput, width: int = 80) -> RenderableType:
    """Draw the goodput for a terminal of `width` columns."""
    answer = shown(answer)
    head = Text.assemble(
        f"Run {answer.run_id}: ",
        (f"{answer.ettr:.1%} of {seconds(answer.wall_s)} moved the training on", "bold"),
        " (ETTR).",
    )
    table = Table(box=SIMPLE_HEAD, padding=(0, 1))
    table.add_column("")
    table.add_column("time", justify="right")
    table.add_column("share", justify="right")
    table.add_column("", no_wrap=True)
    longest = max((bucket.share for bucket in answer.buckets), default=0) or 1
    room = max(10, min(40, width - 40))
    for bucket in answer.buckets:
        bar = Text("█" * round(bucket.share / longest * room), style=_COLOURS[bucket.name])
        table.add_row(bucket.name, seconds(bucket.seconds), f"{bucket.share:.1%}", bar)
    table.add_section()
    table.add_row("wall time", seconds(answer.wall_s), "100.0%", "")
    return Group(head, table, *_by_attempt(answer), *map(Text, _remarks(answer)))


def _by_attempt(answer: Goodput) -> list[RenderableType]:
    if len(answer.attempts) < 2:
        return []
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    table.add_column("#", justify="right")
    for name in _COLOURS:
        table.add_column(_HEADS.get(name, name), justify="right", no_wrap=True)
    table.add_column("ended", no_wrap=True)
    shown = answer.attempts if len(answer.attempts) <= 20 else [*answer.attempts[:10], *answer.attempts[-10:]]
    for attempt in shown:
        cells = [seconds(attempt.buckets[name]) if attempt.buckets[name] else "" for name in _COLOURS]
        table.add_row(str(attempt.attempt), *cells, Text(attempt.outcome))
    hidden = len(answer.attempts) - len(shown)
    return [table, *([Text(f"{hidden} attempts between are not shown; --json has all.")] if hidden else [])]


def _remarks(answer: Goodput) -> Iterator[str]:
    if answer.step_s is None:
        yield (
            "No steps were marked, so nothing tells which time was productive. In the training loop: "
            "with elastic_events.step(n): ...  (and checkpoint(n), restore(n))."
        )
        return
    parts = [f"{counted(answer.steps, 'step')} of {seconds(answer.step_s)} in the median"]
    if answer.steps_redone:
        parts.append(f"{answer.steps_redone:,} done again after a restart")
    if answer.steps_cut:
        parts.append(f"{answer.steps_cut:,} cut off")
    yield ", ".join(parts) + "."
    if answer.between_failures_s is not None:
        yield f"{counted(answer.failures, 'failure')}, one every {seconds(answer.between_failures_s)}."


def explain() -> str:
    """Return the formula, what each bucket holds, and where it comes from."""
    lines = [
        "ETTR = productive / wall time",
        "",
        "The wall time runs from the start of the job to its end, or to the last record where it has not ended. The time",
        "in a scheduler's queue is not part of it. Each nanosecond of it is in one bucket; where several would claim it,",
        "the first of this list does:",
        "",
        *(f"  {name:<11} {what}" for name, what in BUCKETS.items()),
        "",
        "A step is that of the whole job: from the first rank that began it to the last that finished it. One that was cut",
        "off counts as lost for as long as the longest step of the job took, and beyond that as detection: a rank hung.",
        "Steps after the last checkpoint of a job that failed for good count as productive, since nobody did them again.",
        "",
        "Events: job.*, attempt.*, worker.* and rendezvous.completed by the launcher, the torchrun plug-in or, in part, torch;",
        "step.*, checkpoint.* and restore.* by the training loop: with elastic_events.step(n), checkpoint(n), restore(n).",
        "",
        "ETTR: Kokolis et al., Revisiting Reliability in Large-Scale Machine Learning Research Clusters, 2024,",
        "arXiv 2410.21680, which counts productive runtime over the wall time that was available to the job.",
    ]
    return "\n".join(lines)
