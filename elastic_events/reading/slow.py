"""Which rank is slow, and which went quiet: step times by rank, over all attempts."""

from array import array
from collections.abc import Iterable, Iterator
from operator import attrgetter
from statistics import median
from typing import Any

import msgspec
from rich.box import SIMPLE_HEAD
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from elastic_events.reading.shown import shown
from elastic_events.reading.story import Attempt, Process, Story
from elastic_events.reading.words import counted, seconds

__all__ = ("Quiet", "RankSteps", "Slow", "slow", "slow_terminal")

#: A rank is a straggler when it stands this many deviations (1.4826 x the median absolute deviation, which for a normal
#: distribution is the standard deviation) and this share above the median of all ranks.
DEVIATIONS, SHARE = 5.0, 0.05

_SHOWN = 20


class RankSteps(msgspec.Struct, frozen=True):
    """The finished steps of one rank."""

    rank: int  #: of the whole job
    node: str  #: of its last attempt
    steps: int  #: finished
    median_s: float  #: of a step
    p99_s: float  #: what 99 of 100 steps did not exceed
    longest_s: float  #: the longest step
    longest_step: int  #: the number of the step that took `longest_s`
    ratio: float  #: its median over the median of all ranks' medians
    late_s: float  #: median of how long after the first rank it began a step
    straggler: str  #: "slow", "late", or empty


class Quiet(msgspec.Struct, frozen=True):
    """A rank that stopped recording before the others of its attempt did."""

    rank: int  #: of the whole job
    node: str  #: its name
    attempt: int  #: in which
    since_s: float  #: its last record, in seconds from the beginning of the job
    before_others_s: float  #: how long before the last sign of half of the others
    last_step: int | None  #: that it finished


class Slow(msgspec.Struct, frozen=True):
    """What `elastic-events slow --json` prints."""

    run_id: str  #: of the job
    median_s: float | None  #: median over the ranks of their median step time
    usual_late_s: float | None  #: median over the ranks of their lateness
    ranks: list[RankSteps]  #: the slowest first
    quiet: list[Quiet]  #: the quietest first


def slow(story: Story) -> Slow:
    """Return step times by rank. In a job whose ranks wait for each other inside of a step, look at who begins late.

    Such ranks all take as long as the slowest one; what differs is when they begin, after their data and their own
    work outside of the step.
    """
    lasted: dict[int, array[int]] = {}
    late: dict[int, array[int]] = {}
    longest: dict[int, tuple[int, int]] = {}
    nodes: dict[int, str] = {}
    for attempt in story.attempts:
        begun = _begun(attempt)
        for rank, node, process in _ranked(attempt):
            nodes[rank] = node
            own, behind = lasted.setdefault(rank, array("q")), late.setdefault(rank, array("q"))
            for step, start, end in zip(process.steps, process.starts, process.ends, strict=True):
                behind.append(start - begun[step])
                if end:
                    own.append(end - start)
                    if end - start > longest.get(rank, (-1, 0))[0]:
                        longest[rank] = (end - start, step)
    medians = {rank: median(own) for rank, own in lasted.items() if own}
    behinds = {rank: median(late[rank]) for rank in medians}
    usual, usual_late = (median(found.values()) if found else None for found in (medians, behinds))
    slow_ones = _standing_out(medians)
    late_ones = _standing_out(behinds, least=(usual or 0) * SHARE)
    ranks = [
        RankSteps(
            rank,
            nodes[rank],
            len(lasted[rank]),
            medians[rank] / 1e9,
            _percentile(lasted[rank], 0.99) / 1e9,
            longest[rank][0] / 1e9,
            longest[rank][1],
            medians[rank] / usual if usual else 1.0,
            behinds[rank] / 1e9,
            "slow" if rank in slow_ones else "late" if rank in late_ones else "",
        )
        for rank in medians
    ]
    ranks.sort(key=lambda one: (not one.straggler, -one.median_s, -one.late_s, one.rank))
    return Slow(
        story.run_id,
        usual / 1e9 if usual is not None else None,
        usual_late / 1e9 if usual_late is not None else None,
        ranks,
        sorted(_quiet(story, usual), key=attrgetter("before_others_s"), reverse=True),
    )


