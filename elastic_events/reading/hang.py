"""Where the ranks of an attempt stopped: who waits in which step, and who never came to it, or never left it."""

from collections.abc import Iterator
from datetime import datetime
from typing import NamedTuple

import msgspec

from elastic_events.reading.steps import called, longest_first
from elastic_events.reading.story import Attempt, Process, Span, Story, Worker
from elastic_events.reading.words import seconds, spans

__all__ = ("Hang", "Lag", "hangs", "verdict")

#: Ranks hang when no step begins or ends for as many usual steps, for twice the longest pause that the job came through, and for
#: these nanoseconds: at least, where a rank died of which others may not have heard, and where no step time is known.
STEPS, PAUSES = 10, 2
BESIDE = 1.5  # of the longest checkpoint beside the steps, for one behind which no step came
LEAST, NOTICED, UNKNOWN = 10**9, 15 * 10**9, 60 * 10**9

#: Processes that are tried as the one that came furthest.
_TRIES = 8


class Lag(msgspec.Struct, frozen=True):
    """Ranks that the others waited for."""

    ranks: list[int]  #: in order
    #: "never began it", "never ended it", "never left it", "never left step 411", "never left its checkpoint of step 40"
    place: str


class Hang(msgspec.Struct, frozen=True):
    """An attempt in which no step began or ended any more, long before its end."""

    attempt: int  #: its number
    place: str  #: where the ranks wait: "in step 412", "behind step 411", "in the checkpoint of step 40"
    since_ns: int  #: from when on: the last of them came there; nanoseconds since the epoch
    since_s: float  #: the same, from the beginning of the job
    lasted_s: float  #: until the first of them gave up, or to the end of the attempt
    over: bool  #: the attempt has ended
    waiting: list[int]  #: ranks that wait there
    behind: list[Lag]  #: ranks that did not come so far, or did not leave where the others did; empty: all are there


class _Place(NamedTuple):
    """Where a process was last."""

    worker: Worker
    process: Process
    position: int  #: in the steps of the process that came furthest
    left: bool  #: it ended that step
    span: Span | None  #: a checkpoint or restore behind it, which never ended
    since: int  #: since when it is there


def hangs(story: Story, usual: float | None, pause: int) -> Iterator[Hang]:
    """Give the hangs of a run, at most one an attempt; of its usual step and its longest pause, in nanoseconds."""
    bound = float(UNKNOWN) if usual is None else max(LEAST, STEPS * usual, PAUSES * pause)
    for attempt in story.attempts:
        if attempt.outcome == "succeeded":
            continue
        furthest, places = _places(attempt)
        if furthest is not None:
            is_first = len(furthest.starts) == 1 and not furthest.ends[0]  # it may compile as long as any did
            most = max(bound, BESIDE * longest_first(story)) if is_first else bound
            found = _hang(story, attempt, furthest, places, most)
            if found is not None:
                yield found


def verdict(hang: Hang) -> str:
    """Return a hang as a sentence. Times are those of the local clock."""
    clock = f"{datetime.fromtimestamp(hang.since_ns / 1e9).astimezone():%H:%M:%S} (+{seconds(hang.since_s)})"
    who = f"{'Rank' if len(hang.waiting) == 1 else 'Ranks'} {spans(hang.waiting)}"
    if hang.over:
        told = f"{who} waited {hang.place} from {clock} on, for {seconds(hang.lasted_s)}"
    else:
        told = f"{who} {'waits' if len(hang.waiting) == 1 else 'wait'} {hang.place} since {clock}"
    lags = [f"{'rank' if len(lag.ranks) == 1 else 'ranks'} {spans(lag.ranks)} {lag.place}" for lag in hang.behind]
    rest = "; ".join(lags) if lags else "no rank left it"
    return f"Attempt {hang.attempt} hung: {told}; {rest}."


def _places(attempt: Attempt) -> tuple[Process | None, list[_Place]]:
    """Return the process that came furthest, and where each was last; what cannot be compared with it is left out."""
    told = [w for w in attempt.workers if w.process is not None and w.process.starts and w.rank is not None]
    # Of what is observed the end alone is seen: it cannot be compared with where a mark begins.
    told = [w for w in told if w.process is not None and w.process.observed] or told
    last = sorted(told, key=lambda worker: -worker.process.starts[-1] if worker.process is not None else 0)
    furthest, places = None, list[_Place]()
    for candidate in last[:_TRIES]:
        if candidate.process is not None:
            found = list(_placed(candidate.process, told))
            if len(found) > len(places):
                furthest, places = candidate.process, found
            if len(found) == len(told):
                break
    return furthest, places


