"""The steps that processes marked: how long they took, which were cut off, and when any of several processes was in one."""

from array import array
from collections.abc import Iterable, Iterator, Sequence
from itertools import pairwise
from operator import sub
from statistics import median

from elastic_events.reading.story import Attempt, Process, Story

__all__ = (
    "alike",
    "called",
    "cut",
    "durations",
    "keys",
    "longest_first",
    "longest_pause",
    "processes",
    "rising",
    "step_times",
    "unfinished",
    "union",
)

_EPOCH = 1 << 40


def processes(attempt: Attempt) -> list[Process]:
    """Return the processes of an attempt that marked steps."""
    return [w.process for w in attempt.workers if w.process is not None and w.process.starts]


def unfinished(process: Process) -> list[int]:
    """Return the positions of the steps that have no end."""
    ends, found, at = process.ends, [], -1
    for _ in range(ends.count(0)):
        at = ends.index(0, at + 1)
        found.append(at)
    return found


def durations(process: Process) -> "array[int]":
    """Return how long each finished step took, in nanoseconds."""
    lasted = array("q", map(sub, process.ends, process.starts))
    if 0 in process.ends:
        for at in reversed(unfinished(process)):
            del lasted[at]
    return lasted


def step_times(story: Story) -> tuple[float | None, int | None]:
    """Return the median over the ranks of their median step, and the longest, in nanoseconds; None: no step was finished."""
    ranks: dict[object, array[int]] = {}
    for attempt in story.attempts:
        for worker in attempt.workers:
            if worker.process is not None and worker.process.starts:
                own = worker.process if worker.rank is None else worker.rank
                ranks.setdefault(own, array("q")).extend(durations(worker.process))
    ordered = [sorted(lasted) for lasted in ranks.values() if lasted]
    if not ordered:
        return None, None
    return median(map(_median, ordered)), max(lasted[-1] for lasted in ordered)


def _median(ordered: Sequence[int]) -> float:
    return (ordered[(len(ordered) - 1) // 2] + ordered[len(ordered) // 2]) / 2


def longest_pause(story: Story) -> int:
    """Return the longest time that a process came through between two marks of steps, in nanoseconds."""
    return max((_pause(p) for attempt in story.attempts for p in processes(attempt)), default=0)


def longest_first(story: Story) -> int:
    """Return the longest first step of a process, which compiles, and fills caches, in nanoseconds; 0: none was finished."""
    told = (p for attempt in story.attempts for p in processes(attempt))
    return max((p.ends[0] - p.starts[0] for p in told if p.ends[0]), default=0)


def _pause(process: Process) -> int:
    """Return the longest time between two marks of steps, but for the first step: it compiles, and fills caches."""
    lasted = durations(process)[1:]
    gaps = [start - end for start, end in zip(process.starts[2:], process.ends[1:], strict=False) if end]
    return max(max(lasted, default=0), max(gaps, default=0))


def cut(process: Process) -> list[int]:
    """Return the positions of the steps that the process was in when it ended.

    An exception that left a step did not end the process if a step was begun afterwards. A step without an end behind which
    another one began and ended has lost its end: what became of it is not known.
    """
    open_ = unfinished(process)
    if not open_:
        return []
    last = len(process.ends) - 1
    while last >= 0 and not process.ends[last]:
        last -= 1
    latest = max(process.starts[-1], *process.ends) if process.errors else 0
    left = process.errors
    return [at for at in open_ if (left[at] >= latest if at in left else at > last)]


def alike(told: Iterable[Process]) -> list[list[Process]]:
    """Return processes in groups that did the same steps, and finished the same of them: of most jobs all of an attempt."""
    groups: dict[object, list[Process]] = {}
    for process in told:
        epochs = None if process.epochs is None else process.epochs.tobytes()
        more = (repr(process.names), epochs) if process.names or epochs else None
        groups.setdefault((process.steps.tobytes(), *unfinished(process), more, process.observed), []).append(process)
    return list(groups.values())


def called(process: Process) -> Sequence[object]:
    """Return what each step is called: its number or name, and its epoch."""
    if not process.names and process.epochs is None:
        return process.steps
    names: Sequence[object] = [process.names.get(at, number) for at, number in enumerate(process.steps)]
    return names if process.epochs is None else list(zip(process.epochs, names, strict=True))


def keys(process: Process) -> Sequence[int | None]:
    """Return the numbers of the steps, of which those of later epochs are higher; None: it has none."""
    numbers: Sequence[int | None] = process.steps
    if process.epochs is not None:
        numbers = [epoch * _EPOCH + number for epoch, number in zip(process.epochs, process.steps, strict=True)]
    if process.names:
        numbers = [None if at in process.names else number for at, number in enumerate(numbers)]
    return numbers


def rising(numbers: Sequence[int | None]) -> bool:
    """Whether each step has a number, and a higher one than that before it."""
    return all(a is not None and b is not None and a < b for a, b in pairwise(numbers))


def union(starts: Iterable[int], ends: Iterable[int]) -> Iterator[tuple[int, int]]:
    """Give the times at which at least one of the spans ran, in order: each a start and an end."""
    begins, stops = sorted(starts), sorted(ends)
    if not begins:
        return
    # As many have ended before a gap as have begun.
    low = 0
    for at in range(len(begins) - 1):
        if stops[at] < begins[at + 1]:
            yield begins[low], stops[at]
            low = at + 1
    yield begins[low], stops[-1]
