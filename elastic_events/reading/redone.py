"""Which steps were done again: by a later attempt, or after a rollback.

What is assumed where numbers alone do not say it:

- An attempt goes on with the first step that it marks. Where numbers only rise, it does again all steps of earlier attempts
  from that number on.
- Within a process, a number that falls is a new epoch or another loop, and takes nothing back. Only behind a restore is it a
  rollback, and only to a number that the restore allows.
- Where numbers begin anew, an attempt takes the last checkpoint that it can have restored, by the marks; without these, what it
  does again begins at the last step of its first number. Where that is the beginning of an epoch that may as well have been
  finished, nothing counts as lost. Steps with an `epoch` have numbers that only rise.
- Programs without a rank and an agent, one after another, may be the same training or not: one that begins with the first number,
  or comes no further on another host, leaves all before it in doubt.
"""

from bisect import bisect_left
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import pairwise
from operator import itemgetter
from typing import NamedTuple

from elastic_events.reading.steps import keys, processes, rising
from elastic_events.reading.story import Attempt, Process, Span, Story

__all__ = ("Again", "Range", "counted", "doubt_others", "redone")

#: Of two that did the same one may have done so many times the steps of the other, as where an end is missing.
MORE = 1.1

#: Positions of steps, from and to: `steps[a:b]`.
Range = tuple[int, int]


class Again(NamedTuple):
    """Which steps were done again, by the processes that finished them before."""

    lost: dict[Process, list[Range]]  #: their positions
    doubted: dict[Process, list[Range]]  #: those of which nobody knows it, some of the former among them
    counted: dict[Attempt, list[Process]]  #: those whose steps are those of the job


def redone(story: Story) -> Again:
    """Return the steps that a later attempt did again, or that a process rolled back itself."""
    told, counted = _units(story)
    lives = [_life(attempt, own) for attempt, own in told.items() if own]
    anew = any(life.falls() for life in lives)
    history = _History(anew, {end for life in lives for end in life.ends_of_laps()} if anew else set())
    for life in lives:
        history.go_on(life)
    found = Again({}, {}, counted)
    for life in lives:
        life.doubt_with(processes(life.attempt))
        lost, doubted = _ranges(life.gone), _ranges(life.doubted)
        for process in processes(life.attempt):
            if lost:
                found.lost[process] = life.in_other(process, lost)
            if doubted or process.doubts:
                found.doubted[process] = [*process.doubts, *life.in_other(process, doubted)]
    return found


def counted(story: Story) -> dict[Attempt, list[Process]]:
    """Return whose steps are those of the job, by attempt."""
    return _units(story)[1]


def _units(story: Story) -> tuple[dict[Attempt, list[Process]], dict[Attempt, list[Process]]]:
    """Return whose steps tell what was done again, and whose are counted, where some mark them and others were observed.

    Those that were marked, as a rule: what is observed may be called otherwise. Where more were observed, as beside marks of
    evaluations, or where the marks begin anew in each epoch, those.
    """
    told = {attempt: processes(attempt) for attempt in story.attempts}
    both = [(attempt, own) for attempt, own in told.items() if len({process.observed for process in own}) > 1]
    if not both:
        return told, told
    marked, seen = (
        [_life(attempt, [one for one in own if one.observed is observed]) for attempt, own in both]
        for observed in (False, True)
    )
    pairs = [(a.process, b.process) for a, b in zip(marked, seen, strict=True)]
    if all(_one_count(a, b) for a, b in pairs) and any(_as_many(a, b) for a, b in pairs):
        return told, told  # of one of them the end may be missing
    sure = not any(one.unsure or one.doubts for own in told.values() for one in own if one.observed)
    alone = {own[0].observed for own in told.values() if own and all(one.observed is own[0].observed for one in own)}
    more = sum(len(b.starts) for _, b in pairs) > MORE * sum(len(a.starts) for a, _ in pairs) + len(pairs)
    more = more and False not in alone  # what one that marks did alone has no other numbers
    named = all(number is None for life in marked for number in life.numbers)
    anew = named or (sure and False not in alone and (True in alone or any(life.falls() for life in marked)))
    by_marks, by_seen = (
        {attempt: [one for one in own if one.observed is observed] or own for attempt, own in told.items()}
        for observed in (False, True)
    )
    if any(life.rollbacks for life in marked):  # only the marks tell how far
        return by_marks, by_seen if more else by_marks
    return (by_seen, by_seen) if more or anew else (by_marks, by_marks)


def _one_count(one: Process, other: Process) -> bool:
    """Whether one that is marked and one that is observed count the same: with numbers that begin anew they do not."""
    return (
        one.epochs is None and one.steps[0] == other.steps[0] and all(rising(keys(process)) for process in (one, other))
    )


def _as_many(one: Process, other: Process) -> bool:
    low, high = sorted((len(one.steps), len(other.steps)))
    return high <= MORE * low + 1


