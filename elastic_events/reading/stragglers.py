"""Which rank is slow, which went quiet, and where a job hangs: step times by rank, over all attempts.

One file although it is long: who is late is judged by what the same pass over the steps learned of who waits for whom.
"""

from array import array
from bisect import bisect_left
from collections.abc import Iterable, Iterator, Sequence
from itertools import chain, pairwise
from math import inf
from operator import attrgetter, itemgetter, sub
from statistics import median

import msgspec

from elastic_events.reading.answer import Answer
from elastic_events.reading.hang import NOTICED, Hang, hangs
from elastic_events.reading.steps import alike, called, durations, longest_first, longest_pause, step_times
from elastic_events.reading.story import Attempt, Process, Story, Worker
from elastic_events.reading.stuck import Stuck, stuck

__all__ = ("Quiet", "RankSteps", "Slow", "slow")

#: A rank is a straggler when it stands this many deviations (1.4826 x the median absolute deviation, which for a normal
#: distribution is the standard deviation) and this share above the median of all ranks.
DEVIATIONS, SHARE = 5.0, 0.05

#: Or when this share of its steps, and this many, took longer by `MUCH` than those of the quickest quarter of the ranks.
OFTEN, TIMES, MUCH = 0.1, 3, 0.25

#: Steps of each kind that it takes to see that others wait for a rank, and the share of these that show it.
WAITS, SEEN = 8, 2 / 3

#: Others wait behind a step for a host where their rests differ so many times as much as what is left of them at its end.
AWAITED = 1.5

#: A rank is quiet when the others went on for this many usual steps, longest pauses of the run, and nanoseconds.
QUIET_STEPS, QUIET_PAUSES, QUIET_NS = 3, 2, 10**9


class RankSteps(msgspec.Struct, frozen=True):
    """The finished steps of one rank."""

    rank: int | None  #: of the whole job; None: its process did not know it
    node: str  #: of its last attempt
    steps: int  #: finished
    median_s: float  #: of a step
    p99_s: float  #: what 99 of 100 steps did not exceed
    longest_s: float  #: the longest step
    longest_step: int | None  #: the number of the step that took `longest_s`; None: it has none
    ratio: float  #: its median over the median of all ranks' medians
    late_s: float  #: median of how long after the first rank it began a step
    straggler: str  #: "slow", "late", or empty
    held_up: float  #: share of its steps in which it was much slower, or later, than the quickest quarter of the ranks
    since_step: (
        int | None
    )  #: where it became so and stayed so: the number of the step; None: it was from the start, or at times


class Quiet(msgspec.Struct, frozen=True):
    """A rank that stopped recording before the others of its attempt did."""

    rank: int | None  #: of the whole job
    node: str  #: its name
    attempt: int  #: in which
    since_s: float  #: its last record, in seconds from the beginning of the job
    before_others_s: float  #: how long before the last sign of half of the others
    last_step: int | None  #: that it finished
    succeeded: bool  #: it ended with code 0 later: it may just have been done with its own part


class Slow(Answer, frozen=True):
    """What `elastic-events slow --json` prints."""

    run_id: str  #: of the job
    median_s: float | None  #: median over the ranks of their median step time
    usual_late_s: float | None  #: median over the ranks of their lateness
    ranks: list[RankSteps]  #: stragglers first, then the slowest
    quiet: list[Quiet]  #: the quietest first
    hangs: list[Hang]  #: attempts in which all ranks stopped at a step
    stuck: list[Stuck]  #: where ranks were that made no step any more
    unsure: dict[str, str]  #: number of an attempt -> what is not known of its steps, in words
    version: int = 1  #: of this schema: another one only where a field goes, or means something else


class _Rank:
    """What is kept of one rank, over all attempts."""

    __slots__ = (
        *("after", "apart", "firsts", "lasted", "late", "later", "longest"),
        *("most", "node", "numbers", "rank", "rested", "rests", "slower"),
    )

    def __init__(self, rank: int | None) -> None:
        self.rank = rank
        self.node = ""
        self.lasted = array("q")  # of finished steps
        self.most = -1  # the longest of these
        self.longest: int | None = None  # and its number
        self.late = array("q")  # how long after the first rank it began a step
        self.after = array("q")  # how long after the quickest quarter it ended a step
        self.numbers: list[int | None] = []  # of the steps that other ranks finished as well
        self.slower: set[int] = set()  # places in `numbers` of those in which it was much slower
        self.later: set[int] = set()  # and of those that it began much later
        self.apart: set[int] = set()  # the same, where nobody was seen to wait for it
        # Of those much later: how late it began and ended, and how long the first rested behind that step.
        self.rests: list[tuple[float, int, int]] = []
        self.firsts: list[array[int]] = []  # what each step took from its first beginning until a quarter had ended it
        self.rested: list[array[int]] = []  # and how long the first rested behind it; 0: it is not known


