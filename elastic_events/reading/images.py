"""One process that recorded under several identities: it starts itself anew by `exec`, or opens one bus after another."""

from array import array
from collections.abc import Iterator, Mapping
from itertools import pairwise
from operator import attrgetter, itemgetter
from typing import Any

from elastic_events.bus.context import Context
from elastic_events.reading.story import Process

__all__ = ("in_turn", "joined", "program", "ticks")

_ANEW = "its script began anew in the same process: which of its steps it did again is not known"

#: Of the programs that a shell script runs for its rank.
_IN_TURN = "several programs of a rank made steps, one after another: which of them a later one did again is not known"


def program(process: Process) -> object:
    """Return what the identities of one program have in common: a bus that it opens after another has one of its own."""
    return process.context.process.rpartition("-")[0] if ticks(process.context) else process


def ticks(context: Context) -> int:
    """Return when a process started, in ticks since boot, which stands in its identity; 0: it could not be read."""
    parts = context.process.split("-")
    try:
        return int(parts[1], 16) if len(parts) == 3 else 0
    except ValueError:
        return 0


def joined(group: list[Process]) -> list[Process]:
    """Join the identities of each program in `group`, unless several of them told steps at the same time."""
    programs: dict[object, list[Process]] = {}
    for process in group:
        programs.setdefault(program(process), []).append(process)
    if len(programs) == len(group):
        return group
    return [one for own in programs.values() for one in _lives(own)]


def _lives(own: list[Process]) -> list[Process]:
    heard = sorted((process for process in own if not process.mute), key=lambda process: process.first_ns) or own[:1]
    told = sorted((process for process in heard if process.starts), key=lambda process: process.starts[0])
    apart = all(max(*before.starts, *before.ends) <= after.starts[0] for before, after in pairwise(told))
    return own if len(own) == 1 or not apart else [_join(heard, told)]


def in_turn(before: Process, after: Process) -> Process:
    """Join two programs of a rank, of which one made its steps behind the other."""
    both = _join([before, after], [before, after])
    again = both.unsure or max(before.steps) >= after.steps[0]
    both.unsure = before.unsure or (_IN_TURN if again else "")
    # What another program did, as one that prepares, it did once, as a rule: not where it failed, or this one goes on from it.
    both.doubts = [(0, len(before.steps))] if again and _tried_again(before, after) else before.doubts
    both.said = after.said  # what the one before ended with, the rank did not
    return both


def _tried_again(before: Process, after: Process) -> bool:
    said = {name: about for _, name, about in before.said}
    restored = any(span.what == "restore" and not span.failed for span in after.spans)
    goes_on = after.steps[0] > before.steps[0] + 1
    if "worker.exception" in said:
        return True
    if "worker.exit" in said:  # with 0, and gone on from: it was stopped in time
        return said["worker.exit"].get("code") != 0 or (goes_on and not restored)
    return goes_on or restored


def _join(heard: list[Process], told: list[Process]) -> Process:
    """Return one process that said it all, under the identity that told steps last: its last records are the last words."""
    numbers = [number for process in told for number in process.steps]
    names = dict(_moved(told, "names"))
    observed = any(process.observed for process in told)
    anew = observed and not names and any(a >= b for a, b in pairwise(numbers))
    if anew:  # an observer counts from 0 on wherever it begins
        names = {at: f"~{at}" for at in range(len(numbers))}
    return Process(
        (told or heard)[-1].context,
        heard[0].first_ns,
        max(process.last_ns for process in heard),
        sorted((span for process in heard for span in process.spans), key=attrgetter("start_ns")),
        array("q", numbers),
        array("q", (time for process in told for time in process.starts)),
        array("q", (time for process in told for time in process.ends)),
        names,
        dict(_moved(told, "errors")),
        _epochs(told),
        sorted((word for process in heard for word in process.said), key=itemgetter(0)),
        observed,
        _ANEW if anew else "",
        [(0, len(numbers) - len(told[-1].steps))] if anew else [],
        fetched=any(process.fetched for process in told),
        mute=all(process.mute for process in heard),
    )


def _epochs(told: list[Process]) -> "array[int] | None":
    if all(process.epochs is None for process in told):
        return None
    return array("q", (epoch for process in told for epoch in process.epochs or bytes(len(process.starts))))


def _moved(told: list[Process], what: str) -> Iterator[tuple[int, Any]]:
    """Give what is said of single steps, by their places behind those of the identities before."""
    offset = 0
    for process in told:
        entries: Mapping[int, Any] = getattr(process, what)
        yield from ((offset + at, said) for at, said in entries.items())
        offset += len(process.starts)