def _placed(furthest: Process, told: list[Worker]) -> Iterator[_Place]:
    positions: dict[object, list[int]] = {}
    for at, name in enumerate(called(furthest)):
        positions.setdefault(name, []).append(at)
    for worker in told:
        process = worker.process
        if process is None:
            continue
        entry = len(process.starts) - 1
        start, end = process.starts[entry], process.ends[entry]
        same = positions.get(called(process)[entry])
        if same is not None:
            at = min(same, key=lambda place: abs(furthest.starts[place] - start))
            open_ = [s for s in process.spans if not s.end_ns and s.start_ns >= start] if end else []
            since = open_[-1].start_ns if open_ else end or start
            yield _Place(worker, process, at, bool(end), open_[-1] if open_ else None, since)


def _hang(story: Story, attempt: Attempt, furthest: Process, places: list[_Place], bound: float) -> Hang | None:
    front = max((place.position, place.left and place.span is None) for place in places)
    waiting = [place for place in places if (place.position, place.left) == front and place.span is None]
    if not waiting:  # each is in its checkpoint, or behind somebody who is
        waiting = [place for place in places if place.span is not None and place.position == front[0]]
    elif (
        not front[1]
        and len(waiting) == len(places)
        and (gave_up := [place for place in waiting if _error(place) is not None])
    ):
        waiting = gave_up  # who ran into a timeout had waited; who did not is what it waited for
    meeting = [place for place in places if place.span is not None and place.span.joint and place.position == front[0]]
    if meeting and not any(_came(place) for place in waiting):
        waiting = meeting  # for those that never came to it
    there = {place.worker.rank for place in waiting}
    behind = [place for place in places if place.worker.rank not in there]
    if not behind and waiting[0].left and waiting[0].span is None:
        return None  # all are behind the last step: what they do there is not known
    since = max(place.since for place in waiting)
    until = _until(story, attempt, places, waiting)
    first = attempt.first_failure
    died = first is not None and (not behind or any(place.worker is first for place in behind))
    span = next((place.span for place in places if place.span is not None), None)
    if until - since <= max(bound, NOTICED if died else 0, _usual(story, span) if span is not None else 0):
        return None
    step = furthest.label(front[0])
    at = waiting[0].span
    place = f"in the {at.what} of step {at.step}" if at is not None else f"{'behind' if front[1] else 'in'} step {step}"
    lags: dict[str, list[int]] = {}
    for one in behind:
        lags.setdefault(_lag(one, front[0], at), []).append(one.worker.rank or 0)
    return Hang(
        attempt.number,
        place,
        since,
        (since - story.began_ns) / 1e9,
        (until - since) / 1e9,
        attempt.outcome != "unknown" or attempt is not story.attempts[-1],
        sorted(one.worker.rank or 0 for one in waiting),
        [Lag(sorted(ranks), words) for words, ranks in lags.items()],
    )


def _usual(story: Story, own: Span) -> float:
    """Return for how long a checkpoint, or a restore, may last that hangs not: it is no step, and takes its own time."""
    spans = [span for process in story.processes for span in process.spans if span.what == own.what and span.end_ns]
    # One that an exception ended may have hung itself, until a timeout. One beside the steps holds up nobody, but for the
    # last, whose end is waited for.
    lasted = [(one.end_ns - one.start_ns, one.blocking >= own.blocking) for one in spans if not one.failed]
    alike = PAUSES * max((took for took, like in lasted if like), default=UNKNOWN / PAUSES)
    return max([alike, *(BESIDE * took for took, like in lasted if not like)])


def _error(place: _Place) -> int | None:
    """Return when an exception left the last step; None: none did."""
    return place.process.errors.get(len(place.process.starts) - 1)


def _until(story: Story, attempt: Attempt, places: list[_Place], waiting: list[_Place]) -> int:
    """Return when the first rank gave up waiting, or the attempt ended: an agent may see the one long after the other."""
    ends = [error for place in places if (error := _error(place)) is not None]
    ends += [raised_ns for place in waiting if (raised_ns := place.worker.raised_ns) is not None]
    if attempt.first_failure is not None and attempt.first_failure.ended_ns is not None:
        ends.append(attempt.first_failure.ended_ns)
    return min([*ends, story.span(attempt)[1]])


def _came(place: _Place) -> bool:
    """Whether a process did something else behind its last step, a checkpoint as a rule."""
    return any(span.start_ns >= place.since for span in place.process.spans)


def _lag(place: _Place, front: int, at: Span | None) -> str:
    if place.span is not None:
        return f"never left its {place.span.what} of step {place.span.step}"
    if not place.left:
        own = place.process.label(len(place.process.starts) - 1)
        return "never left it" if place.position == front else f"never left step {own}"
    # What is observed of a step is its end.
    return "never ended it" if place.process.observed and at is None else "never began it"