class _Group:
    """Ranks that did the same steps in an attempt."""

    def __init__(self, ranks: list[_Rank], members: list[Process]) -> None:
        self.ranks = ranks
        self.members = members
        self.starts = list(zip(*(process.starts for process in members)))  # noqa: B905 - they did the same steps
        self.ends = list(zip(*(process.ends for process in members)))  # noqa: B905
        self.firsts = array("q", map(min, self.starts))  # when the first rank of all began each step
        self.lasts = array("q", map(max, self.starts))  # when the last of this group did
        self.stops = array(
            "q", bytes(8 * len(self.starts))
        )  # when a quarter of all ranks had ended it; 0: this group did not
        self.rested = array("q", bytes(8 * len(self.starts)))  # how long the first of all ranks rested behind it


def slow(story: Story) -> Slow:
    """Return step times by rank. In a job whose ranks wait for each other inside of a step, look at who begins late.

    Such ranks all take as long as the slowest one; what differs is when they begin, after their data and their own
    work outside of the step.
    """
    usual, _ = step_times(story)
    pause = longest_pause(story)
    ranks: dict[object, _Rank] = {}
    shared = [step for attempt in story.attempts for step in _measure(attempt, ranks, usual or 0)]
    # Else nobody waits for who begins late; programs without a rank need not be of one job.
    together = 2 * sum(map(itemgetter(0), shared)) >= len(shared) and any(
        rank.rank is not None for rank in ranks.values()
    )
    found = [rank for rank in ranks.values() if rank.lasted]
    medians = [float(median(rank.lasted)) for rank in found]
    behinds = [float(median(rank.late)) for rank in found]
    usual_late = median(behinds) if behinds else None
    # Who waits in a step for one that is late takes longer as well, but ends it no later than that one.
    longer = {at for at in _standing_out(medians) if median(found[at].after) >= (medians[at] - (usual or 0)) / 2}
    slow_ones = longer | _often(found, [rank.slower for rank in found])
    pause_between = median(map(itemgetter(1), shared)) if shared else 0
    later = _standing_out(behinds, least=(usual or 0) * SHARE)
    held_up = {at for at, rank in enumerate(found) if (rank.apart or at in later) and _held_up(rank)}
    for at in held_up:
        found[at].later |= found[at].apart
    late_ones = {
        at for at in later if at in held_up or _waited_for(behinds[at], median(found[at].after), pause_between)
    } | _often(found, [rank.later for rank in found])
    late_ones = {at for at in late_ones if at in held_up or not _goes_alone(found[at])} if together else set()
    late_ones -= _by_clock(story, found, late_ones - held_up)
    rows = []
    for at, rank in enumerate(found):
        straggler = "slow" if at in slow_ones else "late" if at in late_ones else ""
        held = rank.slower if straggler != "late" else rank.later
        rows.append(
            RankSteps(
                rank.rank,
                rank.node,
                len(rank.lasted),
                medians[at] / 1e9,
                _percentile(rank.lasted, 0.99) / 1e9,
                rank.most / 1e9,
                rank.longest,
                medians[at] / usual if usual else 1.0,
                behinds[at] / 1e9,
                straggler,
                len(held) / len(rank.numbers) if held else 0.0,
                _since(rank.numbers, held) if straggler else None,
            )
        )
    rows.sort(key=lambda one: (not one.straggler, -one.median_s, -one.late_s, one.rank or 0))
    return Slow(
        story.run_id,
        usual / 1e9 if usual is not None else None,
        usual_late / 1e9 if usual_late is not None else None,
        rows,
        sorted(_quiet(story, usual, pause, together=together), key=attrgetter("before_others_s"), reverse=True),
        list(hangs(story, usual, pause)),
        stuck(story),
        {str(attempt.number): attempt.unsure for attempt in story.attempts if attempt.unsure},
    )


def _ranked(attempt: Attempt) -> Iterator[tuple[Worker, Process]]:
    for worker in attempt.workers:
        if worker.process is not None and (worker.rank is not None or worker.process.starts):
            yield worker, worker.process


#: One step of the job: the groups that did it, each with its position there.
_Column = list[tuple[_Group, int]]