def doubt_others(story: Story) -> None:
    """Note which attempts may as well be another training: nothing says what each is.

    It begins with the first number; or it ran on another host, and came no further than those before: so does what evaluates.
    """
    if any(node.agent for node in story.nodes):
        return
    told = [(attempt, processes(attempt)) for attempt in story.attempts]
    if any(process.context.rank is not None for _, own in told for process in own):
        return
    before: list[int] = []
    hosts: set[str] = set()
    for attempt, own in told:
        numbers = [number for process in own for number in keys(process) if number is not None]
        begins = [number for process in own if (number := keys(process)[0]) is not None]
        here = {process.context.host for process in own}
        if before and begins and _restored(attempt) is None:
            # What was observed has the numbers behind a checkpoint of this run, which it loaded.
            goes_on = all(process.observed and process.steps[0] and not process.unsure for process in own)
            elsewhere = here.isdisjoint(hosts) and max(numbers) <= max(before) and not goes_on
            attempt.another = min(begins) <= min(before) or elsewhere
        before += (min(numbers), max(numbers)) if numbers else ()
        hosts |= here


class _Rollback(NamedTuple):
    """A restore between two steps of a process."""

    position: int  #: of the first step behind it
    step: int | None  #: that was restored


@dataclass(slots=True, eq=False)
class _Life:
    """The steps of one attempt, as the process tells them that knows most of them."""

    attempt: Attempt
    process: Process
    numbers: Sequence[int | None]
    begins: int | None  #: the number of the first step of all processes
    rollbacks: list[_Rollback]
    gone: set[int] = field(default_factory=set)  #: positions that were done again
    doubted: set[int] = field(default_factory=set)  #: positions of which that is not known

    def falls(self) -> bool:
        """Whether numbers begin anew in it, other than by a rollback."""
        return any(True for _ in self.ends_of_laps())

    def ends_of_laps(self) -> Iterator[int]:
        """Give the numbers behind which others began anew."""
        back = {rollback.position for rollback in self.rollbacks}
        for at, (before, number) in enumerate(pairwise(self.numbers), 1):
            if before is not None and number is not None and number <= before and at not in back:
                yield before

    def doubt_with(self, others: list[Process]) -> None:
        """Doubt what those that were observed may have done again, where its own numbers fall, or are names, and do not tell."""
        if self.process.observed:  # so may those marks of the same time that others made
            self.doubted.update(at for low, high in self.process.doubts for at in range(low, high))
            return
        if None not in self.numbers and not self.falls():
            return
        middles = [
            (begin + (end or begin)) // 2 for begin, end in zip(self.process.starts, self.process.ends, strict=True)
        ]
        for other in others:
            for low, high in other.doubts if other.observed else ():
                if low < high:
                    times = other.starts[low], other.ends[high - 1]
                    self.doubted.update(range(*(bisect_left(middles, time) for time in times)))

    def in_other(self, process: Process, ranges: list[Range]) -> list[Range]:
        """Return ranges of positions in another process of the attempt: the same steps, at about the same time."""
        if process is self.process:
            return ranges
        own = keys(process)
        one_count = process.observed is self.process.observed or (
            _one_count(process, self.process) and _as_many(process, self.process)
        )
        places = [[self._same(process, own, at, one_count=one_count) for at in both] for both in ranges]
        if process.context.rank is None:  # it may go on beside later attempts, as one that evaluates
            until = bisect_left(process.starts, self.process.last_ns)
            for place, (at, _) in zip(places, ranges, strict=True):
                if place[0] < len(own) and own[place[0]] != self.numbers[at]:
                    place[1] = min(place[1], until)
        return [(low, high) for low, high in places if low < high]

    def _same(self, process: Process, own: Sequence[int | None], at: int, *, one_count: bool) -> int:
        if at >= len(self.numbers):
            return len(own)
        number, time = self.numbers[at], self.process.starts[at]
        near = bisect_left(process.starts, time)
        if near < len(own) and own[near] == number and (not near or own[near - 1] != number):
            return near
        if not one_count:  # what is observed of a step may begin a little before its mark, or behind it
            early = near > 0 and 2 * time < process.starts[near - 1] + process.ends[near - 1]
            return near - 1 if early else near
        places = [place for place, other in enumerate(own) if other == number and number is not None]
        return min(places, key=lambda place: abs(process.starts[place] - time)) if places else near


def _ranges(positions: set[int]) -> list[Range]:
    ranges: list[Range] = []
    for at in sorted(positions):
        if ranges and ranges[-1][1] == at:
            ranges[-1] = (ranges[-1][0], at + 1)
        else:
            ranges.append((at, at + 1))
    return ranges


def _life(attempt: Attempt, told: list[Process]) -> _Life:
    """Return the life of an attempt."""
    back = {process: list(_rollbacks(process)) for process in told}
    process = max(told, key=lambda one: (len(back[one]), len(one.starts)))
    # One without a rank that began before it may be another script, as one that evaluates.
    first = min((one for one in told if one.context.rank is not None), key=lambda one: one.starts[0], default=process)
    life = _Life(attempt, process, keys(process), keys(first)[0], back[process])
    life.doubted.update(range(_doubted_until(process)))
    return life


