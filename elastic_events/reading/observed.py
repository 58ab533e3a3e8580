"""Which steps of the job those are that an observer counted: it begins with 0 in each process, also behind a restore.

Where a process loaded what an earlier attempt had saved, by its path, it goes on behind the step of that checkpoint. Where it
loaded something else, nobody knows which steps it did again: all before it are in doubt.
"""

from array import array
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from itertools import pairwise
from statistics import median
from typing import Any, NamedTuple

from elastic_events.bus.text import counted
from elastic_events.reading.steps import durations, processes, rising
from elastic_events.reading.story import Attempt, Process, Span, Story
from elastic_events.reading.words import seconds

__all__ = ("ROUNDS", "Observed", "number_observed", "script_first", "unsure_of")

#: Of an attempt in which nobody knows how many steps there were, either.
ROUNDS = "several optimizers stepped in no fixed round: what counts as a step is not known"

#: Of an attempt behind one that went back in its process.
_HIGH = "an attempt before went back to a checkpoint in its process: the steps may have lower numbers"

#: Steps that took so many times the median, and so much of the time of all, may as well have been something else.
_LONG, _SHARE = 10, 0.1


class Observed:
    """The steps of one process that were observed, as `step.observed` tells each at its end."""

    __slots__ = ("fetched", "names", "steps")

    def __init__(self) -> None:
        #: Number, start, end.
        self.steps: tuple[array[int], array[int], array[int]] = array("q"), array("q"), array("q")
        self.names: dict[int, str] = {}  #: of those that have no number
        self.fetched: bool = False  #: it waited for a DataLoader

    def add(self, time_ns: int, facts: Mapping[str, Any]) -> None:
        """Take one, which ended at `time_ns`."""
        numbers, starts, ends = self.steps
        number, took = facts.get("step"), facts.get("took_ns")
        self.fetched = self.fetched or bool(facts.get("data_ns"))
        if type(number) is not int or not 0 <= number < 1 << 62:
            self.names[len(numbers)] = str(number)
            number = len(numbers)
        numbers.append(number)
        starts.append(time_ns - took if type(took) is int and 0 <= took <= time_ns else time_ns)
        ends.append(time_ns)

    def move(self, later_ns: int) -> None:
        """Set all times later."""
        for times in self.steps[1:]:
            times[:] = array("q", (time + later_ns for time in times))


def script_first(spans: Sequence[Span]) -> Sequence[Span]:
    """Return the spans without those that were observed, where the script marks such spans itself."""
    marked = {span.what for span in spans if not span.observed}
    return [span for span in spans if not (span.observed and span.what in marked)] if marked else spans


def number_observed(story: Story) -> None:
    """Give the steps and checkpoints that were observed the numbers that they have in the job."""
    saved = _Checkpoints([], [], [])
    before: list[Process] = []
    begun = False
    paths = {span.path for process in story.processes for span in process.spans if span.what == "checkpoint"}
    count = all(_one_counts(attempt, paths) for attempt in story.attempts)
    for attempt in story.attempts:
        own = _observed(attempt)
        base, unsure = _base(own, saved, _loads(attempt, own)) if begun else (0, _unseen(own))
        peer = next((process for process in processes(attempt) if count and _counts(process, own)), None)
        if peer is not None:  # as the first rank does that alone logs
            base, unsure = peer.steps[0], ""
        begun = begun or any(process.steps for process in own)
        if base is None or any(process.names or _goes_below(process) for process in own):
            for process in before:
                process.doubts = [(0, len(process.steps))]
        before += (worker.process for worker in attempt.workers if worker.process is not None)
        saved.data.extend(span for span in _saves(own) if span.step is None)
        back = 0
        for process in own:
            # Those before the first that has no number were counted as if there was but one optimizer.
            went_back, since = ("", 0) if process.names else _went_back(process, base)
            back = min(back or since, since or back)
            process.unsure = process.unsure or (
                ROUNDS if process.names else "; ".join(filter(None, (unsure, went_back)))
            )
            _move(process, None if process.names else base)
        doubts = sorted({doubt for process in own for doubt in process.doubts})
        if doubts:  # a rank that saved nothing tells of no rollback, and went back with the others
            since = min(process.starts[high] for process in own for _, high in process.doubts)
            back = min(back or since, since)  # behind the first of several rollbacks
            for process in own:
                process.doubts = [(low, min(high, len(process.steps))) for low, high in doubts]
        # How many steps of the others a checkpoint holds that is saved by one that marks its own is not known.
        saves = [*_saves(own), *(replace(span, step=None) for span in _saves(_marking(attempt)))]
        if back or unsure == _HIGH:
            saved.behind.extend(span for span in saves if unsure == _HIGH or span.end_ns > back)
        saved.spans.extend(saves)