def _measure(attempt: Attempt, ranks: dict[object, _Rank], usual: float) -> list[tuple[bool, int]]:
    """Add what the ranks did in an attempt, and how they compare in each step.

    Return of each step that several did whether all had begun it before the first went on to the next, and how long this
    one rested between the two.
    """
    owners: dict[Process, _Rank] = {}
    for worker, process in _ranked(attempt):
        rank = ranks.setdefault(process if worker.rank is None else worker.rank, _Rank(worker.rank))
        rank.node = worker.node.name if worker.node is not None else worker.host
        owners[process] = rank
        lasted = durations(process)
        most = max(lasted, default=-1)
        if most > rank.most:
            rank.most = most
            entry = [at for at, end in enumerate(process.ends) if end][lasted.index(most)]
            rank.longest = None if entry in process.names else process.steps[entry]
        rank.lasted.extend(lasted)
    groups = [_Group([owners[p] for p in told], told) for told in alike(p for p in owners if p.starts)]
    places: dict[object, list[list[int]]] = {}  # step -> its positions in each group
    for number, group in enumerate(groups):
        for at, name in enumerate(called(group.members[0])):
            places.setdefault((group.members[0].observed, name), [[] for _ in groups])[number].append(at)
    columns = [column for shared in places.values() for column in _apart(groups, shared)]
    columns.sort(key=lambda column: min(group.firsts[at] for group, at in column))
    rests = [_rest(column) for column in columns]
    together = [
        (max(group.lasts[at] for group, at in column) <= min(group.firsts[at] for group, at in after), rest)
        for (column, after), rest in zip(pairwise(columns), rests, strict=False)
        if sum(len(group.ranks) for group, _ in column) > 1
    ]
    for column in columns:
        _compare(column, usual)
    for column, rest in zip(columns, rests, strict=True):
        first = min(group.firsts[at] for group, at in column)
        for group, at in column:
            group.firsts[at], group.rested[at] = first, rest
    for group in groups:
        firsts = array("q", map(sub, group.stops, group.firsts))
        for rank, process in zip(group.ranks, group.members, strict=True):
            rank.firsts.append(firsts)
            rank.rested.append(group.rested)
            rank.late.extend(map(sub, process.starts, group.firsts))
            rank.after.extend(map(sub, process.ends, group.stops))
    return together