def _ranked(attempt: Attempt) -> Iterator[tuple[int, str, Process]]:
    for worker in attempt.workers:
        if worker.rank is not None and worker.process is not None:
            yield worker.rank, worker.node.name if worker.node is not None else worker.host, worker.process


def _begun(attempt: Attempt) -> dict[int, int]:
    """Return when the first rank began each step."""
    begun: dict[int, int] = {}
    for _, _, process in _ranked(attempt):
        for step, start in zip(process.steps, process.starts, strict=True):
            if start < begun.get(step, start + 1):
                begun[step] = start
    return begun


def _standing_out(values: dict[int, float], least: float = 0.0) -> set[int]:
    """Return the ranks that stand out from the others, in both deviations and share."""
    if len(values) < 3:
        return set()
    middle = median(values.values())
    spread = 1.4826 * median(abs(value - middle) for value in values.values())
    bound = middle + max(DEVIATIONS * spread, SHARE * middle, least)
    return {rank for rank, value in values.items() if value > bound}


def _quiet(story: Story, usual: float | None) -> Iterator[Quiet]:
    """Give the ranks whose last record is a second, and ten of the job's steps, before that of half of the others."""
    bound = max(1e9, 10 * (usual or 0))
    for attempt in story.attempts:
        found = list(_ranked(attempt))
        if len(found) < 2:
            continue
        middle = median(process.last_ns for _, _, process in found)
        for rank, node, process in found:
            if middle - process.last_ns > bound:
                since = (process.last_ns - story.began_ns) / 1e9
                before = (middle - process.last_ns) / 1e9
                yield Quiet(rank, node, attempt.number, since, before, process.last_step)


def _percentile(values: Iterable[int], share: float) -> int:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]


# --- in the terminal ---


def slow_terminal(answer: Slow) -> RenderableType:
    """Draw it for a terminal: stragglers first, then the slowest."""
    answer = shown(answer)
    if answer.median_s is None:
        text = "No finished step was recorded. In the training loop: with elastic_events.step(n): ..."
        return Group(Text(text), *_silence(answer))
    stragglers = [one for one in answer.ranks if one.straggler]
    head = f"Run {answer.run_id}: {counted(len(answer.ranks), 'rank')}, a step takes {seconds(answer.median_s)} in the median; "
    head += f"{counted(len(stragglers), 'straggler')}." if stragglers else "no straggler."
    table = Table(box=SIMPLE_HEAD, padding=(0, 1, 0, 0))
    heads = ("rank", "steps", "median", "of all", "p99", "p99/\nmedian", "longest\n(step)", "begins\nlate by")
    for column in heads:
        table.add_column(column, justify="right", no_wrap=True)
    table.add_column("node", overflow="fold", min_width=8)
    table.add_column("")
    for one in answer.ranks[:_SHOWN]:
        table.add_row(*map(str, _cells(one)), Text(one.node), Text(one.straggler, style="bold red"))
    more = len(answer.ranks) - _SHOWN
    rest = [Text(f"{counted(more, 'more rank')}; --json has all.")] if more > 0 else []
    return Group(Text(head), table, *rest, *_silence(answer))


def _cells(one: RankSteps) -> tuple[Any, ...]:
    spread = f"{one.p99_s / one.median_s:.1f} x" if one.median_s else ""
    longest = f"{seconds(one.longest_s)} ({one.longest_step})"
    times = (seconds(one.median_s), f"{one.ratio:.2f} x", seconds(one.p99_s), spread, longest)
    return (one.rank, one.steps, *times, seconds(one.late_s))


def _silence(answer: Slow) -> Iterator[Text]:
    for one in answer.quiet[:_SHOWN]:
        step = f", after step {one.last_step}" if one.last_step is not None else ""
        yield Text(
            f"Rank {one.rank} on {one.node} went quiet at +{seconds(one.since_s)} in attempt {one.attempt}{step}, "
            f"{seconds(one.before_others_s)} before the others."
        )
    if len(answer.quiet) > _SHOWN:
        yield Text(f"{counted(len(answer.quiet) - _SHOWN, 'more rank')} went quiet.")
