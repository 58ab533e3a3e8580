"""How far the clocks of hosts are apart, from the rendezvous that they completed together."""

from collections.abc import Iterable
from statistics import median
from typing import NamedTuple

from elastic_events.reading.story import Offset

__all__ = ("LOOK", "Joined", "offsets")

#: Seconds between two looks of torch's node at the rendezvous state (dynamic_rendezvous.py): it may hear that late.
LOOK = 1.0


class Joined(NamedTuple):
    """One node's word that a rendezvous is complete."""

    host: str
    round: int
    time_ns: int


def offsets(joins: Iterable[Joined]) -> dict[str, Offset]:
    """Return each host's offset against the reference, the host of the most rendezvous; none for a host of its own.

    The median over the common rounds; its error is the widest deviation from it, and never below one `LOOK`. It counts
    as real, `applied`, once it is beyond its error in at least two rounds.
    """
    times: dict[str, dict[int, int]] = {}
    for host, number, time_ns in joins:
        rounds = times.setdefault(host, {})
        rounds[number] = min(time_ns, rounds.get(number, time_ns))
    reference = max(times, key=lambda host: len(times[host]), default="")
    found = {}
    for host, rounds in times.items():
        apart = [(rounds[n] - times[reference][n]) / 1e9 for n in rounds.keys() & times[reference].keys()]
        if host != reference and apart:
            middle = median(apart)
            error = max(LOOK, *(abs(value - middle) for value in apart))
            found[host] = Offset(middle, error, len(apart), abs(middle) > error and len(apart) > 1)
    return found