def _apart(groups: list[_Group], places: list[list[int]]) -> Iterator[_Column]:
    """Give the columns of one number: where it came several times, those that groups did at about the same time are one."""
    most = max(range(len(groups)), key=lambda number: len(places[number]))
    times = [groups[most].firsts[at] for at in places[most]]
    middles = [(a + b) // 2 for a, b in pairwise(times)]
    columns: list[_Column] = [[] for _ in times]
    for group, own in zip(groups, places, strict=True):
        for at in own:
            columns[bisect_left(middles, group.firsts[at])].append((group, at))
    yield from filter(None, columns)


def _compare(column: _Column, usual: float) -> None:
    """Note for each rank whether it was much slower, or later, than the quickest quarter of the others."""
    finished = [(group, at) for group, at in column if group.ends[at][0]]
    ranks = [rank for group, _ in finished for rank in group.ranks]
    starts = [start for group, at in finished for start in group.starts[at]]
    ends = [end for group, at in finished for end in group.ends[at]]
    quarter = (len(ranks) - 1) // 4
    ended = sorted(ends)[quarter] if ends else 0
    for group, at in finished:
        group.stops[at] = ended
    if len(ranks) < 2:
        return
    group, at = column[0]
    process = group.members[0]
    number = None if at in process.names else process.steps[at]
    lasted = list(map(sub, ends, starts))
    quick, begun = sorted(lasted)[quarter], sorted(starts)[quarter]
    bound, after, until = quick * (1 + MUCH), ended + MUCH * quick / 2, begun + MUCH * max(quick, usual)
    for at in [at for at, took in enumerate(lasted) if took > bound and ends[at] > after]:
        ranks[at].slower.add(len(ranks[at].numbers))
    late = [at for at, start in enumerate(starts) if start > until]
    rest = _rest(column) if late else 0
    for at in late:
        waited = _waited_for(starts[at] - begun, ends[at] - ended, rest)
        ranks[at].rests.append((starts[at] - begun, ends[at] - ended, rest))
        (ranks[at].later if waited else ranks[at].apart).add(len(ranks[at].numbers))
    for rank in ranks:
        rank.numbers.append(number)


def _rest(column: _Column) -> int:
    """Return how long the rank that began a step first rested between that one and its next, in nanoseconds."""
    group, at = min(column, key=lambda one: one[0].firsts[one[1]])
    first = group.starts[at].index(group.firsts[at])
    end = group.ends[at][first]
    return max(0, group.starts[at + 1][first] - end) if end and at + 1 < len(group.starts) else 0


def _waited_for(late: float, after: float, rest: float) -> bool:
    """Whether others may have waited for a rank that began a step so `late`: within the step, which it then ended less late
    `after` them, or in their `rest` behind it. Ranks that have nothing in common began apart, and stay so.
    """
    return min(after, late - rest) <= late / 2


def _goes_alone(rank: _Rank) -> bool:
    """Whether others rest behind their steps as long as ever, whenever this rank, which goes its own pace, ends its step."""
    own = [(after, rest) for late, after, rest in rank.rests if after > late / 2]
    if len(own) < max(WAITS, len(rank.rests) / 2):
        return False
    usual = median(rest for _, rest in own)
    if sum(after <= late / 2 or abs(rest - usual - after) < late / 2 for late, after, rest in rank.rests) >= WAITS:
        return False  # they meet every few steps
    if _spread([late for late, _, _ in rank.rests]) < _spread([b - a for (a, *_), (b, *_) in pairwise(rank.rests)]):
        return False  # it is as late in each step: they meet within it
    return 2 * _spread([rest for _, rest in own]) < _spread([rest - after for after, rest in own])


def _by_clock(story: Story, found: list[_Rank], late: set[int]) -> set[int]:
    """Return those of a host all of whose ranks begin and end each step as much later, and for which nobody is seen to wait:
    so would they if its clock is ahead.
    """
    names = {node.name: node.host for node in story.nodes}
    hosts: dict[str, list[int]] = {}
    for at, rank in enumerate(found):
        hosts.setdefault(names.get(rank.node, rank.node), []).append(at)
    apart = max((offset.apart for offset in story.offsets.values()), default=inf) * 1e9
    ahead = [own for own in hosts.values() if not late.isdisjoint(own) and _ahead([found[at] for at in own], apart)]
    return {at for own in ahead if len(hosts) > 1 for at in own}


def _ahead(own: list[_Rank], apart: float) -> bool:
    """Whether the clock of a host may be ahead of the others', by less than `apart`."""
    late, after = [float(median(rank.late)) for rank in own], [float(median(rank.after)) for rank in own]
    if not max(late) < min(apart, 2 * min(late)) or any(2 * abs(b - a) >= b for b, a in zip(late, after, strict=True)):
        return False
    if any(_width(rank.late) > 3 * by for rank, by in zip(own, late, strict=True)):
        return False  # it is late now and then
    if all(2 * _width(rank.late) < by for rank, by in zip(own, late, strict=True)):
        return True  # as much in each step
    ends = map(max, zip(*(rank.after for rank in own)))  # noqa: B905 - most did the same steps
    steps = [(end, rest) for end, rest in zip(ends, chain(*own[0].rested)) if rest]  # noqa: B905
    if len(steps) < WAITS:
        return True
    rests, left = [rest for _, rest in steps], [rest - end for end, rest in steps]
    # Behind less than half of the steps something else may stand, such as a checkpoint: a spread does not see that.
    return all(apart(rests) <= AWAITED * apart(left) for apart in (_width, _spread))


def _width(values: Iterable[int]) -> int:
    """Return how far apart values are, but for the lowest and the highest tenth."""
    ordered = sorted(values)
    return ordered[-1 - len(ordered) // 10] - ordered[len(ordered) // 10]


def _held_up(rank: _Rank) -> bool:
    """Whether the first took longer, by about as much, in those steps that this rank began later than its others.

    So they wait within a step for one that ends it as late again, since it does more behind the point where they meet.
    """
    steps = [(late, took) for late, took in zip(rank.late, chain(*rank.firsts), strict=True) if took > 0]
    lates = sorted(late for late, _ in steps)
    middle = (lates[len(lates) // 10] + lates[-1 - len(lates) // 10]) / 2 if lates else 0
    more, less = [one for one in steps if one[0] > middle], [one for one in steps if one[0] <= middle]
    if min(len(more), len(less)) < WAITS:
        return False
    base, usual = (median(values) for values in zip(*less, strict=True))
    rise = median(late for late, _ in more) - base
    return all(
        sum(abs(took - usual - (late - base)) < rise / 2 for late, took in kind) >= SEEN * len(kind)
        for kind in (more, less)
    )


def _standing_out(values: list[float], least: float = 0.0) -> set[int]:
    """Return the places of those that stand out from the others, in both deviations and share."""
    if len(values) < 3:
        return set()
    middle = median(values)
    bound = middle + max(DEVIATIONS * _spread(values), SHARE * middle, least)
    return {at for at, value in enumerate(values) if value > bound}


def _spread(values: Sequence[float]) -> float:
    middle = median(values)
    return 1.4826 * median(abs(value - middle) for value in values)


def _often(found: list[_Rank], held: list[set[int]]) -> set[int]:
    """Return the places of those that were held up often, and much more often than the best quarter of all."""
    shares = [len(own) / len(rank.numbers) if own else 0.0 for rank, own in zip(found, held, strict=True)]
    if len(shares) < 2:
        return set()
    best = sorted(shares)[(len(shares) - 1) // 4]
    return {at for at, share in enumerate(shares) if share >= OFTEN + 2 * best and len(held[at]) >= TIMES}


def _since(numbers: list[int | None], held: set[int]) -> int | None:
    """Return the number of the step from which on nine of ten were held up, where before it one of ten was at most."""
    best = (0, 0)
    for before, at in enumerate(sorted(held)):
        behind = len(held) - before
        if behind >= 0.9 * (len(numbers) - at) and before <= 0.1 * at:
            best = max(best, (behind, at))
    since = numbers[best[1]] if best[1] else None
    return since if numbers.count(since) == 1 else None  # a number that came again names no step


def _quiet(story: Story, usual: float | None, pause: int, *, together: bool) -> Iterator[Quiet]:
    """Give the ranks whose last record is some of the job's steps before that of half of the others."""
    if usual is None:  # nothing says how often a rank records
        return
    apart = max((offset.apart for offset in story.offsets.values()), default=0) * 1e9
    bound = max(QUIET_NS, QUIET_STEPS * usual, QUIET_PAUSES * pause)
    first = max(bound, QUIET_PAUSES * longest_first(story))
    for attempt in story.attempts:
        found = [(worker, process, _went_on(worker, process)) for worker, process in _ranked(attempt)]
        lasts = sorted(last for _, _, last in found)
        beside: dict[str, int] = {}
        for worker, _, last in found:
            beside[worker.host] = max(last, beside.get(worker.host, 0))
        # Of its first step, which may take long, an observed rank says nothing before its end.
        firsts = sorted(process.ends[0] for _, process, _ in found if process.observed)
        begun = firsts[(len(firsts) - 1) // 2] if firsts else 0
        for worker, process, last in found if len(found) > 1 else ():
            if worker.outcome == "succeeded" and not together:  # it was done; when, its agent tells only as all are
                continue
            middle = _middle(lasts, bisect_left(lasts, last))
            told = worker.outcome != "unknown" and worker.ended_ns is not None
            until = min(middle, worker.ended_ns) if told and worker.ended_ns is not None else middle
            until = min(until, worker.raised_ns or until)
            most = bound if any(process.ends) else first
            if beside[worker.host] - last <= bound:  # else ranks of its own host, which have its clock, went on
                most += apart
            if until - max(process.last_ns, 0 if process.starts else begun) > most:
                since = (process.last_ns - story.began_ns) / 1e9
                before = (middle - process.last_ns) / 1e9
                node = worker.node.name if worker.node is not None else worker.host
                done = worker.outcome == "succeeded"
                yield Quiet(worker.rank, node, attempt.number, since, before, process.last_step, done)


def _went_on(worker: Worker, process: Process) -> int:
    """Return the last sign that a process went on: what it broke of soon after its last mark is the end of another."""
    if not process.starts:
        return process.last_ns
    entry = len(process.starts) - 1
    broke = process.errors.get(entry, worker.raised_ns)
    marked = process.starts[-1] if entry in process.errors else process.ends[-1] or process.starts[-1]
    if broke is not None and broke - marked < NOTICED:
        return marked
    # Of a checkpoint that one writes the others have nothing to tell: they wait for it.
    saves = process.spans[-1] if process.spans else None
    saving = saves is not None and saves.start_ns >= marked and process.last_ns in (saves.start_ns, saves.end_ns)
    return marked if saving else process.last_ns


def _middle(ordered: list[int], without: int) -> float:
    """Return the median of all but one."""
    half, odd = divmod(len(ordered) - 1, 2)
    low, high = (half if odd else half - 1), half
    return (ordered[low + (low >= without)] + ordered[high + (high >= without)]) / 2


def _percentile(values: Iterable[int], share: float) -> int:
    """Return the smallest value that at least `share` of all do not exceed."""
    ordered = sorted(values)
    return ordered[max(0, -(-len(ordered) * round(share * 100) // 100) - 1)]