def _observed(attempt: Attempt) -> list[Process]:
    return [w.process for w in attempt.workers if w.process is not None and w.process.observed]


def _marking(attempt: Attempt) -> list[Process]:
    return [w.process for w in attempt.workers if w.process is not None and not w.process.observed]


def _saves(processes: Sequence[Process]) -> list[Span]:
    return [span for process in processes for span in process.spans if span.what == "checkpoint" and span.observed]


def _one_counts(attempt: Attempt, saves: Collection[str | None]) -> bool:
    """Whether one that marks what it does beside those that were observed, if any does, marks steps."""
    own, told = _observed(attempt), processes(attempt)
    if not own or all(one.observed for one in told):
        return True
    return any(_as_many(one, own) and not _laps(one, saves) for one in told)


def _laps(process: Process, saves: Collection[str | None]) -> bool:
    """Whether it comes back to its first number, but behind a restore of one of `saves`: so it counts within each epoch."""
    loaded = [span.end_ns for span in process.spans if span.loaded and (not span.path or span.path in saves)]
    return any(
        number <= before and number <= process.steps[0] and not any(start < end <= begin for end in loaded)
        for (before, number), (start, begin) in zip(pairwise(process.steps), pairwise(process.starts), strict=True)
    )


def _counts(process: Process, observed: Sequence[Process]) -> bool:
    """Whether the script marked its steps, as many as were observed of other ranks, by numbers that only rise."""
    return _as_many(process, observed) and rising(process.steps)


def _as_many(process: Process, observed: Sequence[Process]) -> bool:
    if process.observed or process.names or process.epochs is not None or not observed:
        return False
    most = max(len(other.steps) for other in observed)
    return abs(len(process.steps) - most) <= 1 + most // 10


def unsure_of(attempt: Attempt) -> str:
    """Return what is not sure of the steps of an attempt: their numbers, and how much of their time was one."""
    parts = (attempt.unsure, next(filter(None, map(_stretched, processes(attempt))), ""))
    return "; ".join(filter(None, parts))


def _stretched(process: Process) -> str:
    """Say that steps without a DataLoader, which begin where the one before ended, held more than a step by their length."""
    if not process.observed or process.fetched:
        return ""
    lasted = durations(process)
    bound = _LONG * median(lasted)
    long = [took for took in lasted if took > bound]
    if sum(long) <= _SHARE * sum(lasted):
        return ""
    return (
        f"without a DataLoader a step holds what stood before it, and {len(long)} of {len(lasted)} took over {_LONG} times "
        f"the median, {seconds(sum(long) / 1e9)} in all: how much of that was a step is not known"
    )


class _Checkpoints(NamedTuple):
    """The checkpoints that attempts before were seen to save."""

    spans: list[Span]
    data: list[Span]  #: those that were saved before the first step
    behind: list[Span]  #: those behind a rollback of which nobody knows how far it went back


def _loads(attempt: Attempt, own: Sequence[Process]) -> list[Span]:
    """Return what those that mark their steps were seen to load before any step: the first rank may hand it to the others."""
    first = min((process.starts[0] for process in own if process.starts), default=0)
    return [span for one in _marking(attempt) for span in _restores(one) if span.observed and span.end_ns <= first]


def _base(processes: Sequence[Process], saved: _Checkpoints, more: Sequence[Span]) -> tuple[int | None, str]:
    """Return the number of the first step of an attempt behind others, None: it is not known; and what is not sure about it."""
    loaded = [*more, *(span for process in processes for span in _restores(process))]
    found = [span for one in loaded if (span := _saved(one, saved.spans)) is not None]
    held = {_held(span) for span in found if not _among(span, saved.data)}
    if len(held) == 1 and None not in held:
        return held.pop(), _HIGH if any(_among(span, saved.behind) for span in found) else ""
    if not any(process.steps for process in processes):
        return 0, ""
    if len(held) > 1:
        return None, f"it loaded {_place(loaded[-1])} and others that hold other steps: which it did again is not known"
    if found:
        return None, f"it loaded {_place(loaded[-1])}, of which it is not known which steps it holds"
    if loaded:
        return None, (
            f"it loaded {_place(loaded[-1])}, which nobody was seen to save: which steps it did again is not known"
        )
    return 0, "nobody saw it load a checkpoint: its steps are taken for the first ones again"


