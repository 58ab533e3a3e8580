"""Workers that make no step for long are asked where they are."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from elastic_events.observe.folded import fold
from elastic_events.torchrun.asking import Other, Standing, ask, ask_others, read, read_stack
from elastic_events.torchrun.shield import report

__all__ = ("AFTER", "Stuck", "after")

#: Seconds without a step, at least, before a worker is asked; before its first step, four times as many.
AFTER = 15.0

#: A worker is asked when it makes no step for this many times its longest pause, and again when that has doubled.
PAUSES = 2

#: Threads and children of a worker whose stacks are kept. Those that run no line of the script wait.
SHOWN = 4

#: How often one is asked in an attempt, at most.
MOST = 12


def after(text: str | None) -> float:
    """Return the seconds that `ELASTIC_EVENTS_STACKS_AFTER` says."""
    try:
        return max(float(text or AFTER), 0.1)
    except ValueError as error:
        report("ELASTIC_EVENTS_STACKS_AFTER", error)
        return AFTER


@dataclass(slots=True)
class _Watched:
    """One worker."""

    steps: int
    since: float  #: when its last step was seen
    size: int  #: of its file, as far as that was read
    seen: int = 0  #: size at the last look
    longest: float = 0.0  #: pause between two steps
    wait: float = 0.0  #: seconds without a step until it is asked; 0: not yet known
    asked: int = 0
    idle: float = 0.0  #: when it was asked last


class Stuck:
    """The workers of one attempt. Returns at once; one caller at a time.

    Args:
        seconds: as `AFTER`.
    """

    def __init__(self, seconds: float) -> None:
        self._after = seconds
        self._workers: dict[int, _Watched] = {}
        self._next = 0.0

    def look(self, now: float, error_files: Mapping[int, str]) -> Iterable[tuple[int, dict[str, Any]]]:
        """Look at the workers, `now` in monotonic seconds; give local rank and facts of each that has answered."""
        if now < self._next:
            return
        self._next = now + self._after / AFTER
        for local_rank, path in error_files.items():
            standing = read(path)
            if standing is not None:
                yield from ((local_rank, facts) for facts in self._look(now, local_rank, path, standing))

    def _look(self, now: float, local_rank: int, path: str, standing: Standing) -> Iterator[dict[str, Any]]:
        one = self._workers.setdefault(local_rank, _Watched(standing.steps, now, standing.size, standing.size))
        if standing.size > one.size and standing.size == one.seen:  # it was written, and is whole
            stack = read_stack(path, one.size)
            yield _facts(one, stack, list(ask_others(path, standing)))
            standing = read(path) or standing
            one.size = standing.size
        one.seen = standing.size
        if standing.steps != one.steps:
            one.longest = max(one.longest, now - one.since)
            one.steps, one.since, one.wait = standing.steps, now, 0.0
            return
        idle = now - one.since
        one.wait = one.wait or max(self._after if one.steps else 4 * self._after, PAUSES * one.longest)
        if idle >= one.wait and one.asked < MOST and ask(standing.pid):
            one.asked, one.wait, one.idle = one.asked + 1, 2 * idle, idle


def _facts(one: _Watched, stack: str, others: Sequence[Other]) -> dict[str, Any]:
    text, place = fold(stack)
    facts: dict[str, Any] = {"idle_s": round(one.idle, 1), "steps": one.steps, "stack": text}
    if place is not None:
        facts["file"], facts["line"], facts["function"] = place
    busy = [other for other in others if other.place][:SHOWN]
    if busy:
        facts["stack"] = "\n".join([text, *(f"{other.name}:\n{other.stack}" for other in busy)])
        facts["others"] = "\n".join(f"{other.name} {other.place}" for other in busy)
    return facts
