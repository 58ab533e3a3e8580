"""How far the clocks of hosts are apart, from the rendezvous that they completed together; and clocks that were set."""

from collections.abc import Iterable, Sequence
from statistics import median
from typing import NamedTuple

from elastic_events.reading.story import Offset

__all__ = ("JUMP", "LOOK", "ClockSet", "Joined", "offsets", "set_back")

#: Seconds between two looks of torch's node at the rendezvous state (dynamic_rendezvous.py): it may hear that late.
LOOK = 1.0

#: Seconds that a node may take to start its workers, of which those of a static rendezvous tell. Their rounds are below 0.
STARTS = 5.0

#: Nanoseconds that a wall clock moves against the monotonic one before it was set; less is the noise of reading both.
JUMP = 50_000_000


class Joined(NamedTuple):
    """One node's word that a rendezvous is complete."""

    host: str
    round: int
    time_ns: int
    rank: int | None = None  #: of the node
    world_size: int | None = None  #: nodes


class ClockSet(NamedTuple):
    """A process's wall clock was set between two of its records."""

    before_ns: int  #: the record before
    behind_ns: int  #: and the one behind
    by_ns: int  #: how much later times of the clock before it have to be set


def offsets(joins: Iterable[Joined]) -> tuple[str, dict[str, Offset]]:
    """Return the reference, the host of the most rendezvous, and each host's offset against it; none for a host of its own.

    The median over the common rounds; its error is the widest deviation from it, and never below one `LOOK`, or `STARTS`.
    It counts as real, `applied`, once it is beyond its error in at least two rounds; or in one of which it is sure that it
    was the same for all: a job that was begun anew on other hosts counts its rounds anew.
    """
    times: dict[str, dict[int, int]] = {}
    members: dict[int, list[tuple[int | None, int | None]]] = {}
    for host, number, time_ns, rank, size in joins:
        rounds = times.setdefault(host, {})
        rounds[number] = min(time_ns, rounds.get(number, time_ns))
        members.setdefault(number, []).append((rank, size))
    sure = {number for number, told in members.items() if _one(told)}
    reference = max(times, key=lambda host: len(times[host]), default="")
    found = {}
    for host, rounds in times.items():
        common = rounds.keys() & times[reference].keys()
        apart = [(rounds[n] - times[reference][n]) / 1e9 for n in common]
        if host != reference and apart:
            middle = median(apart)
            error = max(LOOK if max(common) >= 0 else STARTS, *(abs(value - middle) for value in apart))
            enough = len(apart) > 1 or bool(common & sure)
            found[host] = Offset(middle, error, len(apart), abs(middle) > error and enough)
    return reference, found


def set_back(aheads: Sequence[int], jumps: Sequence[tuple[int, int]]) -> list[int]:
    """Return, for each process of one host, how much later its times have to be set to be on the first one's wall clock.

    `aheads` is how far each process found the wall clock ahead of the monotonic one when it began, in the order in which
    they did; `jumps` are the changes that processes saw: only by these two clocks are known to be one.
    """
    root: dict[int, int] = {}
    before: int | None = None
    for end in sorted({*aheads, *(end for jump in jumps for end in jump)}):
        root[end] = root[before] if before is not None and end - before < JUMP else end
        before = end
    for old, new in jumps:
        kept, merged = root[old], root[new]
        root.update([(end, kept) for end, own in root.items() if own == merged])
    first: dict[int, int] = {}
    for ahead in aheads:
        first.setdefault(root[ahead], ahead)
    later = [first[root[ahead]] - ahead for ahead in aheads]
    return [by if abs(by) >= JUMP else 0 for by in later]


def _one(told: list[tuple[int | None, int | None]]) -> bool:
    """Whether all who told of a round were in one rendezvous: each with a rank of its own, of the same number of nodes."""
    ranks, sizes = [rank for rank, _ in told], {size for _, size in told}
    return None not in ranks and None not in sizes and len(sizes) == 1 and len(set(ranks)) == len(ranks)
