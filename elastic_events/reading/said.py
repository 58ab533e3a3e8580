"""The words in which processes tell of a job: facts, and marks of steps."""

from collections.abc import Mapping
from typing import Any, NamedTuple, Self

import msgspec

from elastic_events.reading.clocks import ClockSet
from elastic_events.reading.story import Node, Process

__all__ = (
    "BROKE",
    "DEATHS",
    "ENDS",
    "FACTS",
    "NAMELESS",
    "SPANS",
    "WORKERS",
    "Mark",
    "Said",
    "Told",
    "integer",
    "later",
    "whole",
)

_decode = msgspec.json.Decoder(dict[str, Any]).decode

#: The id of a run that nobody gave one: torchrun's default, and ours.
NAMELESS = "none"

#: What this package's launchers and agents say; everything else that an agent records is not read.
FACTS = frozenset(
    {
        *("job.started", "job.succeeded", "job.failed", "agent.left", "attempt.started", "attempt.ended"),
        *("worker.started", "worker.succeeded", "worker.failed", "worker.stacks", "worker.died"),
        *("agent.died", "rendezvous.completed", "rendezvous.failed", "rendezvous.unparsed"),
    }
)

#: Those of single workers, which most are.
WORKERS = frozenset({"worker.started", "worker.succeeded", "worker.failed"})

#: What a collector says of a dead process, in the name of that process: not a sign of its life.
DEATHS = frozenset({"worker.died", "agent.died"})

#: What a worker says of its own end.
ENDS = frozenset({"worker.exception", "thread.exception", "worker.exit"})

#: What it says where a collective ended with an error: since a peer was gone, as a rule.
BROKE = "collective.failed"

#: Event of a mark that may last longer than a record -> what it marks, and whether it begins it.
SPANS = {
    f"{what}.{edge}": (what, edge == "started") for what in ("checkpoint", "restore") for edge in ("started", "ended")
}


class Said(msgspec.Struct, frozen=True, gc=False):
    """One fact that an agent told."""

    time_ns: int
    name: str
    told: Mapping[str, Any] | str  #: as JSON, a third of the size, where nobody has looked at it yet

    @property
    def facts(self) -> Mapping[str, Any]:
        """What it says; of JSON each time anew."""
        return _decode(self.told) if isinstance(self.told, str) else self.told


class Told(NamedTuple):
    """All that one process told."""

    process: Process
    facts: list[Said]  #: as an agent; empty for a worker
    node: Node | None  #: that it is as an agent, where something was noted of it


class Mark(NamedTuple):
    """What the mark of a step says. Most say its number and nothing that has to be looked at again: `number` is that of those."""

    facts: Any
    number: int | None

    @classmethod
    def of(cls, facts: Any) -> Self:
        """Look at what a mark says, once for all ranks and both its ends."""
        plain = type(facts) is dict and "epoch" not in facts and "error" not in facts
        number = facts.get("step") if plain else None
        return cls(facts, integer(number))


def later(said: Said, by_ns: int, clock: ClockSet | None = None) -> Said:
    """Return a fact with its times so much later: its own, and that of a death which it tells.

    The death may have been seen before the `clock` was set that the fact itself was told by; where both can be, its time is None.
    """
    if not by_ns:
        return said
    told_ns = said.time_ns + by_ns
    if isinstance(said.told, str) and "_ns" not in said.told:  # it tells no time, and stays a text
        return Said(told_ns, said.name, said.told)
    facts = said.facts
    times = {name: time for name in ("alive_ns", "died_ns") if (time := integer(facts.get(name))) is not None}
    moved = {name: _moved(time, by_ns, told_ns, clock) for name, time in times.items()}
    return Said(told_ns, said.name, {**facts, **moved} if moved else facts)


def _moved(time_ns: int, by_ns: int, told_ns: int, clock: ClockSet | None) -> int | None:
    new = time_ns + by_ns
    if clock is None or not clock.before_ns <= time_ns + clock.by_ns <= clock.behind_ns:
        return new
    return None if clock.before_ns <= new <= told_ns else time_ns + clock.by_ns


def integer(value: Any) -> int | None:
    """Return `value` if it is an integer that a file can hold, else None: metadata is whatever somebody recorded."""
    return value if type(value) is int and -(2**63) <= value < 2**63 else None


def whole(value: Any) -> int | None:
    """Return the whole number that `value` is or reads as, 11, 11.0 or "11", else None."""
    if type(value) is str:
        try:
            value = int(value)
        except ValueError:
            return None
    elif type(value) is float and value.is_integer():
        value = int(value)
    return integer(int(value) if type(value) is bool else value)