def _unseen(processes: Sequence[Process]) -> str:
    """Return what is not sure about the first steps of all: whether the job goes on with what another one saved."""
    saves = _saves(processes)
    loaded = [
        one
        for process in processes
        if process.steps
        for one in _restores(process)
        # What it had saved itself is data; what it saves at that path later is not what it loaded. Clocks of hosts differ.
        if one.observed and _saved(one, [s for s in saves if s.end_ns <= one.start_ns or _is_same(one, s)]) is None
    ]
    return (
        f"it loaded {_place(loaded[-1])}, which this run was not seen to save: its steps are counted from 0"
        if loaded
        else ""
    )


def _among(span: Span, others: Iterable[Span]) -> bool:
    return any(span is other for other in others)


def _is_same(one: Span, other: Span) -> bool:
    return one.file_id is not None and one.file_id == other.file_id


def _saved(one: Span, saved: Sequence[Span]) -> Span | None:
    """Return the save of what was loaded: of the same file, else the last one at its path."""
    ended = [span for span in saved if span.end_ns and not span.failed]
    same = [span for span in ended if _is_same(one, span)]
    there = [span for span in ended if one.path and span.path == one.path]
    return max(same or there, key=lambda span: span.end_ns, default=None)


def _restores(process: Process) -> list[Span]:
    first = process.first_step_ns
    return [span for span in process.spans if span.loaded and (first is None or span.end_ns <= first)]


def _went_back(process: Process, base: int | None) -> tuple[str, int]:
    """Say that a process loaded what it had saved itself, steps before, of which it may have done some again; and since when."""
    # What it saved before its first step is data, as a rule, or what another fold begins with.
    saves = [span for span in _saves([process]) if span.step is not None]
    said, since = "", 0
    for one, done, taken in _taken_back(process):
        saved = _saved(one, [span for span in saves if span.end_ns <= one.start_ns])
        known = _held(saved) if saved is not None else done - taken if one.back else None
        if saved is None and known is None and (one.observed or one.step == done - 1 + (base or 0)):
            continue  # goes back by nothing
        held = max(0, known or 0)
        if done > held:
            process.doubts = [*process.doubts, (held, done)]
            steps = f"at most {counted(taken, 'step')}" if saved is None else counted(done - held, "step")
            again = f"{_place(one)}, saved {steps} before" if known is not None else _place(one)
            said = said or f"it loaded {again}, and went on: whether it did those again is not known"
            since = since or one.end_ns
    return said, since


def _taken_back(process: Process) -> Iterator[tuple[Span, int, int]]:
    """Give the restores with steps behind them: how many it had done by then, and how many it was taken back in all.

    An optimizer that was taken back before counts fewer than were done.
    """
    taken = 0
    for span in process.spans:
        if span.loaded:
            taken += max(0, span.back or 0)
            if process.starts[-1] >= span.end_ns:
                yield span, sum(0 < end <= span.start_ns for end in process.ends), taken


def _goes_below(process: Process) -> bool:
    """Whether it may have been taken back by more steps than it had done, so that attempts before lose some, too."""
    return any(span.back and taken > done for span, done, taken in _taken_back(process))


def _held(saved: Span) -> int | None:
    """Return how many steps a checkpoint holds. None: it is not known, as of one that a thread writes beside them."""
    known = saved.joint or (saved.blocking and not saved.beside)
    return saved.step + 1 if known and saved.step is not None else None


def _place(span: Span) -> str:
    return span.path or ("a state of its optimizer" if span.back else "a checkpoint without a path")


def _move(process: Process, base: int | None) -> None:
    if base is None:
        process.names = {at: process.names.get(at, f"~{number}") for at, number in enumerate(process.steps)}
    elif base:
        process.steps = type(process.steps)("q", (number + base for number in process.steps))
    for span in process.spans:
        if span.what == "checkpoint" and span.observed and span.step is not None:
            span.step = None if base is None else span.step + base