def _doubted_until(process: Process) -> int:
    """Return how many steps of a process are in doubt: those before its optimizer was taken back, and its numbers to the first.

    So is what the training does again from its beginning, or from before it, and what another one begins with.
    """
    numbers = keys(process)
    until = 0
    for span, at in _reloads(process):
        first, number = numbers[0], numbers[at]
        if span.back and first is not None and number is not None and number <= first:
            until = at
    return until


def _reloads(process: Process) -> Iterator[tuple[Span, int]]:
    """Give the restores between two steps of a process, each with the position of the first step behind it."""
    for span in process.spans:
        at = bisect_left(process.starts, span.end_ns)
        if span.loaded and 0 < at < len(process.starts):
            yield span, at


def _rollbacks(process: Process) -> Iterator[_Rollback]:
    """Give the restores that took back steps of the process itself: training went on with a step that it had done."""
    numbers = keys(process)
    for span, at in _reloads(process):
        before = [number for number in numbers[:at] if number is not None]
        number = numbers[at]
        if not before or number is None or number > max(before):
            continue
        # An epoch is no part of what a restore says; a number below the restored one is that of another loop.
        known = span.step is not None and process.epochs is None
        if number >= span.step if known and span.step is not None else number > before[0]:
            yield _Rollback(at, span.step)


def _restored(attempt: Attempt) -> int | None:
    """Return the step whose checkpoint an attempt began with; None: nobody said."""
    for process in processes(attempt):
        for span in process.spans:
            if span.what == "restore" and span.step is not None and 0 < span.end_ns <= process.starts[0]:
                return span.step
    return None


class _Step(NamedTuple):
    """One step of the job that still counts."""

    life: _Life
    position: int
    number: int | None


class _History:
    """The steps that count, in the order in which they began; what is done again leaves it."""

    def __init__(self, anew: bool, ends: set[int]) -> None:
        self._anew = anew  # numbers begin anew somewhere in the job
        self._ends = ends  # numbers behind which they do
        self._steps: list[_Step] = []

    def go_on(self, life: _Life) -> None:
        """Add an attempt."""
        self._back(life.begins, _restored(life.attempt), life.attempt.another)
        back = {rollback.position: rollback for rollback in life.rollbacks}
        for at, number in enumerate(life.numbers):
            if at in back:
                self._back(number, back[at].step)
            self._steps.append(_Step(life, at, number))

    def _back(self, begins: int | None, restored: int | None, another: bool = False) -> None:
        """Take back what is done again by going on with number `begins`, behind a restore of the step `restored`.

        Behind `another`, which may be another training, all before it are in doubt.
        """
        if begins is None or not self._steps:
            return
        keep = 0 if another else self._kept(begins, restored) if self._anew else self._rising(begins)
        if keep is None:
            return
        for step in self._steps[keep:]:
            if step.number is not None and not another:
                step.life.gone.add(step.position)
            elif another or step.life.process.observed:  # what a script marks by a name may be no step of the training
                step.life.doubted.add(step.position)
        del self._steps[keep:]

    def _rising(self, begins: int) -> int:
        """Return how many steps stay where numbers only rise."""
        keep = len(self._steps)
        while keep and ((number := self._steps[keep - 1].number) is None or number >= begins):
            keep -= 1
        return keep

    def _kept(self, begins: int, restored: int | None) -> int | None:
        """Return how many steps stay where numbers begin anew; None: the records do not say."""
        saved = self._saved(restored) if restored is not None else None
        if saved is not None:
            return saved
        last = next((step.number for step in reversed(self._steps) if step.number is not None), None)
        if last is None or begins == last + 1:
            return None
        place = self._last(begins)
        if place is None:
            return None
        before = self._steps[place - 1].number if place else None
        fresh = place == 0 or (before is not None and before >= begins)
        return None if fresh and last in self._ends else place

    def _last(self, number: int) -> int | None:
        """Return the place of the last step of that number."""
        return next((at for at in range(len(self._steps) - 1, -1, -1) if self._steps[at].number == number), None)

    def _saved(self, number: int) -> int | None:
        """Return how many steps the last checkpoint of that number holds; None: none was marked."""
        for life in dict.fromkeys(step.life for step in reversed(self._steps)):
            written = [
                (span.start_ns, process)
                for process in processes(life.attempt)
                for span in process.spans
                if span.what == "checkpoint" and span.step == number and span.end_ns and not span.failed
            ]
            if written:
                start, process = max(written, key=itemgetter(0))
                return self._held(life, process, start)
        return None

    def _held(self, life: _Life, process: Process, start: int) -> int:
        """Return how many steps stay of those that had ended when a process of `life` began to write a checkpoint."""
        own = [at for at, step in enumerate(self._steps) if step.life is life]
        ended = [at for at, end in enumerate(process.ends) if end and end <= start]
        if not ended:
            return own[0]
        number, time = keys(process)[ended[-1]], process.starts[ended[-1]]
        same = [at for at in own if self._steps[at].number == number]
        starts = life.process.starts
        return 1 + min(same or own, key=lambda at: abs(starts[self._steps[at].position] - time))
